"""What the page, the card and the terminal read out of runs and studies: plain data, no markup.

Variants of a study as people read them: `hard` is "no teacher". The words of the page are those of the field.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite
from statistics import fmean, stdev

from fractionate.page.text import decimals, number, short
from fractionate.records import Contract, Effect, Interval, MetricInfo, Run, Scores, Share, ShareLevel, Study
from fractionate.records.studies import variant_name

LEVEL_WORDS: dict[ShareLevel, str] = {
    "universe": "how sure it is on average",
    "domain.confidence": "how sure it is of each class",
    "domain.shape": "which classes resemble each other",
    "instance.confidence": "how sure it is of each example",
    "instance.shape": "what else it sees in each example",
    "domain": "what it says of each class",
    "instance": "what it says of each example",
}
BETTER = {"more": "more is better", "less": "less is better"}


def variant(arm: str, limit: int = 40) -> str:
    """The name of a variant as people read it: `hard` is "no teacher"."""
    return variant_name(short(arm or "student", limit))


def uses_teacher(contract: Contract | None) -> bool:
    """Whether a run learned from a teacher, by what it computed."""
    if contract is None or not contract.uses_teacher:
        return False
    return bool(contract.terms) or (contract.cell != "hard" and contract.teacher_weight > 0)


def of_test(run: Run) -> Scores | None:
    """The scores that count: of the test data, else of the validation data."""
    return run.test or run.validation


def judged_on(runs: Sequence[Run]) -> str:
    """The data that the scores of these runs are of."""
    return "test" if any(r.test for r in runs) else "validation"


def arms_of(runs: Sequence[Run], order: Sequence[str] = ()) -> dict[str, list[Run]]:
    """Runs by arm, in the study's order."""
    found: dict[str, list[Run]] = {arm: [] for arm in order}
    for run in runs:
        found.setdefault(run.arm or "student", []).append(run)
    return {arm: members for arm, members in found.items() if members}


def metrics_of(runs: Sequence[Run], study: Study | None = None) -> tuple[MetricInfo, ...]:
    """How the scores of runs are read, the deciding metric first; only those that a run has a value of."""
    every = {m.name: m for run in runs for m in run.metrics}
    every = ({m.name: m for m in study.metrics} if study else {}) | every
    valued = {name for run in runs if (scores := of_test(run)) for name in scores.values}
    return tuple(m for name, m in every.items() if name in valued)


def calibration_of(metrics: Sequence[MetricInfo]) -> MetricInfo | None:
    """The metric that says how far confidences can be trusted: calibration error, else likelihood; None where neither is there."""
    others = {m.name.partition("(")[0]: m for m in metrics[1:]}
    return next((others[name] for name in ("ece", "brier", "nll", "token-nll") if name in others), None)


def score_values(runs: Sequence[Run], metric: str) -> list[float]:
    """One metric over the seeds of an arm."""
    found = [s.values.get(metric) for s in map(of_test, runs) if s is not None]
    return [float(v) for v in found if v is not None and isfinite(v)]


def main_effects(study: Study) -> tuple[list[Effect], list[Effect], list[Effect]]:
    """Effects in the study's metric: against the baseline (in the order of the arms), against another arm, placebos."""
    mine = [e for e in study.effects if e.metric == study.metric]
    order = {arm: i for i, arm in enumerate(study.arms)}
    mine.sort(key=lambda e: order.get(e.arm, len(order)))

    def based(e: Effect) -> bool:  # a study of multiple shares of the data has a baseline for each: "hard share=0.5"
        return e.against == study.baseline or e.against.startswith(f"{study.baseline} ")

    return (
        [e for e in mine if not e.placebo and based(e)],
        [e for e in mine if not e.placebo and not based(e)],
        [e for e in mine if e.placebo],
    )


def pays(share: Share, metric: MetricInfo) -> bool:
    """Whether a level's part is an improvement for certain: its interval excludes 0 on the better side."""
    return share.interval.low > 0 if metric.better == "more" else share.interval.high < 0


def certain_shares(study: Study) -> list[Share]:
    """The levels whose part of the gain is an improvement for certain, largest first; Shapley values where there are any."""
    for method in ("Shapley", "ladder"):
        found = [s for s in study.shares if s.method == method]
        if found:
            return sorted((s for s in found if pays(s, study.deciding)), key=lambda s: -abs(s.gain))
    return []


def largest_unseen(effects: Sequence[Effect]) -> float | None:
    """The size above which an effect is unlikely in all of these comparisons: the far end of their intervals."""
    ends = [abs(v) for e in effects for v in (e.interval.low, e.interval.high) if isfinite(v)]
    return max(ends, default=None)


# -- numbers with their unit --------------------------------------------------------------------------------------------------


def value_text(metric: MetricInfo, value: float, digits: int = 3) -> str:
    """A value of a metric with its unit."""
    return f"{number(value, digits)} {metric.value_unit}".rstrip()


def named_value(metric: MetricInfo, value: float, digits: int = 3) -> str:
    """A value with its unit and what it is: 91.1 % accuracy, 9.45 nats (NLL a token)."""
    title = short(metric.title, 40)
    return f"{value_text(metric, value, digits)} {title if metric.value_unit in ('', '%') else f'({title})'}"


def size_text(metric: MetricInfo, size: float, *, sign: bool = False) -> str:
    """A difference in a metric with its unit."""
    return f"{decimals(size, metric.places, sign=sign)} {metric.unit}".rstrip()


def interval_text(metric: MetricInfo, interval: Interval) -> str:
    """An interval of a difference: +2.13 to +2.60."""
    return f"{decimals(interval.low, metric.places, sign=True)} to {decimals(interval.high, metric.places, sign=True)}"


def unsure_text(metric: MetricInfo, effects: Sequence[Effect]) -> str:
    """What a comparison without a clear difference still rules out."""
    most = largest_unseen(effects)
    return "" if most is None else f"an effect above ±{size_text(metric, most)} is unlikely"


def with_unit(name: str, unit: str) -> str:
    """A name with its unit, as a heading."""
    return f"{name} ({unit})" if unit else name


# t quantiles at 97.5 % by degrees of freedom: so that a mean over seeds needs no scipy to get its interval
_T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131)


def t_quantile(freedom: int) -> float:
    """Student's t at 97.5 %; beyond 15 degrees by the expansion of Fisher and Cornish, right to three decimals."""
    if freedom <= len(_T):
        return _T[freedom - 1]
    z = 1.959964
    return z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)


def mean_interval(values: Sequence[float]) -> tuple[float, Interval | None]:
    """The mean over seeds and its 95 % interval by Student's t; no interval from fewer than two."""
    mean = fmean(values)
    if len(values) < 2:
        return mean, None
    half = t_quantile(len(values) - 1) * stdev(values) / len(values) ** 0.5
    return mean, Interval(mean - half, mean + half)
