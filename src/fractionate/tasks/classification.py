"""Classification: one row per example, or one per labelled token where labels are [batch, tokens]."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from fractionate.tasks.kind import Kind, kinds


@kinds.register("classification")
@dataclass(frozen=True)
class Classification(Kind):
    """Logits [batch, classes] and labels [batch]; inputs are tensors, tuples or mappings, models any module with logits."""

    metrics: ClassVar[tuple[str, ...]] = ("accuracy", "nll", "ece", "agreement")
