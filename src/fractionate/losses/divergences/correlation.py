"""Correlations in place of distances: the student may be sharper or softer than the target at no cost."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from fractionate.losses.divergences.base import Target, divergences, tempered
from fractionate.losses.divergences.split import check_weight

Loss = Float[Tensor, "batch"]
Logits = Float[Tensor, "batch classes"]


SMALLEST = 1e-18  # below it a probability's square has no digits left in float32


def unit(values: Logits, dim: int, keep: Bool[Tensor, "batch classes"]) -> tuple[Logits, Tensor]:
    """Values less their mean along an axis, at length 1, and whether they vary: what does not gives 0, without a gradient."""
    largest = values.detach().abs().amax(dim=dim, keepdim=True)
    count = keep.sum(dim=dim, keepdim=True).clamp_min(1).to(values.dtype)
    scaled = values / largest.clamp_min(SMALLEST)
    centred = torch.where(keep, scaled - scaled.sum(dim=dim, keepdim=True) / count, 0.0)
    squares = centred.square().sum(dim=dim, keepdim=True)
    # what varies by no more than rounding has no direction
    varies = (squares.detach() > count * (8 * torch.finfo(values.dtype).eps) ** 2) & (largest > SMALLEST)
    return torch.where(varies, centred / torch.where(varies, squares, 1.0).sqrt(), 0.0), varies


@divergences.register("dist")
@dataclass(frozen=True)
class Correlation:
    """row_weight · (1 - Pearson of each example's row) + column_weight · (1 - mean Pearson of the class columns over the batch).

    The second part couples the batch. It is given per example exactly: for unit columns s and t of a class, 1 - Pearson is
    ½ Σ_b (s[b] - t[b])², so an example's share is batch / classes · ½ Σ_k (s[b, k] - t[b, k])²: never negative, 0 at equality,
    and its mean over the batch is the paper's loss. Means over micro-batches are not the mean over the whole. Rows and columns
    of the target that do not vary have no correlation and are left out. Source: DIST (Huang et al., arXiv
    2205.10536), eqs. 6 and 8.
    """

    row_weight: float = 1.0
    column_weight: float = 1.0
    falls_as_squared: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_weight("row_weight", self.row_weight)
        check_weight("column_weight", self.column_weight)

    @property
    def couples_batch(self) -> bool:
        return self.column_weight > 0

    @property
    def formula(self) -> str:
        return f"({self.row_weight:g} (1 - Pearson of rows) + {self.column_weight:g} (1 - Pearson of columns over the batch))"

    def __call__(self, student_logits: Logits, target: Target) -> Loss:
        q = torch.softmax(tempered(student_logits, target.temperature), dim=-1)
        p = target.probabilities
        keep = ~(torch.isneginf(student_logits) & (p == 0))  # classes that both sides mask are not compared
        p_rows, has_shape = unit(p, 1, keep)
        loss = self.row_weight * torch.where(
            has_shape, 1 - (unit(q, 1, keep)[0] * p_rows).sum(dim=1, keepdim=True), 0.0
        )
        if self.column_weight > 0:
            (p_columns, has_column), (q_columns, moves) = unit(p, 0, keep), unit(q, 0, keep)
            # for unit columns 1 - Σ_b s t = ½ Σ_b (s - t)²; a student's column that does not vary is 0, and 1 - 0 = Σ_b t²
            shares = torch.where(has_column, (q_columns - p_columns).square() / (1.0 + moves), 0.0)
            scale = self.column_weight * len(q) / has_column.sum().clamp_min(1).to(q.dtype)
            loss = loss + scale * shares.sum(dim=1, keepdim=True)
        return loss.squeeze(1)
