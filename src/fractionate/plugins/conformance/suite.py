"""conformance(): what a distillation loss really computes, and whether it keeps its promises. For ours and for anybody's.

    from fractionate.plugins.conformance import conformance
    print(conformance("forward-kl"))                    # a registered divergence, with the cell kd
    print(conformance(my_loss, name="mine"))            # loss(student_logits, teacher_logits, labels, temperature)

`fractionate conformance [names]` prints the table of all registered losses and fails if one of them breaks a promise.
In pytest: `-p fractionate.plugins.conformance.plugin` gives the fixture `conforms`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from fractionate.losses.divergences.base import (
    Divergence,
    couples_batch,
    divergences,
    falls_as_squared,
    least_at_equality,
    own_temperature,
)
from fractionate.losses.kernels import onepass
from fractionate.losses.objective import Objective
from fractionate.plugins.conformance.checks import CHECKS, Check, Subject, run_check
from fractionate.plugins.conformance.identity import REFERENCES, LossFunction, identify
from fractionate.records.base import Record
from fractionate.system.versions import package_version
from fractionate.theory.teacher_signal import TeacherSignal


@dataclass(frozen=True)
class Conformance(Record):
    """What was measured of one loss: what it is, and the answer to each question.

    Args:
        name: Of the loss.
        version: Of its library.
        identified: The divergence whose gradient is nearest.
        cosine: Of the two gradients.
        reduction: How examples become a number.
        temperature_power_of_gradient: The gradient at the logits grows as T to this power.
        temperature_power_of_value: Likewise the value.
        gradient_scale: Relative to T² · divergence / batch at T = 4 and 100 classes.
        checks: One per question.
        note: For the table.
    """

    name: str
    version: str
    identified: str
    cosine: float
    reduction: str
    temperature_power_of_gradient: float
    temperature_power_of_value: float
    gradient_scale: float
    checks: tuple[Check, ...]
    note: str = ""

    @property
    def conforms(self) -> bool:
        """No check differs (what does not apply, or is refused on purpose, is no fault)."""
        return not any(check.status == "differs" for check in self.checks)

    @property
    def faults(self) -> tuple[Check, ...]:
        """The checks that differ."""
        return tuple(check for check in self.checks if check.status == "differs")

    def __str__(self) -> str:
        head = [
            f"{self.name} {self.version}".strip(),
            f"  computes   {self.identified}",
            f"  reduction  {self.reduction}",
            f"  T          value times T^{self.temperature_power_of_value:.2f}, "
            f"gradient times T^{self.temperature_power_of_gradient:.2f}; gradient {self.gradient_scale:.3g} of T² · D / batch",
        ]
        return "\n".join([*head, *(f"  {check}" for check in self.checks), *([f"  {self.note}"] if self.note else [])])


def conformance(
    loss: str | LossFunction | Subject, *, name: str = "", version: str = "", note: str = ""
) -> Conformance:
    """Run the suite on a loss.

    Args:
        loss: The name of a registered divergence; a function of student logits [batch, classes], teacher logits, labels [batch] and
            a temperature that gives a scalar or one number per example, in float64 on the CPU; or a `Subject`, which declares more.
        name: In the table; left out, the function's.
        version: Of its library.
        note: For the table.

    Returns:
        A `Conformance`.

    Raises:
        UnknownNameError: for unknown names.

    Example:
        from fractionate.plugins.conformance import conformance

        print(conformance("forward-kl"))
    """
    if isinstance(loss, str):
        subject = registered(loss)
    elif isinstance(loss, Subject):
        subject = loss
    else:
        subject = Subject(name or getattr(loss, "__name__", "loss"), loss)
    subject = replace(subject, name=name or subject.name, version=version or subject.version, note=note or subject.note)
    with torch.random.fork_rng(devices=[]):
        own = (loss,) if isinstance(loss, str) and loss not in REFERENCES else ()
        identity = identify(subject.loss, tried=(*REFERENCES, *own))
        checks = tuple(run_check(check, subject) for check in CHECKS)
    return Conformance(
        name=subject.name,
        version=subject.version,
        identified=identity.readable,
        cosine=identity.cosine,
        reduction=identity.reduction,
        temperature_power_of_gradient=identity.temperature_power_of_gradient,
        temperature_power_of_value=identity.temperature_power_of_value,
        gradient_scale=identity.gradient_scale,
        checks=checks,
        note=subject.note,
    )


def subject_of(name: str, divergence: Divergence) -> Subject:
    """A divergence as a subject: soft term only, factor T², mean over the examples."""

    def loss(student: torch.Tensor, teacher: torch.Tensor, labels: torch.Tensor, temperature: float) -> torch.Tensor:
        objective = Objective("kd", temperature, 1.0, divergence=divergence)
        return objective(student, TeacherSignal(teacher, labels)).mean()

    return Subject(
        name,
        loss,
        equality=least_at_equality(divergence),
        splits=not couples_batch(divergence),
        scaled=falls_as_squared(divergence) and not own_temperature(divergence),
    )


def registered(name: str) -> Subject:
    """A registered divergence as a subject, with its chunks and its top-k form."""
    subject = subject_of(name, divergences[name])

    def chunked(rows: int) -> LossFunction:
        def in_chunks(student: torch.Tensor, *others: object) -> torch.Tensor:
            kept, onepass.CHUNK_ELEMENTS = onepass.CHUNK_ELEMENTS, rows * student.shape[1]
            try:
                return subject.loss(student, *others)  # type: ignore[arg-type]
            finally:
                onepass.CHUNK_ELEMENTS = kept

        return in_chunks

    def bucketed(
        student: torch.Tensor, teacher: torch.Tensor, labels: torch.Tensor, temperature: float, k: int
    ) -> torch.Tensor:
        objective = Objective("kd", temperature, 1.0, divergence=f"bucketed-kl({k})")
        return objective(student, TeacherSignal(teacher, labels)).mean()

    topk = bucketed if name in ("forward-kl", "bucketed-kl") else None
    return replace(subject, topk=topk, version=package_version(), chunked=chunked)


def table(records: Sequence[Conformance]) -> str:
    """A table in Markdown: one row per loss, one column per question.

    Args:
        records: What `conformance` gave; at least one.

    Returns:
        The table.

    Example:
        from fractionate.plugins.conformance import conformance, table

        print(table([conformance("forward-kl")]))
    """
    questions = [check.name for check in records[0].checks]
    head = ["loss", "computes", "reduction", "T in gradient", "gradient ×", *questions]
    marks = {"holds": "yes", "differs": "**no**", "refused": "refuses", "not applicable": "–"}
    rows = []
    for record in records:
        cells = [
            f"{record.name} {record.version}".strip(),
            record.identified,
            record.reduction,
            f"T^{round(record.temperature_power_of_gradient, 2):g}",
            f"{record.gradient_scale:.3g}",
        ]
        rows.append([*cells, *(marks[check.status] for check in record.checks)])
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(row) + " |" for row in lines)


@dataclass(frozen=True)
class Examination(Record):
    """What the suite found of multiple losses."""

    losses: tuple[Conformance, ...]

    @property
    def conform(self) -> bool:
        """Whether all of them conform."""
        return all(loss.conforms for loss in self.losses)

    def __str__(self) -> str:
        return "\n\n".join([*map(str, self.losses), table(self.losses)])


def examine(names: Sequence[str] = ()) -> Examination:
    """Run the suite on the named losses, or on all that are registered."""
    torch.set_num_threads(1)
    return Examination(tuple(conformance(name) for name in (names or list(divergences))))
