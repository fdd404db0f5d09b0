"""What is wrong with a run file's data, teacher, student and folder, found before a teacher is asked or a step is taken."""

from __future__ import annotations

import copy
import errno
import os
from pathlib import Path

import torch
from torch import nn

from fractionate.data.examples import Examples
from fractionate.errors import ConfigError, FractionateError, MismatchError, NumericsError, ResourceError, reason
from fractionate.models.names import find_model
from fractionate.models.weights import load_weights, read_weights
from fractionate.records import Training
from fractionate.run.resources import check_extras
from fractionate.run.workflow import Workflow
from fractionate.store.checks import check_data
from fractionate.store.keys import Keyed
from fractionate.store.reading import Store
from fractionate.system.atomic import refused
from fractionate.teachers.source import no_better_than_chance
from fractionate.theory.teacher_signal import TeacherSignal, check_finite
from fractionate.training.memory import check_memory, estimate_memory
from fractionate.training.recompute import recomputed

PROBED = 256  # examples on which a teacher that comes trained is looked at


def check_run(workflow: Workflow) -> tuple[TeacherSignal, nn.Module, tuple[str, ...]]:
    """Look at everything a run needs; gives a signal that no teacher gave, the teacher's network, and remarks.

    Raises what the run itself would raise later, and `ResourceError` for a step that cannot fit into memory.
    """
    check_extras(workflow.run)
    workflow.check_folder()
    _check_writable(Path(workflow.run.out))
    parts = workflow.parts
    transfer = parts.transfer
    for part in (transfer, parts.validation, parts.test):
        _check_like(part, transfer)
    source = Keyed.of(transfer)  # refuses ids that are there twice
    if (Path(workflow.run.out) / "store" / "head.json").exists():
        check_data(Store.open(Path(workflow.run.out) / "store"), source)
    student = workflow.new_student()
    training = workflow.distill_training
    _check_memory(student, transfer, training)
    logits = _logits(student, transfer, "student")
    with recomputed(student, workflow.run.distill.recompute):
        _check_last_batch(student, transfer, training.micro_batch_size or training.batch_size)
    teacher, said, remarks = _teacher(workflow)
    masked, ruled_out = torch.isneginf(said).all(dim=0), torch.isneginf(logits).any(dim=0)
    if bool((ruled_out & ~masked).any()):
        raise NumericsError(
            "the student rules out classes that the teacher does not",
            expected="logits above -inf", got=f"-inf for classes {ruled_out.nonzero().flatten().tolist()[:8]}",
            fix="mask the same classes in the teacher, or none: the divergence would be infinite",
        )  # fmt: skip
    check_finite(logits, torch.arange(len(logits)))
    drawn = torch.randn(len(transfer), transfer.classes, generator=torch.Generator().manual_seed(0))
    return TeacherSignal(drawn.masked_fill(masked, -torch.inf), transfer.labels), teacher, remarks


def _check_writable(out: Path) -> None:
    place = out
    while not place.exists() and place != place.parent:
        place = place.parent
    if not place.is_dir() or not os.access(place, os.W_OK):
        raise refused(out, OSError(errno.EACCES if place.is_dir() else errno.ENOTDIR, os.strerror(errno.ENOTDIR)))


def _check_like(part: Examples, transfer: Examples) -> None:
    if part.inputs.shape[1:] != transfer.inputs.shape[1:] or part.classes != transfer.classes:
        raise MismatchError(
            "the parts of the data are not of one kind",
            expected=f"inputs {list(transfer.inputs.shape[1:])}, {transfer.classes} classes",
            got=f"inputs {list(part.inputs.shape[1:])}, {part.classes} classes",
        )


def _check_memory(student: nn.Module, data: Examples, training: Training) -> None:
    size = min(training.micro_batch_size or training.batch_size, len(data))
    need = estimate_memory(student, data.inputs[:size], training, copies=training.average_decay is not None)
    check_memory(need, torch.device("cpu"))


def _logits(model: nn.Module, data: Examples, who: str, rows: int = 2) -> torch.Tensor:
    """What a model gives for a few examples. Raises `MismatchError` for anything but floating-point logits [rows, classes]."""
    rows = min(rows, len(data))
    expected = f"floating-point logits [{rows}, {data.classes}]"
    try:
        with torch.no_grad():
            logits = model.eval()(data.inputs[:rows])
    except FractionateError:
        raise
    except Exception as error:  # a model of the person's own may raise anything
        if isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "can't allocate memory" in str(error):
            raise ResourceError(
                f"the {who} does not fit into memory, not even with {rows} examples",
                got=reason(error),
            ) from error
        raise MismatchError(
            f"the {who} cannot take these inputs",
            expected=f"inputs {list(data.inputs.shape[1:])} of {data.inputs.dtype}",
            got=reason(error, 300),
        ) from error
    if not isinstance(logits, torch.Tensor):
        raise MismatchError(
            f"the {who} does not give logits", expected=expected, got=type(logits).__name__,
            fix="wrap it in a module whose forward gives the logits alone",
        )  # fmt: skip
    if logits.shape != (rows, data.classes) or not logits.is_floating_point() or logits.layout != torch.strided:
        raise MismatchError(
            f"the {who} does not fit the data",
            expected=expected, got=f"{logits.dtype} {list(logits.shape)}, {logits.layout}",
            fix="give it as many outputs as there are classes, in their order",
        )  # fmt: skip
    return logits


def _check_last_batch(model: nn.Module, data: Examples, size: int) -> None:
    """Raise `ConfigError` where an epoch has a batch of one example that batch normalisation cannot take."""
    if size > 1 and len(data) % size != 1:
        return
    trial = copy.deepcopy(model).train()
    try:
        trial(data.inputs[:1])
    except ValueError as error:
        if "Expected more than 1 value per channel" in str(error):
            raise ConfigError(
                "batch normalisation will meet a batch of one example",
                expected="at least two examples in every batch and piece", got=f"{len(data)} examples in batches of {size}",
                fix="choose a batch_size, micro_batch_size or number of examples that leaves no remainder of one",
            ) from error  # fmt: skip
        raise


def _teacher(workflow: Workflow) -> tuple[nn.Module, torch.Tensor, tuple[str, ...]]:
    """The teacher's network, some logits of it, and remarks on one that comes trained."""
    asked, transfer = workflow.run.teacher, workflow.parts.transfer
    torch.manual_seed(asked.seed)
    model = find_model(asked.model)(transfer.inputs.shape[1:], transfer.classes)
    if not asked.weights:
        taught = workflow.taught
        said = _logits(model, transfer, "teacher")
        _check_last_batch(model, taught, 64)
        return model, said, ()
    given = read_weights(asked.weights)
    if set(given) != set(model.state_dict()):
        raise MismatchError(f"the weights in {asked.weights} are not those of {asked.model}")
    load_weights(model, given, asked.weights)
    for name, value in given.items():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise NumericsError(
                f"{asked.weights} holds numbers that are not finite", expected="finite weights", got=name,
                fix="take an earlier checkpoint of the teacher",
            )  # fmt: skip
    said = _logits(model, transfer, "teacher", PROBED)
    check_finite(said, torch.arange(len(said)))
    remark = no_better_than_chance(TeacherSignal(said, transfer.labels[: len(said)]))
    return model, said, (remark,) if remark else ()
