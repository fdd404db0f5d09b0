"""Terms on a teacher's numbers: squared error, Gaussian likelihood, cosine and projected squared error of embeddings.

Each has a placebo, `shuffled=True`: the teacher's numbers of other examples, as good in form and wrong about rows. They are
drawn by the seed of the run, over all rows that the source holds (the batch, where a model runs on every batch).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar, Protocol

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from fractionate.errors import ConfigError, MismatchError
from fractionate.losses.terms.base import Binding, BoundTerm, TermSpec, term_specs
from fractionate.tasks.predictions import Predictions
from fractionate.tasks.regression import moments
from fractionate.theory.number_signal import NumberSignal

Numbers = Float[Tensor, "rows *outputs"]
TeacherNumbers = Float[Tensor, "rows *numbers"]
Loss = Float[Tensor, "rows"]


class NumberTerm(TermSpec, Protocol):
    """A comparison of the student's numbers with the teacher's, row by row. A subclass has `compare`, and may train a `part`."""

    shuffled: bool
    reads_signal: ClassVar[bool] = True
    reads_numbers: ClassVar[bool] = True

    def compare(self, student: Numbers, teacher: TeacherNumbers, outputs: int, part: nn.Module | None) -> Loss:
        """The loss of each row, in float32 at least. `outputs` is how many numbers a label has; `part` what `make_part` made."""
        ...

    def make_part(self, student: Numbers, teacher: TeacherNumbers) -> nn.Module | None:
        """What is trained with the student; None where nothing is."""
        return None

    @property
    def source(self) -> str:
        """The other side in formulas."""
        return "shuffled teacher" if self.shuffled else "teacher"

    @contextmanager
    def bind(self, at: Binding) -> Iterator[BoundTerm]:
        """Raises `MismatchError` where student and teacher cannot be compared."""
        seed = int(torch.randint(1 << 62, (1,), generator=at.generator))
        assert at.student is not None
        ours, theirs = both_sides(at.student, at.signal, None)
        part = self.make_part(ours, theirs)
        if part is not None:
            at.parts[at.name] = part.to(ours.device)
        self.compare(ours, theirs, _outputs(at.student), part)  # shapes are refused before the first step

        def term(student: Predictions, teacher: Predictions | None, signal: Any | None) -> Loss:
            ours, theirs = both_sides(student, signal, seed if self.shuffled else None)
            return self.compare(ours, theirs, _outputs(student), part)

        yield term


def both_sides(student: Predictions, signal: Any | None, seed: int | None) -> tuple[Numbers, TeacherNumbers]:
    """The student's numbers and the teacher's, in float32 at least; a seed shuffles the teacher's over rows.

    Flat embeddings of a cache get the student's number of texts. Raises `MismatchError` for what are no numbers of these rows.
    """
    if not isinstance(signal, NumberSignal) or len(signal) != len(student):
        raise MismatchError(
            "this term learns from a teacher's numbers",
            expected=f"a NumberSignal of {len(student)} rows: a task without classes, with a teacher",
            got="no teacher" if signal is None else f"{type(signal).__name__} of {len(signal)} rows",
        )
    ours = student.required_logits
    theirs = signal.values if seed is None else signal.shuffled(seed)
    wide = torch.promote_types(ours.dtype, torch.float32)
    return ours.to(wide), theirs.to(ours.device, wide).reshape(*ours.shape[:-1], -1)


def _outputs(student: Predictions) -> int:
    return student.labels.reshape(len(student), -1).shape[1]


def _same_width(student: Numbers, teacher: TeacherNumbers, fix: str) -> None:
    if student.shape != teacher.shape:
        raise MismatchError(
            "student and teacher give different numbers",
            expected=f"{list(teacher.shape[1:])} an example, as the teacher",
            got=str(list(student.shape[1:])),
            fix=fix,
        )


@term_specs.register("squared-error")
@dataclass(frozen=True)
class SquaredError(NumberTerm):
    """Mean over outputs of (student - teacher)²; of means where a model gives variances too. Regression towards the teacher."""

    shuffled: bool = False
    _: KW_ONLY
    weight: float = 1.0

    @property
    def formula(self) -> str:
        return f"mean over outputs of (student - {self.source})²"

    def compare(self, student: Numbers, teacher: TeacherNumbers, outputs: int, part: nn.Module | None) -> Loss:
        """Squared distances of means."""
        ours, theirs = moments(student, outputs)[0], moments(teacher, outputs)[0]
        _same_width(ours, theirs, "a teacher of the same outputs")
        return (ours - theirs).square().mean(dim=1)


@term_specs.register("gaussian-kl")
@dataclass(frozen=True)
class GaussianKL(NumberTerm):
    """KL(N(m_T, v_T) ‖ N(m_S, v_S)) = ½ (log v_S / v_T + (v_T + (m_T - m_S)²) / v_S - 1), mean over outputs.

    For teachers that give log-variances after their means. A student that gives none takes the teacher's variance: what remains
    is (m_T - m_S)² / (2 v_T), which counts less where the teacher is unsure.
    """

    shuffled: bool = False
    _: KW_ONLY
    weight: float = 1.0

    @property
    def formula(self) -> str:
        return f"mean over outputs of KL(N({self.source}) ‖ N(student))"

    def compare(self, student: Numbers, teacher: TeacherNumbers, outputs: int, part: nn.Module | None) -> Loss:
        """Raises `MismatchError` for a teacher without a variance."""
        (mean, log_variance), (teacher_mean, doubt) = moments(student, outputs), moments(teacher, outputs)
        if doubt is None:
            raise MismatchError(
                "the teacher gives no variance",
                expected=f"[rows, {2 * outputs}]: {outputs} means, then as many log-variances",
                got=str(list(teacher.shape)),
                fix="squared-error learns from means alone",
            )
        distance = (teacher_mean - mean).square()
        if log_variance is None:
            return (distance * (-doubt).exp()).mean(dim=1) / 2
        ratio = log_variance - doubt
        return (ratio + (-ratio).exp() + distance * (-log_variance).exp() - 1).mean(dim=1) / 2


@term_specs.register("cosine")
@dataclass(frozen=True)
class Cosine(NumberTerm):
    """Mean over texts of 1 - cosine(student, teacher); embeddings of another width need `project=True`, which learns a projection.

    Args:
        project: Whether a linear layer from the student's width to the teacher's is trained with the student (and not exported).
    """

    shuffled: bool = False
    _: KW_ONLY
    weight: float = 1.0
    project: bool = False

    @property
    def formula(self) -> str:
        return f"mean over texts of 1 - cos({'projected ' if self.project else ''}student, {self.source})"

    def make_part(self, student: Numbers, teacher: TeacherNumbers) -> nn.Module | None:
        """The projection."""
        return nn.Linear(student.shape[-1], teacher.shape[-1]) if self.project else None

    def compare(self, student: Numbers, teacher: TeacherNumbers, outputs: int, part: nn.Module | None) -> Loss:
        """Raises `MismatchError` for other widths without a projection."""
        ours = student if part is None else part(student)
        _same_width(ours, teacher, "cosine(project=True)")
        return (1 - functional.cosine_similarity(ours, teacher, dim=-1)).reshape(len(ours), -1).mean(dim=1)


@term_specs.register("projected-mse")
@dataclass(frozen=True)
class ProjectedMSE(NumberTerm):
    """Mean over texts and widths of (projection(student) - teacher)²; the projection is trained with the student, not exported.

    Source: the hidden-state loss of TinyBERT (Jiao et al. 2020, arXiv 1909.10351, eq. 8) on embeddings.
    """

    shuffled: bool = False
    _: KW_ONLY
    weight: float = 1.0

    @property
    def formula(self) -> str:
        return f"mean over widths of (projection(student) - {self.source})²"

    def make_part(self, student: Numbers, teacher: TeacherNumbers) -> nn.Module:
        """A linear layer from the student's width to the teacher's."""
        return nn.Linear(student.shape[-1], teacher.shape[-1])

    def compare(self, student: Numbers, teacher: TeacherNumbers, outputs: int, part: nn.Module | None) -> Loss:
        """Squared distances after the projection."""
        if part is None:
            raise ConfigError("projected-mse has no projection", fix="bind it first")
        loss: Tensor = (part(student) - teacher).square().reshape(len(student), -1).mean(dim=1)
        return loss
