"""Multi-label classification: a two-class row for each known label of an example, so that cells and objectives apply per label."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fractionate.data.batch import Batch
from fractionate.data.labels import IGNORED
from fractionate.errors import MismatchError
from fractionate.models.output_kinds import of_two_classes
from fractionate.tasks.classification_metrics import f1_metric
from fractionate.tasks.kind import Kind, kinds
from fractionate.tasks.metric import Summed, Sums, judged_rows, metrics, row_weight, share
from fractionate.tasks.predictions import Predictions


@kinds.register("multi-label")
@dataclass(frozen=True)
class MultiLabel(Kind):
    """Logits [batch, labels] of independent labels (before a sigmoid); labels [batch, labels] of 0 and 1, -100 where unknown.

    A row of label l has the two logits (0, z_l): softmax gives (1 - sigmoid(z_l), sigmoid(z_l)), cross-entropy is the binary one.
    Logits [batch, labels, 2] are taken as they are. Class 1 is "has the label": class-level cells take means over all labels.
    """

    metrics: ClassVar[tuple[str, ...]] = ("label-f1('micro')", "label-f1", "exact-match", "nll", "agreement")
    tokens: ClassVar[Literal["", "aligned", "next"]] = "aligned"
    whole_labels: ClassVar[bool] = False
    independent: ClassVar[bool] = True
    output_rows: ClassVar[bool] = False

    def labels(self, batch: Batch) -> Int[Tensor, "batch labels"]:
        """Labels as 0, 1 and -100. Raises `MismatchError` naming the examples that have others."""
        found = batch.labels
        known = (found == 0) | (found == 1) | (found == IGNORED)
        if found.ndim != 2 or not bool(known.all()):
            where = () if found.ndim != 2 else batch.index[(~known).any(dim=1).cpu()].tolist()
            raise MismatchError(
                "these are not rows of labels",
                expected=f"[batch, labels] of 0 and 1, {IGNORED} where a label is unknown",
                got=f"{list(found.shape)}"
                + (f", other numbers at examples {', '.join(map(str, where[:8]))}" if where else ""),
                fix="one column per label: scikit-learn's MultiLabelBinarizer makes them of lists of names",
            )
        return found.long()

    def outputs(self, values: Tensor, batch: Batch) -> Float[Tensor, "batch labels 2"]:
        """The two logits of every label. Raises `MismatchError` where there is not one output for each label."""
        if values.shape[:2] != batch.labels.shape[:2] or values.shape[2:] not in ((), (2,)):
            raise MismatchError(
                "the model does not give one logit for each label",
                expected=f"{list(batch.labels.shape)}",
                got=str(list(values.shape)),
                fix="one output a label, before the sigmoid; choose another head= if this is not the classifying one",
            )
        return values if values.ndim == 3 else of_two_classes(values, "logits")


def label_of_rows(predictions: Predictions) -> Int[Tensor, "rows"]:
    """Which label each row is about: its column in the batch's labels. Raises `MismatchError` for rows that are no labels."""
    known = predictions.batch.labels.cpu() != IGNORED
    known = known[:, None] if known.ndim == 1 else known  # one label an example
    if known.ndim != 2 or int(known.sum()) != len(predictions) or predictions.reading.classes != 2:
        raise MismatchError(
            "metrics of labels need a two-class row for each label",
            expected="a task of kind multi-label",
            got=f"labels {list(known.shape)}, {len(predictions)} rows of {predictions.reading.classes} classes",
        )
    return known.nonzero()[:, 1]


def _by_label(predictions: Predictions, signal: Any | None) -> Sums:
    column, rows = label_of_rows(predictions), predictions.reading
    count = predictions.batch.labels.flatten(1).shape[1] if predictions.batch.labels.ndim > 1 else 1
    kept, weight = judged_rows(predictions)
    if kept is not None:
        column, rows = column[kept], rows.take(kept)

    def total(which: Tensor) -> Tensor:
        sums = torch.zeros(count, dtype=torch.float64)
        return sums.index_add_(0, column[which], weight[which])

    has, claims = rows.labels == 1, rows.predicted == 1
    return {"weight": weight.sum(), "right": total(has & claims), "labelled": total(has), "predicted": total(claims)}


@metrics.register("label-f1")
def label_f1(average: Literal["macro", "micro"] = "macro") -> Summed:
    """F1 = 2 right / (labelled + predicted) of having a label: mean over the labels that occur, or `'micro'` over all of them."""
    return f1_metric("label-f1", _by_label, average)


def _whole(predictions: Predictions, signal: Any | None) -> Sums:
    label_of_rows(predictions)  # checks the rows
    _, judged = judged_rows(predictions)
    if not len(judged):
        return {}
    place = predictions.by_row(torch.arange(predictions.examples))
    wrong = torch.bincount(place, weights=(~predictions.reading.correct).double(), minlength=predictions.examples)
    rows = torch.bincount(place, minlength=predictions.examples)
    weight = torch.zeros(predictions.examples, dtype=torch.float64)
    weight[place] = row_weight(predictions)
    if predictions.batch.labelled is not None:
        weight *= predictions.batch.labelled.cpu()
    weight *= rows > 0
    return {"weight": weight.sum(), "sum": weight[wrong == 0].sum()}


@metrics.register("exact-match")
def exact_match() -> Summed:
    """Share of examples all of whose known labels are predicted right."""
    return Summed(name="exact-match", counts=True, terms=_whole, finish=share)
