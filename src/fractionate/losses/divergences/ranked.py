"""Divergences that read only the teacher's largest classes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from fractionate.errors import ConfigError
from fractionate.losses.divergences.base import Target, divergences, product, tempered
from fractionate.theory.softmax import LN2, exponents, fresh, raised

Loss = Float[Tensor, "batch"]
Logits = Float[Tensor, "batch classes"]


@divergences.register("topk-cross-entropy")
@dataclass(frozen=True)
class TopKCrossEntropy:
    """-Σ target log q over the target's k largest classes only, their masses not renormalised.

    k = 1 is knowledge "without correlation" (the teacher's top-1, weighted by its probability).
    Least where q is the target renormalised over these classes, not at equality. Source: Zhang et al. (arXiv 2305.08096),
    targets (b), k = 1, and top-k, k = 5. Ties at the edge go as torch's topk decides.
    """

    k: int = 1
    least_at_equality: ClassVar[bool] = False
    falls_as_squared: ClassVar[bool] = False  # the classes left out push also where all are alike

    def __post_init__(self) -> None:
        if not (isinstance(self.k, int) and self.k is not True and self.k >= 1):
            raise ConfigError("k cannot be used", expected="a whole number of at least 1", got=repr(self.k))

    @property
    def formula(self) -> str:
        return f"-Σ target log q over the {self.k} largest"

    def kept(self, p: Logits) -> Bool[Tensor, "batch classes"]:
        """True for the k largest classes of each row."""
        places = p.topk(min(self.k, p.shape[1]), dim=-1).indices
        return torch.zeros_like(p, dtype=torch.bool).scatter_(1, places, True)

    def __call__(self, student_logits: Logits, target: Target) -> Loss:
        log_q = torch.log_softmax(tempered(student_logits, target.temperature), dim=-1)
        mass = torch.where(self.kept(target.probabilities), target.probabilities, 0.0)
        return -product(mass, log_q).sum(dim=-1)

    def gradient(
        self, student_logits: Logits, target: Target, scale: float = 1.0, *, out: Logits | None = None
    ) -> tuple[Loss, Logits]:
        """d/dz = (P q - target at the k largest) / T, P the mass of these."""
        student = exponents(student_logits, target.temperature, "student")
        p = target.masses("target")
        masses, places = p.powers.topk(min(self.k, p.powers.shape[1]), dim=-1)
        masses = masses.div_(p.total)
        cross = product(masses, student.gather(1, places)).sum(dim=-1, keepdim=True)
        q, mass = raised(student), masses.sum(dim=-1, keepdim=True)
        loss = q.log2_total.mul_(mass).sub_(cross).mul_(LN2).squeeze(1)
        factor = scale / target.temperature
        gradient = torch.mul(q.powers, q.share(factor).mul_(mass), out=fresh(out, q.powers))
        return loss, gradient.scatter_add_(1, places, masses.mul_(-factor))
