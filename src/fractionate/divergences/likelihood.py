"""Cross-entropy and the two KL divergences, and total variation: comparisons class by class with the target alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fractionate.cells import Cell
from fractionate.divergences import (
    Target,
    centred_rows,
    divergences,
    inner,
    needs_mass_everywhere,
    product,
    softmax_rows,
    tempered,
)
from fractionate.errors import ConfigError

Loss = Float[Tensor, "batch"]
Logits = Float[Tensor, "batch classes"]


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

    def gradient(self, student_logits: Logits, target: Target, scale: float = 1.0) -> tuple[Loss, Logits]:
        """d/dz = (q - target) / T."""
        centred = centred_rows(student_logits, target.temperature)
        cross = inner(target.probabilities, centred)
        q = torch.softmax(centred, dim=-1, out=centred)
        loss = -q.amax(dim=-1).log_() - cross  # the largest logit is 0: log Σ exp = -log(largest q)
        return loss, q.sub_(target.probabilities).mul_(scale / target.temperature)


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

    def gradient(self, student_logits: Logits, target: Target, scale: float = 1.0) -> tuple[Loss, Logits]:
        """d/dz = (q - target) / T."""
        centred = centred_rows(student_logits, target.temperature)
        if target.is_whole_teacher:
            teacher = centred_rows(target.logits, target.temperature)
            p, teacher_log_sum = softmax_rows(teacher)
            # Σ p ((b - log Σ e^b) - (a - log Σ e^a)) with the sums of p taken as 1
            loss = inner(p, teacher.sub_(centred)) - teacher_log_sum.squeeze(1)
            del teacher
        else:
            p = target.probabilities
            loss = torch.xlogy(p, p).sum(dim=-1) - inner(p, centred)
        q = torch.softmax(centred, dim=-1, out=centred)
        return loss.sub_(q.amax(dim=-1).log_()), q.sub_(p).mul_(scale / target.temperature)


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

    def gradient(self, student_logits: Logits, target: Target, scale: float = 1.0) -> tuple[Loss, Logits]:
        """d/dz = (q - target) / T at the k classes, (q - target's rest · share of q in the rest) / T at the others."""
        centred = centred_rows(student_logits, target.temperature)
        q, log_sum = softmax_rows(centred)
        p, log_p = target.rows_and_logs()
        masses, places = self.largest(p)
        known = product(masses, log_p.gather(1, places) - centred.gather(1, places).sub_(log_sum)).sum(dim=-1)
        rest = p.scatter_(1, places, 0.0).sum(dim=-1)
        share = q.scatter(1, places, 0.0)
        rest_q = share.sum(dim=-1)
        if bool((rest_q > 1e-30).all()):
            log_rest = rest_q.log()
            share.mul_((rest / rest_q)[:, None])
        else:  # the student's rest underflows where its logarithm and its shape do not
            others = centred.scatter_(1, places, -torch.inf)
            log_rest = torch.logsumexp(others, dim=-1) - log_sum.squeeze(1)
            share = torch.softmax(others, dim=-1).nan_to_num_(0.0).mul_(rest[:, None])
        loss = known + product(rest, rest.log() - log_rest)
        return loss, q.sub_(share.scatter_(1, places, masses)).mul_(scale / target.temperature)


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

    def gradient(self, student_logits: Logits, target: Target, scale: float = 1.0) -> tuple[Loss, Logits]:
        """d/dz = q (log(q / target) - KL) / T."""
        centred = centred_rows(student_logits, target.temperature)
        q, log_sum = softmax_rows(centred)
        ratio = centred.sub_(log_sum).sub_(target.log_probabilities)
        ratio.masked_fill_(q == 0, 0.0)  # both sides without the class: 0 · (-inf + inf)
        loss = (q * ratio).sum(dim=-1)
        return loss, ratio.sub_(loss[:, None]).mul_(q).mul_(scale / target.temperature)


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

    def gradient(self, student_logits: Logits, target: Target, scale: float = 1.0) -> tuple[Loss, Logits]:
        """d/dz = ½ q (s - Σ q s) / T with s = sign(q - target)."""
        q, _ = softmax_rows(centred_rows(student_logits, target.temperature))
        difference = q - target.probabilities
        loss = 0.5 * difference.abs().sum(dim=-1)
        sign = difference.sign_()
        mean = (q * sign).sum(dim=-1, keepdim=True)
        return loss, sign.sub_(mean).mul_(q).mul_(0.5 * scale / target.temperature)
