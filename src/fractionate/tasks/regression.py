"""Regression: numbers to predict, with a variance where the model gives one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from fractionate.data.batch import Batch
from fractionate.errors import MismatchError
from fractionate.tasks.kind import NumberKind, kinds
from fractionate.tasks.number_metrics import gaussian_nll, moments
from fractionate.tasks.predictions import Predictions


@kinds.register("regression")
@dataclass(frozen=True)
class Regression(NumberKind):
    """Numbers [batch, outputs] or [batch], and labels alike; [batch, 2 · outputs] are means followed by log-variances.

    The loss on labels is the squared error, mean over outputs; with a variance the Gaussian negative log-likelihood,
    ½ (log 2π + log v + (y - m)² / v).
    """

    metrics: ClassVar[tuple[str, ...]] = ("rmse", "mae", "r2", "gaussian-nll", "teacher-rmse")
    teacher_terms: ClassVar[tuple[str, ...]] = ("squared-error",)

    @property
    def label_formula(self) -> str:
        """The loss on labels, for contracts."""
        return "(label - student)², or -log N(label; student)"

    def labels(self, batch: Batch) -> Float[Tensor, "batch outputs"]:
        """Labels as floating-point numbers, one column an output."""
        found = batch.labels if batch.labels.is_floating_point() else batch.labels.float()
        return found.reshape(len(found), -1)

    def outputs(self, values: Tensor, batch: Batch) -> Float[Tensor, "batch numbers"]:
        """One column an output, then one for each log-variance if there are any. Raises `MismatchError` for others."""
        found, wanted = values.reshape(len(values), -1), self.labels(batch).shape[1]
        if found.shape[1] not in (wanted, 2 * wanted):
            raise MismatchError(
                "the model's numbers do not fit the labels",
                expected=f"[batch, {wanted}], or [batch, {2 * wanted}] with log-variances after the means",
                got=str(list(values.shape)),
                fix="one output for each number of a label; choose another head= if this is not the predicting one",
            )
        return found

    def label_loss(self, predictions: Predictions) -> Float[Tensor, "rows"]:
        """Squared error or Gaussian negative log-likelihood, mean over outputs, in float32 at least."""
        mean, log_variance = moments(predictions.required_logits, predictions.labels.shape[1])
        labels = predictions.labels.to(mean.dtype)
        if log_variance is None:
            return (mean - labels).square().mean(dim=1)
        return gaussian_nll(labels, mean, log_variance).mean(dim=1)
