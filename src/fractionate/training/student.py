"""The student and the transfer set of a run, as its recipe makes them: preparations and transforms in their order."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from fractionate.data.batch import Batch, Split
from fractionate.errors import ConfigError
from fractionate.models.modes import plain_module
from fractionate.models.preparations import Preparing
from fractionate.tasks.model_inputs import ModelInputs
from fractionate.tasks.predictions import Predictions
from fractionate.tasks.reader import Reader
from fractionate.tasks.task import Task
from fractionate.teachers.source import OpenTeacher, TeacherSource
from fractionate.training.recipe import Recipe

PASS_SIZE = 256


def check_gradients() -> None:
    """Raise `ConfigError` where the caller has switched gradients off, without which nothing is trained."""
    if not torch.is_grad_enabled() or torch.is_inference_mode_enabled():
        raise ConfigError(
            "gradients are switched off",
            expected="a call outside of torch.no_grad() and torch.inference_mode()",
            got="inference mode" if torch.is_inference_mode_enabled() else "no_grad",
            fix="with torch.enable_grad(): ...",
        )


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
    if student is not None and plain_module(student) is not student:
        raise ConfigError(
            "a wrapped student cannot be prepared",
            expected="the plain model",
            got=type(student).__name__,
            fix="pass the model itself; compile_mode= compiles it after its preparations",
        )
    teacher = None if source is None or source.model is None else plain_module(source.model)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for preparation in recipe.preparation_specs:
            at = _preparing(task, recipe, teacher, student, seed)
            student = preparation(student, at).to(task.device)
    if student is None:
        raise ConfigError(
            "the recipe makes no student", fix="Task(student=...), or from_teacher among the preparations"
        )
    return student


def _preparing(
    task: Task, recipe: Recipe, teacher: nn.Module | None, student: nn.Module | None, seed: int
) -> Preparing:
    """What the next preparation may read: inputs as the student takes them, on its device."""
    split, device = task.splits.transfer, torch.device(task.device)
    takes = (lambda batch: batch.inputs) if student is None else ModelInputs.of(student)

    def calibration(count: int) -> Iterator[Any]:
        size = min(recipe.training.batch_size, len(split))
        plan = ((epoch, index) for epoch in itertools.count() for index in split.order(size, seed, epoch))
        return (takes(batch.to(device)) for batch in split.batches(itertools.islice(plan, count), seed))

    return Preparing(teacher=teacher, seed=seed, inputs=takes(task.example().to(device)), calibration=calibration)


def finish_student(recipe: Recipe, student: nn.Module) -> tuple[nn.Module, nn.Module]:
    """The trained student as it is returned (adapters merged; the last preparation first), and the module inside its wrappers."""
    for preparation in reversed(recipe.preparation_specs):
        student = preparation.finish(student)
    return student, plain_module(student)


def transform_split(
    task: Task, split: Split, recipe: Recipe, source: TeacherSource | None, student: nn.Module, seed: int
) -> Split:
    """The transfer set after the recipe's transforms. Raises `ConfigError` where the teacher does not hold after one."""
    for transform in recipe.transform_specs:
        untrue = frozenset() if source is None or not recipe.opens_teacher else transform.changes - source.holds_after
        if untrue:
            raise ConfigError(
                f"{transform!r} changes {' and '.join(sorted(untrue))}: a cached signal knows nothing of the changed data",
                expected="an online teacher",
                got=type(source).__name__,
                fix="pass the teacher's model, or Online(model)",
            )
        split = transform.bind(split, plain_module(student), None if source is None else source.model, seed)
    return split


def teacher_on(teacher: OpenTeacher, split: Split, device: torch.device) -> Iterator[Predictions]:
    """The teacher's own predictions on a whole split, batch by batch."""
    for index in torch.split(torch.arange(len(split)), PASS_SIZE):
        batch = next(iter(split.batches([(0, index)], 0))).to(device)
        found = teacher.predictions_for(batch)
        if found is not None:
            yield found


def check_used(reader: Reader, task: Task, batch: Batch) -> None:
    """Raise `ConfigError` naming trained parameters that the loss cannot reach: other processes would wait for their gradient."""
    model = reader.model
    modes = [(module, module.training) for module in model.modules()]
    model.eval()  # statistics must not move
    try:
        with torch.enable_grad(), torch.random.fork_rng(devices=[]):
            output, captured = reader(ModelInputs.of(plain_module(model))(batch))
            found = task.rows(output, captured, batch, head=task.head)
            rows = found.hidden if found.logits is None else found.logits
            assert rows is not None
            reached = [rows, *found.features.values(), *([] if found.explanations is None else [found.explanations])]
            torch.stack([part.float().sum() for part in reached if part.requires_grad]).sum().backward()  # type: ignore[no-untyped-call]
    finally:
        for module, mode in modes:
            module.training = mode
    layer = None if reader.head is None else {id(p) for p in reader.head.parameters()}
    unused = [
        name
        for name, p in model.named_parameters()
        if p.requires_grad and p.grad is None and not (layer is not None and id(p) in layer)
    ]
    for parameter in model.parameters():
        parameter.grad = None
    if unused:
        raise ConfigError(
            f"{len(unused)} parameters of the student get no gradient: multiple processes would wait for it",
            expected="a loss that reaches every parameter that is trained",
            got=", ".join(unused[:6]),
            fix="freeze them, parameter.requires_grad_(False), or leave that part out; one process trains it as it is",
        )
