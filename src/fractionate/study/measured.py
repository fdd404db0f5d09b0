"""From a trained student to the record of its run."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from fractionate.data.examples import Examples
from fractionate.objective import rescaling
from fractionate.records import Run
from fractionate.study.arms import Arm
from fractionate.study.course import Course, Outcome, model_logits
from fractionate.study.mechanism import absorbed, histogram, off_label_relation
from fractionate.tasks import CLASSIFICATION, infos, scores
from fractionate.teacher import TeacherSignal


def _score(model: torch.nn.Module, examples: Examples | None, signal: TeacherSignal | None, device: str) -> Any:
    """Logits and scores on some examples; (None, None) without examples."""
    if examples is None:
        return None, None
    logits = model_logits(model, examples.inputs.to(device)).cpu()
    return logits, scores(logits, examples.labels, signal)


def make_run(
    outcome: Outcome,
    arm: Arm,
    course: Course,
    *,
    test: Examples | None,
    test_signal: TeacherSignal | None,
    settings: Mapping[str, str | float | int | bool | None],
) -> Run:
    """The record of a trained student: scores on validation and test data, what it absorbed, how it was rescaled."""
    entrant, model = outcome.entrant, outcome.model
    parameters = sum(p.numel() for p in model.parameters())
    contract = None if entrant.objective is None else entrant.objective.describe()
    base = Run(
        arm=arm.name,
        seed=entrant.seed,
        status="completed",
        contract=contract,
        steps=outcome.steps,
        wall_seconds=outcome.wall_seconds,
        parameters=parameters,
        history=outcome.points,
        settings={
            **settings,
            **arm.settings,
            "way": outcome.way,
        },
        versions={"python": platform.python_version(), "torch": torch.__version__},
        metrics=infos(CLASSIFICATION),
    )
    if outcome.diverged_at is not None:
        return replace(
            base,
            status="diverged",
            note=f"the loss stopped being finite by step {outcome.diverged_at} of {course.steps}",
        )
    signal = course.signals[entrant.seed]
    logits, validated = _score(model, course.validation, course.validation_signal, course.device)
    test_logits, tested = _score(model, test, test_signal, course.device)
    measured, examples = (test_logits, test) if logits is None else (logits, course.validation)
    assert examples is not None
    shown = None
    if entrant.objective is not None and signal is not None and outcome.probed is not None:
        factor = rescaling(outcome.probed.cpu(), signal.take(course.probe), entrant.objective)
        shown = histogram(factor, name="rescaling")
    return replace(
        base,
        validation=validated,
        test=tested,
        student_relation=off_label_relation(TeacherSignal(measured, examples.labels)),
        student_spectrum=absorbed(measured, examples.labels),
        rescaling=shown,
    )
