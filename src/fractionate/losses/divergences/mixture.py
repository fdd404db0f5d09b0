"""Divergences to a mixture of target and student: finite where one side has no mass."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from fractionate.losses.divergences.base import Target, check_share, divergences, product, tempered
from fractionate.theory.softmax import LN2, Rows, back_through_softmax, exponents, inner, place, raised

Loss = Float[Tensor, "batch"]
Logits = Float[Tensor, "batch classes"]


def log_mixture(log_one: Logits, log_other: Logits, share: float) -> Logits:
    """log(share · one + (1 - share) · other), safe for tiny masses; two classes without mass give -inf, without NaN gradients."""
    one = log_one + torch.log(torch.tensor(share, dtype=log_one.dtype))
    other = log_other + torch.log(torch.tensor(1 - share, dtype=log_one.dtype))
    both = (one == -torch.inf) & (other == -torch.inf)
    return torch.logaddexp(one.masked_fill(both, 0.0), other.masked_fill(both, 0.0)).masked_fill(both, -torch.inf)


def student_log(student_logits: Logits, target: Target) -> Logits:
    """log q, q = softmax(student / T)."""
    return torch.log_softmax(tempered(student_logits, target.temperature), dim=-1)


LEAST_POWER = 1e-30  # stands in for less mass in a denominator: next to the other side's it is nothing


def excess(one: Rows, other: Rows, share: float) -> Logits:
    """share · (one / other - 1) in a kept array, so that log1p of it is log((share · one + (1 - share) · other) / other)."""
    other_powers = torch.clamp(other.powers, min=LEAST_POWER, out=place("ratio", other.powers))
    ratio = torch.div(one.powers, other_powers, out=other_powers)
    return ratio.mul_((other.total / one.total).mul_(share)).sub_(share)


@divergences.register("jsd")
@dataclass(frozen=True)
class JensenShannon:
    """beta KL(target ‖ m) + (1 - beta) KL(q ‖ m), m = beta target + (1 - beta) q; bounded, and symmetric at beta = 0.5.

    beta strictly between 0 and 1. Libraries that accept beta = 0 or 1 mean the KL divergences there, which are no limits of this
    formula (it goes to 0): say forward-kl or reverse-kl. Source: GKD (Agarwal et al., arXiv 2306.13649), eq. 1.
    """

    beta: float = 0.5

    def __post_init__(self) -> None:
        check_share("beta", self.beta)

    @property
    def formula(self) -> str:
        return f"JSD(target, q; {self.beta:g})"

    def __call__(self, student_logits: Logits, target: Target) -> Loss:
        log_q, log_p = student_log(student_logits, target), target.log_probabilities
        log_m = log_mixture(log_p, log_q, self.beta)
        from_target = product(target.probabilities, log_p - log_m)
        from_student = product(log_q.exp(), log_q - log_m)
        return self.beta * from_target.sum(dim=-1) + (1 - self.beta) * from_student.sum(dim=-1)

    def gradient(
        self, student_logits: Logits, target: Target, scale: float = 1.0, *, out: Logits | None = None
    ) -> tuple[Loss, Logits]:
        """d/dq = (1 - beta) log(q / m)."""
        student = exponents(student_logits, target.temperature, "student")
        wanted = target.exponents("target")
        apart = torch.sub(wanted, student, out=place("apart", student))
        p, q = raised(wanted), raised(student)
        log_m = excess(p, q, self.beta).log1p_()  # log(m / q)
        # log2(p / m) less a number a row, in base 2; it is at most -log2(beta), also where q underflows
        offset = q.log2_total.sub_(p.log2_total)
        log_p = torch.minimum(apart.sub_(log_m, alpha=1 / LN2), -math.log2(self.beta) - offset, out=apart)
        from_target = inner(p.powers, log_p).div_(p.total).add_(offset).mul_(LN2)
        from_student = inner(q.powers, log_m).div_(q.total)
        loss = from_target.mul_(self.beta).sub_((1 - self.beta) * from_student).squeeze(1)
        factor = (self.beta - 1) * scale / target.temperature
        return loss, back_through_softmax(log_m, from_student, q, factor, out)


@divergences.register("skew-forward")
@dataclass(frozen=True)
class SkewForward:
    """KL(target ‖ skew · target + (1 - skew) · q): at most -log(skew), also where the student has no mass.

    Source: DistiLLM (Ko et al., arXiv 2402.03898), skew 0.1.
    """

    skew: float = 0.1

    def __post_init__(self) -> None:
        check_share("skew", self.skew)

    @property
    def formula(self) -> str:
        return f"KL(target ‖ {self.skew:g} target + {1 - self.skew:g} q)"

    def __call__(self, student_logits: Logits, target: Target) -> Loss:
        log_m = log_mixture(target.log_probabilities, student_log(student_logits, target), self.skew)
        return product(target.probabilities, target.log_probabilities - log_m).sum(dim=-1)

    def gradient(
        self, student_logits: Logits, target: Target, scale: float = 1.0, *, out: Logits | None = None
    ) -> tuple[Loss, Logits]:
        """d/dq = -(1 - skew) target / m."""
        q = raised(exponents(student_logits, target.temperature, "student"))
        p = target.masses("target")
        ratio = excess(q, p, 1 - self.skew)  # m / target - 1
        log_m = torch.log1p(ratio, out=place("apart", ratio))
        loss = inner(p.powers, log_m).div_(p.total).neg_().squeeze(1)
        slope = ratio.add_(1.0).reciprocal_()
        mean = inner(q.powers, slope).div_(q.total)
        return loss, back_through_softmax(slope, mean, q, (self.skew - 1) * scale / target.temperature, out)


@divergences.register("skew-reverse")
@dataclass(frozen=True)
class SkewReverse:
    """KL(q ‖ (1 - skew) · target + skew · q): the reverse KL made finite where the target has no mass.

    Source: DistiLLM (Ko et al., arXiv 2402.03898), skew 0.1.
    """

    skew: float = 0.1

    def __post_init__(self) -> None:
        check_share("skew", self.skew)

    @property
    def formula(self) -> str:
        return f"KL(q ‖ {1 - self.skew:g} target + {self.skew:g} q)"

    def __call__(self, student_logits: Logits, target: Target) -> Loss:
        log_q = student_log(student_logits, target)
        log_m = log_mixture(log_q, target.log_probabilities, self.skew)
        return product(log_q.exp(), log_q - log_m).sum(dim=-1)

    def gradient(
        self, student_logits: Logits, target: Target, scale: float = 1.0, *, out: Logits | None = None
    ) -> tuple[Loss, Logits]:
        """d/dq = log(q / m) + 1 - skew q / m."""
        q = raised(exponents(student_logits, target.temperature, "student"))
        p = target.masses("target")
        ratio = excess(p, q, 1 - self.skew)  # m / q - 1
        slope = torch.log1p(ratio, out=place("apart", ratio))
        loss = inner(q.powers, slope).div_(q.total).neg_().squeeze(1)
        slope.add_(ratio.add_(1.0).reciprocal_(), alpha=self.skew)
        mean = inner(q.powers, slope).div_(q.total)
        return loss, back_through_softmax(slope, mean, q, -scale / target.temperature, out)
