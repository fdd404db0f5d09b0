"""What is wrong with a run file's data, models and recipes, found before a folder is made: all at once, with their places."""

from __future__ import annotations

import copy
import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from fractionate.data.batch import Split
from fractionate.data.parts import subset
from fractionate.errors import ConfigError, FractionateError, MismatchError, NumericsError
from fractionate.losses.objective import Objective
from fractionate.models.outputs import call
from fractionate.models.weights import read_weights
from fractionate.run.assembly import Assembly
from fractionate.run.folder import check_folder
from fractionate.run.notable import check_shown
from fractionate.run.resources import check_extras
from fractionate.run.runfile import raise_listed
from fractionate.store.checks import check_data
from fractionate.store.keys import Keyed
from fractionate.store.reading import Store
from fractionate.system.atomic import refused
from fractionate.tasks.fit import find_faults
from fractionate.tasks.task import Task
from fractionate.teachers.online import Online
from fractionate.teachers.source import no_better_than_chance
from fractionate.theory.teacher_signal import TeacherSignal, check_finite
from fractionate.training.distillation import distill
from fractionate.training.memory import check_memory, estimate_memory
from fractionate.training.recipe import Recipe
from fractionate.training.recompute import recomputed
from fractionate.training.step import TypedErrors
from fractionate.training.student import make_student

FEW, PROBED = 8, 256  # examples on which models and recipes are tried; and a teacher that comes trained
MOST_TRIED = 24  # recipes: of the factors of a large study some combinations


def check_run(
    assembly: Assembly, *, probed: int = FEW, remake: bool = False
) -> tuple[nn.Module, nn.Module, tuple[str, ...]]:
    """Check everything a run needs; gives the prepared student, the teacher's network, and remarks.

    Each recipe of the run file trains a copy of the student for one step on a few examples: what the run would refuse after hours
    is refused here.

    Args:
        probed: Examples by which a teacher that comes trained is compared with chance.
        remake: What the folder holds of other settings will be made anew.

    Raises:
        ConfigError: all that does not fit, each with line and column of its key.
        MismatchError: where the folder holds what other settings made.
        ResourceError, DamagedError, NumericsError: the first that is found.
    """
    outdated = check_folder(assembly, remake=remake)
    _check_writable(Path(assembly.run.out))
    faults = _Faults(assembly)
    with faults.at("export" if assembly.run.export.onnx else "distill.trackers"):
        check_extras(assembly.run)
    with faults.at("data.source"):
        task, source = assembly.task, Keyed.of(assembly.task.splits.transfer)  # refuses ids that are there twice
    if faults.found:  # networks are built for data: of these only the weights can be tried
        with faults.at("teacher.weights"):
            _ = assembly.run.teacher.weights and read_weights(assembly.run.teacher.weights)
        faults.raise_all()
    stored = Path(assembly.run.out) / "store"
    if "store" not in outdated and (stored / "head.json").exists():
        check_data(Store.open(stored), source)
    with faults.at("report.examples"):
        check_shown(assembly.run, task, assembly.data)
    models: list[nn.Module] = []
    with faults.at("teacher.model"):
        models.append(assembly.given_teacher)
    with faults.at("data.transfer"):
        _ = assembly.teacher_training and assembly.teaching
    with faults.at("student.model"):
        models.append(task.model("student", assembly.run.seed))
    faults.raise_all()
    teacher, plain = models
    with faults.at("student.prepare"):
        student = make_student(
            task, assembly.recipe(None, assembly.training), Online(teacher), assembly.run.seed, given=plain
        )
    faults.raise_all()
    remarks = _check_models(faults, task, student, teacher, probed)
    faults.raise_all()
    _try_recipes(faults, task, plain, teacher)
    faults.raise_all()
    return student, teacher, remarks


