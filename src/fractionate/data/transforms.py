"""Transforms of the transfer set: frozen, registered, in a run's identity; each says what of the data it changes."""

from __future__ import annotations

from typing import Any, ClassVar, Protocol, runtime_checkable

from torch import nn

from fractionate.data.batch import Split
from fractionate.system.registry import Registry


@runtime_checkable
class Transform(Protocol):
    """A change of the transfer set.

    `changes` names what it alters, of "inputs", "labels" and "examples": a teacher source that does not hold after it is refused.
    `reads_teacher` says that the teacher's model is needed. A spec that names this class as its base states only what differs.
    """

    version: ClassVar[int] = 1
    changes: ClassVar[frozenset[str]]
    reads_teacher: ClassVar[bool] = False

    def bind(self, split: Split, student: nn.Module | None, teacher: nn.Module | None, seed: int) -> Split: ...


transforms: Registry[Any] = Registry(
    "transform",
    "fractionate.transforms",
    files=(
        "data.augment",
        "data.library_augment",
        "teachers.chimeras",
        "teachers.on_policy",
        "teachers.sequence_level",
    ),
)
