"""Students at the learning rate that validation data chose: the records of bench/regret_pilot.py, setting by setting.

Seven arms and no teacher, four rates each, five seeds, on twelve real data sets and one generator (which is left out here).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

BENCH = Path(__file__).parents[1] / "bench" / "results"
FILES = ("regret_pilot.jsonl", "regret_pilot_seen.jsonl")
GENERATED = ("waveform",)
RATES = ("x0.333", "x1", "x3", "x9")  # times 5e-3
GIVEN = "x1"
CELLS = {"hard": "hard 1 0", "kd": "kd 4 0.9", "kd-pt+sim": "kd-pt+sim 4 0.9"}  # as the claims name them
KD = ("kd 1 0.6", "kd 1 1", "kd 2 0.9", "kd 4 0.6", "kd 4 0.9", "kd 8 0.9")


class Where(NamedTuple):
    """A setting: the data, the kind of teacher, the examples and whether the teacher saw them."""

    data: str
    teacher: str
    examples: int
    place: str


@dataclass(frozen=True)
class Students:
    """Accuracy in percent by arm and rate, one number a seed."""

    at: Where
    validation: dict[str, list[float]]
    test: dict[str, list[float]]

    def best(self, *arms: str, rates: Sequence[str] = RATES) -> list[float]:
        """Test accuracy of the arm and rate that are best on validation data, the first among equals."""
        tries = [f"{arm} {rate}" for arm in arms for rate in rates]
        return self.test[max(tries, key=lambda name: float(np.mean(self.validation[name])))]


@cache
def students() -> tuple[Students, ...]:
    found = []
    for name in FILES:
        for line in (BENCH / name).read_text(encoding="utf-8").splitlines():
            record = json.loads(line)
            setting, scores = record["setting"], record["scores"]
            at = Where(setting["data"], setting["teacher"], setting["examples"], setting["where"])
            parts = [{arm: each[part] for arm, each in scores.items()} for part in ("validation", "test")]
            if at.data not in GENERATED:
                found.append(Students(at, *parts))
    return tuple(found)


def healthy_of(one: Students) -> Students | None:
    """The same setting under a healthy teacher."""
    wanted = one.at._replace(teacher="healthy")
    return next((other for other in students() if other.at == wanted), None)
