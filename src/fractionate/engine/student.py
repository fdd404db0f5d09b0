"""The student and the transfer set of a run, as its recipe makes them: preparations and transforms in their order."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from fractionate.data.batch import Split
from fractionate.errors import ConfigError
from fractionate.models.preparations import Preparing
from fractionate.order import batches
from fractionate.tasks.predictions import Predictions
from fractionate.tasks.task import Task
from fractionate.teachers import OpenTeacher, TeacherSource
from fractionate.training.recipe import Recipe

PASS_SIZE = 256


def make_student(
    task: Task, recipe: Recipe, source: TeacherSource | None, seed: int, *, given: nn.Module | None = None
) -> nn.Module:
    """A fresh student, prepared; `given` is prepared in place of one that the task makes.

    The global random state is left as it was. Raises `ConfigError` where nothing makes a student.
    """
    from_task = given is None and (task.student is not None or not recipe.preparations)
    student = task.model(recipe.student, seed) if from_task else given
    if not recipe.preparations:
        assert student is not None
        return student
    split = task.splits.transfer

    def calibration(count: int) -> Iterator[Any]:
        size = min(recipe.training.batch_size, len(split))
        plan = [(0, index) for index in batches(len(split), size, seed, 0)[:count]]
        return (batch.inputs for batch in split.batches(plan, seed))

    at = Preparing(
        teacher=None if source is None else source.model,
        seed=seed,
        inputs=task.example().inputs,
        calibration=calibration,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for preparation in recipe.preparations:
            student = preparation(student, at)
    if student is None:
        raise ConfigError(
            "the recipe makes no student", fix="Task(student=...), or from_teacher among the preparations"
        )
    return student.to(task.device)


def transform_split(
    task: Task, split: Split, recipe: Recipe, source: TeacherSource | None, student: nn.Module, seed: int
) -> Split:
    """The transfer set after the recipe's transforms. Raises `ConfigError` where the teacher does not hold after one."""
    for transform in recipe.data:
        untrue = frozenset() if source is None or not recipe.needs_teacher else transform.changes - source.holds_after
        if untrue:
            raise ConfigError(
                f"{transform!r} changes {' and '.join(sorted(untrue))}: a cached signal knows nothing of the changed data",
                expected="an online teacher",
                got=type(source).__name__,
                fix="pass the teacher's model, or Online(model)",
            )
        split = transform.bind(split, student, None if source is None else source.model, seed)
    return split


def teacher_on(teacher: OpenTeacher, split: Split, device: torch.device) -> Iterator[Predictions]:
    """The teacher's own predictions on a whole split, batch by batch."""
    for index in torch.split(torch.arange(len(split)), PASS_SIZE):
        batch = next(iter(split.batches([(0, index)], 0))).to(device)
        found = teacher.predictions_for(batch)
        if found is not None:
            yield found
