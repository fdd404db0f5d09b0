"""The trainings of a study: variants × seeds → runs, each kept as it ends, by as many workers as wanted."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence, Set
from dataclasses import dataclass, replace

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
            if (kept := folder.load(arm.name, seed, arm.settings)) is not None
        }
        jobs = [replace(job, number=number) for number, job in enumerate(self.jobs(arms, seeds, set(runs)))]
        for run in run_jobs(JobRunner(self.setup), jobs, self.workers, device=self.setup.task.device, advance=advance):
            if (run.arm, run.seed) in runs and runs[run.arm, run.seed].status != "stopped":
                continue  # of a stack that was trained whole again for the one that was missing
            folder.save(run)
            runs[run.arm, run.seed] = run
        return runs

    def jobs(
        self, arms: Sequence[Arm], seeds: Sequence[int], done: Set[tuple[str, int]] = frozenset()
    ) -> Iterator[Job]:
        """Groups of trials with at least one that is missing.

        In its last bits what a student computes hangs on who shares its stack: groups follow from the study alone, and a stack with
        one missing student is trained whole again, so that a stopped study ends in the same numbers.
        """
        alike: dict[object, list[Arm]] = {}
        for arm in arms:
            own = arm.recipe
            alike.setdefault((arm.share, own.training, own.student, arm.plain), []).append(arm)
        for group in alike.values():
            why = why_not_stacked(self.setup, group, self.backend)
            for seed in seeds:
                trials = tuple(Trial(arm, seed) for arm in group)
                missing = tuple(trial for trial in trials if trial.key not in done)
                if not why and missing:
                    yield Job(0, trials, stacked=True)
                else:
                    yield from (Job(0, (trial,), stacked=False, why=why) for trial in missing)
