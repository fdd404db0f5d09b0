"""Metrics of numbers, for tasks without classes: root mean squared error, mean absolute error, R²."""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from fractionate.errors import ConfigError, MismatchError
from fractionate.tasks.metric import metrics
from fractionate.tasks.predictions import Predictions
from fractionate.tasks.row_reading import check_finite
from fractionate.tasks.summed import Summed, Sums, judged_rows, mean

Numbers = Float[Tensor, "rows outputs"]


def numbers(predictions: Predictions) -> tuple[Numbers, Numbers, Float[Tensor, "rows"]]:
    """Predicted and true numbers of the rows whose label is known, and the rows' weights; on the CPU in float64."""
    given, labels = predictions.required_logits.detach(), predictions.labels
    if labels.ndim == 1:
        labels = labels[:, None]
    if given.shape != labels.shape:
        raise MismatchError(
            "predictions and labels do not fit",
            expected=f"numbers [rows, outputs], one for each of the labels {list(labels.shape)}",
            got=f"{list(given.shape)}",
        )
    check_finite(torch.isfinite(given).all(dim=1), predictions.example)
    kept, weight = judged_rows(predictions)
    said, true = given.double().cpu(), labels.double().cpu()
    return (said, true, weight) if kept is None else (said[kept], true[kept], weight)


def _squared(predictions: Predictions, signal: Any | None) -> Sums:
    said, true, weight = numbers(predictions)
    return {"weight": weight.sum(), "sum": (weight * (said - true).square().mean(dim=1)).sum()}


def _absolute(predictions: Predictions, signal: Any | None) -> Sums:
    said, true, weight = numbers(predictions)
    return {"weight": weight.sum(), "sum": (weight * (said - true).abs().mean(dim=1)).sum()}


def _root_mean(sums: Sums) -> float:
    return math.sqrt(mean(sums))


def _margin(margin: float, what: str) -> float:
    if isinstance(margin, bool) or not isinstance(margin, (int, float)) or not 0 < margin < math.inf:
        raise ConfigError(f"invalid margin of {what}", expected="above 0, in the labels' unit", got=repr(margin))
    return float(margin)


@metrics.register("rmse")
def rmse(margin: float = 0.01) -> Summed:
    """Root of the mean squared error over rows and outputs, in the labels' unit, as is `margin`."""
    margin = _margin(margin, "rmse")
    return Summed(name="rmse", unit="", better="less", margin=margin, terms=_squared, finish=_root_mean)


@metrics.register("mae")
def mae(margin: float = 0.01) -> Summed:
    """Mean absolute error over rows and outputs, in the labels' unit, as is `margin`."""
    margin = _margin(margin, "mae")
    return Summed(name="mae", unit="", better="less", margin=margin, terms=_absolute, finish=mean)


def _moments(predictions: Predictions, signal: Any | None) -> Sums:
    said, true, weight = numbers(predictions)
    each = weight[:, None]
    return {
        "weight": weight.sum(),
        "errors": (each * (said - true).square()).sum(dim=0),
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
