"""The trainings of a study: variants × seeds → runs, each kept as it ends, by as many workers as wanted."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence, Set
from dataclasses import dataclass, replace
from typing import Any

from fractionate.records import Run
from fractionate.study.arms import Arm
from fractionate.study.backend import Backend, why_not_stacked
from fractionate.study.jobs import Job, JobRunner
from fractionate.study.results import Folder
from fractionate.study.setup import Setup, Trial
from fractionate.study.workers import run_jobs


@dataclass(frozen=True, eq=False)
class Trials:
    """What all trainings of a study share."""

    setup: Setup
    backend: Backend = "auto"
    workers: int | str = 1

    def steps(self, arms: Sequence[Arm]) -> int:
        """Optimiser steps of one student of each variant, in all."""
        return sum(arm.recipe.training.steps_for(self.setup.size(arm.share)) for arm in arms)

    def runs(
        self, arms: Sequence[Arm], seeds: Sequence[int], folder: Folder, *, advance: Callable[[int], None]
    ) -> dict[tuple[str, int], Run]:
        """The run of every variant and seed, read back or trained."""
        runs = {
            (arm.name, seed): kept
            for arm in arms
            for seed in seeds
            if (kept := folder.load(arm.name, seed, self.setup.settings_of(arm, seed))) is not None
        }
        jobs = [replace(job, number=number) for number, job in enumerate(self.jobs(arms, seeds, set(runs)))]
        runner = JobRunner(self.setup, folder.keep)
        for run, weights in run_jobs(runner, jobs, self.workers, device=self.setup.task.device, advance=advance):
            if (run.arm, run.seed) in runs and runs[run.arm, run.seed].status != "stopped":
                continue  # of a job that was done whole again for the one that was missing
            folder.save(run, weights)
            runs[run.arm, run.seed] = run
        return runs

    def jobs(
        self, arms: Sequence[Arm], seeds: Sequence[int], done: Set[tuple[str, int]] = frozenset()
    ) -> Iterator[Job]:
        """Groups of trials with at least one that is missing.

        In its last bits what a student computes hangs on who shares its stack: groups follow from the study alone, and a stack with
        one missing student is trained whole again, so that a stopped study ends in the same numbers. Variants that start from one
        another are one job, the start first.
        """
        alike: dict[Any, list[Arm]] = {}
        begun = {arm.ancestry[0].name for arm in arms if arm.start}
        for arm in arms:
            own = arm.recipe
            first = arm.ancestry[0].name
            alone = (arm.share, own.training, own.student, arm.plain)
            alike.setdefault(first if first in begun else alone, []).append(arm)
        for key, group in alike.items():
            chained = key in begun
            group.sort(key=lambda arm: len(arm.ancestry))  # as given among equals
            why = why_not_stacked(self.setup, group, self.backend, seeds[0])
            for seed in seeds:
                trials = tuple(Trial(arm, seed) for arm in group)
                missing = tuple(trial for trial in trials if trial.key not in done)
                if missing and (chained or not why):
                    yield Job(0, trials, stacked=not why, why=why)
                else:
                    yield from (Job(0, (trial,), stacked=False, why=why) for trial in missing)
