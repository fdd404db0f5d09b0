"""Metrics of classes: accuracy, balanced accuracy, F1, NLL, Brier score, calibration error, agreement with the teacher, ranks."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from fractionate.errors import ConfigError, MismatchError
from fractionate.tasks.metric import Summed, Sums, judged_rows, mean, metrics, row_weight, share
from fractionate.tasks.predictions import Predictions, RowReading
from fractionate.theory.teacher_signal import ROWS_A_CHUNK_ELEMENTS, TeacherSignal
from fractionate.theory.topk_signal import CompactSignal, top_one

ECE_BINS = 15


def judged(predictions: Predictions) -> tuple[RowReading, Float[Tensor, "judged"]]:
    """The rows whose label is known and counts, and their weights."""
    kept, weight = judged_rows(predictions)
    return (predictions.reading, weight) if kept is None else (predictions.reading.take(kept), weight)


def _right(predictions: Predictions, signal: Any | None) -> Sums:
    rows, weight = judged(predictions)
    return {"weight": weight.sum(), "sum": weight[rows.correct].sum()}


@metrics.register("accuracy")
def accuracy() -> Summed:
    """Share of rows whose largest class is the label."""
    return Summed(name="accuracy", counts=True, terms=_right, finish=share)


def _by_class(predictions: Predictions, signal: Any | None) -> Sums:
    rows, weight = judged(predictions)

    def total(classes: Tensor, weight: Tensor) -> Tensor:
        return torch.zeros(rows.classes, dtype=torch.float64).index_add_(0, classes.long(), weight)

    return {
        "weight": weight.sum(),
        "right": total(rows.labels[rows.correct], weight[rows.correct]),
        "labelled": total(rows.labels, weight),
        "predicted": total(rows.predicted, weight),
    }


def _mean_recall(sums: Sums) -> float:
    there = sums["labelled"] > 0
    return 100 * float((sums["right"][there] / sums["labelled"][there]).mean())


@metrics.register("balanced-accuracy")
def balanced_accuracy() -> Summed:
    """Mean over the classes that occur of the share of their rows predicted right: every class counts alike."""
    return Summed(name="balanced-accuracy", terms=_by_class, finish=_mean_recall)


def f1_metric(name: str, terms: Callable[[Predictions, Any | None], Sums], average: str) -> Summed:
    """F1 of sums by class or label, `right`, `labelled` and `predicted`: its mean over those that occur, or over all together."""
    if average not in ("macro", "micro"):
        raise ConfigError(f"invalid average of {name}", expected="'macro' or 'micro'", got=repr(average))
    name = name if average == "macro" else f"{name}({average!r})"
    return Summed(name=name, terms=terms, finish=partial(_f1, average=average))


def _f1(sums: Sums, *, average: str) -> float | None:
    right, both = sums["right"], sums["labelled"] + sums["predicted"]
    if not bool((both > 0).any()):
        return None
    if average == "micro":
        return 100 * float(2 * right.sum() / both.sum())
    return 100 * float((2 * right[both > 0] / both[both > 0]).mean())


@metrics.register("f1")
def f1(average: Literal["macro", "micro"] = "macro") -> Summed:
    """F1 = 2 right / (labelled + predicted): its mean over the classes that occur or are predicted, or `'micro'` over all rows."""
    return f1_metric("f1", _by_class, average)


def surprise(predictions: Predictions, signal: Any | None) -> Sums:
    """The sum of -log q[label], in nats."""
    rows, weight = judged(predictions)
    return {"weight": weight.sum(), "sum": -(weight * rows.truth).sum()}


@metrics.register("nll")
def nll() -> Summed:
    """Mean negative log-likelihood of the label, in nats."""
    return Summed(name="nll", unit="nats", better="less", margin=0.02, terms=surprise, finish=mean)


def _squares(predictions: Predictions, signal: Any | None) -> Sums:
    rows, weight = judged(predictions)
    kept, _ = judged_rows(predictions)
    logits = predictions.required_logits.detach()
    chunks = torch.split(logits, max(1, ROWS_A_CHUNK_ELEMENTS // logits.shape[1]))
    squares = torch.cat([torch.softmax(chunk.double(), dim=1).square().sum(dim=1) for chunk in chunks]).cpu()
    squares = squares if kept is None else squares[kept]
    return {"weight": weight.sum(), "sum": (weight * (squares - 2 * rows.truth.exp() + 1)).sum()}


@metrics.register("brier")
def brier() -> Summed:
    """Mean over rows of the squared distance of q from the label, sum over classes of (q - 1[label])²: 0 to 2 (Brier 1950)."""
    return Summed(name="brier", unit="", better="less", margin=0.005, terms=_squares, finish=mean)


def calibration_gaps(
    confidence: Float[Tensor, "rows"],
    correct: Bool[Tensor, "rows"],
    weight: Float[Tensor, "rows"] | None = None,
    *,
    bins: int = ECE_BINS,
) -> Float[Tensor, "bins"]:
    """By bin of equal width over 0..1: the sum of (correct - confidence), which is the bin's count times its gap."""
    confidence = confidence.double()
    gaps = torch.zeros(bins, dtype=torch.float64, device=confidence.device)
    off = correct.double() - confidence
    return gaps.index_add_(0, (confidence * bins).long().clamp(0, bins - 1), off if weight is None else weight * off)