@dataclass(eq=False)
class _Faults:
    """What is wrong so far, by the key of the run file that brought it."""

    assembly: Assembly
    found: list[FractionateError] = field(default_factory=list)

    @contextmanager
    def at(self, *keys: str) -> Iterator[None]:
        """Note a fault, and continue. What is damaged, not finite or too large for the machine is raised at once."""
        try:
            with self.assembly.written_in(*keys):
                yield
        except (ConfigError, MismatchError) as error:
            if error.what not in {other.what for other in self.found}:
                self.found.append(error)

    def raise_all(self) -> None:
        """Raise the fault, or one error that lists them all."""
        raise_listed(self.found)


def _check_models(faults: _Faults, task: Task, student: nn.Module, teacher: nn.Module, probed: int) -> tuple[str, ...]:
    """Student and teacher on the data: the fit of all parts, memory, batches of one, outputs that are not finite. Gives remarks."""
    assembly = faults.assembly
    training = assembly.distill_training
    _check_memory(task, student, assembly)
    with TypedErrors():
        fits, _ = find_faults(task, student, teacher)
    keys = {"student": "student.model", "teacher": "teacher.model"}
    for fault in fits:
        with faults.at(keys.get(fault.part, "metrics" if fault.part.startswith("metric") else "data.source")):
            raise fault.error
    with faults.at("distill.recompute"), recomputed(student, assembly.run.distill.recompute):
        size = training.micro_batch_size or training.batch_size
        with faults.at("training.batch_size"):
            _check_last_batch(task, student, len(task.splits.transfer), size)
    given = assembly.teacher_training
    if given is not None:
        with faults.at("teacher.train.batch_size"):
            _check_last_batch(task, teacher, len(assembly.teaching), given.batch_size)
    if faults.found:
        return ()
    with assembly.written_in("teacher.weights" if assembly.run.teacher.weights else "teacher.model"):
        as_it_comes = given is None and not assembly.drawn_teacher
        remarks = _check_trained(assembly, task, teacher, probed) if as_it_comes else ()
        if task.reader.distributions and not task.reader.tokens:
            _check_ruled_out(task, student, teacher)
    return remarks


def _check_writable(out: Path) -> None:
    place = out
    while not place.exists() and place != place.parent:
        place = place.parent
    if not place.is_dir() or not os.access(place, os.W_OK):
        raise refused(out, OSError(errno.EACCES if place.is_dir() else errno.ENOTDIR, os.strerror(errno.ENOTDIR)))


def _check_memory(task: Task, student: nn.Module, assembly: Assembly) -> None:
    training = assembly.distill_training
    size = training.micro_batch_size or training.batch_size
    with assembly.written_in("student.model"):
        try:
            inputs = task.inputs_of(student, task.example(size=size).to(torch.device(task.device)))
            need = estimate_memory(student, inputs, training, copies=training.average_decay is not None)
        except FractionateError:
            raise
        except Exception:  # a model that cannot read its inputs: what follows says why
            return
        check_memory(need, torch.device(task.device))


def _few(split: Split, most: int = FEW) -> Split:
    return subset(split, torch.arange(min(most, len(split))))


def _logits(task: Task, model: nn.Module, split: Split, view: str = "") -> tuple[Tensor, Tensor]:
    """Logits and labels of a model on a split."""
    head = task.teacher_head if view else task.head
    found = list(task.predictions(model, split, head=head, view=view))
    return torch.cat([each.required_logits.float().cpu() for each in found]), torch.cat(
        [each.labels.cpu() for each in found]
    )


def _check_ruled_out(task: Task, student: nn.Module, teacher: nn.Module) -> None:
    """Raise `NumericsError` where the student rules out classes that the teacher does not."""
    few = _few(task.splits.transfer)
    ours, theirs = _logits(task, student, few)[0], _logits(task, teacher, few, "teacher")[0]
    ruled_out: Tensor = torch.isneginf(ours).any(dim=0) & ~torch.isneginf(theirs).all(dim=0)
    if bool(ruled_out.any()):
        raise NumericsError(
            "the student rules out classes that the teacher does not",
            expected="logits above -inf",
            got=f"-inf for classes {ruled_out.nonzero().flatten().tolist()[:8]}",
            fix="mask the same classes in the teacher, or none: the divergence would be infinite",
        )
    check_finite(ours, torch.arange(len(ours)))


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
                fix="choose a batch_size, micro_batch_size or number of examples that leaves no batch of one",
            ) from error
        raise


