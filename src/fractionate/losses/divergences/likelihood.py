"""Cross-entropy and the two KL divergences, and total variation: comparisons class by class with the target alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fractionate.errors import ConfigError
from fractionate.losses.divergences.base import Target, divergences, needs_mass_everywhere, product, tempered
from fractionate.theory.cells import Cell
from fractionate.theory.softmax import LN2, back_through_softmax, difference, exponents, fresh, inner, place, raised

Loss = Float[Tensor, "batch"]
Logits = Float[Tensor, "batch classes"]
LEAST_REST = 1e-30  # a sum below it has lost digits


@divergences.register("cross-entropy")
@dataclass(frozen=True)
class CrossEntropy:
    """H(target, q) = -Σ target log q: the soft term of Tang et al. (arXiv 2002.03532). Its least value is the target's entropy.

    A class without target mass costs nothing, also where the student masks it: 0 · -inf is 0 here.
    """

    formula: ClassVar[str] = "H(target, q)"

    def __call__(self, student_logits: Logits, target: Target) -> Loss:
        log_q = torch.log_softmax(tempered(student_logits, target.temperature), dim=-1)
        return -product(target.probabilities, log_q).sum(dim=-1)

    def gradient(
        self, student_logits: Logits, target: Target, scale: float = 1.0, *, out: Logits | None = None
    ) -> tuple[Loss, Logits]:
        """d/dz = (q - target) / T."""
        student = exponents(student_logits, target.temperature, "student")
        p = target.masses("target")
        cross = inner(p.powers, student).div_(p.total)
        q = raised(student)
        loss = q.log2_total.sub_(cross).mul_(LN2).squeeze(1)
        return loss, difference(q, p, scale / target.temperature, out)


def hard_labels(student_logits: Logits, labels: Int[Tensor, "batch"], weight: float, scale: float, out: Logits) -> Loss:
    """weight · cross-entropy of the labels; adds weight · scale times its gradient to `out`."""
    own = labels[:, None]
    student = exponents(student_logits, 1.0, "student")
    own_exponent = student.gather(1, own)
    q = raised(student)
    out.addcmul_(q.powers, q.share(weight * scale))
    out.scatter_add_(1, own, torch.full_like(own_exponent, -weight * scale))
    return q.log2_total.sub_(own_exponent).mul_(LN2 * weight).squeeze(1)


def covering(
    student_logits: Logits, temperature: float, target: Target, scale: float, out: Logits | None
) -> tuple[Loss, Logits]:
    """KL(target ‖ q) with the student at a temperature, and scale times its gradient."""
    student = exponents(student_logits, temperature, "student")
    wanted = target.exponents("target")
    ratio = torch.sub(wanted, student, out=place("ratio", student))
    p, q = raised(wanted), raised(student)
    # the difference of exponents first: at equality every term is 0, not a sum that cancels
    loss = inner(p.powers, ratio).div_(p.total).add_(q.log2_total.sub_(p.log2_total)).mul_(LN2).squeeze(1)
    return loss, difference(q, p, scale / temperature, out)


@divergences.register("forward-kl")
@dataclass(frozen=True)
class ForwardKL:
    """KL(target ‖ q) = Σ target log(target / q): cross-entropy less the target's entropy, 0 where they agree.

    Source: Hinton et al. (arXiv 1503.02531), in the form of most libraries.
    """

    formula: ClassVar[str] = "KL(target ‖ q)"

    def __call__(self, student_logits: Logits, target: Target) -> Loss:
        log_q = torch.log_softmax(tempered(student_logits, target.temperature), dim=-1)
        # the difference of logarithms first: at equality every term is 0, not a sum that cancels
        return product(target.probabilities, target.log_probabilities - log_q).sum(dim=-1)

    def gradient(
        self, student_logits: Logits, target: Target, scale: float = 1.0, *, out: Logits | None = None
    ) -> tuple[Loss, Logits]:
        """d/dz = (q - target) / T."""
        return covering(student_logits, target.temperature, target, scale, out)


@divergences.register("bucketed-kl")
@dataclass(frozen=True)
class BucketedKL:
    """KL over the target's k largest classes and all others taken together as one class: between 0 and the full KL.

    What a truncated teacher can teach without a guess about the rest. Dropping the rest instead is no divergence: it goes below 0.
    k counts at most all classes but one; ties at the edge go by class number. Data-processing inequality.
    """

    k: int = 32

    def __post_init__(self) -> None:
        if not (isinstance(self.k, int) and self.k >= 1):
            raise ConfigError("k cannot be used", expected="a whole number of at least 1", got=repr(self.k))

    @property
    def formula(self) -> str:
        return f"KL(target ‖ q) of {self.k} classes and the rest as one"

    def largest(self, p: Logits) -> tuple[Float[Tensor, "batch k"], Int[Tensor, "batch k"]]:
        """Masses of the k largest classes, and which these are."""
        masses, places = p.topk(min(self.k, p.shape[1] - 1), dim=-1)
        return masses, places

    def __call__(self, student_logits: Logits, target: Target) -> Loss:
        log_q = torch.log_softmax(tempered(student_logits, target.temperature), dim=-1)
        masses, places = self.largest(target.probabilities)
        rest = target.probabilities.scatter(1, places, 0.0).sum(dim=-1)
        log_rest = torch.logsumexp(log_q.scatter(1, places, -torch.inf), dim=-1)
        known = product(masses, target.log_probabilities.gather(1, places) - log_q.gather(1, places)).sum(dim=-1)
        return known + product(rest, rest.log() - log_rest)

    def gradient(
        self, student_logits: Logits, target: Target, scale: float = 1.0, *, out: Logits | None = None
    ) -> tuple[Loss, Logits]:
        """d/dz = (q - target) / T at the k classes, (q - target's rest · share of q in the rest) / T at the others."""
        student = exponents(student_logits, target.temperature, "student")
        wanted = target.exponents("target")
        largest, places = self.largest(wanted)
        known_student = student.gather(1, places)
        p, q = raised(wanted), raised(student)
        masses, student_masses = torch.exp2(largest).div_(p.total), torch.exp2(known_student).div_(q.total)
        log_ratio = (largest - p.log2_total).sub_(known_student.sub_(q.log2_total))
        known = product(masses, log_ratio).sum(dim=-1, keepdim=True)
        rest = p.powers.scatter_(1, places, 0.0).sum(dim=-1, keepdim=True).div_(p.total)
        rest_student = q.powers.scatter_(1, places, 0.0).sum(dim=-1, keepdim=True).div_(q.total)
        # a student's rest that underflows has no finite loss here: it is left to the plain form
        rest_student = torch.where(rest_student > LEAST_REST, rest_student, 0.0)
        loss = known.add_(product(rest, rest.log2().sub_(rest_student.log2()))).mul_(LN2).squeeze(1)
        factor = scale / target.temperature
        others = q.share(factor).mul_(1 - rest / rest_student.clamp_min(LEAST_REST))
        gradient = torch.mul(q.powers, others, out=fresh(out, q.powers))
        return loss, gradient.scatter_(1, places, student_masses.sub_(masses).mul_(factor))


@divergences.register("reverse-kl")
@dataclass(frozen=True)
class ReverseKL:
    """KL(q ‖ target) = Σ q log(q / target): seeks modes where the forward KL covers them; infinite where the target has no mass.

    Source: MiniLLM (arXiv 2306.08543), here at the level of one prediction, by exact gradient.
    """

    formula: ClassVar[str] = "KL(q ‖ target)"

    def refuses(self, cell: Cell) -> str:
        return needs_mass_everywhere(cell)

    def __call__(self, student_logits: Logits, target: Target) -> Loss:
        log_q = torch.log_softmax(tempered(student_logits, target.temperature), dim=-1)
        return product(log_q.exp(), log_q - target.log_probabilities).sum(dim=-1)

    def gradient(
        self, student_logits: Logits, target: Target, scale: float = 1.0, *, out: Logits | None = None
    ) -> tuple[Loss, Logits]:
        """d/dz = q (log(q / target) - KL) / T."""
        student = exponents(student_logits, target.temperature, "student")
        wanted = target.exponents("target")
        ratio = torch.sub(student, wanted, out=place("ratio", student))
        ratio.nan_to_num_(
            nan=0.0, posinf=torch.inf, neginf=0.0
        )  # a class the student masks: 0 · -inf, 0 · (-inf + inf)
        p, q = raised(wanted), raised(student)
        if ratio.is_cuda or torch.isposinf(ratio.amax()):
            ratio.masked_fill_(q.powers == 0, 0.0)
        mean = inner(q.powers, ratio).div_(q.total)
        loss = (mean - q.log2_total.sub_(p.log2_total)).mul_(LN2).squeeze(1)
        return loss, back_through_softmax(ratio, mean, q, LN2 * scale / target.temperature, out)


@divergences.register("total-variation")
@dataclass(frozen=True)
class TotalVariation:
    """½ Σ |target - q|, between 0 and 1; its gradient has bounded size and takes the value 0 at ties.

    Source: the sequence-level objective of Wen et al. (arXiv 2307.15190), here for one prediction.
    """

    formula: ClassVar[str] = "½ Σ |target - q|"
    falls_as_squared: ClassVar[bool] = False

    def __call__(self, student_logits: Logits, target: Target) -> Loss:
        q = torch.softmax(tempered(student_logits, target.temperature), dim=-1)
        return 0.5 * (target.probabilities - q).abs().sum(dim=-1)

    def gradient(
        self, student_logits: Logits, target: Target, scale: float = 1.0, *, out: Logits | None = None
    ) -> tuple[Loss, Logits]:
        """d/dz = ½ q (s - Σ q s) / T with s = sign(q - target)."""
        q = raised(exponents(student_logits, target.temperature, "student"))
        p = target.masses("target")
        own = torch.mul(q.powers, q.share(1.0), out=place("ratio", q.powers))
        apart = own.sub_(p.powers.mul_(p.share(1.0)))  # each divided first: exactly 0 at ties
        loss = 0.5 * torch.abs(apart, out=p.powers).sum(dim=-1)
        sign = apart.sign_()
        mean = inner(q.powers, sign).div_(q.total)
        return loss, back_through_softmax(sign, mean, q, 0.5 * scale / target.temperature, out)
