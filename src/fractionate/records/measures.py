"""Measures that multiple records hold: intervals, histograms, scores, and the names of the levels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from fractionate.errors import MismatchError
from fractionate.records.base import Record

Level = Literal["universe", "domain.confidence", "domain.shape", "instance.confidence", "instance.shape"]
Matrix = tuple[tuple[float, ...], ...]

LEVEL_NAMES: tuple[Level, ...] = (
    "universe",
    "domain.confidence",
    "domain.shape",
    "instance.confidence",
    "instance.shape",
)


def with_article(noun: str) -> str:
    """A noun with its article: an example, a token."""
    return f"{'an' if noun[:1] in 'aeiou' else 'a'} {noun}"


def bar(share: float, width: int = 30) -> str:
    """A bar of text for a share in [0, 1].

    Args:
        share: How much of the bar is filled.
        width: Characters of a full bar.

    Returns:
        `round(share * width)` blocks.

    Example:
        from fractionate.records import bar

        print(bar(0.5, width=10))
    """
    return "█" * round(max(0.0, min(1.0, share)) * width)


@dataclass(frozen=True)
class Interval(Record):
    """A confidence interval.

    Args:
        low: Its lower end.
        high: Its upper end.
        coverage: The share of such intervals that hold the true value.
    """

    low: float
    high: float
    coverage: float = 0.95

    def __str__(self) -> str:
        return f"[{self.low:.3g}, {self.high:.3g}]"


@dataclass(frozen=True)
class Histogram(Record):
    """Counts between edges, with mean and standard deviation of the values.

    Args:
        name: What was counted.
        edges: Of the bins; one more than counts.
        counts: Values in each bin.
        mean: Of the values.
        deviation: Their standard deviation.
    """

    name: str
    edges: tuple[float, ...]
    counts: tuple[int, ...]
    mean: float
    deviation: float


Direction = Literal["more", "less"]
TITLES = {
    "nll": "NLL", "token-nll": "NLL a token", "ece": "ECE", "auc": "AUC", "f1": "F1", "brier": "Brier score", "bleu": "BLEU",
    "chrf": "chrF", "ta-rate": "TA rate", "balanced-accuracy": "balanced accuracy", "rmse": "RMSE", "mae": "MAE", "r2": "R²",
    "mrr": "MRR", "retrieval-mrr": "MRR", "recall-at": "recall at", "label-f1": "label F1", "exact-match": "exact match",
}  # fmt: skip


@dataclass(frozen=True)
class MetricInfo(Record):
    """How a metric is read: its unit, which direction is better, and which differences matter.

    Args:
        name: Of the metric.
        unit: Of values and differences: "points" (shares, 0 to 100), "nats", "" for none.
        better: "more" or "less".
        margin: Differences smaller than this do not matter in practice, in the unit.
        counts: A share of rows: no finer than 100 / rows.
    """

    name: str
    unit: str
    better: Direction
    margin: float
    counts: bool = False

    @property
    def sign(self) -> int:
        """+1 where more is better, -1 where less is."""
        return 1 if self.better == "more" else -1

    @property
    def places(self) -> int:
        """Decimals that tell differences of the size of the margin apart: 2 for 0.5, 3 for 0.02."""
        return min(9, max(0, 1 - math.floor(math.log10(self.margin)))) if 0 < self.margin < math.inf else 3

    @property
    def title(self) -> str:
        """The name in prose: NLL, F1 (micro)."""
        name, _, arguments = self.name.partition("(")
        message = arguments.removesuffix(")").replace("'", "")
        return TITLES.get(name, name) + (f" ({message})" if message else "")

    @property
    def value_unit(self) -> str:
        """The unit of a value: a share of rows is read in per cent, differences of shares in points."""
        return "%" if self.counts and self.unit == "points" else self.unit


@dataclass(frozen=True)
class Scores(Record):
    """How good predictions are.

    Args:
        examples: How many examples were evaluated.
        rows: How many predictions: one per example for a classifier, one per labelled token for taggers and language models.
        values: By the metric's name, in its unit. A metric without a value here (agreement without a teacher) is left out.
    """

    examples: int
    rows: int
    values: dict[str, float] = field(default_factory=dict)

    @property
    def accuracy(self) -> float:
        """The share of rows predicted right, 0..1. Raises `MismatchError` where it was not measured, as do `nll_nats` and `ece`."""
        return self._value("accuracy") / 100

    @property
    def nll_nats(self) -> float:
        """Mean negative log-likelihood of the label."""
        return self._value("nll")

    @property
    def ece(self) -> float:
        """Expected calibration error, 0..1."""
        return self._value("ece") / 100

    @property
    def agreement(self) -> float | None:
        """The share of rows on which student and teacher have the same top-1, 0..1; None without a teacher."""
        return self.values["agreement"] / 100 if "agreement" in self.values else None

    def _value(self, name: str) -> float:
        if name not in self.values:
            known = ", ".join(self.values)
            raise MismatchError(f"these scores have no {name}", expected=f"one of {known}", fix=f"evaluate {name} too")
        return self.values[name]

    def describe(self, metrics: Sequence[MetricInfo]) -> str:
        """The values in words, with decimals and units of the metrics that are given."""
        known = {metric.name: metric for metric in metrics}
        notes = [
            f"{known[name].title} {value:.{known[name].places}f} {known[name].value_unit}".rstrip()
            if name in known
            else f"{name} {value:.4g}"
            for name, value in self.values.items()
        ]
        return ", ".join(notes) or "no metric has a value"

    def __str__(self) -> str:
        return self.describe(())
