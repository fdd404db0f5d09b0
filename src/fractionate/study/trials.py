"""The trainings of a study: arms × seeds → runs, each kept as it ends, by as many workers as asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import cast

import torch

from fractionate.data.examples import Examples
from fractionate.records import Run, Training
from fractionate.study.arms import Arm, part_of, transfer_set
from fractionate.study.course import (
    MEASURED_EXAMPLES,
    VALIDATED_EXAMPLES,
    Course,
    Entrant,
    StudentFactory,
    Way,
)
from fractionate.study.keeping import Folder
from fractionate.study.plan import check_training, plan_fleet
from fractionate.study.workers import run_jobs
from fractionate.study.workshop import Job, Place, Workshop
from fractionate.teacher import TeacherSignal

Settings = dict[str, str | float | int | bool | None]


@dataclass(frozen=True, eq=False)
class Trials:
    """What all trainings of a study share."""

    factory: StudentFactory
    data: Examples
    signal: TeacherSignal
    training: Training
    settings: Settings
    squared: bool
    validation: Examples | None = None
    validation_signal: TeacherSignal | None = None
    superclasses: tuple[int, ...] = ()
    points: int | None = None
    way: Way = "auto"
    device: str = "cpu"
    workers: int | str = 1

    def steps(self, arms: Sequence[Arm]) -> int:
        """Optimiser steps of one student of each arm, in all."""
        return sum(self.training.steps_for(max(1, round(arm.share * len(self.data)))) for arm in arms)

    def runs(
        self,
        arms: Sequence[Arm],
        seeds: Sequence[int],
        folder: Folder,
        *,
        advance: Callable[[int], None],
        test: Examples | None = None,
        test_signal: TeacherSignal | None = None,
    ) -> dict[tuple[str, int], Run]:
        """The run of every arm and seed, read back or trained. Without `test` none is read."""
        runs = {
            (arm.name, seed): kept
            for arm in arms
            for seed in seeds
            if (kept := folder.load(arm.name, seed, arm.settings)) is not None
        }
        by_place: dict[Place, list[Arm]] = {}
        for arm in arms:
            by_place.setdefault((arm.share, arm.learning_rate), []).append(arm)
        transfers = {share: self._transfer(share, seeds) for share in dict.fromkeys(share for share, _ in by_place)}
        courses = {place: self._course(*transfers[place[0]], place[1]) for place in by_place}
        jobs = [
            Job(0, place, tuple(group), way)
            for place, own in by_place.items()
            for way, group in self._groups(own, seeds, courses[place], runs)
        ]
        jobs = [replace(job, number=number) for number, job in enumerate(jobs)]
        shop = Workshop(self.factory, courses, {arm.name: arm for arm in arms}, self.settings, test, test_signal)
        for run in run_jobs(shop, jobs, self.workers, device=self.device, advance=advance):
            folder.save(run)
            runs[run.arm, run.seed] = run
        return runs

    def _groups(
        self, arms: Sequence[Arm], seeds: Sequence[int], course: Course, runs: dict[tuple[str, int], Run]
    ) -> Iterator[tuple[Way, list[Entrant]]]:
        entrants = [
            Entrant(arm.name, seed, arm.objective(seed, self.squared))
            for seed in seeds
            for arm in arms
            if (arm.name, seed) not in runs
        ]
        if not entrants:
            return
        check_training(course)
        # what was trained in one way goes on in it: a new measurement might say otherwise
        before = {run.settings.get("way") for (name, _), run in runs.items() if name in {arm.name for arm in arms}}
        way = cast(Way, before.pop()) if self.way == "auto" and len(before) == 1 else self.way
        plan = plan_fleet(self.factory, entrants, course, way)
        for group in plan.groups(entrants):
            yield plan.way, group

    def _transfer(
        self, share: float, seeds: Sequence[int]
    ) -> tuple[dict[int, Examples], dict[int, TeacherSignal | None]]:
        transfer: dict[int, Examples] = {}
        signals: dict[int, TeacherSignal | None] = {}
        whole = part_of(self.signal, torch.arange(len(self.signal))) if share == 1.0 else None
        for seed in seeds:
            transfer[seed], places = transfer_set(self.data, share, seed)
            signals[seed] = whole if whole is not None else part_of(self.signal, places)
        return transfer, signals

    def _course(self, transfer: dict[int, Examples], signals: dict[int, TeacherSignal | None], rate: float) -> Course:
        training = replace(self.training, learning_rate=rate)
        points = self.points
        if points is None:
            size = len(next(iter(transfer.values())))
            points = affordable_points(training, size, 0 if self.validation is None else len(self.validation))
        return Course(
            transfer,
            signals,
            training,
            self.validation,
            self.validation_signal,
            points,
            self.device,
            self.superclasses,
        )


def affordable_points(training: Training, examples: int, validation: int) -> int:
    """How often a student may be measured so that it costs about a tenth of its training: 1 to 8 times.

    A measurement is a forward pass over some transfer and validation examples; a training step counts as three forward passes.
    What is computed from the logits costs as much as five steps of a small student in a stack.
    """
    steps = training.steps_for(examples)
    trained = 3 * steps * min(training.batch_size, examples)
    measured = min(MEASURED_EXAMPLES, examples) + min(VALIDATED_EXAMPLES, validation)
    return max(1, min(8, trained // (10 * measured), steps // 50))
