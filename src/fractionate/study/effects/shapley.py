"""The total gain of a teacher, split over the levels of its knowledge. Records only.

A study with the cells {mean, class-mean, instance} confidence × {uniform, class-mean, instance} shape next to `hard` is a grid.
From hard labels to `kd` leads first the universe step (`ls`), then two steps in confidence and two in shape. The *ladder* takes
them in one order, that of the spectrum. The *Shapley* value takes all 6 orders in which domain comes before instance, and
averages: the share of a step does not hang on what was there before (Shapley 1953; with precedence Faigle and Kern 1992).
Either way the parts add up to the gain of `kd`, seed by seed, so each part has a t interval over seeds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise, permutations

import numpy as np
from numpy.typing import NDArray

from fractionate.records import LEVEL_NAMES, MetricInfo, Run, Share, ShareLevel
from fractionate.study.effects.contrasts import grain_of, paired, values_of

Place = tuple[int, int]  # step of confidence and of shape: 0 universe, 1 domain, 2 instance
Values = Mapping[Place | None, NDArray[np.float64]]  # None: hard labels

STEPS: dict[ShareLevel, Place] = {
    "domain.confidence": (1, 0),
    "domain.shape": (0, 1),
    "instance.confidence": (1, 0),
    "instance.shape": (0, 1),
}
LADDER: tuple[tuple[ShareLevel, Place], ...] = (
    ("universe", (0, 0)),
    ("domain.confidence", (1, 0)),
    ("domain.shape", (1, 1)),
    ("instance.confidence", (2, 1)),
    ("instance.shape", (2, 2)),
)
SHORT_LADDER: tuple[tuple[ShareLevel, Place], ...] = (("universe", (0, 0)), ("domain", (1, 1)), ("instance", (2, 2)))
GRID: tuple[Place, ...] = tuple((c, s) for c in range(3) for s in range(3))


def orders() -> tuple[tuple[ShareLevel, ...], ...]:
    """The orders of the four steps after the universe in which confidence and shape each go domain first."""
    return tuple(
        order
        for order in permutations(STEPS)
        if order.index("domain.confidence") < order.index("instance.confidence")
        and order.index("domain.shape") < order.index("instance.shape")
    )


def ladder_parts(values: Values) -> dict[ShareLevel, NDArray[np.float64]]:
    """Each level's gain along the ladder, seed by seed; confidence and shape together where the steps between are missing."""
    steps = LADDER if all(place in values for _, place in LADDER) else SHORT_LADDER
    places: list[Place | None] = [None, *(place for _, place in steps)]
    return {
        level: values[after] - values[before]
        for (level, _), (before, after) in zip(steps, pairwise(places), strict=True)
    }


def shapley_parts(values: Values) -> dict[ShareLevel, NDArray[np.float64]]:
    """Each level's mean gain over the orders, seed by seed; needs all nine places of the grid."""
    parts: dict[ShareLevel, NDArray[np.float64]] = {"universe": values[0, 0] - values[None]}
    parts |= {level: np.zeros_like(values[None]) for level in STEPS}
    for order in orders():
        place: Place = (0, 0)
        for level in order:
            step = STEPS[level]
            after = (place[0] + step[0], place[1] + step[1])
            parts[level] = parts[level] + (values[after] - values[place]) / len(orders())
            place = after
    return {level: parts[level] for level in LEVEL_NAMES}


def shares(runs: Sequence[Run], places: Mapping[Place | None, str], *, metric: MetricInfo) -> tuple[Share, ...]:
    """The shares of the gain, by ladder and by Shapley, as far as the arms are there; empty without hard, ls, class-mean and kd.

    `places` names the arm at each place of the grid, None for the hard labels. Only seeds that every named arm completed count.
    """
    table = values_of(runs, metric.name)
    arms = {place: name for place, name in places.items() if len(table.get(name, {})) >= 2}
    if not {None, *(place for _, place in SHORT_LADDER)} <= arms.keys():
        return ()
    seeds = sorted(set.intersection(*(set(table[name]) for name in arms.values())))
    if len(seeds) < 2:
        return ()
    values = {place: np.array([table[name][s] for s in seeds]) for place, name in arms.items()}
    found: list[Share] = []
    methods = [("ladder", ladder_parts)]
    if all(place in arms for place in GRID):
        methods.append(("Shapley", shapley_parts))
    grain = grain_of(runs, metric)
    for method, split in methods:
        for level, gains in split(values).items():
            pair = paired(gains, margin=metric.margin, grain=grain)
            found.append(Share(level=level, method=method, gain=pair.gain, interval=pair.interval))  # type: ignore[arg-type]
    return tuple(found)
