"""A plain function as a term: for experiments in memory. It has no identity, so a run that is kept on disk refuses it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from fractionate.losses.terms.base import Binding, BoundTerm, TermSpec
from fractionate.tasks.predictions import Predictions
from fractionate.theory.topk_signal import CompactSignal


@dataclass(frozen=True)
class CallableTerm(TermSpec):
    """`function(output, batch, signal)` → one number per row; `output` is what the student returned.

    Args:
        function: Called with the student's output, the batch, and the teacher's signal on it (None without one).
        weight: Of the term in the loss.

    Example:
        from fractionate import Recipe
        from fractionate.losses.terms import CallableTerm
        def small(output, batch, signal):
            return output.square().mean(dim=1)
        recipe = Recipe(terms=(CallableTerm(small, weight=0.01),))
    """

    function: Callable[..., Tensor]
    weight: float = 1.0
    reads_teacher: ClassVar[bool] = False
    reads_signal: ClassVar[bool] = True

    @property
    def formula(self) -> str:
        """The function's name."""
        return f"{getattr(self.function, '__qualname__', type(self.function).__name__)}(…)"

    @contextmanager
    def bind(self, at: Binding) -> Iterator[BoundTerm]:
        """The function as it is."""

        def term(student: Predictions, teacher: Predictions | None, signal: Any | None) -> Tensor:
            whole = signal.dense() if isinstance(signal, CompactSignal) else signal
            return self.function(student.output, student.batch, whole)

        yield term
