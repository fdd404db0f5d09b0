"""Transformed teacher matching: the teacher is tempered, the student is not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from fractionate.losses.divergences.base import Target, divergences, product, tempered
from fractionate.losses.divergences.likelihood import covering

Loss = Float[Tensor, "batch"]
Logits = Float[Tensor, "batch classes"]


@divergences.register("ttm")
@dataclass(frozen=True)
class TransformedTeacher:
    """KL(target at T ‖ softmax(student)): the student is not tempered, which adds a Rényi-entropy regulariser to plain KD.

    No factor T² belongs here. With T = 1 it is the forward KL. Source: Zheng & Yang (arXiv 2402.11148).
    """

    formula: ClassVar[str] = "KL(target ‖ softmax(student))"
    own_temperature: ClassVar[bool] = True

    def __call__(self, student_logits: Logits, target: Target) -> Loss:
        log_q = torch.log_softmax(tempered(student_logits, 1.0), dim=-1)
        return product(target.probabilities, target.log_probabilities - log_q).sum(dim=-1)

    def gradient(
        self, student_logits: Logits, target: Target, scale: float = 1.0, *, out: Logits | None = None
    ) -> tuple[Loss, Logits]:
        """d/dz = softmax(z) - target."""
        return covering(student_logits, 1.0, target, scale, out)


@divergences.register("wttm")
@dataclass(frozen=True)
class WeightedTransformedTeacher:
    """ttm times Σ p^(1/T), p the target at temperature 1: examples with a softer target count more (1 to K^(1 - 1/T)).

    Source: Zheng & Yang (arXiv 2402.11148).
    """

    formula: ClassVar[str] = "Σ p^(1/T) · KL(target ‖ softmax(student))"
    own_temperature: ClassVar[bool] = True

    def weight(self, target: Target) -> Loss:
        """Σ p^(1/T) of each example."""
        log_p = target.at(1.0).log_probabilities
        return torch.logsumexp(log_p / target.temperature, dim=-1).exp()

    def __call__(self, student_logits: Logits, target: Target) -> Loss:
        return self.weight(target) * TransformedTeacher()(student_logits, target)

    def gradient(
        self, student_logits: Logits, target: Target, scale: float = 1.0, *, out: Logits | None = None
    ) -> tuple[Loss, Logits]:
        """The weight times the gradient of ttm."""
        weight = self.weight(target)
        loss, gradient = covering(student_logits, 1.0, target, scale, out)
        return weight * loss, gradient.mul_(weight[:, None])
