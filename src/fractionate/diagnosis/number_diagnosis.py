"""The diagnosis of a teacher of numbers: probes that need no classes, and the term that learns from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from fractionate.diagnosis.case import Case, examine, probes
from fractionate.diagnosis.recipe import labels_alone
from fractionate.diagnosis.transfer import read_transfer
from fractionate.errors import ConfigError, MismatchError
from fractionate.records import Diagnosis, Finding, Recommendation
from fractionate.tasks.task import Task
from fractionate.theory.number_signal import NumberSignal


def diagnose_numbers(
    signal: NumberSignal,
    task: Task | None,
    student: nn.Module | None,
    *,
    name: str,
    only: Sequence[str],
    unused: dict[str, Any],
) -> Diagnosis:
    """Findings and recipe of a teacher's numbers; there are no classes, so no spectrum.

    Args:
        task: The task over whose transfer set the teacher was run; None where no data were given.
        unused: What was given and reads distributions over classes.

    Raises `ConfigError` for what was given and cannot be used.
    """
    given = [key for key, value in unused.items() if value is not None]
    if given:
        raise ConfigError(
            "a teacher of numbers has no classes, and these are read as distributions over them",
            expected="the signal, with data and student",
            got=", ".join(given),
            fix="leave them out",
        )
    transfer = None if task is None else read_transfer(task, student)
    if transfer is not None and len(transfer) != len(signal):
        raise MismatchError(
            "the data and the teacher's numbers differ in length",
            expected=f"{len(signal)} examples",
            got=str(len(transfer)),
            fix="pass the very data that the numbers were collected on, in the same order",
        )
    case = Case(signal=signal, data=transfer, student=student is not None)
    findings = tuple(examine(case, probe) for probe in (only or tuple(probes)))
    return Diagnosis(name=name, spectrum=None, findings=findings, recipe=recommend_term(task, findings))


def recommend_term(task: Task | None, findings: Sequence[Finding]) -> Recommendation:
    """The task's usual term; the labels alone where the teacher's numbers are not about their examples."""
    wrong = next((f for f in findings if f.severity == "error"), None)
    if wrong is not None:
        return replace(labels_alone(f"{wrong.summary} ({wrong.name})"), repair=f"{wrong.name}: {wrong.fix}")
    terms = () if task is None else task.reader.teacher_terms
    if not terms:
        return labels_alone("without the task it is not known what its numbers are: pass data=task")
    return Recommendation(
        distil=True,
        cell="",
        temperature=1.0,
        teacher_weight=1.0,
        divergence="",
        scale_by_temperature_squared=False,
        reason="the task has no classes, so a term learns from the teacher's numbers next to the labels",
        terms=terms,
    )
