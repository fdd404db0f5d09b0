"""A run in small, on copies and in a temporary folder: short versions of each task, from which its cost is told."""

from __future__ import annotations

import resource
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from fractionate.data.examples import Examples
from fractionate.diagnosis.examination import diagnose
from fractionate.losses.objective import Objective
from fractionate.page.document import report
from fractionate.records import Diagnosis, Run, Study, Training, Tuning
from fractionate.run.workflow import Workflow
from fractionate.store.collection import collect
from fractionate.study.arms import Arm, make_arms
from fractionate.study.dissection import dissect
from fractionate.study.jobs import JobRunner
from fractionate.study.setup import Setup, affordable_points
from fractionate.study.trials import Trials
from fractionate.study.tuning import tried_arms
from fractionate.tasks.task import Task
from fractionate.teachers.cached import Cached
from fractionate.theory.teacher_signal import TeacherSignal
from fractionate.training.distillation import distill
from fractionate.training.evaluation import evaluate
from fractionate.training.fleet.measurements import measure
from fractionate.training.fleet.setup import VALIDATED_EXAMPLES, StackMember, StackSetup, make_student, model_logits

Seconds = NDArray[np.float64]  # wall, and CPU
FEW, MORE = 4, 24  # steps of the two short trainings
ARMS, TRIES, SEEDS = 40, 4, 50  # timed at most: the cost of a larger study grows in proportion
EVALUATED = 1024  # examples of each split that are timed: one evaluation batch of a real run
LONGEST_TRIAL = 1.0  # seconds in which steps of a study are counted
EXPORT_SECONDS, ONNX_SECONDS = (
    1.8,
    1.9,
)  # of a small student, most of it loading torch's exporters (measured on two cores)
EXPORT_BYTES = 12_500  # of a program beside the weights


@dataclass(frozen=True)
class Cost:
    """What one task will take."""

    what: str
    seconds: Seconds
    disk_bytes: int

    @property
    def cpu_seconds(self) -> float:
        """CPU time of all threads."""
        return float(self.seconds[1])


def clock() -> Seconds:
    """Wall and CPU time."""
    return np.array([time.perf_counter(), time.process_time()])


def timed(work: Callable[[], Any]) -> Seconds:
    """How long some work takes."""
    begin = clock()
    work()
    return clock() - begin


def peak_bytes() -> int:
    """The most memory that this process has held."""
    status = Path("/proc/self/status")
    if status.exists():  # what getrusage says begins with what the process that started this one held
        line = next(line for line in status.read_text(encoding="ascii").splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def weight_bytes(model: nn.Module) -> int:
    """Bytes of weights and buffers."""
    return sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())


def some(data: Examples, most: int = EVALUATED) -> Examples:
    """The first examples."""
    return data.take(torch.arange(min(most, len(data))))


class _Enough(Exception):  # noqa: N818 (no error: it ends a trial)
    pass


