"""Tables of the students: scores by variant, and every run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fractionate.page.summaries import arms_of, mean_interval, of_test, score_values, variant
from fractionate.page.text import half_width, number, seconds, short
from fractionate.records import MetricInfo, Run

MOST_RUNS = 400  # on the page; all of them are in the study's JSON


@dataclass(frozen=True)
class ScoreRow:
    """A variant's scores: (mean, half an interval, whether it is the best) for each column."""

    key: str
    name: str
    runs: int
    placebo: bool
    cells: tuple[tuple[str, str, bool], ...]


@dataclass(frozen=True)
class RunRow:
    """One training."""

    key: str
    name: str
    seed: int
    status: str
    scores: tuple[str, ...]
    steps: str
    time: str
    parameters: str


def score_rows(
    runs: Sequence[Run], metrics: Sequence[MetricInfo], order: Sequence[str], placebos: frozenset[str]
) -> tuple[list[MetricInfo], tuple[ScoreRow, ...]]:
    """The metrics that have a value, and a row of means for each variant."""
    arms = arms_of(runs, order)
    found = {
        (arm, m.name): mean_interval(values)
        for arm, members in arms.items()
        for m in metrics
        if (values := score_values(members, m.name))
    }
    columns = [m for m in metrics if any((arm, m.name) in found for arm in arms)]
    best = {}  # as it is shown; where all are alike none is best
    for m in columns:
        means = [found[arm, m.name][0] for arm in arms if arm not in placebos and (arm, m.name) in found]
        best[m.name] = number((max if m.better == "more" else min)(means, default=None))
        if len({number(mean) for mean in means}) == 1:
            best[m.name] = ""
    rows = []
    for arm, members in arms.items():
        cells = []
        for m in columns:
            mean, interval = found.get((arm, m.name), (None, None))
            half = half_width(mean, (interval.high - interval.low) / 2) if interval and mean is not None else ""
            cells.append((number(mean), half, arm not in placebos and number(mean) == best[m.name]))
        rows.append(ScoreRow(short(arm, 48), variant(arm, 80), len(members), arm in placebos, tuple(cells)))
    return columns, tuple(rows)


def run_rows(runs: Sequence[Run], columns: Sequence[MetricInfo]) -> tuple[RunRow, ...]:
    """A row for each training, with its scores."""
    return tuple(
        RunRow(
            short(run.arm or "student", 48),
            variant(run.arm, 80),
            run.seed,
            run.status,
            tuple(number(scores.values.get(m.name) if (scores := of_test(run)) else None) for m in columns),
            f"{run.steps:,}",
            seconds(run.wall_seconds),
            f"{run.parameters:,}",
        )
        for run in runs
    )
