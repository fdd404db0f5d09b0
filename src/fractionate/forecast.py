"""What a run file will do and what it will cost, told before the teacher is asked: `--dry-run`."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import nn

from fractionate.chain import Chain
from fractionate.diagnosis.preflight import preflight
from fractionate.engine.memory import foresee
from fractionate.errors import MismatchError
from fractionate.objective import Objective
from fractionate.record import Record
from fractionate.records import Training
from fractionate.sources.examples import Examples
from fractionate.sources.names import find_model
from fractionate.sources.weights import read_weights
from fractionate.store import Form, estimate
from fractionate.study import dissect
from fractionate.teacher import TeacherSignal

TRIED_STEPS = (2, 12)  # two short studies tell what a step and what the rest costs
RECORD_BYTES = 30_000  # a run of a study on the disk, about; single records and the page take some more
PAGE_BYTES = 350_000


@dataclass(frozen=True)
class Task(Record):
    """One thing a run will do: what, for how long, and what it leaves on the disk."""

    name: str
    what: str
    wall_seconds: float
    disk_bytes: int

    def __str__(self) -> str:
        return f"{self.name:<10} {self.what:<58} {_time(self.wall_seconds):>10} {self.disk_bytes / 2**20:>10,.2f} MiB"


@dataclass(frozen=True)
class Forecast(Record):
    """What a run file will do, in its order, and the memory its largest step adds to the process."""

    name: str
    tasks: tuple[Task, ...]
    memory_bytes: int
    """None of this has been done: names, shapes and settings have been checked, and a few steps taken on copies."""

    @property
    def wall_seconds(self) -> float:
        """All of it, on this machine as busy as it is now."""
        return sum(task.wall_seconds for task in self.tasks)

    @property
    def disk_bytes(self) -> int:
        """All that will be written."""
        return sum(task.disk_bytes for task in self.tasks)

    def __str__(self) -> str:
        total = Task("in all", f"memory {self.memory_bytes / 2**20:,.0f} MiB", self.wall_seconds, self.disk_bytes)
        return "\n".join([f"{self.name}: what would be done", *(f"  {task}" for task in (*self.tasks, total))])


def _time(seconds: float) -> str:
    return f"{seconds:,.1f} s" if seconds < 120 else f"{seconds / 60:,.1f} min"


Verb = Literal["collect", "diagnose", "dissect", "distill", "report"]


def forecast(chain: Chain, verb: Verb = "report") -> Forecast:
    """Check everything a run needs, try a few steps of each training on copies, and tell what all of it will take.

    Reads the data and builds the networks; asks no teacher and writes nothing. Raises what the run itself would raise for
    names, shapes, labels, weights and settings that do not fit.
    """
    parts = chain.parts
    transfer = parts.transfer
    student = chain.new_student()
    _check_logits(student, transfer, "student")
    tasks = [*_teacher(chain), *_study(chain), *_student(chain)]
    need = foresee(student, transfer.inputs[: chain.training.batch_size], chain.training)
    students = len(chain.run.study.cells) * chain.run.study.seeds  # of one arm's temperatures; a fleet holds them all
    weights = sum(p.numel() * p.element_size() for p in student.parameters())
    return Forecast(
        name=chain.run.name,
        tasks=tuple(tasks),
        memory_bytes=(0 if need is None else need.total_bytes) + 4 * weights * students + _signal_bytes(transfer),
    )


def _signal_bytes(transfer: Examples) -> int:
    return len(transfer) * transfer.classes * 4


def _check_logits(model: nn.Module, data: Examples, who: str) -> None:
    with torch.no_grad():
        logits = model.eval()(data.inputs[:2])
    if not isinstance(logits, torch.Tensor) or logits.shape != (min(2, len(data)), data.classes):
        got = f"logits {list(logits.shape)}" if isinstance(logits, torch.Tensor) else type(logits).__name__
        raise MismatchError(f"the {who} does not fit the data", expected=f"logits [2, {data.classes}]", got=got)


def _stand_in(data: Examples) -> TeacherSignal:
    """A signal of the right shape that no teacher gave."""
    draw = torch.Generator().manual_seed(0)
    return TeacherSignal(torch.randn(len(data), data.classes, generator=draw), data.labels)


def _teacher(chain: Chain) -> list[Task]:
    asked, transfer = chain.run.teacher, chain.parts.transfer
    torch.manual_seed(asked.seed)
    model = find_model(asked.model)(transfer.inputs.shape[1:], transfer.classes)
    _check_logits(model, transfer, "teacher")
    tasks = []
    if asked.weights:
        given = read_weights(asked.weights)
        if set(given) != set(model.state_dict()):
            raise MismatchError(f"the weights in {asked.weights} are not those of {asked.model}")
    else:
        taught = (chain.parts.teaching if asked.train_on == "teaching" else transfer) or transfer
        tried = preflight(
            model, taught, _stand_in(taught), objective=Objective(), training=Training(batch_size=64), steps=5
        )
        size = sum(t.numel() * t.element_size() for t in model.state_dict().values())
        what = f"train {asked.model} for {asked.steps:,} steps on {len(taught):,} examples"
        tasks.append(Task("teacher", what, asked.steps * tried.step_seconds, size))
    begin = time.perf_counter()
    with torch.no_grad():
        model.eval()(transfer.inputs[:256])
    seconds = (time.perf_counter() - begin) * -(-len(transfer) // 256)
    form = Form("dense", transfer.classes, dtype="float32")
    what = f"ask it about {len(transfer):,} examples of {transfer.classes} classes"
    return [*tasks, Task("collect", what, seconds, estimate(form, len(transfer)))]


def _study(chain: Chain) -> list[Task]:
    asked, parts = chain.run.study, chain.parts
    took = []
    for steps in TRIED_STEPS:
        begin = time.perf_counter()
        tried = dissect(
            chain.new_student,
            parts.transfer,
            _stand_in(parts.transfer),
            cells=asked.cells,
            temperatures=asked.temperatures,
            teacher_weights=asked.teacher_weights,
            seeds=asked.seeds,
            training=replace(chain.training, steps=steps, epochs=None),
            validation=parts.validation,
            test=parts.test,
            metric=asked.metric,
            margin=asked.margin,
            progress="off",
        )
        took.append(time.perf_counter() - begin)
    few, more = TRIED_STEPS
    steps = chain.training.steps_for(len(parts.transfer))
    a_step = max(0.0, took[1] - took[0]) / (more - few)
    seconds = max(took[0] - few * a_step, 0.0) + steps * a_step
    what = f"{len(tried.arms)} arms × {len(tried.seeds)} seeds = {len(tried.runs)} students of {steps:,} steps"
    return [Task("dissect", what, seconds, RECORD_BYTES * len(tried.runs))]


def _student(chain: Chain) -> list[Task]:
    transfer, student = chain.parts.transfer, chain.new_student()
    objective = chain.objective_asked or Objective()
    tried = preflight(student, transfer, _stand_in(transfer), objective=objective, training=chain.training, steps=5)
    size = sum(t.numel() * t.element_size() for t in student.state_dict().values())
    chosen = f"{objective.cell}" if chain.objective_asked else "the recipe of diagnose"
    what = f"{chain.run.student.model} with {chosen}, {tried.steps:,} steps"
    return [Task("distill", what, tried.wall_seconds, size + PAGE_BYTES)]
