"""The area under the ROC curve: the chance that a row of a class scores higher for it than a row of another class."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fractionate.errors import ConfigError, ResourceError
from fractionate.records import Direction
from fractionate.tasks.classification_metrics import judged
from fractionate.tasks.metric import judged_rows, metrics
from fractionate.tasks.predictions import Needs, Predictions
from fractionate.theory.teacher_signal import ROWS_A_CHUNK_ELEMENTS

MOST_SCORES = 1 << 26  # rows × classes that are held: 256 MB
RANGE = 20.0  # log-odds beyond it share the outermost bins


@dataclass(eq=False)
class Area:
    """What an AUC holds: by default every score, in bins only how often each occurs."""

    scores: list[Float[Tensor, "rows classes"]] = field(default_factory=list)
    labels: list[Int[Tensor, "rows"]] = field(default_factory=list)
    weights: list[Float[Tensor, "rows"]] = field(default_factory=list)
    counts: Float[Tensor, "two classes bins"] | None = None  # rows of the class, rows of the others


@metrics.register("auc")
@dataclass(frozen=True)
class AUC:
    """Area under the ROC curve, one class against the rest, mean over the classes that have rows of both kinds; ties count half.

    Exact: the log-odds of all rows and classes are held in float32, up to 2^26 of them. `auc(bins=4096)` holds as many bins of
    equal width over log-odds of ±20 for each class instead, and takes what falls into one bin for ties.

    Raises `ResourceError` where more would be held.
    """

    bins: int = 0
    unit: ClassVar[str] = "points"
    better: ClassVar[Direction] = "more"
    margin: ClassVar[float] = 0.5
    counts: ClassVar[bool] = False
    needs: ClassVar[Needs] = Needs()
    reads_teacher: ClassVar[bool] = False
    final_only: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if isinstance(self.bins, bool) or not isinstance(self.bins, int) or self.bins < 0 or self.bins == 1:
            raise ConfigError("invalid number of bins of auc", expected="0 (exact) or at least 2", got=repr(self.bins))

    @property
    def name(self) -> str:
        return f"auc(bins={self.bins})" if self.bins else "auc"

    def start(self) -> Area:
        return Area()

    def add(self, state: Area, predictions: Predictions, signal: Any | None) -> None:
        rows, weight = judged(predictions)
        kept, _ = judged_rows(predictions)
        begin = 0
        for odds in log_odds(predictions.required_logits, kept):
            part = slice(begin, begin + len(odds))
            begin = part.stop
            if self.bins:
                found = self._counted(odds, rows.labels[part], weight[part])
                state.counts = found if state.counts is None else state.counts + found
            else:
                state.scores.append(odds)
                state.labels.append(rows.labels[part])
                state.weights.append(weight[part])
        check_held(state)

    def _counted(
        self, odds: Float[Tensor, "rows classes"], labels: Int[Tensor, "rows"], weight: Float[Tensor, "rows"]
    ) -> Float[Tensor, "two classes bins"]:
        classes = odds.shape[1]
        place = ((odds.double() + RANGE) / (2 * RANGE) * self.bins).clamp(0, self.bins - 1).long()
        other = torch.ones_like(place).scatter_(1, labels.long()[:, None], 0)
        flat = (other * classes + torch.arange(classes)) * self.bins + place
        counts = torch.zeros(2 * classes * self.bins, dtype=torch.float64)
        counts.index_add_(0, flat.flatten(), weight[:, None].expand(-1, classes).flatten())
        return counts.view(2, classes, self.bins)

    def value(self, state: Area) -> float | None:
        areas = [area(own, other) for own, other in _by_class(state)]
        known = [value for value in areas if value is not None]
        return 100 * sum(known) / len(known) if known else None


def log_odds(
    logits: Float[Tensor, "rows classes"], kept: Int[Tensor, "kept"] | None
) -> Iterator[Float[Tensor, "chunk classes"]]:
    """log(q / (1 - q)) of every class in float32 on the CPU, in chunks of rows: ordered as q, and finer where q is near 1."""
    logits = logits.detach()
    logits = logits if kept is None else logits[kept.to(logits.device)]
    for chunk in torch.split(logits, max(1, ROWS_A_CHUNK_ELEMENTS // logits.shape[1])):
        log_q = torch.log_softmax(chunk.double(), dim=1)
        yield (log_q - torch.log(-torch.expm1(log_q))).float().cpu()


def check_held(state: Area) -> None:
    """Raise `ResourceError` where more scores are held than an exact area may."""
    held = sum(part.numel() for part in state.scores)
    if held > MOST_SCORES:
        raise ResourceError(
            "the exact AUC would hold too many scores",
            expected=f"at most {MOST_SCORES:,} (rows × classes)",
            got=f"{held:,} so far",
            fix="use auc(bins=4096), which takes scores that fall into one bin for ties",
        )


def _by_class(state: Area) -> Iterator[tuple[Float[Tensor, "values"], Float[Tensor, "values"]]]:
    """Of each class, in rising order of its score: the weight of its rows and of the others at each distinct score."""
    if state.counts is not None:
        yield from zip(state.counts[0], state.counts[1], strict=True)
    if state.scores:
        scores, labels, weights = (torch.cat(parts) for parts in (state.scores, state.labels, state.weights))
        for number in range(scores.shape[1]):
            distinct, place = torch.unique(scores[:, number], return_inverse=True)
            own = labels == number
            empty = torch.zeros(len(distinct), dtype=torch.float64)
            yield empty.index_add(0, place[own], weights[own]), empty.index_add(0, place[~own], weights[~own])


def area(own: Float[Tensor, "values"], other: Float[Tensor, "values"]) -> float | None:
    """The weighted share of pairs in which the row of the class has the higher score, ties half; None without pairs."""
    pairs = float(own.sum() * other.sum())
    below = other.cumsum(0) - other
    return float((own * (below + other / 2)).sum()) / pairs if pairs > 0 else None
