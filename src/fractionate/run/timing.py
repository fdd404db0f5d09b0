"""What each job of a run takes, from short versions of it on copies, in a temporary folder, with a teacher that was not trained."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from fractionate.data.batch import Split
from fractionate.data.parts import subset
from fractionate.diagnosis.examination import diagnose
from fractionate.losses.objective import Objective
from fractionate.page.document import report
from fractionate.records import Diagnosis, Run, Study, Training, Tuning
from fractionate.run.workflow import Workflow
from fractionate.store.reading import Store
from fractionate.study.arms import Arm
from fractionate.study.dissection import dissect
from fractionate.study.setup import affordable_points
from fractionate.study.tuning import tried_arms
from fractionate.tasks.task import Task
from fractionate.teachers.online import Online
from fractionate.teachers.source import TeacherSource
from fractionate.training.distillation import distill
from fractionate.training.recipe import Recipe

Seconds = NDArray[np.float64]  # wall, and CPU
FEW, MORE = 4, 24  # steps of the short trainings: at least, of models that take their time; and at most
NUMBERS = 1 << 21  # logits of the examples that are timed, about
SHORT = 0.5  # CPU seconds that the longer of two short trainings may take, where its steps allow it
LONG = 1.5  # CPU seconds of a diagnosis on half of the few, above which the few are not diagnosed as well
NOISE = 0.3  # of a diagnosis: two that differ by less are equally long
JUDGED = 4  # examples of validation and test data for models that take their time: they may write text
PREPARED = 64  # of prepared students (quantized): slow where their teacher is not
ARMS, SEEDS = 40, 50  # timed at most: the cost of a larger study grows in proportion
EVALUATED = 1024  # examples of each split that are timed at most
SLOW = 0.1  # CPU seconds a forward pass on `FEW` examples may take; above it as few examples as can be are timed
MEASURED = 1.1  # of a study's steps, with the measurements along the training
EXPORT_SECONDS, ONNX_SECONDS = 1.8, 1.9  # of a small student, most of it loading torch's exporters (on two cores)
EXPORT_BYTES = 12_500  # of a program next to the weights


@dataclass(frozen=True)
class Cost:
    """What one job will take."""

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


def weight_bytes(model: nn.Module) -> int:
    """Bytes of weights and buffers."""
    return sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())


def some(split: Split, most: int) -> Split:
    """The first examples."""
    return split if len(split) <= most else subset(split, torch.arange(most))


@dataclass(frozen=True)
class Timing:
    """The jobs of a run, each timed on first use; None for those already done."""

    workflow: Workflow
    student: nn.Module
    network: nn.Module
    folder: Path

    def _done(self, artifact: str, file: str) -> bool:
        return artifact not in self.workflow.outdated and (Path(self.workflow.run.out) / file).exists()

    @cached_property
    def most(self) -> int:
        """How many examples of a split are timed: fewer of models that take their time, or have many classes."""
        task = self.workflow.task
        split = some(task.splits.transfer, FEW)
        took, numbers = np.zeros(2), 0
        for _ in range(2):  # the first pass loads what the second has
            begin = clock()
            made = task.predictions(self.network, split, head=task.teacher_head, view="teacher")
            numbers = sum(each.required_logits.numel() for each in made)
            took = clock() - begin
            if took[1] > 3 * SLOW:
                break
        wide = NUMBERS * FEW / max(1, numbers)
        return int(np.clip(min(SLOW * FEW / max(took[1] / FEW, 1e-9), wide), FEW, EVALUATED))

    @property
    def prepared(self) -> bool:
        """Whether students are not plain models of their kind."""
        return bool(self.workflow.recipe(None, self.workflow.training).preparations)

    @property
    def slow(self) -> bool:
        """Whether models take their time."""
        return self.most < EVALUATED or self.prepared

    @cached_property
    def small(self) -> Task:
        """The run's task with few examples in each split."""
        task = self.workflow.task
        judged = PREPARED if self.prepared else JUDGED if self.slow else self.most
        splits = {name: some(getattr(task.splits, name), judged) for name in ("validation", "test")}
        return replace(task, transfer=some(task.splits.transfer, self.most), **splits)  # type: ignore[arg-type]

    @cached_property
    def store(self) -> Store:
        """What the network gives on the few."""
        return self._collect(self.small, "store")

    def _collect(self, task: Task, name: str) -> Store:
        return self.workflow.collect_from(self.network, task, self.folder / name)

    def _source(self, *recipes: Recipe) -> TeacherSource:
        return self.workflow.source_of(self.store, self.network, *recipes)

    # -- jobs -------------------------------------------------------------------------------------------------------------------

    def teacher(self) -> Cost | None:
        """Training a teacher."""
        workflow, given = self.workflow, self.workflow.teacher_training
        if given is None or self._done("teacher", "teacher.safetensors"):
            return None
        model, data = workflow.new_teacher(), workflow.teaching
        training = Training(
            steps=given.steps,
            batch_size=given.batch_size,
            learning_rate=given.learning_rate,
            weight_decay=given.weight_decay,
        )
        task = replace(self.small, transfer=some(data, self.most), validation=None, test=None, student=lambda: model)
        seconds = self._training(task, Recipe(training=training), given.steps)
        what = f"train {workflow.run.teacher.model} for {given.steps:,} steps on {len(data):,} examples"
        return Cost(what, seconds, weight_bytes(model) + 100 * len(model.state_dict()))

    @cached_property
    def collected(self) -> tuple[Seconds, Seconds, int, float]:
        """Seconds of collecting the few, and of a further example; bytes likewise. Two small stores tell them."""
        took, sizes = [], []
        for name in ("half", "store"):
            begin = clock()
            store = self.store if name == "store" else self.half
            took.append(clock() - begin)
            sizes.append(sum(file.stat().st_size for file in store.path.rglob("*") if file.is_file()))
        rows = max(1, len(self.store) - len(self.half))
        return took[1], np.maximum(took[1] - took[0], 0) / rows, sizes[1], max(0, sizes[1] - sizes[0]) / rows

    @cached_property
    def half(self) -> Store:
        """What the network gives on half of the few."""
        few = some(self.small.splits.transfer, max(1, len(self.small.splits.transfer) // 2))
        return self._collect(replace(self.small, transfer=few), "half")

    def collect(self) -> Cost | None:
        """The teacher's pass."""
        if self._done("store", "store/head.json"):
            return None
        examples = len(self.workflow.task.splits.transfer)
        further = max(0, examples - len(self.small.splits.transfer))
        first, each, size, row = self.collected
        what = f"run it on {examples:,} examples of {self.store.head.classes:,} classes"
        return Cost(what, first + further * each, int(size + further * row))

    def _diagnose(self, store: Store) -> Diagnosis:
        workflow, task = self.workflow, self.small
        return diagnose(
            store,
            name=workflow.run.name,
            class_names=workflow.data.class_names,
            data=replace(task, transfer=some(task.splits.transfer, len(store))),
            held_out=Online(self.network).signal(task, task.splits.validation or task.splits.transfer)
            if task.reader.distributions
            else None,
            objective=workflow.given_objective,
        )

    @cached_property
    def diagnoses(self) -> tuple[Diagnosis, Seconds, Seconds]:
        """The diagnosis of the few, about as long as the real one; its seconds, and those of a further example.

        One that takes long on half of the few is not made a second time: most of its time are trainings of fixed length.
        """
        begin = clock()
        made = self._diagnose(self.half)  # and loads what the other has
        smaller = clock() - begin
        if smaller[1] > LONG:
            return made, smaller, np.zeros(2)
        begin = clock()
        made = self._diagnose(self.store)
        seconds = clock() - begin
        slope = (seconds - smaller) / max(1, len(self.store) - len(self.half))
        return made, seconds, slope if slope[1] * len(self.half) > NOISE * smaller[1] else np.zeros(2)

    def diagnose(self) -> Cost | None:
        """The probes, on a part that no student learns from too, and a pilot where one is wanted."""
        workflow = self.workflow
        if self._done("diagnosis", "diagnosis.json"):
            return None
        further = len(workflow.data.transfer) - len(self.small.splits.transfer)
        _, each, *_ = self.collected
        made, seconds, slope = self.diagnoses
        seconds = seconds + slope * max(0, further) + each * max(0, len(workflow.data.validation) - JUDGED)
        what, plan = "findings and recipe", workflow.pilot_plan
        if plan is not None:
            steps = round(plan.share * workflow.training.steps_for(len(workflow.data.transfer)))
            _, fixed, step = self.studied
            longest = 60 * (plan.minutes or np.inf)
            seconds = seconds + np.minimum(plan.students * (fixed + step * steps), longest)
            what += f", pilot of up to {plan.students} students, {steps:,} steps"
        return Cost(what, seconds, len(made.to_json().encode()))

    @cached_property
    def arms(self) -> dict[str, Arm]:
        """The variants of the study, with stand-ins for the recipe that is not known yet."""
        workflow = self.workflow
        arms = workflow.given_arms
        if not workflow.task.reader.distributions:
            return arms
        usual = [replace(arm, name="T = 4 / 0.9") for arm in workflow.usual]
        recipe = Arm(workflow.recipe(self._objective, workflow.training), name="recipe")
        return arms | {arm.name: arm for arm in (*usual, recipe)}

    @cached_property
    def tries(self) -> int:
        """How many students the tuning of the study trains."""
        tune: Tuning | None = self.workflow.study_settings["tune"]
        if tune is None:
            return 0
        return sum(map(len, tried_arms(tuple(self.arms.values()), tune, self.workflow.training).values())) * tune.seeds

    def _dissect(self, arms: dict[str, Arm], steps: int, name: str) -> Study:
        short = {}
        for key, arm in arms.items():
            training = replace(arm.recipe.training, steps=steps, epochs=None)
            short[key] = replace(arm, share=1.0, recipe=replace(arm.recipe, training=training))
        settings = self.workflow.study_settings | {"seeds": 2, "tune": None}
        source = self._source(*(arm.recipe for arm in arms.values()))
        out = self.folder / f"study-{name}"
        return dissect(
            self.small, arms=short, teacher=source, **settings, out=out, progress="off", name=self.workflow.run.name
        )

    @cached_property
    def studied(self) -> tuple[Study, Seconds, Seconds]:
        """A study of few steps, grown to the seeds and measurements of the real one; seconds of a student, and of a step of one."""
        workflow = self.workflow
        arms = dict(islice(self.arms.items(), 2 if self.slow else ARMS))
        students = 2 * len(arms)
        made: list[Study] = []

        def study(steps: int) -> None:
            made.append(self._dissect(arms, steps, str(len(made))))

        took = self._warm(lambda: study(1))
        more = self._longer(took[-1] / students, 1)
        took.append(timed(lambda: study(more)))
        step = np.maximum(took[-1] - took[-2], 0) / (students * (more - 1))
        fixed = np.maximum(took[-2] / students - step, 0)
        seeds = range(min(workflow.run.study.seeds, SEEDS))
        points = affordable_points(workflow.training, len(workflow.data.transfer), len(workflow.data.validation))
        runs = tuple(replace(run, history=run.history * points) for run in made[-2].runs[::2])
        grown = tuple(replace(run, seed=seed) for run in runs for seed in seeds)
        step = step * self._whole(workflow.training.batch_size)
        return replace(made[-2], seeds=tuple(seeds), runs=grown), fixed, step

    def dissect(self) -> Cost | None:
        """A study: what every student takes apart from its steps, and the steps."""
        workflow, given = self.workflow, self.workflow.run.study
        if self._done("study.json", "study.json"):
            return None
        arms = list(self.arms.values())
        students = len(arms) * given.seeds
        steps = [arm.recipe.training.steps_for(max(1, round(arm.share * len(workflow.data.transfer)))) for arm in arms]
        study, fixed, step = self.studied
        what = f"{len(arms)} variants × {given.seeds} seeds = {students:,} students of {max(steps):,} steps"
        what += f", tuned by {self.tries:,} more" if self.tries else ""
        further = sum(len(part) for part in (workflow.data.validation, workflow.data.test))
        seen = sum(len(part) for part in (self.small.splits.validation, self.small.splits.test) if part is not None)
        fixed = fixed * max(1.0, 0.5 * further / max(1, seen))
        every = students + self.tries
        seconds = every * (fixed + MEASURED * step * float(np.mean(steps)))
        workers = workflow.workers if isinstance(workflow.workers, int) else 1
        # every run in a file of its own, then all of them in one, and the study once more in its folder
        run = sum(len(run.to_json().encode()) + 1 for run in study.runs) / max(1, len(study.runs))
        size = every * run + 2 * len(study.to_json().encode()) * students / max(1, len(study.runs))
        return Cost(what, seconds / np.array([max(1, workers), 1]), int(size))

    def _warm(self, work: Callable[[], None]) -> list[Seconds]:
        """Seconds of some work, twice where it is short: the first time loads what the second has."""
        first = timed(work)
        return [first] if self.slow or first[1] > SHORT else [first, timed(work)]

    def _whole(self, batch_size: int) -> float:
        """How much longer a step of a whole batch takes than one of the few: in proportion to its rows."""
        return max(1.0, batch_size / self.most)

    def _longer(self, took: Seconds, steps: int) -> int:
        """How many steps the longer of two short trainings has, by what the shorter one took."""
        return MORE if not self.slow else int(np.clip(SHORT * steps / max(took[1], 1e-9), steps + 1, MORE))

    def _training(self, task: Task, recipe: Recipe, steps: int, **more: Any) -> Seconds:
        """A training by the real loop, from two short ones."""
        source = self._source(recipe) if recipe.needs_teacher else None
        shorter = 1 if self.slow else FEW

        def train(few: int) -> None:
            short = replace(recipe.training, steps=few, epochs=None, evaluate_every=None, patience=None, keep="last")
            distill(
                task, teacher=source, recipe=replace(recipe, training=short), log_every=MORE, show="nothing", **more
            )

        took = self._warm(lambda: train(shorter))
        longer = max(shorter + 1, min(steps, self._longer(took[-1], shorter)))
        took.append(timed(lambda: train(longer)))
        step = np.maximum(took[-1] - took[-2], 0) / (longer - shorter) * self._whole(recipe.training.batch_size)
        return np.maximum(took[0], shorter * step) + (steps - shorter) * step

    def distill(self) -> Cost | None:
        """The one student, its evaluations, and its export."""
        workflow, given = self.workflow, self.workflow.run.distill
        if self._done("student", "student/run.json"):
            return None
        data, training = workflow.data, workflow.distill_training
        recipe = workflow.recipe(self._objective, training)
        steps = training.steps_for(len(data.transfer))
        seconds = self._training(replace(self.small, test=None), recipe, steps, recompute=given.recompute,
                                 compile_mode=given.compile_mode)  # fmt: skip
        every = given.evaluate_every or -(-len(data.transfer) // training.batch_size)
        evaluations = steps // every if given.evaluate_every or given.patience or given.keep == "best" else 0
        seen = self.small.splits.test or self.small.splits.transfer
        if not self.slow:
            self.small.evaluate(self.student, seen)
        row = timed(lambda: self.small.evaluate(self.student, seen)) / len(seen)
        seconds = seconds + row * ((evaluations + 1) * len(data.validation) + len(data.test))
        export = workflow.run.export
        seconds = seconds + EXPORT_SECONDS * export.program + ONNX_SECONDS * export.onnx
        size = weight_bytes(self.student) + 100 * len(self.student.state_dict())
        last = size * (training.keep == "best")  # the weights after the last step, next to the best
        programs = export.program * (size + EXPORT_BYTES) + export.onnx * size
        rows = 190 * min(steps, steps // (given.log_every or max(1, steps // 100))) + 420 * evaluations
        chosen = f"{self._objective.cell}" if self._objective and workflow.given_objective else "the recipe of diagnose"
        what = f"{workflow.run.student.model} with {chosen}, {steps:,} steps, and export it"
        records = 2 * len(self.run.to_json().encode()) + 1800  # in both folders, and the model card
        return Cost(what, seconds, 2 * size + last + programs + rows + records)

    @property
    def _objective(self) -> Objective | None:
        if not self.workflow.task.reader.distributions:
            return None
        return self.workflow.given_objective or Objective("kd", 1.0, 0.6)

    @cached_property
    def run(self) -> Run:
        """A record of a student as long as the real one's, about."""
        workflow = self.workflow
        steps = workflow.training.steps_for(len(workflow.data.transfer))
        rows = steps // (workflow.run.distill.log_every or max(1, steps // 100))  # as many as the real one has
        few = replace(workflow.training, steps=max(1, min(rows, 1 if self.slow else 200)), epochs=None)
        recipe = workflow.recipe(self._objective, few)
        source = self._source(recipe) if recipe.needs_teacher else None
        _, made = distill(
            self.small, teacher=source, recipe=recipe, log_every=1, out=self.folder / "student", show="nothing"
        )
        return made

    def report(self) -> Cost | None:
        """The page of the timed copies."""
        study = self.studied[0]
        out = self.folder / "report.html"
        seconds = timed(lambda: report([self.diagnoses[0], study, self.run], out))
        return Cost("the page", seconds, out.stat().st_size)
