"""Predictions built by hand, for tests of terms and metrics that need no model."""

from __future__ import annotations

from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from fractionate.data.batch import Batch
from fractionate.losses.terms import bind_terms
from fractionate.tasks.predictions import Predictions


def predicted(logits: Tensor | None = None, *, batch: Batch | None = None, size: int = 0, **more: Any) -> Predictions:
    """Rows with these logits; without a batch one of labels 0, 1, 0, … in order."""
    if batch is None:
        size = size or (len(logits) if logits is not None else 0)
        batch = Batch(torch.zeros(size), torch.arange(size) % 2, torch.arange(size))
    if "position" in Predictions.__dataclass_fields__:
        more.setdefault("position", None)
    return Predictions(**{"logits": logits, "labels": batch.labels, "place": None, "batch": batch} | more)


@contextmanager
def bound(spec: Any, student: Predictions, teacher: Predictions | None = None, **more: Any) -> Any:
    """One spec bound to predictions, with the parts it trains under `.parts`."""
    settings = {"examples": 48, "seed": 0, "parts": nn.ModuleDict(), "models": (nn.Identity(), nn.Identity())} | more
    with bind_terms([spec], student=student, teacher=teacher, **settings) as (term,):
        yield term


def losses_of(
    spec: Any, student: Predictions, teacher: Predictions | None = None, signal: Any = None, **more: Any
) -> Tensor:
    """A spec bound to predictions and called on the same."""
    with bound(spec, student, teacher, **more) as term:
        return term(student, teacher, signal)
