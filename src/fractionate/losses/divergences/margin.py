"""Margins between the label and every other class: what rerankers teach bi-encoders, whose scores lie on another scale."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from fractionate.losses.divergences.base import Target, divergences, needs_mass_everywhere
from fractionate.losses.divergences.logit import kept
from fractionate.theory.cells import Cell


@divergences.register("margin-mse")
@dataclass(frozen=True)
class MarginMSE:
    """½ mean over the other classes i of ((z[y] - z[i]) - (v[y] - v[i]))² / T²: student and teacher margins of label y over i.

    Of cells other than kd, log(target) stands for v / T: margins are the same. Classes that both sides mask are left out. The half
    is ours: the gradient of a student's margin is then its distance from the teacher's, which float16 holds.
    Source: Hofstätter et al. 2020 (arXiv 2010.02666), eq. 2, for each pair of the relevant and another candidate.
    """

    formula: ClassVar[str] = "½ mean over i ≠ y of ((student[y] - student[i]) / T - (log target[y] - log target[i]))²"

    def refuses(self, cell: Cell) -> str:
        return needs_mass_everywhere(cell)

    def __call__(self, student_logits: Float[Tensor, "batch classes"], target: Target) -> Float[Tensor, "batch"]:
        other = target.logits / target.temperature if target.is_whole_teacher else target.log_probabilities
        keep, count = kept(student_logits, other)
        difference = torch.where(keep, student_logits, 0.0) / target.temperature - torch.where(keep, other, 0.0)
        margins = difference.gather(1, target.labels[:, None]) - difference
        return torch.where(keep, margins, 0.0).square().sum(dim=-1) / 2 / (count.squeeze(1) - 1).clamp_min(1)
