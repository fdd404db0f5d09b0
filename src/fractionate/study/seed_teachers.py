"""Teachers of a study that differ from seed to seed: given as a mapping or by a function of the seed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fractionate.errors import ConfigError
from fractionate.teachers.given import as_source
from fractionate.teachers.source import TeacherSource


@dataclass(frozen=True, eq=False)
class BySeed:
    """A teacher for each seed of a study, by a function of the seed: `dissect(task, teacher=BySeed(make), ...)`.

    Args:
        make: Called once for each seed, before the first training; returns any teacher.

    Example:
        import torch
        from fractionate.study import BySeed
        teacher = BySeed(lambda seed: torch.nn.Linear(4, 3))  # of dissect(task, teacher=teacher)
    """

    make: Callable[[int], Any]


@dataclass(frozen=True, eq=False)
class SeedTeachers:
    """The teacher of each seed."""

    teachers: Mapping[int, TeacherSource]

    def fingerprint(self) -> str:
        """All of them."""
        return ", ".join(f"{seed}: {source.fingerprint()}" for seed, source in self.teachers.items())


Teacher = TeacherSource | SeedTeachers | None


def teacher_by_seed(given: Any, seeds: Sequence[int], what: str = "teacher") -> Teacher:
    """What `dissect` was given as a teacher: one for all seeds, or one for each by a mapping or `BySeed`.

    Raises `ConfigError` for seeds without a teacher.
    """
    if not isinstance(given, (Mapping, BySeed)):
        return as_source(given)
    make = given.get if isinstance(given, Mapping) else given.make
    found = {seed: as_source(make(seed)) for seed in seeds}
    absent = [seed for seed, source in found.items() if source is None]
    if absent:
        raise ConfigError(
            f"{what} gives nothing for some seeds",
            expected="a teacher for every seed of the study, and of its tuning",
            got=f"none for {', '.join(map(str, absent[:5]))}",
            fix=f"{what}=BySeed(a function of the seed), or a mapping with all seeds",
        )
    return SeedTeachers({seed: source for seed, source in found.items() if source is not None})


def of_seed(teacher: Teacher, seed: int) -> TeacherSource | None:
    """The teacher of a seed."""
    return teacher.teachers[seed] if isinstance(teacher, SeedTeachers) else teacher


def every(teachers: Iterable[Teacher]) -> list[TeacherSource]:
    """All single teachers, each once."""
    found: dict[int, TeacherSource] = {}
    for teacher in teachers:
        for source in teacher.teachers.values() if isinstance(teacher, SeedTeachers) else [teacher]:
            if source is not None:
                found[id(source)] = source
    return list(found.values())
