"""Hidden states of rows: what enters the student's output layer is drawn to what enters the teacher's, token by token."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fractionate.errors import MismatchError
from fractionate.losses.terms.base import Binding, BoundTerm, TermSpec, term_specs
from fractionate.tasks.predictions import Needs, Predictions

States = Float[Tensor, "rows width"]


@term_specs.register("states")
@dataclass(frozen=True)
class OutputStates(TermSpec):
    """Mean over the width of (map(student) - teacher)² of what enters the output layers, for each row that has a label.

    The map is linear and trained with the student where the widths differ; equal widths are compared as they are. A store of
    form "hidden" gives the teacher's states, so that no teacher is run; padding and tokens without a label do not count.
    Source: Jiao et al. (arXiv 1909.10351), eq. 8, on the last layer.
    """

    _: KW_ONLY
    weight: float = 1.0
    unit: ClassVar = "row"

    @property
    def needs(self) -> tuple[Needs, Needs]:
        """What enters both output layers."""
        return Needs(states=True), Needs(states=True)

    @property
    def formula(self) -> str:
        return "mean (map(student's states) - teacher's states)², states = what enters the output layer"

    @contextmanager
    def bind(self, at: Binding) -> Iterator[BoundTerm]:
        """Raises `MismatchError` where the two sides have other rows."""
        assert at.student is not None
        ours, theirs = both_states(at.student, at.teacher)
        if ours.shape[1] != theirs.shape[1]:
            at.parts[at.name] = nn.Linear(ours.shape[1], theirs.shape[1]).to(ours.device, ours.dtype)

        def term(student: Predictions, teacher: Predictions | None, signal: Any | None) -> Float[Tensor, "rows"]:
            ours, theirs = both_states(student, teacher)
            mapped = at.parts[at.name](ours) if at.name in at.parts else ours
            loss: Tensor = (mapped - theirs).square().mean(dim=1)
            return loss

        yield term


def both_states(student: Predictions, teacher: Predictions | None) -> tuple[States, States]:
    """Both sides in the student's precision, float32 at least; the teacher's without a graph."""
    ours, theirs = student.states, None if teacher is None else teacher.states
    if ours is None or theirs is None or len(ours) != len(theirs):
        raise MismatchError(
            "the states of student and teacher are not of the same rows",
            expected=f"{'none' if ours is None else len(ours)} rows of the teacher, as of the student",
            got="none" if theirs is None else str(len(theirs)),
            fix="the same tokens and labels on both sides: one tokenizer, one truncation",
        )
    ours = ours.to(torch.promote_types(ours.dtype, torch.float32))
    return ours, theirs.detach().to(ours.device, ours.dtype)
