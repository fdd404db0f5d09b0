"""From a trained student to the record of its run: scores, what it absorbed, how its gradient was rescaled."""

from __future__ import annotations

import platform
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor, nn

from fractionate.losses.objective import Objective, rescaling
from fractionate.records import Run, Scores
from fractionate.study.setup import Setup, Trial
from fractionate.tasks.metric import infos
from fractionate.theory.teacher_signal import TeacherSignal
from fractionate.training.fleet.setup import Outcome, StackSetup, model_logits
from fractionate.training.mechanism import absorbed, histogram, off_label_relation

Status = Literal["completed", "diverged", "stopped"]
MOST_CLASSES = 200  # a larger relation of classes is no picture


def with_mechanism(
    run: Run, model: nn.Module, stack_setup: StackSetup, objective: Objective | None, probed: Tensor | None
) -> Run:
    """The run with the student's relation of classes, its spectrum and the rescaling of its gradient at the end."""
    signal = stack_setup.signal
    examples = stack_setup.validation
    if examples is None:
        return run
    logits = model_logits(model, examples.inputs.to(stack_setup.device)).cpu()
    shown = None
    if objective is not None and signal is not None and probed is not None:
        shown = histogram(rescaling(probed.cpu(), signal.take(stack_setup.probe), objective), name="rescaling")
    few = logits.shape[1] <= MOST_CLASSES
    return replace(
        run,
        student_relation=off_label_relation(TeacherSignal(logits, examples.labels)) if few else (),
        student_spectrum=absorbed(logits, examples.labels),
        rescaling=shown,
    )


def bare_run(
    setup: Setup,
    trial: Trial,
    status: Literal["completed", "diverged", "stopped"],
    note: str = "",
    *,
    backend: str = "",
) -> Run:
    """The record of a trial before anything is measured of it: that of a student that diverged, or could not be trained."""
    settings = setup.settings_of(trial.arm, trial.seed)
    return Run(
        arm=trial.arm.name,
        seed=trial.seed,
        status=status,
        contract=trial.arm.recipe_for(trial.seed).contract(),
        steps=0,
        wall_seconds=0.0,
        parameters=0,
        settings={**settings, "backend": backend} if backend else settings,
        note=note,
    )


def record_of(outcome: Outcome, trial: Trial, setup: Setup, stack_setup: StackSetup, *, backend: str) -> Run:
    """The record of a student that was trained in a stack."""
    model, arm = outcome.model, trial.arm
    task, _ = setup.part(arm, trial.seed)
    backend += f", step not captured: {outcome.uncaptured}" if outcome.uncaptured else ""
    base = replace(
        bare_run(setup, trial, "completed", backend=backend),
        steps=outcome.steps,
        wall_seconds=outcome.wall_seconds,
        parameters=sum(p.numel() for p in model.parameters()),
        history=outcome.points,
        versions={"python": platform.python_version(), "torch": torch.__version__},
        metrics=infos(task.judged),
    )
    if outcome.diverged_at is not None:
        return replace(
            base,
            status="diverged",
            note=f"the loss stopped being finite by step {outcome.diverged_at} of {stack_setup.steps}",
        )
    scores: dict[str, Scores | None] = {"validation": None, "test": None}
    for name in ("validation", "test"):
        split, source = getattr(task.splits, name), setup.held(name, trial.seed)
        if split is None:
            continue
        if source is None:
            scores[name] = task.evaluate(model, split)
        else:
            with source.open(task, split, None, task.inside) as teacher:
                scores[name] = task.evaluate(model, split, teacher)
    done = replace(base, validation=scores["validation"], test=scores["test"])
    return with_mechanism(done, model, stack_setup, arm.recipe_for(trial.seed).objective, outcome.probed)
