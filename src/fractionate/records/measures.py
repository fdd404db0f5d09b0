"""Measures that several records hold: intervals, histograms, scores, and the names of the levels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from fractionate.record import Record

Level = Literal["universe", "domain.confidence", "domain.shape", "instance.confidence", "instance.shape"]
Matrix = tuple[tuple[float, ...], ...]

LEVEL_NAMES: tuple[Level, ...] = (
    "universe",
    "domain.confidence",
    "domain.shape",
    "instance.confidence",
    "instance.shape",
)


def bar(share: float, width: int = 30) -> str:
    """A bar of text for a share in [0, 1]."""
    return "█" * round(max(0.0, min(1.0, share)) * width)


@dataclass(frozen=True)
class Interval(Record):
    """A confidence interval."""

    low: float
    high: float
    coverage: float = 0.95

    def __str__(self) -> str:
        return f"[{self.low:.3g}, {self.high:.3g}]"


@dataclass(frozen=True)
class Histogram(Record):
    """Counts between edges (one edge more than counts), with mean and standard deviation of the values."""

    name: str
    edges: tuple[float, ...]
    counts: tuple[int, ...]
    mean: float
    deviation: float


@dataclass(frozen=True)
class Scores(Record):
    """How good predictions are: accuracy in 0..1, NLL in nats, ECE in 0..1, agreement with the teacher in 0..1."""

    examples: int
    accuracy: float
    nll_nats: float
    ece: float
    agreement: float | None = None

    def __str__(self) -> str:
        agreement = "" if self.agreement is None else f", agreement {self.agreement:.1%}"
        return f"accuracy {self.accuracy:.2%}, NLL {self.nll_nats:.3f} nats, ECE {self.ece:.3f}{agreement}"
