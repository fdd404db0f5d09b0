"""A term for tests: calls a function of the test in each micro-batch; the function is no part of its identity."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar

from fractionate.losses.terms import Binding, BoundTerm
from fractionate.tasks import Needs, Predictions


@dataclass(frozen=True)
class Calling:
    function: Callable[[Predictions, Any], Any] = field(compare=False)
    weight: float = 1.0
    version: ClassVar[int] = 1
    unit: ClassVar[str] = "row"
    reads_teacher: ClassVar[bool] = False
    reads_signal: ClassVar[bool] = True
    couples_batch: ClassVar[bool] = False
    needs: ClassVar[tuple[Needs, Needs]] = (Needs(), Needs())
    formula: ClassVar[str] = "test"

    @contextmanager
    def bind(self, at: Binding) -> Iterator[BoundTerm]:
        yield lambda student, teacher, signal: self.function(student, signal)
