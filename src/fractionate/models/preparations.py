"""Preparations: what is done to a student before it is trained. Frozen, registered, in a run's identity."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, runtime_checkable

from torch import nn

from fractionate.errors import ConfigError
from fractionate.system.registry import Registry


@dataclass(frozen=True, eq=False, kw_only=True)
class Preparing:
    """What a preparation may read.

    Args:
        teacher: The teacher's model; None where only its cached signal is at hand.
        seed: The run's seed.
        inputs: Inputs of a small batch.
        calibration: Gives the inputs of so many batches of the transfer set.
    """

    teacher: nn.Module | None
    seed: int
    inputs: Any
    calibration: Callable[[int], Iterator[Any]]


@runtime_checkable
class Preparation(Protocol):
    """Makes another student of a student: `student` is None where neither the caller nor the task gives one.

    `version` is raised when the arithmetic changes; `reads_teacher` says that the teacher's model is needed. A spec that names
    this class as its base states only what differs.
    """

    version: ClassVar[int] = 1
    reads_teacher: ClassVar[bool] = False

    def __call__(self, student: nn.Module | None, at: Preparing) -> nn.Module: ...

    def finish(self, student: nn.Module) -> nn.Module:
        """The trained student as it is measured, returned and exported."""
        return student


def given_student(student: nn.Module | None, what: str) -> nn.Module:
    """The student. Raises `ConfigError` where there is none to prepare."""
    if student is None:
        raise ConfigError(
            f"{what} has no student to prepare",
            fix="Task(student=...), or a preparation that makes one before it: from_teacher(...)",
        )
    return student


preparations: Registry[Any] = Registry(
    "preparation",
    "fractionate.preparations",
    files=(
        "models.explaining",
        "models.from_teacher",
        "models.lora",
        "models.quantize",
    ),
)
