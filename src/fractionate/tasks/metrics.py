"""Metrics of tasks: frozen parts with a name, a unit, a direction and a margin; their state lives outside, so that batches and
ranks merge."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

from fractionate.registry import Registry
from fractionate.tasks.predictions import Needs, Predictions

Direction = Literal["more", "less"]


@runtime_checkable
class Metric(Protocol):
    """One number over a split, added up batch by batch: `state = start(); add(state, …)…; value(state)`."""

    name: ClassVar[str]
    unit: ClassVar[str]  # "points" (0 to 100), "nats", "" …
    better: ClassVar[Direction]
    margin: ClassVar[float]  # differences smaller than this do not matter in practice, in the unit
    counts: ClassVar[bool]  # a share of rows: no finer than 100 / rows
    needs: ClassVar[Needs]
    reads_teacher: ClassVar[bool]
    final_only: ClassVar[bool]  # too expensive for evaluations during training (BLEU)

    def start(self) -> Any: ...

    def add(self, state: Any, predictions: Predictions, signal: Any | None) -> None: ...

    def merge(self, states: Sequence[Any]) -> Any: ...

    def value(self, state: Any) -> float | None: ...


metrics: Registry[Metric] = Registry("metric", "fractionate.metrics")
