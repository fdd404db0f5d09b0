"""What a pilot tries: settings of the objective, each at multiple learning rates."""

from __future__ import annotations

from dataclasses import dataclass

from fractionate.records import Pilot, Recommendation

Setting = tuple[str, float, float]  # cell, temperature, teacher weight
HARD: Setting = ("hard", 1.0, 0.0)
CAUTIOUS: Setting = ("kd", 1.0, 0.6)  # the rule's, where nothing was tried
# where nothing is shown either way, at the best of its learning rates: kept to the end
FALLBACK: Setting = ("kd", 4.0, 0.6)
USUAL: Setting = ("kd", 4.0, 0.9)  # what everyone copies: always among the arms, so that the record shows how it does
SMALL_GRID: tuple[Setting, ...] = (("kd", 1.0, 1.0), ("kd", 2.0, 0.9), ("kd", 4.0, 0.6))
GRID: tuple[Setting, ...] = (
    *SMALL_GRID,
    ("kd", 8.0, 0.9),
    ("kd", 8.0, 0.3),
    ("kd-pt", 1.0, 0.9),
    ("class-mean", 4.0, 0.5),
    ("kd-pt+sim", 4.0, 0.9),
)
RATES = (1.0, 3.0, 1 / 3)  # of the learning rate given
LEAST_TRAININGS = 28  # what the smallest pilot costs


@dataclass(frozen=True)
class Round:
    """`keep` of the arms with a teacher so far (None: all) get `seeds` further seeds, and the two best without one."""

    keep: int | None
    seeds: int


@dataclass(frozen=True)
class Candidate:
    """An arm of a pilot: a setting at a multiple of the learning rate."""

    setting: Setting
    rate: float = 1.0

    @property
    def name(self) -> str:
        """How the record calls it."""
        return arm_name(self.setting) + ("" if self.rate == 1 else f" lr×{self.rate:.3g}")


def arm_name(setting: Setting) -> str:
    """How a pilot calls a setting."""
    cell, temperature, weight = setting
    return "no teacher" if setting == HARD else f"{cell} T={temperature:g} w={weight:g}"


def gained(pilot: Pilot) -> str:
    """What decided, with its interval."""
    gain, interval, unit = pilot.decisive
    return f"{gain:+.{1 if unit.startswith('points') else 3}f} {unit.split()[0]} {interval}"


def ruled(rule: Recommendation) -> str:
    """What the rule alone says."""
    message = arm_name((rule.cell, rule.temperature, rule.teacher_weight)) if rule.distil else "do not distil"
    return f"By the rule alone: {message}"
