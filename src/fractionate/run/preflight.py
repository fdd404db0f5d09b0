"""What is wrong with a run file's data, teacher, student and folder, found before a teacher is run or a step is taken."""

from __future__ import annotations

import copy
import errno
import os
from pathlib import Path

import torch
from torch import Tensor, nn

from fractionate.data.batch import Split
from fractionate.data.parts import subset
from fractionate.errors import ConfigError, FractionateError, MismatchError, NumericsError, ResourceError, reason
from fractionate.models.outputs import call
from fractionate.records import Training
from fractionate.run.folder import check_folder
from fractionate.run.resources import check_extras
from fractionate.run.workflow import Workflow
from fractionate.store.checks import check_data
from fractionate.store.keys import Keyed
from fractionate.store.reading import Store
from fractionate.system.atomic import refused
from fractionate.tasks.predictions import Predictions
from fractionate.tasks.task import Task
from fractionate.teachers.source import no_better_than_chance
from fractionate.theory.teacher_signal import TeacherSignal, check_finite
from fractionate.training.memory import check_memory, estimate_memory
from fractionate.training.recompute import recomputed
from fractionate.training.student import make_student

FEW, PROBED = 2, 256  # examples on which models are tried; and a teacher that comes trained


def check_run(workflow: Workflow) -> tuple[nn.Module, nn.Module, tuple[str, ...]]:
    """Check everything a run needs; gives the prepared student, the teacher's network, and remarks.

    Raises what the run itself would raise later, and `ResourceError` for a step that cannot fit into memory.
    """
    check_extras(workflow.run)
    check_folder(workflow)
    _check_writable(Path(workflow.run.out))
    task = workflow.task
    transfer = task.splits.transfer
    source = Keyed.of(transfer)  # refuses ids that are there twice
    if (Path(workflow.run.out) / "store" / "head.json").exists():
        check_data(Store.open(Path(workflow.run.out) / "store"), source)
    teacher = workflow.given_teacher
    with workflow.written_in("student.prepare"):
        student = make_student(task, workflow.recipe(None, workflow.training), None, workflow.run.seed)
    training = workflow.distill_training
    _check_memory(task, student, training)
    with workflow.written_in("student.model"):
        ours = _tried(task, student, "student", FEW)
    with recomputed(student, workflow.run.distill.recompute):
        _check_last_batch(task, student, len(transfer), training.micro_batch_size or training.batch_size)
    with workflow.written_in("teacher.model"):
        theirs, remarks = _teacher(workflow, teacher)
    if task.reader.distributions:
        _check_outputs(task, ours, theirs)
    return student, teacher, remarks


def _check_writable(out: Path) -> None:
    place = out
    while not place.exists() and place != place.parent:
        place = place.parent
    if not place.is_dir() or not os.access(place, os.W_OK):
        raise refused(out, OSError(errno.EACCES if place.is_dir() else errno.ENOTDIR, os.strerror(errno.ENOTDIR)))


def _check_memory(task: Task, student: nn.Module, training: Training) -> None:
    size = training.micro_batch_size or training.batch_size
    inputs = task.inputs_of(student, task.example(size=size).to(torch.device(task.device)))
    need = estimate_memory(student, inputs, training, copies=training.average_decay is not None)
    check_memory(need, torch.device(task.device))


def _tried(task: Task, model: nn.Module, who: str, rows: int, split: Split | None = None) -> Predictions:
    """A model's predictions on a few examples.

    Raises `MismatchError` for inputs it cannot take and for anything but floating-point logits of the data's classes.
    """
    split = task.splits.transfer if split is None else split
    few = subset(split, torch.arange(min(rows, len(split))))
    head, view = (task.head, "") if who == "student" else (task.teacher_head, "teacher")
    try:
        found = next(iter(task.predictions(model, few, head=head, view=view)))
    except FractionateError:
        raise
    except Exception as error:  # a model of the person's own may raise anything
        if isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "can't allocate memory" in str(error):
            raise ResourceError(
                f"the {who} does not fit into memory, not even with {len(few)} examples", got=reason(error)
            ) from error
        raise MismatchError(f"the {who} cannot take these inputs", got=reason(error, 300)) from error
    logits = found.required_logits
    classes = len(task.class_names) or logits.shape[-1]
    if logits.shape[-1] != classes or not logits.is_floating_point() or logits.layout != torch.strided:
        raise MismatchError(
            f"the {who} does not fit the data",
            expected=f"floating-point logits [{len(found)}, {classes}]",
            got=f"{logits.dtype} {list(logits.shape)}, {logits.layout}",
            fix="give it as many outputs as there are classes, in their order",
        )
    if who == "student" and task.reader.distributions:
        task.reader.check_labels(found, classes)
    return found


def _check_outputs(task: Task, ours: Predictions, theirs: Predictions) -> None:
    """Raise `MismatchError` where teacher and student have other classes, `NumericsError` where the student rules some out."""
    student, teacher = ours.required_logits.float().cpu(), theirs.required_logits.float().cpu()
    if student.shape[-1] != teacher.shape[-1]:
        raise MismatchError(
            "student and teacher have different classes",
            expected=f"{teacher.shape[-1]} outputs, as the teacher",
            got=f"{student.shape[-1]}",
            fix="give the student the teacher's classes",
        )
    ruled_out: Tensor = torch.isneginf(student).any(dim=0) & ~torch.isneginf(teacher).all(dim=0)
    if bool(ruled_out.any()):
        raise NumericsError(
            "the student rules out classes that the teacher does not",
            expected="logits above -inf",
            got=f"-inf for classes {ruled_out.nonzero().flatten().tolist()[:8]}",
            fix="mask the same classes in the teacher, or none: the divergence would be infinite",
        )
    check_finite(student, torch.arange(len(student)))


def _check_last_batch(task: Task, model: nn.Module, examples: int, size: int) -> None:
    """Raise `ConfigError` where an epoch has a batch of one example that batch normalisation cannot take."""
    if size > 1 and examples % size != 1:
        return
    trial = copy.deepcopy(model).train()
    try:
        call(trial, task.inputs_of(trial, task.example(size=1).to(torch.device(task.device))))
    except ValueError as error:
        if "Expected more than 1 value per channel" in str(error):
            raise ConfigError(
                "batch normalisation will meet a batch of one example",
                expected="at least two examples in every batch and micro-batch",
                got=f"{examples} examples in batches of {size}",
                fix="choose a batch_size, micro_batch_size or number of examples that leaves no remainder of one",
            ) from error
        raise


def _teacher(workflow: Workflow, model: nn.Module) -> tuple[Predictions, tuple[str, ...]]:
    """Some predictions of the teacher's network, and remarks on one that comes trained."""
    task, training = workflow.task, workflow.teacher_training
    if training is not None:
        _check_last_batch(task, model, len(workflow.teaching), training.batch_size)
        return _tried(task, model, "teacher", FEW), ()
    for name, value in model.state_dict().items():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise NumericsError(
                f"the weights of {workflow.run.teacher.weights or workflow.run.teacher.model} are not finite",
                expected="finite weights",
                got=name,
                fix="take an earlier checkpoint of the teacher",
            )
    rows = PROBED if not task.reader.tokens else FEW
    found = _tried(task, model, "teacher", rows)
    if not task.reader.distributions:
        return found, ()
    logits = found.required_logits.float().cpu()
    check_finite(logits, torch.arange(len(logits)))
    remark = no_better_than_chance(TeacherSignal(logits, found.labels.cpu()))
    return found, (remark,) if remark else ()
