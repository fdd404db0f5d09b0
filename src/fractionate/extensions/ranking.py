"""The word-level losses of TIE-KD (arXiv 2305.08096)."""

from __future__ import annotations

from fractionate.divergences.ranking import Ranking
from fractionate.objective import Objective

__all__ = ["Ranking", "tie_kd"]


def tie_kd(k: int = 5) -> tuple[Objective, Objective]:
    """The word-level losses of TIE-KD, to be summed: KL(teacher ‖ student) and the ranking term, at temperature 1.

    The paper's KL adds 1e-6 to probabilities within the logarithm; this one is exact. Pass them to `Passes` for the iterative part.
    """
    return Objective("kd", 1.0, 1.0, divergence="forward-kl"), Objective("kd", 1.0, 1.0, divergence=Ranking(k))