@dataclass(frozen=True)
class Timing:
    """The tasks of a run, each timed on first use; None for those already done."""

    workflow: Workflow
    signal: TeacherSignal
    network: nn.Module
    folder: Path

    def _done(self, *names: str) -> bool:
        return any((Path(self.workflow.run.out) / name).exists() for name in names)

    def teacher(self) -> Cost | None:
        """Training a teacher."""
        asked = self.workflow.run.teacher
        if asked.weights or self._done("teacher.safetensors"):
            return None
        taught = self.workflow.taught
        training = Training(
            steps=asked.steps, batch_size=64, learning_rate=asked.learning_rate, weight_decay=asked.weight_decay
        )
        seconds = self._training(self.network, taught, None, training)
        what = f"train {asked.model} for {asked.steps:,} steps on {len(taught):,} examples"
        return Cost(what, seconds, weight_bytes(self.network) + 100 * len(self.network.state_dict()))

    def collect(self) -> Cost | None:
        """Asking the teacher: two small stores of a network that was not trained tell what a row takes."""
        transfer = self.workflow.parts.transfer
        if self._done("store/head.json"):
            return None
        took, sizes = [], []
        counts = [max(1, min(len(transfer), most)) for most in (EVALUATED // 4, EVALUATED // 2)]
        for number, count in enumerate(counts):
            out = self.folder / f"store-{number}"
            part = some(transfer, count)
            begin = clock()
            collect(self.network, part, out)
            took.append(clock() - begin)
            sizes.append(sum(file.stat().st_size for file in out.rglob("*") if file.is_file()))
        what = f"ask it about {len(transfer):,} examples of {transfer.classes} classes"
        seconds, size = took[-1], float(sizes[-1])
        if counts[0] < counts[1]:
            further = (len(transfer) - counts[1]) / (counts[1] - counts[0])
            seconds = seconds + further * np.maximum(took[1] - took[0], 0)
            size += further * (sizes[1] - sizes[0])
        return Cost(what, seconds, int(size))

    @cached_property
    def diagnosed(self) -> Diagnosis:
        """What diagnose says of the drawn signal: as long as what it will say of the real one, about."""
        workflow, parts = self.workflow, self.workflow.parts
        transfer, held_out = some(parts.transfer), some(parts.validation)
        drawn = torch.randn(len(held_out), held_out.classes, generator=torch.Generator().manual_seed(1))
        return diagnose(
            self.signal.take(torch.arange(len(transfer))),
            workflow.new_student(),
            name=workflow.run.name,
            class_names=transfer.class_names,
            data=transfer,
            held_out=TeacherSignal(drawn, held_out.labels),
            objective=workflow.objective_asked,
        )

    def diagnose(self) -> Cost | None:
        """The probes, and a pilot where one is asked for."""
        workflow, examples = self.workflow, len(self.workflow.parts.transfer)
        if self._done("diagnosis.json"):
            return None
        seconds = timed(lambda: self.diagnosed) * max(1.0, examples / EVALUATED)
        minutes = workflow.run.diagnosis.pilot_minutes if workflow.pilot_minutes is None else workflow.pilot_minutes
        what = "spectrum, findings and recipe" + (f", a pilot of at most {minutes:g} min" if minutes else "")
        return Cost(what, seconds + 60 * minutes, len(self.diagnosed.to_json().encode()))

    @cached_property
    def few_settings(self) -> dict[str, Any]:
        """The settings of the study; those of one with few arms and tries, where it has many."""
        settings = dict(self.workflow.study_settings)
        tune: Tuning | None = settings["tune"]
        if (
            tune is not None
            and len(tune.temperatures) * len(tune.teacher_weights) * max(1, len(tune.learning_rates)) > TRIES
        ):
            settings["tune"] = replace(tune, temperatures=tune.temperatures[:2], teacher_weights=tune.teacher_weights[:2],
                                       learning_rates=tune.learning_rates[:1])  # fmt: skip
        if len(self._arms(settings)) > ARMS:
            settings["cells"] = settings["cells"][:ARMS]
            for name in ("teacher_weights", "share", "divergence", "learning_rates"):
                settings[name] = settings[name] and settings[name][:1]
            settings["temperatures"] = settings["temperatures"][: max(1, ARMS // len(settings["cells"]))]
        return settings

    def _arms(self, settings: dict[str, Any]) -> tuple[Arm, ...]:
        rates = settings["learning_rates"] or (self.workflow.training.learning_rate,)
        cells, temperatures, weights = settings["cells"], settings["temperatures"], settings["teacher_weights"]
        return make_arms(cells, temperatures, weights, settings["share"], rates, settings["divergence"])

    def _students(self, settings: dict[str, Any], seeds: int) -> tuple[int, int]:
        """How many students a study trains, and how many more its tuning."""
        arms, tune = self._arms(settings), settings["tune"]
        tried = {} if tune is None else tried_arms(arms, tune, self.workflow.training)
        return len(arms) * seeds, sum(map(len, tried.values())) * (0 if tune is None else tune.seeds)

    def _dissect(self, seeds: int) -> Study:
        workflow = self.workflow
        validation, test = some(workflow.parts.validation), some(workflow.parts.test)
        return dissect(
            workflow.new_student,
            workflow.parts.transfer,
            self.signal,
            **self.few_settings | {"seeds": seeds},
            training=replace(workflow.training, steps=1, epochs=None),
            validation=validation,
            test=test,
            progress="off",
            out=self.folder / f"study-{seeds}-{time.perf_counter_ns()}",
            name=workflow.run.name,
        )

    @cached_property
    def studied(self) -> tuple[Study, Seconds, Seconds]:
        """The study of one step, grown to the seeds (50 at most) and measurements of the real one; what its first start takes
        more than others, and what all but the steps of its students takes."""
        workflow = self.workflow
        cold = timed(lambda: self._dissect(2))
        two, three = timed(lambda: self._dissect(2)), clock()
        small = self._dissect(3)
        another = np.maximum(clock() - three - two, 0.2 * two)
        seeds = workflow.run.study.seeds
        measured = self._points(len(workflow.parts.transfer))
        runs = tuple(replace(run, history=run.history * measured) for run in small.runs[::3])
        shown = range(min(seeds, SEEDS))
        grown = tuple(replace(run, seed=seed) for run in runs for seed in shown)
        return replace(small, seeds=tuple(shown), runs=grown), cold - two, two + (seeds - 2) * another

    def _points(self, examples: int) -> int:
        return affordable_points(self.workflow.training, examples, len(self.workflow.parts.validation))

    def dissect(self) -> Cost | None:
        """A study: what every student takes beside its steps, and the steps of one group, tried for a second at most."""
        workflow, asked = self.workflow, self.workflow.run.study
        if self._done("study.json"):
            return None
        arms = self._arms(workflow.study_settings)
        students, tries = self._students(workflow.study_settings, asked.seeds)
        timed = sum(self._students(self.few_settings, asked.seeds))
        study, first, seconds = self.studied
        transfer = workflow.parts.transfer
        steps = workflow.training.steps_for(len(transfer))
        points = self._points(len(transfer))
        step, point, row = self._step_and_point(arms[:ARMS], points)
        further = sum(max(0, len(part) - EVALUATED) for part in (workflow.parts.validation, workflow.parts.test))
        share = statistics.mean(arm.share for arm in arms)
        each = (steps * share - 1) * step + (points - 1) * point + further * row
        what = f"{len(arms)} arms × {asked.seeds} seeds = {students:,} students of {steps:,} steps"
        if tries:
            what += f", tuned by {tries:,} more"
        workers = workflow.workers if isinstance(workflow.workers, int) else 1
        speed = np.array([max(1, workers), 1])
        # every run in a file of its own, then all of them in one, and the study once more in its folder
        run = sum(len(run.to_json().encode()) + 1 for run in study.runs) / max(1, len(study.runs))
        size = (students + tries) * run + 2 * len(study.to_json().encode()) * students / max(1, len(study.runs))
        seconds = first + seconds * (students + tries) / timed + (students + tries) * each
        return Cost(what, seconds / speed, int(size))

    def _step_and_point(self, arms: tuple[Arm, ...], points: int) -> tuple[Seconds, Seconds, Seconds]:
        """What a student's step, a measurement of it, and looking at one more example take."""
        workflow, transfer = self.workflow, self.workflow.parts.transfer
        validation = some(workflow.parts.validation, VALIDATED_EXAMPLES)
        stack_setup = StackSetup(
            {0: transfer, 1: transfer}, {0: self.signal, 1: self.signal}, workflow.training, validation, None, points
        )
        task = Task("classification", transfer=transfer, validation=validation, student=workflow.new_student)
        setup = Setup(task, Cached(self.signal), {}, {}, points=points)
        job = next(Trials(setup).jobs([replace(arm, share=1.0) for arm in arms], [0]))
        stamps: list[Seconds] = []

        def advance(_: int) -> None:
            stamps.append(clock())
            if len(stamps) > 8 and (stamps[-1] - stamps[0])[0] > LONGEST_TRIAL:
                raise _Enough

        try:
            for _ in JobRunner(setup).work(job, advance):
                break
        except _Enough:
            pass
        # by then all shapes of batches have been met; fewer steps than an epoch tell what they can
        each = np.diff(np.array(stamps), axis=0)
        settled = each[min(-(-len(transfer) // workflow.training.batch_size), len(each) // 2) :]
        step = (settled.mean(axis=0) if len(settled) else np.zeros(2)) / len(job.group)
        objectives = [arm.recipe_for(0).objective for arm in arms]
        taught = StackMember("taught", 0, next((objective for objective in objectives if objective is not None), None))
        model = make_student(workflow.new_student, 0)
        probe, seen = transfer.inputs[stack_setup.probe], validation.inputs
        row = min((timed(lambda: model_logits(model, seen)) for _ in range(3)), key=lambda took: float(took[0]))

        def look() -> None:
            measure(stack_setup, taught, 0, 1.0, model, model_logits(model, probe), model_logits(model, seen))

        look()
        point = min((timed(look) for _ in range(3)), key=lambda took: float(took[0]))
        return step, point, row / len(seen)

    def _training(
        self, model: nn.Module, data: Examples, objective: Objective | None, training: Training, **more: Any
    ) -> Seconds:
        """A training by the real engine, from two short ones."""
        asked: dict[str, Any] = {"objective": objective} if objective is not None else {}
        signal = self.signal if objective is not None else None
        took = []
        steps = training.steps_for(len(data))
        weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        more_steps = max(FEW + 1, min(MORE, steps))
        for few in (FEW, FEW, more_steps):  # the first one loads what the others have
            short = replace(training, steps=few, epochs=None, evaluate_every=None, patience=None, keep="last")
            begin = clock()
            distill(model, data, signal, training=short, log_every=MORE, show="nothing", **asked, **more)
            took.append(clock() - begin)
            model.load_state_dict(weights)
        step = np.maximum(took[2] - took[1], 0) / (more_steps - FEW)
        return np.maximum(took[0], FEW * step) + (steps - FEW) * step

    def distill(self) -> Cost | None:
        """The one student, its looks at held-out data, and its hand-over."""
        workflow, parts, asked = self.workflow, self.workflow.parts, self.workflow.run.distill
        if self._done("student/run.json"):
            return None
        objective, training = workflow.objective_asked or Objective(), workflow.distill_training
        student = workflow.new_student()
        settings = {"recompute": asked.recompute, "compile_mode": asked.compile_mode, "out": None}
        seconds = self._training(student, parts.transfer, objective, training, **settings)
        steps = training.steps_for(len(parts.transfer))
        every = asked.evaluate_every or -(-len(parts.transfer) // training.batch_size)
        looks = steps // every if asked.evaluate_every or asked.patience or asked.keep == "best" else 0
        seen = some(parts.test)
        evaluate(student, seen)
        row = timed(lambda: evaluate(student, seen)) / len(seen)
        seconds = seconds + row * ((looks + 1) * len(parts.validation) + len(parts.test))
        export = workflow.run.export
        seconds = seconds + EXPORT_SECONDS * export.program + ONNX_SECONDS * export.onnx
        size = weight_bytes(student) + 100 * len(student.state_dict())
        last = size * (training.keep == "best")  # the weights after the last step, beside the best
        programs = export.program * (size + EXPORT_BYTES) + export.onnx * size
        rows = 190 * min(steps, steps // (asked.log_every or max(1, steps // 100))) + 420 * looks
        chosen = f"{objective.cell}" if workflow.objective_asked else "the recipe of diagnose"
        what = f"{workflow.run.student.model} with {chosen}, {steps:,} steps, and hand it over"
        records = 2 * len(self.run.to_json().encode()) + 1800  # in both folders, and the model card
        return Cost(what, seconds, 2 * size + last + programs + rows + records)

    @cached_property
    def run(self) -> Run:
        """A record of a student as long as the real one's, about."""
        objective = self.workflow.objective_asked or Objective()
        steps = self.workflow.training.steps_for(len(self.workflow.parts.transfer))
        rows = steps // (self.workflow.run.distill.log_every or max(1, steps // 100))  # as many as the real one has
        few = replace(self.workflow.training, steps=max(1, min(rows, 200)), epochs=None)
        part, said = some(self.workflow.parts.transfer, 64), self.signal.take(torch.arange(min(64, len(self.signal))))
        _, made = distill(
            self.workflow.new_student(), part, said, objective=objective, training=few, validation=part, test=part,
            log_every=1, out=self.folder / "student", show="nothing",
        )  # fmt: skip
        return made

    def report(self) -> Cost | None:
        """The page of the timed copies."""
        study = self.studied[0]
        out = self.folder / "report.html"
        seconds = timed(lambda: report([self.diagnosed, study, self.run], out))
        return Cost("the page", seconds, out.stat().st_size)
