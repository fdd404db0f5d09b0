"""Attention as two metrics of a task: ranking loss and cover length ratio against the teacher, means over layers, heads and texts.

A metric sees predictions, not the model that makes them. The one place where a task hands its model to what metrics need is
`Kind.generate`, so the comparison of the maps is made there: what is "generated" for a text is its pair of numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from fractionate.data import Batch
from fractionate.study import compare_maps
from fractionate.tasks import Needs, Predictions
from fractionate.tasks.classification import Classification
from fractionate.tasks.summed import Summed, Sums, mean


@dataclass(frozen=True)
class Watched(Classification):
    """Classification by encoders whose attention is compared with a teacher's, once a student is trained."""

    teacher: Any = None

    def __repr__(self) -> str:
        return "Watched()"

    def generate(self, model: nn.Module, batch: Batch, tokens: int) -> Sequence[Sequence[float]]:  # type: ignore[override]
        """Ranking loss and cover length ratio of a batch, once for each of its texts."""
        found = compare_maps(model, self.teacher, [(batch.inputs, batch.labels)])
        pair = [float(torch.tensor(part).mean()) for part in (found.ranking_loss, found.cover_length_ratio)]
        return [pair] * len(batch.index)


def _sums(place: int) -> Callable[[Predictions, Any], Sums]:
    def sums(predictions: Predictions, signal: Any) -> Sums:
        assert predictions.generated is not None
        values = torch.tensor([float(pair[place]) for pair in predictions.generated], dtype=torch.float64)
        return {"sum": values.sum(), "weight": torch.tensor(float(len(values)), dtype=torch.float64)}

    return sums


ATTENTION = tuple(
    Summed(
        name=name, terms=_sums(place), finish=mean, unit="", better="less", margin=0.01, final_only=True,
        needs=Needs(generated=1),
    )
    for place, name in enumerate(("ranking-loss", "cover-length"))
)  # fmt: skip
