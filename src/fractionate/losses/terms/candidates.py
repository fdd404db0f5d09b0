"""In-batch candidates as classes: the similarities of a query with the texts of its batch are logits, and every cell applies."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from fractionate.errors import ConfigError, MismatchError
from fractionate.losses.objective import Objective
from fractionate.losses.terms.base import Binding, BoundTerm, TermSpec, term_specs
from fractionate.losses.terms.number_terms import both_sides
from fractionate.tasks.embeddings import own_positive, similarities
from fractionate.tasks.predictions import Predictions
from fractionate.theory.teacher_signal import TeacherSignal


@term_specs.register("candidates")
@dataclass(frozen=True)
class Candidates(TermSpec):
    """An objective on softmax(scale · cosine(query, texts of the batch)), the own positive being the label.

    The target is a cell of the teacher's own similarities; statistics over the data are those of the batch, where each class has
    one example. The placebo `kd-shuffled`-like cells, or `shuffled=True` (the teacher's embeddings of other examples), control it.

    Args:
        cell: The cell, by name.
        temperature: Of the objective.
        divergence: Of the objective, by name.
        scale, teacher_scale: Factors of the cosines of student and teacher.
        shuffled: The placebo.
    """

    cell: str = "kd"
    _: KW_ONLY
    weight: float = 1.0
    temperature: float = 1.0
    divergence: str = "cross-entropy"
    scale: float = 20.0
    teacher_scale: float = 20.0
    shuffled: bool = False
    reads_signal: ClassVar[bool] = True
    reads_numbers: ClassVar[bool] = True
    couples_batch: ClassVar[bool] = True

    def __post_init__(self) -> None:
        TermSpec.__post_init__(self)
        self.objective  # noqa: B018 (checks the settings)
        if not (0 < self.scale < float("inf") and 0 < self.teacher_scale < float("inf")):
            raise ConfigError(
                "invalid scale of candidates", expected="above 0, usually 20", got=f"{self.scale}, {self.teacher_scale}"
            )

    @property
    def objective(self) -> Objective:
        """What is computed on the similarities."""
        return Objective(self.cell, self.temperature, 1.0, divergence=self.divergence)

    @property
    def formula(self) -> str:
        teacher = "shuffled teacher" if self.shuffled else "teacher"
        return f"[{self.objective.describe().formula}] of {self.scale:g} · cos in the batch, target of the {teacher}'s"

    @contextmanager
    def bind(self, at: Binding) -> Iterator[BoundTerm]:
        """Raises `MismatchError` for embeddings without a pair."""
        seed = int(torch.randint(1 << 62, (1,), generator=at.generator)) if self.shuffled else None
        objective = self.objective
        assert at.student is not None
        both_sides(at.student, at.signal, None)
        if at.student.required_logits.ndim != 3 or at.student.required_logits.shape[1] < 2:
            raise MismatchError(
                "candidates are the texts of a batch other than the query",
                expected="embeddings of a query and its positive: [batch, 2, width]",
                got=str(list(at.student.required_logits.shape)),
                fix="cosine or projected-mse learn from single texts",
            )

        def term(student: Predictions, teacher: Predictions | None, signal: Any | None) -> Float[Tensor, "rows"]:
            ours, theirs = both_sides(student, signal, seed)
            if ours.shape[0] * (ours.shape[1] - 1) < 2:
                return 0.0 * ours.sum(dim=(1, 2))  # a batch of one pair has nothing to tell apart
            teacher_signal = TeacherSignal(similarities(theirs, self.teacher_scale), own_positive(theirs))
            return objective(similarities(ours, self.scale), teacher_signal)

        yield term
