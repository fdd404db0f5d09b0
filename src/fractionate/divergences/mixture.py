"""Divergences to a mixture of target and student: finite where one side has no mass."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from fractionate.divergences import (
    Target,
    centred_rows,
    check_share,
    divergences,
    inner,
    product,
    softmax_rows,
    tempered,
)

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


def student_rows(student_logits: Logits, target: Target) -> tuple[Logits, Logits]:
    """q and log q without autograd."""
    centred = centred_rows(student_logits, target.temperature)
    q, log_sum = softmax_rows(centred)
    return q, centred.sub_(log_sum)


def back_through_softmax(slope: Logits, q: Logits, factor: float) -> Logits:
    """From d/dq to d/dz, times a factor: q (slope - Σ q slope); overwrites the slope."""
    mean = (q * slope).sum(dim=-1, keepdim=True)
    return slope.sub_(mean).mul_(q).mul_(factor)


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

    def gradient(self, student_logits: Logits, target: Target, scale: float = 1.0) -> tuple[Loss, Logits]:
        """d/dq = (1 - beta) log(q / m)."""
        q, log_q = student_rows(student_logits, target)
        p, log_p = target.rows_and_logs()
        log_m = torch.lerp(q, p, self.beta).log_()
        from_target = inner(p, log_p - log_m)
        ratio = log_q.sub_(log_m).masked_fill_(q == 0, 0.0)
        loss = self.beta * from_target + (1 - self.beta) * (q * ratio).sum(dim=-1)
        return loss, back_through_softmax(ratio, q, (1 - self.beta) * scale / target.temperature)


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

    def gradient(self, student_logits: Logits, target: Target, scale: float = 1.0) -> tuple[Loss, Logits]:
        """d/dq = -(1 - skew) target / m."""
        q, _ = student_rows(student_logits, target)
        p, log_p = target.rows_and_logs()
        mixture = (self.skew * p).add_(q, alpha=1 - self.skew)
        loss = inner(p, log_p - mixture.log())
        slope = (p / mixture).nan_to_num_(0.0).mul_(self.skew - 1)
        return loss, back_through_softmax(slope, q, scale / target.temperature)


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

    def gradient(self, student_logits: Logits, target: Target, scale: float = 1.0) -> tuple[Loss, Logits]:
        """d/dq = log(q / m) + 1 - skew q / m."""
        q, log_q = student_rows(student_logits, target)
        mixture = ((1 - self.skew) * target.probabilities).add_(q, alpha=self.skew)
        ratio = log_q.sub_(mixture.log()).masked_fill_(q == 0, 0.0)
        loss = (q * ratio).sum(dim=-1)
        slope = ratio.sub_((q / mixture).nan_to_num_(0.0).mul_(self.skew))
        return loss, back_through_softmax(slope, q, scale / target.temperature)
