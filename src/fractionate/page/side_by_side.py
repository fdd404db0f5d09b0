"""Two cases next to each other: both decisions, every variant that both have, and the settings in which they differ."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fractionate.page.cases import Case
from fractionate.page.decisions import Decision, table
from fractionate.page.provenance import facts_of
from fractionate.page.settings_text import setting
from fractionate.page.summaries import arms_of, interval_text, mean_interval, of_test, size_text, value_text, variant
from fractionate.page.text import short
from fractionate.records import Interval, MetricInfo, Run, Study

Table = tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Difference:
    """One variant in both studies: means, the second minus the first, and its interval where seeds and test data match."""

    variant: str
    first: float
    second: float
    difference: float
    interval: Interval | None


@dataclass(frozen=True)
class SideBySide:
    """What a page of two cases starts with."""

    names: tuple[str, str]
    answers: Table  # a row's name, the first case, the second
    metric: MetricInfo | None
    differences: tuple[Difference, ...]
    paired: str  # why differences have an interval, or none
    settings: Table

    @property
    def rows(self) -> Table:
        """The differences as text."""
        assert self.metric is not None
        return tuple(
            (
                variant(d.variant, 60),
                value_text(self.metric, d.first),
                value_text(self.metric, d.second),
                size_text(self.metric, d.difference, sign=True),
                interval_text(self.metric, d.interval) if d.interval else "–",
            )
            for d in self.differences
        )


def side_by_side(cases: Sequence[Case], decisions: Sequence[Decision]) -> SideBySide:
    """Two cases compared; `cases` and `decisions` have two members each."""
    first, second = cases
    names = (short(first.name or "first", 60), short(second.name or "second", 60))
    answers = [("answer", *(d.answer for d in decisions)), ("why", *(d.headline for d in decisions))]
    for who in dict.fromkeys(c.who for d in decisions for c in d.contenders):
        answers.append((who, *(_summary(d, who) for d in decisions)))
    metric: MetricInfo | None = None
    differences: tuple[Difference, ...] = ()
    paired = ""
    if first.study and second.study and first.study.metric and first.study.metric == second.study.metric:
        metric = first.study.deciding
        differences, paired = _differences(first.study, second.study)
    return SideBySide(names, tuple(answers), metric, differences, paired, _settings(first, second))


def _summary(decision: Decision, who: str) -> str:
    """The row of the decision's table that is about one of its models, in words."""
    head, rows = table(decision)
    for contender, row in zip(decision.contenders, rows, strict=True):
        if contender.who == who:
            name = [variant(contender.variant)] * (contender.variant not in ("", "hard"))
            return ", ".join(name + [f"{h} {cell}" for h, cell in zip(head[1:], row[1:], strict=True) if cell != "–"])
    return "–"


def _differences(first: Study, second: Study) -> tuple[tuple[Difference, ...], str]:
    name = first.metric
    same_test = first.settings.get("evaluation") == second.settings.get("evaluation")
    found, paired = [], False
    others = arms_of(second.runs, second.arms)
    for arm, members in arms_of(first.runs, first.arms).items():
        a, b = _by_seed(members, name), _by_seed(others.get(arm, ()), name)
        if not a or not b:
            continue
        seeds = sorted(a.keys() & b.keys())
        if same_test and seeds:
            mean, interval = mean_interval([b[s] - a[s] for s in seeds])
            own, other = (sum(values[s] for s in seeds) / len(seeds) for values in (a, b))
            paired = True
        else:
            own, other = (sum(values.values()) / len(values) for values in (a, b))
            mean, interval = other - own, None
        found.append(Difference(arm, own, other, mean, interval))
    words = (
        "Paired over the seeds that both have, with 95 % intervals."
        if paired
        else "Not paired: the two have no seed in common, or other test data or metrics; so there are no intervals."
    )
    return tuple(found), words


def _by_seed(runs: Sequence[Run], metric: str) -> dict[int, float]:
    return {r.seed: s.values[metric] for r in runs if (s := of_test(r)) is not None and metric in s.values}


def _settings(first: Case, second: Case) -> Table:
    a, b = facts_of(first), facts_of(second)
    return tuple(
        (key, setting(a.get(key, "–")), setting(b.get(key, "–")))
        for key in dict.fromkeys((*a, *b))
        if a.get(key) != b.get(key)
    )
