"""How good predictions are: accuracy, negative log-likelihood, calibration, agreement with the teacher."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from fractionate.errors import MismatchError, NumericsError
from fractionate.records import Scores

ECE_BINS = 15


def expected_calibration_error(
    confidence: Float[Tensor, "examples"], correct: Bool[Tensor, "examples"], *, bins: int = ECE_BINS
) -> float:
    """Σ over equal-width bins of (share of examples) · |accuracy - mean confidence|, in 0..1 (Guo et al. 2017, 1706.04599)."""
    confidence = confidence.double()
    place = (confidence * bins).long().clamp(0, bins - 1)
    # |Σ correct - Σ confidence| of a bin is its count times the gap
    gaps = torch.zeros(bins, dtype=torch.float64, device=confidence.device)
    gaps.index_add_(0, place, correct.double() - confidence)
    return float(gaps.abs().sum() / len(confidence))


def scores(
    logits: Float[Tensor, "examples classes"],
    labels: Int[Tensor, "examples"],
    teacher_probabilities: Float[Tensor, "examples classes"] | None = None,
) -> Scores:
    """Accuracy, NLL in nats, ECE over 15 bins, and the share of examples on which student and teacher name the same class.

    `teacher_probabilities` may be logits as well: only the largest counts. Raises `MismatchError` for shapes that differ or no
    examples and `NumericsError` for logits that are not finite (-inf may mask a class).
    """
    if logits.ndim != 2 or len(logits) != len(labels) or len(labels) == 0:
        raise MismatchError(
            "predictions and labels do not fit",
            expected="logits [examples, classes], at least one example, and as many labels",
            got=f"logits {list(logits.shape)}, labels {list(labels.shape)}",
        )
    if teacher_probabilities is not None and teacher_probabilities.shape != logits.shape:
        raise MismatchError(
            "student and teacher speak of different classes or examples",
            expected=f"teacher probabilities {list(logits.shape)}",
            got=f"{list(teacher_probabilities.shape)}",
        )
    bad = (torch.isnan(logits) | torch.isposinf(logits)).any(dim=1) | torch.isneginf(logits).all(dim=1)
    if bool(bad.any()):
        raise NumericsError(
            f"{int(bad.sum())} of {len(logits)} predictions are not finite (first: example {int(bad.nonzero()[0])})",
            fix="the training has diverged: lower the learning rate",
        )
    log_q = torch.log_softmax(logits.detach().double(), dim=1)
    confidence, predicted = log_q.max(dim=1)
    correct = predicted == labels
    values = {
        "accuracy": 100 * float(correct.double().mean()),
        "nll": -float(log_q.gather(1, labels[:, None]).mean()),
        "ece": 100 * expected_calibration_error(confidence.exp(), correct),
    }
    if teacher_probabilities is not None:
        values["agreement"] = 100 * float((predicted == teacher_probabilities.argmax(dim=1)).double().mean())
    return Scores(examples=len(labels), rows=len(labels), values=values)
