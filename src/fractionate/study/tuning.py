"""An equal tuning budget: every arm tries as many settings, the best on validation data is taken, test data stay unread."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from math import isfinite, log, nan

from fractionate.data.sampling import draw_seed
from fractionate.errors import ConfigError
from fractionate.records import MetricInfo, Run, Training, Try, Tuning
from fractionate.study.arms import Arm

FIXED = ("recommended", "usual")  # roles of arms whose temperature and weight are what is judged


def tuning_seeds(tuning: Tuning) -> tuple[int, ...]:
    """Seeds of the tries: none of them is a seed of the study, or luck in a seed would be chosen and then counted."""
    return tuple(draw_seed("tune", i) for i in range(tuning.seeds))


def check_tuning(tuning: Tuning) -> None:
    """Raise `ConfigError` for grids without or with impossible settings."""
    wrong = [
        f"{name}: {list(values)}"
        for name, values, fits in (
            ("temperatures must be above 0", tuning.temperatures, lambda v: v > 0 and isfinite(v)),
            ("teacher_weights must be in (0, 1]", tuning.teacher_weights, lambda v: 0 < v <= 1),
            ("learning_rates must be above 0", tuning.learning_rates, lambda v: v > 0 and isfinite(v)),
        )
        if not all(map(fits, values)) or len(set(values)) != len(values)
    ]
    wrong += ["temperatures and teacher_weights must hold a value"] * (
        not (tuning.temperatures and tuning.teacher_weights)
    )
    wrong += [f"seeds must be at least 1: {tuning.seeds}"] * (tuning.seeds < 1)
    if wrong:
        raise ConfigError("invalid value for tune", got="; ".join(wrong))


def spread_rates(rates: Sequence[float], count: int) -> list[float]:
    """So many learning rates at equal ratios over the range of the grid; around a single one from half to twice it."""
    if count == 1:
        return [rates[0]]
    low, high = (min(rates), max(rates)) if len(rates) > 1 else (rates[0] / 2, rates[0] * 2)
    return [float(f"{low * (high / low) ** (i / (count - 1)):.6g}") for i in range(count)]


def settings_of(arm: Arm, tuning: Tuning, training: Training) -> list[tuple[float, float, float]]:
    """(temperature, teacher weight, learning rate) of an arm's tries: the same number for every arm.

    Without an objective, and for a recipe as it was recommended or as everyone copies it, these are as many learning rates, a
    recipe's own among them.
    """
    rates = tuning.learning_rates or (training.learning_rate,)
    grid = [(float(t), float(w), float(r)) for t, w, r in product(tuning.temperatures, tuning.teacher_weights, rates)]
    fixed = arm.role in FIXED
    if not (fixed or arm.hard or arm.recipe.objective is None):
        return grid
    own = arm.learning_rate
    tried = spread_rates(sorted({*rates, own}) if fixed else rates, len(grid))
    if fixed:
        tried[min(range(len(tried)), key=lambda i: abs(log(tried[i] / own)))] = own
    return [(arm.temperature, arm.teacher_weight, rate) for rate in tried]


def tried_arms(arms: Sequence[Arm], tuning: Tuning, training: Training) -> dict[str, list[Arm]]:
    """Arm → its tries, as arms of their own."""
    return {
        arm.name: [
            replace(arm.with_factors(t, w, rate), name=f"{arm.name} try {i + 1}")
            for i, (t, w, rate) in enumerate(settings_of(arm, tuning, training))
        ]
        for arm in arms
    }


@dataclass(frozen=True)
class Choice:
    """The settings chosen, as arms, and all that was tried."""

    arms: tuple[Arm, ...]
    tries: tuple[Try, ...]


def choose(
    arms: Sequence[Arm], tried: Mapping[str, Sequence[Arm]], runs: Mapping[tuple[str, int], Run], metric: MetricInfo
) -> Choice:
    """The best try of every arm by one rule: the mean over the tuning's seeds of the metric on validation data.

    Ties go to the lower mean validation NLL, where it was measured, then to the earlier try. A try with a run that
    diverged is not chosen.

    Raises `ConfigError` where every try of an arm diverged.
    """
    chosen, tries = [], []
    for arm in arms:
        values: list[tuple[float, float] | None] = []
        for one in tried[arm.name]:
            own = [run for (name, _), run in runs.items() if name == one.name]
            found = [run.validation.values for run in own if run.validation is not None]
            done = len(found) == len(own) > 0 and all(isfinite(one.get(metric.name, nan)) for one in found)
            nats = [one["nll"] for one in found if "nll" in one]
            values.append(
                (sum(one[metric.name] for one in found) / len(found), sum(nats) / max(1, len(nats))) if done else None
            )
        possible = [i for i, v in enumerate(values) if v is not None]
        if not possible:
            raise ConfigError(
                f"no setting tried for the arm {arm.name!r} came to an end",
                got=f"{len(values)} tries, all diverged or without the metric {metric.name}",
                fix="lower tune.learning_rates, or give a validation signal where the metric is agreement",
            )

        def rank(i: int, values: list[tuple[float, float] | None] = values) -> tuple[float, float, int]:
            value = values[i]
            assert value is not None
            return (-metric.sign * value[0], value[1], i)

        best = min(possible, key=rank)
        one = tried[arm.name][best]
        chosen.append(arm.with_factors(one.temperature, one.teacher_weight, one.learning_rate))
        for i, one in enumerate(tried[arm.name]):
            value = values[i]
            weight = 0.0 if arm.hard else one.teacher_weight
            tries.append(
                Try(
                    arm.name,
                    one.temperature,
                    weight,
                    one.learning_rate,
                    None if value is None else value[0],
                    chosen=i == best,
                )
            )
    return Choice(tuple(chosen), tuple(tries))
