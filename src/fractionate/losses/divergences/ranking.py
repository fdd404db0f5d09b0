"""The hierarchical ranking loss of TIE-KD: the teacher's top-1 first, its top k before all else (arXiv 2305.08096)."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Integral
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from fractionate.errors import ConfigError
from fractionate.losses.divergences.base import Target, divergences, is_whole_teacher, tempered
from fractionate.theory.cells import Cell


@divergences.register("ranking")
@dataclass(frozen=True)
class Ranking:
    """L_top1 + L_topk, hinges with zero margin between probabilities; 0 where student and teacher order the top k alike.

    With t the teacher's k largest classes in its order, s the student's own k largest, p and q their probabilities:
    L_top1 = Σ_i max(0, q[t_i] - q[t_1]); L_topk = Σ_ij max(0, q[s_j] - q[t_i]) over the pairs with p[t_i] > p[s_j].

    Which classes are the largest carries no gradient. `top1_weight` and `topk_weight` weigh the two parts. It is no distance by
    itself: it is added to one, as the term `ranking` and `tie_kd` do. With k = 1 the first part is 0. Raises `ConfigError` for k
    below 1 and for weights below 0. Source: Zhang et al. (arXiv 2305.08096), the authors' code (songmzhang/NMT-KD), with k = 5.
    """

    k: int = 5
    top1_weight: float = 1.0
    topk_weight: float = 1.0
    formula: ClassVar[str] = "L_top1(q) + L_topk(target, q)"
    falls_as_squared: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not (isinstance(self.k, Integral) and self.k is not True and self.k >= 1):
            raise ConfigError("invalid value for k", expected="a whole number of at least 1", got=repr(self.k))
        for name in ("top1_weight", "topk_weight"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ConfigError(f"invalid value for {name}", expected="at least 0", got=repr(getattr(self, name)))

    def refuses(self, cell: Cell) -> str:
        """Only the teacher's own distribution has an order to teach; in other cells ties decide."""
        return "" if is_whole_teacher(cell) else f"cell {cell} is not the teacher's own ranking"

    def __call__(self, student_logits: Float[Tensor, "batch classes"], target: Target) -> Float[Tensor, "batch"]:
        own, ranked, gaps = self._gaps(student_logits, target)
        # a class is worth what the student gives it; only 2 k of them are read
        log_sum = torch.logsumexp(own, dim=-1, keepdim=True)
        theirs = (own.gather(1, ranked) - log_sum).exp()
        mine = (own.gather(1, gaps[0]) - log_sum).exp()
        first = torch.relu(theirs - theirs[:, :1]).sum(dim=1)
        rest = torch.relu(mine[:, None, :] - theirs[:, :, None])  # batch, teacher's i, student's j
        return self.top1_weight * first + self.topk_weight * torch.where(gaps[1], rest, 0.0).sum(dim=(1, 2))

    def _gaps(self, student_logits: Tensor, target: Target) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
        own = tempered(student_logits, target.temperature)
        with torch.no_grad():
            k = min(int(self.k), own.shape[-1])
            heights = target.logits  # ordered as the probabilities are, without their roundings
            ranked = heights.topk(k, dim=-1).indices
            favoured = own.topk(k, dim=-1).indices
            above = heights.gather(1, ranked)[:, :, None] > heights.gather(1, favoured)[:, None, :]
        return own, ranked, (favoured, above)
