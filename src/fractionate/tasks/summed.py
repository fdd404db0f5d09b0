"""Metrics that follow from sums over rows: nothing but the sums is held, and batches and ranks add up."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fractionate.records import Direction
from fractionate.tasks.predictions import Needs, Predictions

Sums = dict[str, Tensor]  # float64 on the CPU; "weight" is the total weight of the rows


@dataclass(frozen=True, kw_only=True)
class Summed:
    """A metric as sums and what is made of them. Without rows, or with weight 0, it has no value.

    Args:
        terms: The sums of a batch, "weight" among them; empty where the batch says nothing (agreement without a teacher).
        finish: The value, from the sums over all batches.
    """

    name: str
    terms: Callable[[Predictions, Any | None], Sums] = field(repr=False, compare=False)
    finish: Callable[[Sums], float | None] = field(repr=False, compare=False)
    unit: str = "points"
    better: Direction = "more"
    margin: float = 0.5
    counts: bool = False
    needs: Needs = field(default_factory=Needs)
    reads_teacher: bool = False
    final_only: bool = False

    def start(self) -> Sums:
        return {}

    def add(self, state: Sums, predictions: Predictions, signal: Any | None) -> None:
        for name, value in self.terms(predictions, signal).items():
            state[name] = state[name] + value if name in state else value

    def value(self, state: Sums) -> float | None:
        return self.finish(state) if "weight" in state and float(state["weight"]) > 0 else None


def row_weight(predictions: Predictions) -> Float[Tensor, "rows"]:
    """What each row counts: its example's weight, 1 where the batch gives none. On the CPU."""
    given = predictions.batch.weight
    if given is None:
        return torch.ones(len(predictions), dtype=torch.float64)
    return predictions.by_row(given).double().cpu()


def judged_rows(predictions: Predictions) -> tuple[Int[Tensor, "judged"] | None, Float[Tensor, "judged"]]:
    """The places of the rows that are compared with their label (None: all), and their weights. On the CPU.

    Left out are rows of weight 0 and those whose label is a guess of the teacher.
    """
    weight, labelled = row_weight(predictions), predictions.batch.labelled
    kept = weight != 0
    if labelled is not None:
        kept &= predictions.by_row(labelled).cpu()
    if bool(kept.all()):
        return None, weight
    places = kept.nonzero().flatten()
    return places, weight[places]


def mean(sums: Sums) -> float:
    """Weighted mean over rows."""
    return float(sums["sum"] / sums["weight"])


def share(sums: Sums) -> float:
    """Weighted mean over rows, in points."""
    return 100 * mean(sums)
