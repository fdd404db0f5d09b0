"""Metrics of embeddings over a whole split: recall at k, mean reciprocal rank, Spearman of cosines with gold similarities."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from fractionate.errors import ConfigError, MismatchError, ResourceError
from fractionate.records import Direction
from fractionate.tasks.metric import metrics
from fractionate.tasks.predictions import Needs, Predictions
from fractionate.tasks.row_reading import check_finite
from fractionate.tasks.summed import judged_rows

MOST_NUMBERS = 1 << 27  # held numbers of a split: 512 MiB
CHUNK = 1 << 22  # similarities at once


@dataclass(eq=False)
class Held:
    """Embeddings of unit length [rows, texts ≤ 2, width], labels and weights, batch by batch."""

    embeddings: list[Tensor] = field(default_factory=list)
    labels: list[Tensor] = field(default_factory=list)
    weights: list[Tensor] = field(default_factory=list)

    def joined(self) -> tuple[Tensor, Tensor, Tensor]:
        return torch.cat(self.embeddings), torch.cat(self.labels), torch.cat(self.weights)


@dataclass(frozen=True, kw_only=True)
class EmbeddingMetric:
    """A metric of all embeddings of a split: they are held until the end.

    Args:
        score: Called with unit embeddings [rows, texts, width], labels [rows] and weights [rows]; None where there is no value.
    """

    name: str
    score: Callable[[Tensor, Tensor, Tensor], float | None] = field(repr=False, compare=False)
    margin: float = 0.5
    unit: ClassVar[str] = "points"
    better: ClassVar[Direction] = "more"
    counts: ClassVar[bool] = False
    reads_teacher: ClassVar[bool] = False
    final_only: ClassVar[bool] = False

    @property
    def needs(self) -> Needs:
        return Needs()

    def start(self) -> Held:
        return Held()

    def add(self, state: Held, predictions: Predictions, signal: object | None) -> None:
        found = predictions.required_logits.detach()
        if found.ndim != 3:
            raise MismatchError(
                f"{self.name} is a metric of embeddings", expected="[rows, texts, width]", got=str(list(found.shape))
            )
        check_finite(torch.isfinite(found).flatten(1).all(dim=1), predictions.example)
        kept, weight = judged_rows(predictions)
        unit = functional.normalize(found[:, :2].float().cpu(), dim=2)
        labels = predictions.labels.cpu()
        _check_room(sum(part.numel() for part in state.embeddings) + unit.numel())
        state.embeddings.append(unit if kept is None else unit[kept])
        state.labels.append(labels if kept is None else labels[kept])
        state.weights.append(weight)

    def value(self, state: Held) -> float | None:
        if not state.embeddings or not sum(len(part) for part in state.weights):
            return None
        return self.score(*state.joined())


def _check_room(held: int) -> None:
    if held > MOST_NUMBERS:
        raise ResourceError(
            "the embeddings of this split are too many to be held",
            expected=f"at most {MOST_NUMBERS:,} numbers",
            got=f"{held:,}",
            fix="evaluate on fewer examples",
        )


def ranks(unit: Float[Tensor, "rows texts width"], labels: Tensor) -> Float[Tensor, "rows"]:
    """The rank of the nearest relevant candidate, equal ones at their mean rank; NaN for queries that have none.

    Of pairs the candidates are the second texts of all examples, and the own one is relevant. Of single texts they are all others,
    and those of an equal label are relevant.
    """
    found = []
    single, rows = unit.shape[1] == 1, torch.arange(len(unit))
    candidates = unit[:, -1]
    for part in torch.split(rows, max(1, CHUNK // len(unit))):
        near = unit[part, 0] @ candidates.T
        mine = part[:, None] == rows
        relevant = (labels[part, None] == labels) & ~mine if single else mine
        near = near.masked_fill(mine, -torch.inf) if single else near
        best = near.masked_fill(~relevant, -torch.inf).amax(dim=1, keepdim=True)
        others = ~relevant & ~mine
        rank = 1 + (others & (near > best)).sum(dim=1) + (others & (near == best)).sum(dim=1) / 2
        found.append(rank.double().masked_fill(~relevant.any(dim=1), torch.nan))
    return torch.cat(found)


def _mean_of(values: Tensor, weights: Tensor) -> float | None:
    there = ~values.isnan() & (weights > 0)
    return 100 * float((values[there] * weights[there]).sum() / weights[there].sum()) if bool(there.any()) else None


def _recall(unit: Tensor, labels: Tensor, weights: Tensor, *, k: int) -> float | None:
    found = ranks(unit, labels)
    return _mean_of(torch.where(found.isnan(), torch.nan, (found <= k).double()), weights)


def _reciprocal(unit: Tensor, labels: Tensor, weights: Tensor) -> float | None:
    return _mean_of(1 / ranks(unit, labels), weights)


@metrics.register("recall-at")
def recall_at(k: int = 1) -> EmbeddingMetric:
    """Share of queries whose relevant text is among the k nearest of the split, by cosine, in points."""
    if isinstance(k, bool) or not isinstance(k, int) or k < 1:
        raise ConfigError("invalid k of recall-at", expected="at least 1", got=repr(k))
    return EmbeddingMetric(name="recall-at" if k == 1 else f"recall-at({k})", score=partial(_recall, k=k))


@metrics.register("retrieval-mrr")
def retrieval_mrr() -> EmbeddingMetric:
    """Mean over queries of 1 / rank of the nearest relevant text among all of the split, by cosine, in points."""
    return EmbeddingMetric(name="retrieval-mrr", score=_reciprocal)


def order(values: Float[Tensor, "rows"]) -> Float[Tensor, "rows"]:
    """Ranks from 1, equal numbers at their mean rank."""
    _, place, counts = torch.unique(values, return_inverse=True, return_counts=True)
    middle: Tensor = (counts.cumsum(0) - (counts - 1) / 2.0).double()
    return middle[place]


def _spearman(unit: Tensor, labels: Tensor, weights: Tensor) -> float | None:
    kept = weights > 0
    if unit.shape[1] < 2 or not bool(kept.any()):
        return None
    near = (unit[kept, 0].double() * unit[kept, 1].double()).sum(dim=1)
    ours, gold = order(near), order(labels[kept].double())
    ours, gold = ours - ours.mean(), gold - gold.mean()
    spread = float(ours.square().sum() * gold.square().sum())
    return 100 * float((ours * gold).sum()) / spread**0.5 if spread > 0 else None


@metrics.register("spearman")
def spearman() -> EmbeddingMetric:
    """Spearman's rank correlation of cosines of pairs with gold similarities, in points; none where all labels are the same."""
    return EmbeddingMetric(name="spearman", score=_spearman)
