"""Regression: numbers to predict, with a variance where the model gives one."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from fractionate.data.batch import Batch
from fractionate.errors import ConfigError, MismatchError
from fractionate.tasks.kind import NumberKind, kinds
from fractionate.tasks.metric import Metric, Summed, Sums, judged_rows, mean, metrics, row_weight
from fractionate.tasks.predictions import Predictions, check_finite
from fractionate.theory.number_signal import NumberSignal

MARGIN = 0.01  # of errors, where nobody sets it
IN_UNITS = ("rmse", "mae", "teacher-rmse")


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


Numbers = Float[Tensor, "rows outputs"]
Given = Float[Tensor, "rows given"]  # outputs, or twice as many: log-variances after the means


def moments(values: Given, outputs: int) -> tuple[Numbers, Numbers | None]:
    """Means and log-variances (None where a model gives none) of [rows, outputs] or [rows, 2 · outputs], in float32 at least."""
    values = values.to(torch.promote_types(values.dtype, torch.float32))
    return values[:, :outputs], values[:, outputs:] if values.shape[1] == 2 * outputs else None


def gaussian_nll(labels: Numbers, mean: Numbers, log_variance: Numbers) -> Numbers:
    """-log N(y; m, v) = ½ (log 2π + log v + (y - m)² / v) of each number, in nats."""
    return (math.log(2 * math.pi) + log_variance + (labels - mean).square() * (-log_variance).exp()) / 2


def numbers(predictions: Predictions) -> tuple[Given, Numbers, Float[Tensor, "rows"]]:
    """Predicted (means first, then log-variances if any) and true numbers of the rows whose label is known, and the rows' weights.

    On the CPU in float64.
    """
    given, labels = predictions.required_logits.detach(), predictions.labels
    if labels.ndim == 1:
        labels = labels[:, None]
    if given.ndim != 2 or len(given) != len(labels) or given.shape[1] not in (labels.shape[1], 2 * labels.shape[1]):
        raise MismatchError(
            "predictions and labels do not fit",
            expected=f"numbers [rows, outputs], one for each of the labels {list(labels.shape)}",
            got=f"{list(given.shape)}",
        )
    check_finite(torch.isfinite(given).all(dim=1), predictions.example)
    kept, weight = judged_rows(predictions)
    outputs, true = given.double().cpu(), labels.double().cpu()
    return (outputs, true, weight) if kept is None else (outputs[kept], true[kept], weight)


def _means(predictions: Predictions) -> tuple[Numbers, Numbers, Float[Tensor, "rows"]]:
    outputs, true, weight = numbers(predictions)
    return moments(outputs, true.shape[1])[0], true, weight


def _squared(predictions: Predictions, signal: Any | None) -> Sums:
    outputs, true, weight = _means(predictions)
    return {"weight": weight.sum(), "sum": (weight * (outputs - true).square().mean(dim=1)).sum()}


def _absolute(predictions: Predictions, signal: Any | None) -> Sums:
    outputs, true, weight = _means(predictions)
    return {"weight": weight.sum(), "sum": (weight * (outputs - true).abs().mean(dim=1)).sum()}


def _root_mean(sums: Sums) -> float:
    return math.sqrt(mean(sums))


def _margin(margin: float, what: str) -> float:
    if isinstance(margin, bool) or not isinstance(margin, (int, float)) or not 0 < margin < math.inf:
        raise ConfigError(f"invalid margin of {what}", expected="above 0, in the labels' unit", got=repr(margin))
    return float(margin)


@metrics.register("rmse")
def rmse(margin: float = MARGIN) -> Summed:
    """Root of the mean squared error over rows and outputs, in the labels' unit, as is `margin`."""
    margin = _margin(margin, "rmse")
    return Summed(name="rmse", unit="", better="less", margin=margin, terms=_squared, finish=_root_mean)


@metrics.register("mae")
def mae(margin: float = MARGIN) -> Summed:
    """Mean absolute error over rows and outputs, in the labels' unit, as is `margin`."""
    margin = _margin(margin, "mae")
    return Summed(name="mae", unit="", better="less", margin=margin, terms=_absolute, finish=mean)


def in_units(metric: Metric, deviation: float) -> Metric:
    """An error of standardised labels in the unit that the labels had before; a margin that was set is in that unit."""
    if not isinstance(metric, Summed) or metric.name not in IN_UNITS:
        return metric
    margin = metric.margin * deviation if metric.margin == MARGIN else metric.margin
    return replace(metric, margin=margin, finish=partial(_scaled, deviation, metric.finish))


def _scaled(factor: float, finish: Callable[[Sums], float | None], sums: Sums) -> float | None:
    found = finish(sums)
    return None if found is None else factor * found


def _moments(predictions: Predictions, signal: Any | None) -> Sums:
    outputs, true, weight = _means(predictions)
    each = weight[:, None]
    return {
        "weight": weight.sum(),
        "errors": (each * (outputs - true).square()).sum(dim=0),
        "labels": (each * true).sum(dim=0),
        "squares": (each * true.square()).sum(dim=0),
    }


def _explained(sums: Sums) -> float | None:
    spread = sums["squares"] - sums["labels"].square() / sums["weight"]
    if bool((spread <= 1e-12 * sums["squares"]).any()):  # the same label everywhere, but for rounding
        return None
    return float((1 - sums["errors"] / spread).mean())


@metrics.register("r2")
def r2() -> Summed:
    """R² = 1 - squared error / variance of the labels, mean over outputs; none where an output's labels are all the same."""
    return Summed(name="r2", unit="", margin=0.005, terms=_moments, finish=_explained)


def _likelihood(predictions: Predictions, signal: Any | None) -> Sums:
    outputs, true, weight = numbers(predictions)
    mean_, log_variance = moments(outputs, true.shape[1])
    if log_variance is None:
        return {}
    return {"weight": weight.sum(), "sum": (weight * gaussian_nll(true, mean_, log_variance).mean(dim=1)).sum()}


@metrics.register("gaussian-nll")
def gaussian_likelihood() -> Summed:
    """Mean over rows and outputs of -log N(label; mean, variance), in nats; none where the model gives no variance."""
    return Summed(name="gaussian-nll", unit="nats", better="less", margin=0.02, terms=_likelihood, finish=mean)


def _from_teacher(predictions: Predictions, signal: Any | None) -> Sums:
    if signal is None:
        return {}
    numbers(predictions)  # checks them
    weight, labels = row_weight(predictions), predictions.labels
    outputs = 1 if labels.ndim == 1 else labels.shape[1]
    if not isinstance(signal, NumberSignal) or len(signal) != len(predictions):
        raise MismatchError(
            "these are not a teacher's numbers of the same rows",
            expected=f"a NumberSignal of {len(predictions)} rows",
            got=f"{type(signal).__name__} of {len(signal)} rows",
        )
    ours = predictions.required_logits.detach().double().cpu()[:, :outputs]
    theirs = signal.values.double().cpu().flatten(1)[:, :outputs]
    return {"weight": weight.sum(), "sum": (weight * (ours - theirs).square().mean(dim=1)).sum()}


@metrics.register("teacher-rmse")
def teacher_rmse(margin: float = MARGIN) -> Summed:
    """Root of the mean squared distance of the student's numbers from the teacher's; labels do not matter."""
    margin = _margin(margin, "teacher-rmse")
    return Summed(
        name="teacher-rmse", unit="", better="less", margin=margin, reads_teacher=True, terms=_from_teacher, finish=_root_mean
    )  # fmt: skip
