"""Divergences that weigh the two parts of a target, the label's confidence and the shape of the rest, apart.

KL(target ‖ q) = KL of the two-way split + (1 - confidence) · KL of the shapes, exactly; these methods give the parts other weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from fractionate.divergences import Target, centred_rows, divergences, inner, product, softmax_rows, tempered
from fractionate.errors import ConfigError

Loss = Float[Tensor, "batch"]
Logits = Float[Tensor, "batch classes"]


def check_weight(name: str, value: float) -> None:
    """Raises `ConfigError` unless a weight is finite and not negative."""
    if not (isinstance(value, (int, float)) and 0 <= value < float("inf")):
        raise ConfigError(f"{name} cannot be used", expected="a number of at least 0", got=repr(value))


def off_label(logits: Logits, target: Target) -> Logits:
    """The logits with the label masked: what the shape of the rest is the softmax of."""
    return logits.scatter(1, target.labels[:, None], -torch.inf)


def shape_divergence(student_logits: Logits, target: Target, temperature: float) -> Loss:
    """KL(shape of the target ‖ shape of the student): both distributions over the classes beside the label."""
    log_q = torch.log_softmax(off_label(tempered(student_logits, temperature), target), dim=-1)
    return product(target.shape, target.shape.log() - log_q).sum(dim=-1)


@divergences.register("dkd")
@dataclass(frozen=True)
class Decoupled:
    """confidence_weight · KL of the (label, rest) split + shape_weight · KL of the off-label shapes.

    The weights 1 and 8 are the paper's for CIFAR-100 (2 in place of 8 for ResNet-56 to ResNet-20); with weights 1 and
    1 - confidence it would be the KL divergence. The paper's names are TCKD and NCKD. Source: Zhao et al. (arXiv 2203.08679),
    eqs. 5 and 7.
    """

    confidence_weight: float = 1.0
    shape_weight: float = 8.0

    def __post_init__(self) -> None:
        check_weight("confidence_weight", self.confidence_weight)
        check_weight("shape_weight", self.shape_weight)

    @property
    def formula(self) -> str:
        return f"{self.confidence_weight:g} KL(confidence) + {self.shape_weight:g} KL(shape)"

    def __call__(self, student_logits: Logits, target: Target) -> Loss:
        centred = tempered(student_logits, target.temperature)
        log_q = torch.log_softmax(centred, dim=-1)
        log_label = log_q.gather(1, target.labels[:, None]).squeeze(1)
        log_rest = torch.logsumexp(off_label(log_q, target), dim=-1)
        mass, rest = target.label_mass, target.rest_mass
        split = product(mass, mass.log() - log_label) + product(rest, rest.log() - log_rest)
        return self.confidence_weight * split + self.shape_weight * shape_divergence(
            student_logits, target, target.temperature
        )

    def gradient(self, student_logits: Logits, target: Target, scale: float = 1.0) -> tuple[Loss, Logits]:
        """d/dz[y] = w (q[y] - c) / T; beside it (-w (q[y] - c) shape_q + v (shape_q - shape)) / T."""
        labels = target.labels[:, None]
        centred = centred_rows(student_logits, target.temperature)
        own = centred.gather(1, labels)
        centred.scatter_(1, labels, -torch.inf)
        largest = centred.amax(dim=-1, keepdim=True)
        shape_q, log_sum = softmax_rows(centred.sub_(largest))
        log_rest = largest + log_sum  # log Σ exp over the classes beside the label
        log_all = torch.logaddexp(own, log_rest)
        mass, rest = target.label_mass[:, None], target.rest_mass[:, None]
        split = (
            torch.xlogy(mass, mass)
            - product(mass, own - log_all)
            + torch.xlogy(rest, rest)
            - product(rest, log_rest - log_all)
        )
        shape = target.shape
        shapes = torch.xlogy(shape, shape).sum(dim=-1) - inner(shape, centred) + log_sum.squeeze(1)
        # q[y] - c, from whichever of label and rest is the smaller, so that a sure student keeps its digits
        pull = rest - torch.exp(log_rest - log_all)
        loss = self.confidence_weight * split.squeeze(1) + self.shape_weight * shapes
        gradient = shape_q.mul(self.shape_weight - self.confidence_weight * pull).sub_(shape, alpha=self.shape_weight)
        gradient.scatter_(1, labels, self.confidence_weight * pull)
        return loss, gradient.mul_(scale / target.temperature)


@divergences.register("nkd")
@dataclass(frozen=True)
class Normalised:
    """-c log softmax(z)[y] + shape_weight · T² · H(shape, softmax of z / T beside the label), c the confidence at temperature 1.

    Holds its own T². Source: Yang et al. (arXiv 2303.13005), the formula of the paper; the code published with it
    (mmcls/distillation/losses/nkd.py) keeps the label among the classes of the second term, this does not.
    """

    shape_weight: float = 1.5
    own_temperature: ClassVar[bool] = True
    least_at_equality: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_weight("shape_weight", self.shape_weight)

    @property
    def formula(self) -> str:
        return f"(confidence · H(label, softmax(student)) + {self.shape_weight:g} · T² · H(shape, shape of q))"

    def __call__(self, student_logits: Logits, target: Target) -> Loss:
        log_label = (
            torch.log_softmax(tempered(student_logits, 1.0), dim=-1).gather(1, target.labels[:, None]).squeeze(1)
        )
        log_q = torch.log_softmax(off_label(tempered(student_logits, target.temperature), target), dim=-1)
        shapes = -product(target.shape, log_q).sum(dim=-1)
        confidence = target.at(1.0).label_mass
        return self.shape_weight * target.temperature**2 * shapes - product(confidence, log_label)
