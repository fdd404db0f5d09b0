"""Divergences that weigh the two parts of a target, the label's confidence and the shape of the rest, apart.

KL(target ‖ q) = KL of the two-way split + (1 - confidence) · KL of the shapes, exactly; these methods give the parts other weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fractionate.errors import ConfigError
from fractionate.losses.divergences.base import Target, divergences, product, tempered
from fractionate.theory.softmax import LN2, fresh, inner, place, raised

Loss = Float[Tensor, "batch"]
Logits = Float[Tensor, "batch classes"]


def check_weight(name: str, value: float) -> None:
    """Raises `ConfigError` unless a weight is finite and not negative."""
    if not (isinstance(value, (int, float)) and 0 <= value < float("inf")):
        raise ConfigError(f"{name} cannot be used", expected="a number of at least 0", got=repr(value))


def off_label(logits: Logits, target: Target) -> Logits:
    """The logits with the label masked: what the shape of the rest is the softmax of."""
    return logits.scatter(1, target.labels[:, None], -torch.inf)


def off_label_exponents(
    logits: Logits, labels: Int[Tensor, "batch 1"], temperature: float, name: str, dtype: torch.dtype
) -> tuple[Logits, Float[Tensor, "batch 1"]]:
    """Exponents of the classes other than the label (-inf at it) in a kept array, and the label's own from the same zero."""
    others = place(name, logits, dtype).copy_(logits).scatter_(1, labels, -torch.inf)
    factor = 1 / (LN2 * temperature)
    zero = others.amax(dim=-1, keepdim=True).mul_(-factor)
    own = torch.add(zero, logits.gather(1, labels).to(dtype), alpha=factor)
    return torch.add(zero, others, alpha=factor, out=others), own


def shape_divergence(student_logits: Logits, target: Target, temperature: float) -> Loss:
    """KL(shape of the target ‖ shape of the student): both distributions over the classes other than the label."""
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

    def gradient(
        self, student_logits: Logits, target: Target, scale: float = 1.0, *, out: Logits | None = None
    ) -> tuple[Loss, Logits]:
        """d/dz[y] = w (q[y] - c) / T; with it (-w (q[y] - c) shape_q + v (shape_q - shape)) / T."""
        labels = target.labels[:, None]
        student, own = off_label_exponents(student_logits, labels, target.temperature, "student", target.dtype)
        if target.is_whole_teacher:
            wanted, wanted_own = off_label_exponents(
                target.signal.logits, labels, target.temperature, "target", target.dtype
            )
        else:
            wanted = torch.log2(target.shape, out=place("target", target.shape))
        ratio = torch.sub(wanted, student, out=place("ratio", student)).scatter_(1, labels, 0.0)
        shape, shape_q = raised(wanted), raised(student)
        log_total, log_total_q = shape.log2_total, shape_q.log2_total
        shapes = inner(shape.powers, ratio).div_(shape.total).add_(log_total_q - log_total)
        log_all_q = torch.logaddexp2(own, log_total_q)
        log_label_q, log_rest_q = own - log_all_q, log_total_q - log_all_q
        if target.is_whole_teacher:
            log_all = torch.logaddexp2(wanted_own, log_total)
            log_label, log_rest = wanted_own - log_all, log_total - log_all
            mass, rest = torch.exp2(log_label), torch.exp2(log_rest)
        else:
            mass, rest = target.label_mass[:, None], target.rest_mass[:, None]
            log_label, log_rest = mass.log2(), rest.log2()
        split = product(mass, log_label - log_label_q) + product(rest, log_rest - log_rest_q)
        loss = split.mul_(self.confidence_weight).add_(shapes, alpha=self.shape_weight).mul_(LN2).squeeze(1)
        # q[y] - c, from whichever of label and rest is the smaller, so that a sure student keeps its digits
        label_pull, rest_pull = torch.exp2(log_label_q) - mass, rest - torch.exp2(log_rest_q)
        pull = torch.where(mass < rest, label_pull, rest_pull).mul_(self.confidence_weight)
        factor = scale / target.temperature
        scaled = shape.powers.mul_(shape.share(-factor * self.shape_weight))
        share_q = shape_q.share(factor).mul_(self.shape_weight - pull)
        gradient = torch.addcmul(scaled, shape_q.powers, share_q, out=fresh(out, scaled))
        return loss, gradient.scatter_(1, labels, pull.mul_(factor))


@divergences.register("nkd")
@dataclass(frozen=True)
class Normalised:
    """-c log softmax(z)[y] + shape_weight · T² · H(shape, softmax of z / T without the label), c the confidence at temperature 1.

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
