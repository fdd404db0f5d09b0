"""Contrasts of a study: paired differences over seeds, intervals, correction for their number, verdicts. Records only.

Arms that share a seed share initial weights and data order, so the difference of two arms within a seed is one observation and
seeds are the replicates. Each contrast gets a t interval over seeds; the p values of one metric's contrasts are corrected
together (Holm 1979); equivalence is two one-sided tests against a stated margin (Schuirmann 1987).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fractionate.errors import ConfigError, MismatchError
from fractionate.records import Effect, Interval, MetricInfo, Run, Verdict
from fractionate.study.effects.power import seeds_to_settle, smallest_effect

SIGNIFICANCE = 0.05
COVERAGE = 0.95


@dataclass(frozen=True)
class Contrast:
    """Two arms to compare: `arm` minus `against`; `placebo` marks a control that ought not to help."""

    arm: str
    against: str
    placebo: bool = False


@dataclass(frozen=True)
class Paired:
    """What n paired differences say: mean, interval, p of no difference, p of a difference beyond the margin."""

    gain: float
    deviation: float
    seeds: int
    interval: Interval
    p_value: float
    p_beyond_margin: float


def statistics() -> Any:
    """scipy.stats, loaded on first use."""
    import scipy.stats

    return scipy.stats


def paired(
    differences: Sequence[float] | NDArray[np.float64], *, margin: float, grain: float = 0.0, coverage: float = COVERAGE
) -> Paired:
    """Mean of paired differences with a t interval, d̄ ± t(n - 1) s / √n, and two tests.

    `p_value`: no difference, two-sided. `p_beyond_margin`: the difference is at least `margin` in size (the larger of two
    one-sided tests; small means equivalent). `grain` is the finest step of the metric: s is taken to be at least grain / √12, the
    deviation of rounding, so that a few seeds which happen to agree to the example do not look infinitely sure.

    Raises `ConfigError` for fewer than two differences or a margin that is not above 0.
    """
    values = np.asarray(differences, dtype=np.float64)
    count = len(values)
    if count < 2:
        raise ConfigError(
            "one seed has no spread", expected="at least 2 seeds, better 5", got=f"{count}", fix="set seeds to 5"
        )
    if not margin > 0:
        raise ConfigError("the margin must be above 0", got=repr(margin))
    gain = float(values.mean())
    deviation = max(float(values.std(ddof=1)), grain / 12**0.5)
    error = deviation / count**0.5
    if error == 0.0:  # exactly the same every time: the same arm twice, or a metric without noise
        same = gain == 0.0
        beyond = 0.0 if abs(gain) < margin else 1.0
        return Paired(gain, 0.0, count, Interval(gain, gain, coverage), 1.0 if same else 0.0, beyond)
    t = statistics().t(count - 1)
    half = float(t.ppf(0.5 + coverage / 2)) * error
    p_value = 2 * float(t.sf(abs(gain) / error))
    beyond = float(max(t.sf((gain + margin) / error), t.cdf((gain - margin) / error)))
    return Paired(gain, deviation, count, Interval(gain - half, gain + half, coverage), p_value, beyond)


def holm(p_values: Sequence[float]) -> tuple[float, ...]:
    """Holm's step-down p values: the i-th smallest times (m - i), never falling, at most 1 (Holm 1979)."""
    corrected = [0.0] * len(p_values)
    running = 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        running = max(running, min(1.0, (len(p_values) - rank) * p_values[place]))
        corrected[place] = running
    return tuple(corrected)


def judge(
    gain: float, p_difference: float, p_beyond_margin: float, *, sign: int = 1, resolution: float = 0.0
) -> Verdict:
    """The verdict from corrected p values. A difference that is sure is named even where it is small; its size stands next to it.

    Below `resolution`, what rounding leaves of it, it is none: such arms are equivalent.
    """
    if p_difference < SIGNIFICANCE and abs(gain) >= resolution:
        return "helps" if gain * sign > 0 else "hurts"
    return "equivalent" if min(p_difference, p_beyond_margin) < SIGNIFICANCE else "cannot tell"


