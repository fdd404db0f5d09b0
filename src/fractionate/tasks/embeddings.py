"""Embeddings: texts (pictures, rows) as vectors, judged by retrieval and by gold similarities."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from fractionate.data.batch import Batch
from fractionate.errors import ConfigError, MismatchError, ResourceError
from fractionate.records import Direction
from fractionate.tasks.kind import NumberKind, kinds
from fractionate.tasks.metric import judged_rows, metrics
from fractionate.tasks.predictions import Needs, Predictions, check_finite


@kinds.register("embeddings")
@dataclass(frozen=True)
class Embeddings(NumberKind):
    """Embeddings [batch, texts, width]: a query, its positive and further negatives; [batch, width] where an example is one text.

    Args:
        texts: Texts of an example: 2 for pairs, 1 for texts alone.
        scale: Of the cosines of a query with all other texts of its batch, before the softmax of the loss on labels.
        gold: Labels are similarities of the first two texts, -1 to 1: the loss on labels is (cosine - label)². Else labels are
            only read of single texts, where equal ones are relevant to each other.

    Source: in-batch negatives, Henderson et al. 2017 (arXiv 1705.00652), with the scale 20 of sentence-transformers.
    """

    texts: int = 2
    scale: float = 20.0
    gold: bool = False
    metrics: ClassVar[tuple[str, ...]] = ("recall-at", "recall-at(10)", "retrieval-mrr", "spearman")
    teacher_terms: ClassVar[tuple[str, ...]] = ("candidates",)

    def __post_init__(self) -> None:
        if self.texts < 1 or not 0 < self.scale < float("inf") or (self.gold and self.texts != 2):
            raise ConfigError(
                "invalid value for embeddings",
                expected="texts of at least 1, a scale above 0, and gold similarities of pairs (texts=2)",
                got=f"texts={self.texts}, scale={self.scale}, gold={self.gold}",
            )

    @property
    def label_formula(self) -> str:
        """The loss on labels, for contracts."""
        if self.texts == 1:
            return "0"
        return "(label - cosine)²" if self.gold else f"H(own positive, softmax({self.scale:g} · cosine in the batch))"

    def unrelated(self, values: Tensor, shuffled: Tensor) -> Tensor:
        """Queries of other rows: whole rows in another order would be the same retrieval."""
        return torch.cat([shuffled[:, :1], values[:, 1:]], dim=1)

    @property
    def couples_batch(self) -> bool:
        """Whether the loss on labels of an example depends on the others of its batch."""
        return self.texts > 1 and not self.gold

    def outputs(self, values: Tensor, batch: Batch) -> Float[Tensor, "batch texts width"]:
        """Embeddings text by text. Raises `MismatchError` for another number of texts."""
        flat = values.ndim == 2 and values.shape[1] % self.texts == 0
        if len(values) != len(batch.labels) or not (flat or (values.ndim == 3 and values.shape[1] == self.texts)):
            raise MismatchError(
                "the model does not give an embedding for each text",
                expected=f"[{len(batch.labels)}, {self.texts}, width]",
                got=str(list(values.shape)),
                fix="Task('embeddings(texts=1)', ...) for examples of one text",
            )
        return values.reshape(len(values), self.texts, -1)

    def label_loss(self, predictions: Predictions) -> Float[Tensor, "rows"]:
        """Cross-entropy with the own positive in the batch; of gold similarities the squared error; 0 for single texts."""
        found = predictions.required_logits
        found = found.to(torch.promote_types(found.dtype, torch.float32))
        if self.texts == 1:
            return 0.0 * found.sum(dim=(1, 2))  # a text alone has nothing to be near to, but for a teacher
        if self.gold:
            return (
                functional.cosine_similarity(found[:, 0], found[:, 1]) - predictions.labels.to(found.dtype)
            ).square()
        scores = similarities(found, self.scale)
        return functional.cross_entropy(scores, own_positive(found), reduction="none")


def similarities(embeddings: Float[Tensor, "rows texts width"], scale: float) -> Float[Tensor, "rows candidates"]:
    """scale · cosine of each query with every other text of the batch, example by example: rows · (texts - 1) candidates."""
    unit = functional.normalize(embeddings, dim=2)
    return scale * unit[:, 0] @ unit[:, 1:].flatten(0, 1).T


def own_positive(embeddings: Float[Tensor, "rows texts width"]) -> Tensor:
    """The place of each query's positive among the candidates of `similarities`."""
    return torch.arange(len(embeddings), device=embeddings.device) * (embeddings.shape[1] - 1)


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
