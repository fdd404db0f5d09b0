"""Metrics of tasks: frozen parts with a name, a unit, a direction and a margin; their state lives outside, batches add up in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Protocol, runtime_checkable

from fractionate.errors import UnknownNameError
from fractionate.records import Direction, MetricInfo
from fractionate.system.registry import Registry, nearest
from fractionate.tasks.predictions import Needs, Predictions


@runtime_checkable
class Metric(Protocol):
    """One number over a split, added up batch by batch: `state = start(); add(state, …)…; value(state)`.

    `name` is its text in the registry, with the arguments that are not usual: `f1`, `f1('micro')`. What a metric has no value for
    (no rows, no teacher) is None.
    """

    @property
    def name(self) -> str: ...

    @property
    def unit(self) -> str: ...  # "points" (0 to 100), "nats", "" …

    @property
    def better(self) -> Direction: ...

    @property
    def margin(self) -> float: ...  # differences smaller than this do not matter in practice, in the unit

    @property
    def counts(self) -> bool: ...  # a share of rows: no finer than 100 / rows

    @property
    def needs(self) -> Needs: ...

    @property
    def reads_teacher(self) -> bool: ...

    @property
    def final_only(self) -> bool: ...  # too expensive for evaluations during training (BLEU)

    def start(self) -> Any: ...

    def add(self, state: Any, predictions: Predictions, signal: Any | None) -> None: ...

    def value(self, state: Any) -> float | None: ...


metrics: Registry[Metric] = Registry(
    "metric",
    "fractionate.metrics",
    files=(
        "tasks.area_metrics",
        "tasks.attention_metrics",
        "tasks.classification_metrics",
        "tasks.embedding_metrics",
        "tasks.label_metrics",
        "tasks.number_metrics",
        "tasks.text_metrics",
    ),
)


def info(metric: Metric) -> MetricInfo:
    """How the metric is read, as a record of a study or a run holds it.

    Args:
        metric: Of a task.

    Returns:
        Name, unit, direction and margin.

    Example:
        from fractionate.tasks import CLASSIFICATION, info

        print(info(CLASSIFICATION[0]))
    """
    return MetricInfo(metric.name, metric.unit, metric.better, metric.margin, metric.counts)


def infos(metrics: Sequence[Metric], deciding: str = "", margin: float | None = None) -> tuple[MetricInfo, ...]:
    """How a task's metrics are read, the one that decides first.

    Args:
        deciding: Its name; empty: the task's first.
        margin: Differences of the deciding metric that do not matter, in its unit; None: its own margin.
        metrics: Of the task.

    Returns:
        One a metric, the deciding one first.

    Raises:
        UnknownNameError: The task has no metric of that name.

    Example:
        from fractionate.tasks import CLASSIFICATION, infos

        print([metric.name for metric in infos(CLASSIFICATION, deciding="nll")])
    """
    every = {metric.name: info(metric) for metric in metrics}
    name = deciding or next(iter(every), "")
    if name not in every:
        near = nearest(name, list(every))
        raise UnknownNameError(
            f"unknown metric {name!r}",
            expected=f"one of {', '.join(every)}",
            fix=f"did you mean {near!r}?" if near else None,
        )
    first = every.pop(name)
    return (first if margin is None else replace(first, margin=margin), *every.values())