def _check_trained(assembly: Assembly, task: Task, model: nn.Module, probed: int) -> tuple[str, ...]:
    """Remarks on a teacher that comes trained. Raises `NumericsError` for weights and outputs that are not finite."""
    for name, value in model.state_dict().items():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise NumericsError(
                f"the weights of {assembly.run.teacher.weights or assembly.run.teacher.model} are not finite",
                expected="finite weights",
                got=name,
                fix="take an earlier checkpoint of the teacher",
            )
    if not task.reader.distributions:
        return ()
    logits, labels = _logits(task, model, _few(task.splits.transfer, FEW if task.reader.tokens else probed), "teacher")
    check_finite(logits, torch.arange(len(logits)))
    remark = no_better_than_chance(TeacherSignal(logits, labels)) if len(labels) > FEW else ""
    return (remark,) if remark else ()


def _try_recipes(faults: _Faults, task: Task, plain: nn.Module, teacher: nn.Module) -> None:
    """One step of each recipe on a few examples, with the teacher's signal stored as the run file stores it."""
    assembly, seed = faults.assembly, faults.assembly.run.seed
    few = replace(
        task,
        transfer=_few(task.splits.transfer),
        validation=None,
        test=None,
        metrics=(),
        student=lambda: copy.deepcopy(plain),
    )
    with tempfile.TemporaryDirectory() as folder:
        with faults.at("collect"):
            store = assembly.collect_from(teacher, few, Path(folder) / "store")
        if faults.found:
            return
        for key, recipe in _recipes(assembly):
            with faults.at(key, "student.model"), TypedErrors():
                source = assembly.source_of(store, teacher, recipe) if recipe.needs_teacher else None
                distill(few, teacher=source, recipe=_one_step(recipe), seed=seed, show="nothing")


def _one_step(recipe: Recipe) -> Recipe:
    training = recipe.training
    micro = training.micro_batch_size
    smaller = None if micro is None or micro >= training.batch_size else FEW // 2
    short = replace(
        training, steps=1, epochs=None, batch_size=min(FEW, training.batch_size), micro_batch_size=smaller,
        evaluate_every=None, patience=None, keep="last",
    )  # fmt: skip
    return replace(recipe, training=short)


def _recipes(assembly: Assembly) -> Iterator[tuple[str, Recipe]]:
    """The recipes of a run file by the key that brings each: parts of the student's alone, then together, then the variants."""
    run, training = assembly.run, assembly.distill_training
    objective = assembly.given_objective
    base = replace(assembly.recipe(objective, training), terms=(), data=())
    if assembly.task.reader.distributions and objective is None:
        base = replace(base, objective=Objective("kd", run.collect.temperatures[0], 0.6))
    yield "distill.loss_from" if training.loss_from == "hidden" else "objective", base
    parts = [(f"terms.{n}", replace(base, terms=(name,))) for n, name in enumerate(run.terms)]
    parts += [(f"transforms.{n}", replace(base, data=(name,))) for n, name in enumerate(run.transforms)]
    yield from parts
    if len(parts) > 1:
        yield parts[0][0].partition(".")[0], replace(base, terms=run.terms, data=run.transforms)
    named = run.study.arms is not None
    tried: set[object] = {base}
    for name, arm in assembly.given_arms.items():
        recipe = arm.recipe
        alike = recipe if named else replace(recipe, training=assembly.training)
        if alike not in tried and len(tried) <= MOST_TRIED:
            tried.add(alike)
            yield f"study.arms.{name}" if named else "study", recipe
