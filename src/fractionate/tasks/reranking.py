"""Reranking: one row per example, whose classes are the candidates of its query; cross-encoders teach bi-encoders."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from fractionate.data.batch import Batch
from fractionate.data.labels import IGNORED
from fractionate.errors import MismatchError
from fractionate.tasks.kind import Kind, kinds


@kinds.register("reranking")
@dataclass(frozen=True)
class Reranking(Kind):
    """Scores [batch, candidates], or embeddings [batch, 1 + candidates, width] with the query first, scored by dot product.

    Labels [batch, candidates]: 1 relevant, 0 not, -100 where there is no candidate. The label of a row is the first relevant
    candidate; further relevant ones are masked, as they are no negatives. Candidates are rotated by the number of the example:
    a place among candidates means nothing, and class-level cells must not learn from it.
    """

    metrics: ClassVar[tuple[str, ...]] = ("mrr", "accuracy", "nll", "agreement")
    tokens: ClassVar[Literal["", "aligned", "next"]] = "aligned"
    output_rows: ClassVar[bool] = False

    def labels(self, batch: Batch) -> Int[Tensor, "batch 1"]:
        """The place of the first relevant candidate. Raises `MismatchError` as `checked` does."""
        given = checked(batch)
        return rotated((given == 1) & candidates(given), batch).long().argmax(dim=1, keepdim=True)

    def outputs(self, values: Tensor, batch: Batch) -> Float[Tensor, "batch 1 candidates"]:
        """The scores of the candidates, -inf where there is none. Raises `MismatchError` for scores of other candidates."""
        alive = candidates(checked(batch))
        scores = values if values.ndim == 2 else torch.einsum("bw,bcw->bc", values[:, 0], values[:, 1:])
        if scores.shape != alive.shape:
            raise MismatchError(
                "the model does not give one score for each candidate",
                expected=f"{list(alive.shape)}, or embeddings [{len(alive)}, 1 + {alive.shape[1]}, width], the query first",
                got=str(list(values.shape)),
            )
        return rotated(scores.masked_fill(~alive, -torch.inf), batch)[:, None]


def checked(batch: Batch) -> Int[Tensor, "batch candidates"]:
    """The labels of candidates. Raises `MismatchError` naming the examples without a relevant one, or with nothing else."""
    given = batch.labels
    if given.ndim != 2:
        raise MismatchError(
            "these are not labels of candidates",
            expected=f"[batch, candidates]: 1 relevant, 0 not, {IGNORED} where there is none",
            got=f"{given.dtype} {list(given.shape)}",
            fix="labels = torch.nn.functional.one_hot(place, candidates), where the place of the relevant one is known",
        )
    relevant, there = given == 1, (given == 0) | (given == 1)
    faults = {
        "no relevant candidate": ~relevant.any(dim=1),
        "no candidate that is not relevant": ~(given == 0).any(dim=1),
        "labels other than 0, 1 and -100": ~(there | (given == IGNORED)).all(dim=1),
    }
    for what, wrong in faults.items():
        if bool(wrong.any()):
            shown = ", ".join(map(str, batch.index[wrong.cpu()][:8].tolist()))
            raise MismatchError(
                f"{int(wrong.sum())} of {len(given)} examples have {what} (examples {shown})",
                expected="one relevant candidate at least and one that is not",
                fix="leave these examples out, or add the relevant candidate",
            )
    return given


def candidates(labels: Tensor) -> Bool[Tensor, "batch candidates"]:
    """Which places are classes of their row: those that are not relevant, and the first that is."""
    relevant = labels == 1
    return (labels == 0) | (relevant & (relevant.cumsum(dim=1) == 1))


def rotated(values: Tensor, batch: Batch) -> Tensor:
    """Each row [batch, candidates] turned by the number of its example."""
    count = values.shape[1]
    turn = batch.index.to(values.device)[:, None] + torch.arange(count, device=values.device)
    return values.gather(1, turn % count)
