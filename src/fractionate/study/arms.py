"""The arms of a study and what is compared: cells × temperatures × teacher weights × shares of the data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from itertools import product
from typing import Any

import torch
from torch import Tensor

from fractionate.attribution import Contrast
from fractionate.attribution.shapley import Place
from fractionate.cells import PLACEBOS, Cell, as_cell
from fractionate.data.examples import Examples
from fractionate.divergences import Divergence
from fractionate.errors import ConfigError
from fractionate.objective import Objective
from fractionate.teacher import TeacherSignal

BASELINE = "hard"
LADDER: tuple[str, ...] = ("hard", "ls", "class-mean * uniform", "class-mean", "instance * class-mean", "kd")
FACTORIAL: tuple[str, ...] = (
    *("hard", "ls", "mean * class-mean", "mean * instance"),
    *("class-mean * uniform", "class-mean", "class-mean * instance"),
    *("kd-pt", "instance * class-mean", "kd"),
)
_CONFIDENCES, _SHAPES = ("mean", "class-mean", "instance"), ("uniform", "class-mean", "instance")
PLACES: dict[Place | None, Cell] = {None: as_cell("hard")} | {
    (c, s): Cell(confidence, shape) for c, confidence in enumerate(_CONFIDENCES) for s, shape in enumerate(_SHAPES)
}


Factors = tuple[float, float, str, float, float]  # temperature, teacher weight, divergence, share, learning rate


@dataclass(frozen=True, eq=False)
class Arm:
    """One arm: a name, a cell and its factors. The hard arm has no objective: cross-entropy on the labels.

    `compared` are the factors it is compared at; they are its own but where these were tuned, cell by cell.
    """

    name: str
    cell: Cell
    temperature: float
    teacher_weight: float
    share: float
    learning_rate: float
    divergence: Divergence | str
    compared: Factors

    @property
    def hard(self) -> bool:
        """True for the labels alone."""
        return self.cell == PLACES[None]

    @property
    def settings(self) -> dict[str, str | float | int | bool | None]:
        """The factors as they stand in the record of a run."""
        return {
            "cell": self.cell.name,
            "temperature": self.temperature,
            "teacher_weight": 0.0 if self.hard else self.teacher_weight,
            "share": self.share,
            "learning_rate": self.learning_rate,
            "divergence": self.divergence if isinstance(self.divergence, str) else repr(self.divergence),
        }

    def meets(self, other: Arm) -> bool:
        """Whether two arms differ in the cell alone; the hard arm fits any temperature, weight and divergence."""
        if self.hard or other.hard:
            return self.compared[3:] == other.compared[3:]
        return self.compared == other.compared

    def objective(self, seed: int, squared: bool) -> Objective | None:
        """What a student of this arm and seed learns from; None for the labels alone."""
        if self.hard:
            return None
        return Objective(redrawn(self.cell, seed), self.temperature, self.teacher_weight, squared, self.divergence)


def _positive(value: float) -> bool:
    return 0 < value < float("inf")


def _part(value: float) -> bool:
    return 0 < value <= 1


def make_arms(
    cells: Sequence[Cell | str],
    temperatures: Sequence[float],
    teacher_weights: Sequence[float],
    shares: Sequence[float],
    learning_rates: Sequence[float],
    kinds: Sequence[Divergence | str] = ("cross-entropy",),
) -> tuple[Arm, ...]:
    """The arms of a study: hard labels first, then each cell at each of the factors, for each share of the data and learning rate.

    `kinds` are divergences. Raises `ConfigError` for factors out of range and for two cells of one name.
    """
    written = [kind if isinstance(kind, str) else repr(kind) for kind in kinds]
    checks: tuple[tuple[str, Sequence[Any], Callable[[Any], object]], ...] = (
        ("temperatures must be above 0", temperatures, _positive),
        ("teacher_weights must be in (0, 1]", teacher_weights, _part),
        ("shares must be in (0, 1]", shares, _part),
        ("learning rates must be above 0", learning_rates, _positive),
        ("divergences must differ", written, len),
    )
    wrong = [
        f"{what}: {list(values)}"
        for what, values, fits in checks
        if not values or not all(fits(value) for value in values) or len(set(values)) != len(values)
    ]
    # a name as it was written tells apart what a cell's own name may not, such as two draws of a placebo
    built = [replace(as_cell(cell), name=cell.strip()) if isinstance(cell, str) else cell for cell in cells]
    built = [PLACES[None], *(cell for cell in built if cell != PLACES[None])]
    names = [cell.name for cell in built]
    wrong += [f"the cell {name!r} is given twice" for name in sorted({n for n in names if names.count(n) > 1})]
    if len(built) < 2:
        wrong.append("no cell beside the hard labels is given")
    if wrong:
        raise ConfigError("the arms of the study cannot be meant", got="; ".join(wrong))
    arms = []
    for share, rate, cell in product(shares, learning_rates, built):
        hard = cell == PLACES[None]
        most = 1 if hard else None
        for temperature, weight, kind in product(temperatures[:most], teacher_weights[:most], kinds[:most]):
            factors = (float(temperature), float(weight), kind if isinstance(kind, str) else repr(kind))
            marks = [f"T={temperature:g}"] * (len(temperatures) > 1 and not hard)
            marks += [f"w={weight:g}"] * (len(teacher_weights) > 1 and not hard)
            marks += [factors[2]] * (len(kinds) > 1 and not hard)
            marks += [f"share={share:g}"] * (len(shares) > 1)
            marks += [f"lr={rate:g}"] * (len(learning_rates) > 1)
            name = " ".join([BASELINE if hard else cell.name, *marks])
            compared = (*factors, float(share), float(rate))
            arms.append(Arm(name, cell, *factors[:2], float(share), float(rate), kind, compared))
    return tuple(arms)


def make_contrasts(arms: Sequence[Arm], baseline: str = BASELINE) -> tuple[Contrast, ...]:
    """Every arm against the baseline of its share and learning rate, and every cell against its placebos at the same factors."""
    found: list[Contrast] = []
    for arm in arms:
        against = [a for a in arms if a.compared[3:] == arm.compared[3:] and _is_named(a, baseline)]
        # at one baseline cell with several temperatures, like is compared with like
        alike = [a for a in against if a.meets(arm)] or against
        if not alike:
            raise ConfigError(
                f"the baseline {baseline!r} is no arm of the study",
                expected=f"one of {', '.join(a.name for a in arms)}",
            )
        if arm not in against:
            found.append(Contrast(arm.name, alike[0].name, placebo=_base_name(arm.cell) in PLACEBOS))
    for arm in arms:
        real = PLACEBOS.get(_base_name(arm.cell))
        for other in arms:
            if real is not None and _base_name(other.cell) == real and other.compared == arm.compared:
                found.append(Contrast(other.name, arm.name))
    return tuple(found)


def _base_name(cell: Cell) -> str:
    return cell.name.partition("(")[0]


def _is_named(arm: Arm, name: str) -> bool:
    return name in (arm.name, arm.cell.name) or (arm.hard and name == BASELINE)


def redrawn(cell: Cell, seed: int) -> Cell:
    """The cell with its random parts (placebos) drawn for a seed of the study, so that no one draw decides a contrast."""

    def redraw(rule: Any) -> Any:
        if is_dataclass(rule) and any(f.name == "seed" for f in fields(rule)):
            return replace(rule, seed=getattr(rule, "seed") * 1_000_003 + seed)  # type: ignore[type-var] # noqa: B009
        return rule

    return Cell(redraw(cell.confidence), redraw(cell.shape), cell.name)


def transfer_set(data: Examples, share: float, seed: int) -> tuple[Examples, Tensor]:
    """A stratified share of the data drawn for a seed, and the places it was taken from; the data itself for share 1."""
    places = torch.arange(len(data))
    if share == 1.0:
        return data, places
    numbered = Examples(places, data.labels, class_names=data.class_names)
    (part,) = numbered.split(max(1, round(share * len(data))), seed=seed)
    return data.take(part.inputs), part.inputs


def part_of(signal: TeacherSignal, places: Tensor) -> TeacherSignal:
    """What the teacher said about a transfer set, as a signal of its own: its statistics are those of the transfer set."""
    return TeacherSignal(signal.logits[places], signal.labels[places], signal.class_relation)
