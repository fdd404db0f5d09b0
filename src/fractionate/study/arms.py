"""The variants of a study and what is compared: recipes by name, or cells × temperatures × weights × shares of the data."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from itertools import product
from typing import Any, Literal

import torch
from torch import Tensor

from fractionate.data.batch import Split
from fractionate.data.examples import Examples
from fractionate.data.sampling import draw_seed
from fractionate.errors import ConfigError
from fractionate.losses.divergences.base import Divergence, written
from fractionate.losses.objective import Objective
from fractionate.models.preparations import Preparation
from fractionate.study.effects.contrasts import Contrast
from fractionate.study.effects.shapley import Place
from fractionate.system.canonical import canonical_text
from fractionate.theory.cells import PLACEBOS, Cell, as_cell
from fractionate.training.recipe import Recipe

BASELINE = "hard"
OWN = "its own"  # in place of a variant's teacher
PLAIN = Recipe()
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


Factors = tuple[
    float, float, str, float, float, str
]  # temperature, teacher weight, divergence, share, learning rate, student
Students = (
    Sequence[str] | Mapping[str, Sequence[Preparation | str]]
)  # models of the task, or what is done to its student
Settings = dict[str, str | float | int | bool | None]
Role = Literal["", "baseline", "recommended", "usual", "start"]


@dataclass(frozen=True, eq=False)
class Arm:
    """One variant of a study: a recipe, its share of the transfer set, and what it is there for.

    Args:
        placebo_of: The variant whose control this is: as good in form, wrong about examples or classes.
        role: "recommended" and "usual" are the recipe that a diagnosis gives and T = 4 / 0.9; "baseline" is compared against;
            "start" is trained for others to start from and compared with nothing.
        compared: The factors it is compared at; its own but where these were tuned, variant by variant.
        teacher: A teacher of its own, in any form that `dissect` takes: one for all seeds, a mapping, or `BySeed`.
        start: The variant whose trained student, of the same seed, it starts from; its own preparations come on top.
        recipe: What is trained.
        share: Of the transfer set, in (0, 1].
        name: Of the variant; left out, made of what it varies.

    Example:
        from fractionate import Objective, Recipe
        from fractionate.study import Arm
        arms = {
            "no teacher": Recipe(),
            "kd": Recipe(objective=Objective("kd")),
            "placebo": Arm(Recipe(objective=Objective("kd-shuffled")), placebo_of="kd"),
        }  # of dissect(task, arms, teacher)
    """

    recipe: Recipe
    placebo_of: str = ""
    share: float = 1.0
    role: Role = ""
    name: str = ""
    compared: Factors | None = None
    teacher: Any = None
    start: Arm | str = ""

    def detached(self) -> Arm:
        """The same with the mark of a teacher of its own in place of it: what goes to workers, which have the teachers already."""
        start = self.start.detached() if isinstance(self.start, Arm) else self.start
        return replace(self, teacher=None if self.teacher is None else OWN, start=start)

    @property
    def hard(self) -> bool:
        """True for the labels alone, without any teacher and any further loss."""
        return not self.recipe.uses_teacher and not self.recipe.specs

    @property
    def cell(self) -> Cell:
        """The cell of its objective; the hard one without an objective."""
        objective = self.recipe.objective
        cell = PLACES[None] if objective is None else objective.cell
        assert isinstance(cell, Cell)
        return cell

    @property
    def plain(self) -> bool:
        """Whether it differs from others in its objective and training alone."""
        return self.by_cell and not self.recipe.preparations

    @property
    def by_cell(self) -> bool:
        """Whether its cell and factors say all that it learns from, so that cells and their placebos can be compared."""
        own = self.recipe
        alone = not (own.specs or own.data) and own.objective_weight == 1
        return alone and self.teacher is None and not self.start

    @property
    def temperature(self) -> float:
        """Of its objective; 1 without one."""
        return 1.0 if self.recipe.objective is None else self.recipe.objective.temperature

    @property
    def teacher_weight(self) -> float:
        """Of its objective; 0 without one."""
        return 0.0 if self.recipe.objective is None else self.recipe.objective.teacher_weight

    @property
    def learning_rate(self) -> float:
        """Of its training."""
        return self.recipe.training.learning_rate

    @property
    def divergence(self) -> str:
        """Of its objective, as text."""
        objective = self.recipe.objective
        return "cross-entropy" if objective is None else written(objective.divergence)  # type: ignore[arg-type]

    @property
    def factors(self) -> Factors:
        """What it is compared at."""
        own = (self.temperature, self.teacher_weight, self.divergence, self.share, self.learning_rate, self.student)
        return self.compared or own

    @property
    def student(self) -> str:
        """Which student it trains: the task's model by name, and what is done to it."""
        made = self.recipe.preparations
        return f"{self.recipe.student} {canonical_text(made)}" if made else self.recipe.student

    @property
    def settings(self) -> Settings:
        """What it is, as it stands in the record of a run: short factors, and further parts where there are any."""
        own = self.recipe
        found: Settings = {
            "cell": self.cell.name,
            "temperature": self.temperature,
            "teacher_weight": self.teacher_weight,
            "share": self.share,
            "learning_rate": self.learning_rate,
            "divergence": self.divergence,
        }
        if own.student != "student":
            found["student_name"] = own.student
        if own.objective_weight != 1:
            found["objective_weight"] = float(own.objective_weight)
        for name, parts in (("terms", own.specs), ("preparations", own.preparations), ("transforms", own.data)):
            if parts:
                found[name] = canonical_text(parts)
        if isinstance(self.start, Arm):
            found["start"] = f"{self.start.name}: {self.start.settings}"
        return found

    @property
    def ancestry(self) -> tuple[Arm, ...]:
        """The variants that its student goes through, the first start first, it last."""
        return (*(self.start.ancestry if isinstance(self.start, Arm) else ()), self)

    def meets(self, other: Arm) -> bool:
        """Whether two variants differ in the cell alone; the hard one fits any temperature, weight and divergence."""
        if self.hard or other.hard:
            return self.factors[3:] == other.factors[3:]
        return self.factors == other.factors

    def recipe_for(self, seed: int) -> Recipe:
        """Its recipe for a seed: random parts of a cell (placebos) are drawn anew, so that no one draw decides."""
        objective = self.recipe.objective
        if objective is None or not self.recipe.uses_teacher:
            return self.recipe
        assert isinstance(objective.cell, Cell)
        return replace(self.recipe, objective=replace(objective, cell=redrawn(objective.cell, seed)))

    def with_factors(self, temperature: float, teacher_weight: float, learning_rate: float) -> Arm:
        """The same variant with other settings, compared at the factors it had."""
        objective = self.recipe.objective
        if objective is not None:
            objective = replace(objective, temperature=temperature, teacher_weight=teacher_weight)
        training = replace(self.recipe.training, learning_rate=learning_rate)
        return replace(self, recipe=replace(self.recipe, objective=objective, training=training), compared=self.factors)


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
    *,
    base: Recipe = PLAIN,
    squared: bool = True,
    students: Students = (),
) -> tuple[Arm, ...]:
    """The arms of a study: hard labels first, then each cell at each of the factors, for each student, share of the data and rate.

    `kinds` are divergences; `base` is the recipe that they share (terms, preparations, training); `students` those of `dissect`.
    Raises `ConfigError` for factors out of range and for two cells of one name.
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
        wrong.append("no cell other than the hard labels is given")
    if wrong:
        raise ConfigError("invalid arms of the study", got="; ".join(wrong))
    sizes = student_recipes(base, students)
    arms = []
    for (size, own), share, rate, cell in product(sizes.items(), shares, learning_rates, built):
        hard = cell == PLACES[None]
        most = 1 if hard else None
        for temperature, weight, kind in product(temperatures[:most], teacher_weights[:most], kinds[:most]):
            marks = [f"T={temperature:g}"] * (len(temperatures) > 1 and not hard)
            marks += [f"w={weight:g}"] * (len(teacher_weights) > 1 and not hard)
            marks += [kind if isinstance(kind, str) else repr(kind)] * (len(kinds) > 1 and not hard)
            marks += [size] * (len(sizes) > 1)
            marks += [f"share={share:g}"] * (len(shares) > 1)
            marks += [f"lr={rate:g}"] * (len(learning_rates) > 1)
            name = " ".join([BASELINE if hard else cell.name, *marks])
            objective = None if hard else Objective(cell, float(temperature), float(weight), squared, kind)
            training = replace(base.training, learning_rate=float(rate))
            recipe = replace(own, objective=objective, training=training)
            arms.append(Arm(recipe, share=float(share), name=name, role="baseline" if hard else ""))
    return tuple(arms)


def student_recipes(base: Recipe, students: Students) -> dict[str, Recipe]:
    """The recipe of each student of a size ladder by its name. Raises `ConfigError` for a name that is given twice or empty."""
    if isinstance(students, Mapping):
        found = {name: replace(base, preparations=tuple(made)) for name, made in students.items()}
    else:
        found = {name: replace(base, student=name) for name in students}
    if len(found) != len(students) or not all(found):
        raise ConfigError("invalid value for students", expected="different names", got=repr(list(students)))
    return found or {base.student: base}


def arm_name(arm: Arm, learning_rate: float) -> str:
    """What an arm is called by its settings; the learning rate where it is another than the usual one."""
    if arm.hard:
        marks = [BASELINE]
    else:
        marks = [arm.cell.name, f"T={arm.temperature:g}", f"w={arm.teacher_weight:g}"]
        marks += [arm.divergence] if arm.divergence != "cross-entropy" else []
    return " ".join([*marks, *([f"lr={arm.learning_rate:g}"] if arm.learning_rate != learning_rate else [])])


def named_arms(given: Mapping[str, Recipe | Arm]) -> tuple[Arm, ...]:
    """The variants of a mapping from names to recipes, each with the variant it starts from.

    Raises `ConfigError` for placebos and starts that are not there, and for variants that start from each other.
    """
    arms = {name: replace(arm if isinstance(arm, Arm) else Arm(arm), name=name) for name, arm in given.items()}
    wrong = [
        f"{arm.name}: placebo of {arm.placebo_of!r}" for arm in arms.values() if arm.placebo_of not in ("", *given)
    ]
    starts = {name: arm.start.name if isinstance(arm.start, Arm) else arm.start for name, arm in arms.items()}
    wrong += [f"{name}: starts from {start!r}" for name, start in starts.items() if start not in ("", *given)]

    def started(name: str, before: tuple[str, ...] = ()) -> Arm:
        if name in before:
            raise ConfigError("variants start from each other", got=" → ".join((*before, name)))
        return replace(arms[name], start=started(starts[name], (*before, name)) if starts[name] else "")

    if len(arms) < 2 or wrong:
        raise ConfigError(
            "the variants of the study cannot be compared",
            expected="at least two recipes by name, placebos and starts of names among them",
            got="; ".join(wrong) or f"{len(arms)} variant(s)",
        )
    return tuple(map(started, arms))


def baseline_of(arms: Sequence[Arm]) -> str:
    """The variant that others are compared with: the one with that role, else the first that uses no teacher, else the first."""
    arms = [arm for arm in arms if arm.role != "start"] or list(arms)
    chosen = [arm for arm in arms if arm.role == "baseline"] + [arm for arm in arms if not arm.recipe.uses_teacher]
    return (*chosen, *arms)[0].name


def make_contrasts(
    arms: Sequence[Arm], baseline: str = BASELINE, further: Sequence[tuple[str, str] | Contrast] = ()
) -> tuple[Contrast, ...]:
    """Every arm against the baseline of its share and learning rate, every cell against its placebos at the same factors.

    `further` pairs come on top. Variants that are only a start are compared where `further` names them. Raises `ConfigError` for
    names of no variant.
    """
    found: list[Contrast] = []
    named = [a for a in arms if a.name == baseline] or [a for a in arms if _is_named(a, baseline)]
    for arm in arms:
        if arm.role == "start":
            continue
        against = [a for a in named if a.factors[3] == arm.factors[3]]
        for place in (5, 4):  # like is compared with like: the same student, then the same learning rate
            against = [a for a in against if a.factors[place] == arm.factors[place]] or against
        # at one baseline cell with multiple temperatures, like is compared with like
        alike = [a for a in against if a.meets(arm)] or against
        if not alike:
            raise ConfigError(
                f"the baseline {baseline!r} is no arm of the study",
                expected=f"one of {', '.join(a.name for a in arms)}",
            )
        if arm not in against:
            placebo = bool(arm.placebo_of) or (arm.by_cell and _base_name(arm.cell) in PLACEBOS)
            found.append(Contrast(arm.name, alike[0].name, placebo=placebo))
    for arm in arms:
        real = PLACEBOS.get(_base_name(arm.cell)) if arm.by_cell else None
        for other in arms:
            by_cell = real is not None and other.by_cell and _base_name(other.cell) == real
            if other.name == arm.placebo_of or (by_cell and other.factors == arm.factors and not arm.placebo_of):
                found.append(Contrast(other.name, arm.name))
    names = [arm.name for arm in arms]
    for pair in further:
        one = pair if isinstance(pair, Contrast) else Contrast(*pair)
        if one.arm == one.against or not {one.arm, one.against} <= set(names):
            raise ConfigError(
                "invalid value for contrasts",
                expected=f"pairs of two of {', '.join(names)}",
                got=f"({one.arm!r}, {one.against!r})",
            )
        if (one.arm, one.against) not in {(c.arm, c.against) for c in found}:
            found.append(one)
    return tuple(dict.fromkeys(found))


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


def share_places(split: Split, share: float, seed: int) -> Tensor:
    """The places of a share of the transfer set drawn for a seed, stratified where labels are known; all for share 1."""
    places = torch.arange(len(split))
    if share == 1.0:
        return places
    count = max(1, round(share * len(split)))
    labels = split.labels
    if labels is None or labels.ndim != 1 or labels.is_floating_point() or int(labels.min()) < 0:
        generator = torch.Generator().manual_seed(draw_seed("share", seed))
        return torch.randperm(len(split), generator=generator)[:count]
    (part,) = Examples(places, labels.cpu()).split(count, seed=seed)
    return part.inputs