@metrics.register("ece")
def ece(bins: int = ECE_BINS) -> Summed:
    """Expected calibration error: mean |accuracy - confidence| over bins of equal width (Guo et al. 2017, 1706.04599)."""
    if isinstance(bins, bool) or not isinstance(bins, int) or bins < 1:
        raise ConfigError("invalid number of bins of ece", expected="at least 1, usually 15", got=repr(bins))
    name = "ece" if bins == ECE_BINS else f"ece({bins})"
    return Summed(name=name, better="less", terms=partial(_gaps, bins=bins), finish=_calibration_error)


def _gaps(predictions: Predictions, signal: Any | None, *, bins: int) -> Sums:
    rows, weight = judged(predictions)
    return {"weight": weight.sum(), "gaps": calibration_gaps(rows.top.exp(), rows.correct, weight, bins=bins)}


def _calibration_error(sums: Sums) -> float:
    return 100 * float(sums["gaps"].abs().sum() / sums["weight"])


def same_top_one(predictions: Predictions, signal: Any | None) -> Sums:
    """The rows on which student and teacher have the same top-1; labels do not matter, so rows with guessed ones count too."""
    if signal is None:
        return {}
    if not isinstance(signal, (TeacherSignal, CompactSignal)):
        raise MismatchError(
            "this is not a teacher's signal", expected="a TeacherSignal or a CompactSignal", got=type(signal).__name__
        )
    rows, weight = predictions.reading, row_weight(predictions)
    if (len(signal), signal.classes) != (len(rows.labels), rows.classes):
        raise MismatchError(
            "student and teacher speak of different classes or rows",
            expected=f"a signal of {len(rows.labels)} rows and {rows.classes} classes",
            got=f"{len(signal)} rows, {signal.classes} classes",
        )
    return {"weight": weight.sum(), "sum": weight[rows.predicted == top_one(signal).cpu()].sum()}


@metrics.register("agreement")
def agreement() -> Summed:
    """Share of rows on which student and teacher predict the same class."""
    return Summed(name="agreement", counts=True, reads_teacher=True, terms=same_top_one, finish=share)


def _reciprocal(predictions: Predictions, signal: Any | None) -> Sums:
    kept, weight = judged_rows(predictions)
    logits, labels = predictions.required_logits.detach(), predictions.reading.labels  # labels and numbers are checked
    own = logits.gather(1, labels.to(logits.device)[:, None])
    above = (logits > own).sum(dim=1).double()
    equal = (logits == own).sum(dim=1).double() - 1
    ranks = (1 + above + equal / 2).cpu()  # the mean place among equals: a constant model gets no credit for an order
    return {"weight": weight.sum(), "sum": (weight / (ranks if kept is None else ranks[kept])).sum()}


@metrics.register("mrr")
def mrr() -> Summed:
    """Mean over rows of 1 / rank of the label among the classes (candidates), in points; equal ones share their mean rank."""
    return Summed(name="mrr", terms=_reciprocal, finish=share)


@metrics.register("token-nll")
def token_nll() -> Summed:
    """Mean negative log-likelihood of a labelled token, in nats."""
    return Summed(name="token-nll", unit="nats", better="less", margin=0.02, terms=surprise, finish=mean)


def _perplexity(sums: Sums) -> float:
    found = mean(sums)
    return math.exp(found) if found < 709 else math.inf  # above it a float has no exp


@metrics.register("perplexity")
def perplexity() -> Summed:
    """exp of the mean negative log-likelihood of a token: the number of equally likely tokens with the same uncertainty."""
    return Summed(name="perplexity", unit="", better="less", margin=0.5, terms=surprise, finish=_perplexity)


@metrics.register("ta-rate")
def ta_rate() -> Summed:
    """Share of tokens, under teacher forcing, on which student and teacher have the same top-1 (arXiv 2305.08096)."""
    return Summed(name="ta-rate", counts=True, reads_teacher=True, terms=same_top_one, finish=share)
