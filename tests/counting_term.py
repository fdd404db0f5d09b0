"""A term for tests: calls a function of the test in each micro-batch; the function is no part of its identity."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar

from fractionate.losses.terms import Binding, BoundTerm, TermSpec
from fractionate.tasks import Predictions


@dataclass(frozen=True)
class Calling(TermSpec):
    function: Callable[[Predictions, Any], Any] = field(compare=False)
    weight: float = 1.0
    reads_teacher: ClassVar[bool] = False
    reads_signal: ClassVar[bool] = True

    @property
    def formula(self) -> str:
        return "test"

    @contextmanager
    def bind(self, at: Binding) -> Iterator[BoundTerm]:
        yield lambda student, teacher, signal: self.function(student, signal)
