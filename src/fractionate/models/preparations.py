"""Preparations: what is done to a student before it is trained. Frozen, registered, in a run's identity."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, runtime_checkable

from torch import nn

from fractionate.registry import Registry


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
    """Makes another student of a student. `version` is raised when the arithmetic changes."""

    version: ClassVar[int]

    def __call__(self, student: nn.Module | None, at: Preparing) -> nn.Module: ...


preparations: Registry[Any] = Registry("preparation", "fractionate.preparations")
