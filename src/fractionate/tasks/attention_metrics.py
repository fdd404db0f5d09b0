"""What became of a teacher's attention in its student: ranking loss and cover length, means over layers, heads and examples."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from fractionate.errors import MismatchError
from fractionate.models.attention_hooks import masked_softmax
from fractionate.tasks.metric import Summed, Sums, mean, metrics
from fractionate.tasks.predictions import Needs, Predictions

Maps = Float[Tensor, "batch heads tokens tokens"]
Valid = Bool[Tensor, "batch tokens"]
ByHead = Callable[[Maps, Maps, Valid], Float[Tensor, "batch heads"]]


def ranking_loss(student: Maps, teacher: Maps, valid: Valid) -> Float[Tensor, "batch heads"]:
    """Mean over rows of Σ_{i,j} max(0, −(S_i − S_j) sign(T_i − T_j)): how much of the teacher's order of tokens is lost.

    0 where every row keeps the teacher's order. Rows and tokens of padding do not count; n times this is the paper's sum over
    rows. Source: Liu et al. (PTQ4ViT, 2021) with margin 0, as used by Kim et al.
    """
    ours = student[..., :, None] - student[..., None, :]
    theirs = teacher[..., :, None] - teacher[..., None, :]
    tokens = valid[:, None, :, None, None] & valid[:, None, None, :, None] & valid[:, None, None, None, :]
    lost = (-ours * theirs.sign()).clamp_min(0).masked_fill(~tokens, 0.0)
    return lost.sum(dim=(2, 3, 4)) / valid.sum(dim=1)[:, None]


def cover_length_ratio(student: Maps, teacher: Maps, valid: Valid, *, top: int = 5) -> Float[Tensor, "batch heads"]:
    """How far down the student's order one must go to meet the teacher's `top` tokens, over the row's length; mean over rows.

    min(top, n) / n where the student's first tokens are the teacher's, 1 where one of them comes last. Source: Kim et al.
    """
    tokens = student.shape[-1]
    lengths = valid.sum(dim=1)
    columns = valid[:, None, None, :]
    order = student.masked_fill(~columns, -torch.inf).argsort(dim=-1, descending=True, stable=True)
    place = torch.empty_like(order).scatter_(
        -1, order, torch.arange(1, tokens + 1, device=order.device).expand_as(order).contiguous()
    )
    best = teacher.masked_fill(~columns, -torch.inf).topk(min(top, tokens), dim=-1)
    wanted = torch.isfinite(best.values)  # shorter rows have fewer than `top`
    last = place.gather(-1, best.indices).masked_fill(~wanted, 0).amax(dim=-1)
    ratio = (last.to(student.dtype) / lengths[:, None, None]).masked_fill(~valid[:, None, :], 0.0)
    return ratio.sum(dim=-1) / lengths[:, None]


def _compared(predictions: Predictions, signal: Any | None, *, by_head: ByHead) -> Sums:
    ours = predictions.attention
    theirs = None if predictions.teacher is None else predictions.teacher.attention
    if ours is None or theirs is None:
        return {}
    if ours.layers != theirs.layers:
        raise MismatchError(
            "student and teacher differ in depth", expected=f"{theirs.layers} layers", got=str(ours.layers)
        )
    valid = ours.valid
    found = [
        by_head(masked_softmax(ours.scores[i], valid), masked_softmax(theirs.scores[i], valid), valid).mean(dim=1)
        for i in range(ours.layers)
    ]
    values = torch.stack(found).mean(dim=0).double().cpu()
    given = predictions.batch.weight
    weight = torch.ones(len(values), dtype=torch.float64) if given is None else given.double().cpu()
    return {"weight": weight.sum(), "sum": (weight * values).sum()}


def _metric(name: str, by_head: ByHead) -> Summed:
    return Summed(
        name=name, terms=partial(_compared, by_head=by_head), finish=mean, unit="", better="less", margin=0.01,
        needs=Needs(attention=frozenset({"scores"})), reads_teacher=True, final_only=True,
    )  # fmt: skip


@metrics.register("ranking-loss")
def ranking_loss_metric() -> Summed:
    """Share of the teacher's order of tokens that the student's attention maps lose, mean over heads (Kim et al., 2211.11014)."""
    return _metric("ranking-loss", ranking_loss)


@metrics.register("cover-length")
def cover_length_metric() -> Summed:
    """Share of the student's attention ranking that is needed to cover the teacher's top 5 tokens (Kim et al., 2211.11014)."""
    return _metric("cover-length", cover_length_ratio)
