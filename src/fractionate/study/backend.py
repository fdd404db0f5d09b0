"""Which backend trains a group of trials: the stack where small students gain by it, else the loop; with the reason.

The choice follows from the study alone, never from a clock: numbers must not hang on how busy the machine was. Below the limit
kernels are so small that most of a step is overhead, which a stack pays once for all students.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import nn

from fractionate.data.sampling import step_seed
from fractionate.errors import MismatchError
from fractionate.models.modes import frozen_modules
from fractionate.models.outputs import check_not_probabilities
from fractionate.study.arms import Arm
from fractionate.study.setup import Setup
from fractionate.teachers.cached import Cached
from fractionate.theory.teacher_signal import TeacherSignal
from fractionate.training.fleet.setup import StackSetup, convolves
from fractionate.training.fleet.stacked import Stack

Backend = Literal["auto", "stacked", "loop"]

MOST_WORK = 4e6  # multiplications of a step of one student: parameters × batch; above it the student alone fills a core
CHECKED_STUDENTS = 2


def why_not_stacked(setup: Setup, arms: Sequence[Arm], backend: Backend, seed: int = 0) -> str:
    """Why these variants are trained one by one; empty where they are stacked. `seed` is one of the study's.

    Raises `MismatchError` where `backend="stacked"` was wanted and cannot be.
    """
    if backend == "loop":
        return "as wanted"
    reason = _unfit(setup, arms, seed)
    if not reason and backend == "auto":
        reason = _not_worth(setup, arms)
    if reason and backend == "stacked":
        raise MismatchError("this student cannot be stacked", got=reason, fix='use backend="loop"')
    return reason


def _unfit(setup: Setup, arms: Sequence[Arm], seed: int) -> str:
    """What a stack has no place for."""
    first = arms[0]
    if any(arm.start or arm.teacher is not None for arm in arms):
        return "starts and teachers of single variants are not stacked"
    if not all(arm.plain for arm in arms):
        return "terms, preparations and transforms are not stacked"
    training = first.recipe.training
    unknown = [s for s in training.loop_settings if s != "precision" or training.precision == "float16"]
    if unknown:
        return f"a stack does not know {', '.join(unknown)}"
    stack_setup = setup.stack_setup(first, seed)
    if stack_setup is None:
        return "not a plain classifier on one tensor in memory"
    _, source = setup.part(first, seed)
    dense = isinstance(source, Cached) and isinstance(source.cached, TeacherSignal)
    if any(arm.recipe.needs_teacher for arm in arms) and not dense:
        return "the teacher's signal is not dense in memory"
    return _differs(setup, arms, stack_setup, seed)


def _differs(setup: Setup, arms: Sequence[Arm], stack_setup: StackSetup, first: int) -> str:
    """Why a stack of such students is not the students alone: by one forward pass of both."""
    task, _ = setup.part(arms[0], first)
    modules = [task.model(arms[0].recipe.student, seed) for seed in range(CHECKED_STUDENTS)]
    if any(
        True for m in modules[0].modules() for name, _ in m.named_buffers(recurse=False) if name not in _persistent(m)
    ):
        return "buffers that are not in the state dict are not stacked"
    if frozen_modules(modules[0]):
        return "modules in evaluation mode are not stacked"
    try:
        stack = Stack(modules, 0)
        inputs = stack_setup.pool[next(stack_setup.places())]
        with torch.random.fork_rng():
            stacked = stack.train_forward(inputs, 0)
            torch.manual_seed(step_seed(0, 0))
            alone = modules[0].train()(inputs)
        if not isinstance(alone, torch.Tensor) or stacked.ndim != 3:
            return "its output is not one tensor of logits"
        check_not_probabilities(alone, "leave the softmax out of the student", "student")
        if not torch.allclose(stacked[0], alone, rtol=1e-3, atol=1e-4):
            return "stacked and alone do not give the same logits"
    except (RuntimeError, ValueError, TypeError, NotImplementedError, AttributeError) as error:
        return f"it cannot be stacked: {str(error).splitlines()[0] if str(error) else type(error).__name__}"
    return ""


def _persistent(module: nn.Module) -> set[str]:
    return {name for name in module.state_dict(keep_vars=True) if "." not in name}


def _not_worth(setup: Setup, arms: Sequence[Arm]) -> str:
    """Why the loop is as fast: one variant, convolutions, or a student that fills a core."""
    if len(arms) == 1:
        return "one variant has nothing to share a stack with"
    model = setup.task.model(arms[0].recipe.student, 0)
    if convolves(model):
        return "convolutions are faster one by one"
    batch = min(arms[0].recipe.training.batch_size, setup.size(arms[0].share))
    work = batch * sum(p.numel() for p in model.parameters())
    return f"the student fills a core ({work:.0e} multiplications a step)" if work > MOST_WORK else ""
