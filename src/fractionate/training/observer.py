"""What a study measures along a training."""

from __future__ import annotations

from typing import Protocol

from torch import nn

from fractionate.records import Point


class Observer(Protocol):
    """Measures a student along its training: called after each step whose number is in `steps`, in evaluation mode."""

    @property
    def steps(self) -> frozenset[int]:
        """Steps, counted from 1, after which the student is measured."""
        ...

    def stepped(self) -> None:
        """Called after each step."""
        ...

    def measure(self, step: int, loss: float, student: nn.Module) -> Point:
        """A point of the run's history. Raises `StopIteration` where the training has diverged."""
        ...