def resolution_of(metric: MetricInfo) -> float:
    """Half of the last decimal that is shown of a metric: 0.0005 nats of NLL, 0.005 points of ECE."""
    return float(0.5 * 10.0**-metric.places)


def values_of(runs: Sequence[Run], metric: str) -> dict[str, dict[int, float]]:
    """Arm → seed → a metric, by name, of completed runs: from test scores, or from validation scores where no run has any."""
    on_test = any(run.test is not None for run in runs)
    table: dict[str, dict[int, float]] = {}
    for run in runs:
        found = run.test if on_test else run.validation
        value = None if found is None or run.status != "completed" else found.values.get(metric)
        row = table.setdefault(run.arm, {})
        if run.seed in row:
            raise MismatchError(f"two runs of arm {run.arm!r} have seed {run.seed}", fix="keep one of them")
        if value is not None:
            row[run.seed] = value
    return table


def grain_of(runs: Sequence[Run], metric: MetricInfo) -> float:
    """The finest step of a metric: one row in points for shares of rows, else 0."""
    if not metric.counts:
        return 0.0
    on_test = any(run.test is not None for run in runs)
    sizes = [s.rows for s in ((r.test if on_test else r.validation) for r in runs) if s is not None]
    return 100 / max(sizes) if sizes else 0.0


def effects(runs: Sequence[Run], contrasts: Sequence[Contrast], *, metric: MetricInfo) -> tuple[Effect, ...]:
    """The effects of one metric: each contrast over the seeds that both arms completed, corrected together.

    A contrast with fewer than two such seeds is left out (say so with `unpaired`). `gain` is in the metric's unit, arm minus
    against; whether more is better is the metric's: `helps` means better. Differences below `metric.margin` do not matter.
    Raises `MismatchError` for arms without runs.
    """
    table = values_of(runs, metric.name)
    grain = grain_of(runs, metric)
    found: list[tuple[Contrast, Paired]] = []
    for contrast in contrasts:
        for name in (contrast.arm, contrast.against):
            if name not in table:
                raise MismatchError(f"no run of arm {name!r}", expected=f"one of {', '.join(table)}")
        seeds = sorted(table[contrast.arm].keys() & table[contrast.against].keys())
        if len(seeds) >= 2:
            differences = [table[contrast.arm][s] - table[contrast.against][s] for s in seeds]
            found.append((contrast, paired(differences, margin=metric.margin, grain=grain)))
    sure = holm([p.p_value for _, p in found])
    same = holm([p.p_beyond_margin for _, p in found])
    result = []
    for (contrast, pair), p_holm, p_same in zip(found, sure, same, strict=True):
        verdict = judge(pair.gain, p_holm, p_same, sign=metric.sign, resolution=resolution_of(metric))
        settle = None
        if verdict == "cannot tell":
            settle = seeds_to_settle(
                pair.gain,
                pair.deviation,
                margin=metric.margin,
                seeds=pair.seeds,
                significance=SIGNIFICANCE / len(found),
            )
        result.append(
            Effect(
                arm=contrast.arm,
                against=contrast.against,
                metric=metric.name,
                gain=pair.gain,
                interval=pair.interval,
                p_value=pair.p_value,
                p_holm=p_holm,
                seeds=pair.seeds,
                verdict=verdict,
                placebo=contrast.placebo,
                seeds_to_settle=settle,
                smallest_effect=smallest_effect(pair.deviation, pair.seeds, significance=SIGNIFICANCE / len(found)),
            )
        )
    return tuple(result)


def unpaired(runs: Sequence[Run], contrasts: Sequence[Contrast], metric: str) -> tuple[str, ...]:
    """One sentence for each contrast that has too few common seeds to be judged, or lost some."""
    table = values_of(runs, metric)
    every = {run.seed for run in runs}
    notes = []
    for contrast in contrasts:
        common = table[contrast.arm].keys() & table[contrast.against].keys()
        if len(common) < 2:
            notes.append(f"{contrast.arm} − {contrast.against} cannot be judged: {len(common)} common seeds completed")
        elif len(common) < len(every):
            notes.append(f"{contrast.arm} − {contrast.against} rests on {len(common)} of {len(every)} seeds")
    return tuple(notes)
