"""The ranking term of TIE-KD: the teacher's top-1 first, its top k before all else, on the teacher's signal of the rows."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor

from fractionate.errors import ConfigError
from fractionate.losses.divergences.ranking import Ranking
from fractionate.losses.objective import Objective
from fractionate.losses.terms.base import Binding, BoundTerm, TermSpec, term_specs
from fractionate.tasks.predictions import Predictions
from fractionate.theory.topk_signal import CompactSignal


@term_specs.register("ranking")
@dataclass(frozen=True)
class RankingTerm(TermSpec):
    """top1_weight · L_top1 + topk_weight · L_topk: hinges that are 0 where student and teacher order the top k alike.

    See `fractionate.losses.divergences.ranking.Ranking` for the formula. It is added to an objective such as `kd` with forward-kl.

    Source: Zhang et al. (arXiv 2305.08096), the authors' code (songmzhang/NMT-KD), with k = 5.

    Args:
        k: How many of the teacher's classes are ordered.
        weight: Of the term in the loss.
        top1_weight: Of the hinge between the first and each other.
        topk_weight: Of the hinges within the top k.

    Example:
        from fractionate.losses.terms import RankingTerm
        print(RankingTerm(5).formula)
    """

    k: int = 5
    _: KW_ONLY
    weight: float = 1.0
    top1_weight: float = 1.0
    topk_weight: float = 1.0
    reads_signal: ClassVar[bool] = True

    def __post_init__(self) -> None:
        TermSpec.__post_init__(self)
        Ranking(self.k, self.top1_weight, self.topk_weight)  # checks the settings

    @property
    def formula(self) -> str:
        return (
            f"[{self.top1_weight:g} · L_top1 + {self.topk_weight:g} · L_top{self.k}](teacher's order, softmax(student))"
        )

    @contextmanager
    def bind(self, at: Binding) -> Iterator[BoundTerm]:
        """Nothing is trained."""
        objective = Objective("kd", 1.0, 1.0, divergence=Ranking(self.k, self.top1_weight, self.topk_weight))

        def term(student: Predictions, teacher: Predictions | None, signal: Any | None) -> Float[Tensor, "rows"]:
            if signal is None:
                raise ConfigError("the ranking term needs a teacher's signal", fix="give the training a teacher")
            if isinstance(signal, CompactSignal) and objective.needs_dense():
                signal = signal.dense()  # what was left out is below what was kept: the order of the top k is exact
            return objective(student.required_logits, signal)

        yield term
