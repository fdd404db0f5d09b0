"""Metrics of tasks: frozen parts with a name, a unit, a direction and a margin; their state lives outside, batches add up in it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

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
        "tasks.embeddings",
        "tasks.multi_label",
        "tasks.regression",
        "tasks.translation",
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
        One per metric, the deciding one first.

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


Sums = dict[str, Tensor]  # float64 on the CPU; "weight" is the total weight of the rows


@dataclass(frozen=True, kw_only=True)
class Summed:
    """A metric as sums and what is made of them. Without rows, or with weight 0, it has no value.

    Args:
        terms: The sums of a batch, "weight" among them; empty where the batch says nothing (agreement without a teacher).
        finish: The value, from the sums over all batches.
    """

    name: str
    terms: Callable[[Predictions, Any | None], Sums] = field(repr=False, compare=False)
    finish: Callable[[Sums], float | None] = field(repr=False, compare=False)
    unit: str = "points"
    better: Direction = "more"
    margin: float = 0.5
    counts: bool = False
    needs: Needs = field(default_factory=Needs)
    reads_teacher: bool = False
    final_only: bool = False

    def start(self) -> Sums:
        return {}

    def add(self, state: Sums, predictions: Predictions, signal: Any | None) -> None:
        for name, value in self.terms(predictions, signal).items():
            state[name] = state[name] + value if name in state else value

    def value(self, state: Sums) -> float | None:
        return self.finish(state) if "weight" in state and float(state["weight"]) > 0 else None


def row_weight(predictions: Predictions) -> Float[Tensor, "rows"]:
    """What each row counts: its example's weight, 1 where the batch gives none. On the CPU."""
    given = predictions.batch.weight
    if given is None:
        return torch.ones(len(predictions), dtype=torch.float64)
    return predictions.by_row(given).double().cpu()


def judged_rows(predictions: Predictions) -> tuple[Int[Tensor, "judged"] | None, Float[Tensor, "judged"]]:
    """The places of the rows that are compared with their label (None: all), and their weights. On the CPU.

    Left out are rows of weight 0 and those whose label is a guess of the teacher.
    """
    weight, labelled = row_weight(predictions), predictions.batch.labelled
    kept = weight != 0
    if labelled is not None:
        kept &= predictions.by_row(labelled).cpu()
    if bool(kept.all()):
        return None, weight
    places = kept.nonzero().flatten()
    return places, weight[places]


def mean(sums: Sums) -> float:
    """Weighted mean over rows."""
    return float(sums["sum"] / sums["weight"])


def share(sums: Sums) -> float:
    """Weighted mean over rows, in points."""
    return 100 * mean(sums)
