"""What metrics of classes read of each row, once a batch: the largest class, and the log-probabilities of it and of the label."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from fractionate.data.labels import check_labels
from fractionate.errors import MismatchError, NumericsError
from fractionate.theory.teacher_signal import ROWS_A_CHUNK_ELEMENTS


@dataclass(frozen=True, eq=False)
class RowReading:
    """Of each row, on the CPU in float64: small, whatever the number of classes.

    Args:
        labels: [rows].
        predicted: [rows] the class with the largest logit, the first of equals.
        top: [rows] its log-probability, in nats.
        truth: [rows] the label's log-probability, in nats.
        classes: How many there are.
    """

    labels: Int[Tensor, "rows"]
    predicted: Int[Tensor, "rows"]
    top: Float[Tensor, "rows"]
    truth: Float[Tensor, "rows"]
    classes: int

    @property
    def correct(self) -> Bool[Tensor, "rows"]:
        """Whether the largest class is the label."""
        return self.predicted == self.labels

    def take(self, kept: Int[Tensor, "kept"]) -> RowReading:
        """Some of the rows."""
        return RowReading(self.labels[kept], self.predicted[kept], self.top[kept], self.truth[kept], self.classes)


def check_finite(finite: Bool[Tensor, "rows"], example: Int[Tensor, "rows"]) -> None:
    """Raise `NumericsError` naming the examples whose rows are not finite."""
    if not bool(finite.all()):
        bad = torch.unique(example[~finite.cpu()]).tolist()
        named = ", ".join(map(str, bad[:5])) + (f" and {len(bad) - 5} more" if len(bad) > 5 else "")
        raise NumericsError(
            f"{int((~finite).sum())} of {len(finite)} predictions are not finite (examples {named})",
            fix="the training has diverged: lower the learning rate",
        )


def read_rows(logits: Float[Tensor, "rows classes"], labels: Tensor, example: Int[Tensor, "rows"]) -> RowReading:
    """Read logits once, in chunks of rows, in float64.

    Args:
        logits: -inf masks a class.
        labels: [rows] classes.
        example: [rows] place of each row's example in the data, for errors.

    Raises:
        MismatchError: Labels that do not fit the logits.
        NumericsError: Logits that are not finite, by example.
    """
    if logits.ndim != 2 or labels.shape != logits.shape[:1] or labels.is_floating_point():
        raise MismatchError(
            "predictions and labels do not fit",
            expected="logits [rows, classes] and as many labels that are classes",
            got=f"logits {list(logits.shape)}, labels {list(labels.shape)} of {labels.dtype}",
        )
    logits, labels = logits.detach(), labels.to(logits.device)
    check_labels(labels, logits.shape[1], name="evaluation", of="model")
    predicted, top, truth = [], [], []
    step = max(1, ROWS_A_CHUNK_ELEMENTS // logits.shape[1])
    for chunk, own in zip(torch.split(logits, step), torch.split(labels, step), strict=True):
        best = chunk.argmax(dim=1)
        chunk = chunk.double()
        normaliser = torch.logsumexp(chunk, dim=1)
        predicted.append(best)
        top.append(chunk.gather(1, best[:, None]).squeeze(1) - normaliser)  # NaN where a row is not finite
        truth.append(chunk.gather(1, own.long()[:, None]).squeeze(1) - normaliser)
    found = RowReading(
        labels.cpu(), torch.cat(predicted).cpu(), torch.cat(top).cpu(), torch.cat(truth).cpu(), logits.shape[1]
    )
    check_finite(~found.top.isnan(), example)
    return found
