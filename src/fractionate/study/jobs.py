"""The jobs of a study: groups of trials that are trained together, and the record of each as it ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from torch import nn

from fractionate.records import Run
from fractionate.study.alone import train_alone
from fractionate.study.run_record import record_of
from fractionate.study.setup import Setup, Trial
from fractionate.training.fleet.loop import Recordings, train_stacked
from fractionate.training.fleet.setup import StackMember


@dataclass(frozen=True, eq=False)
class Job:
    """Trials that are trained together; `stacked` in one pass, else one after another by the loop. `why` says why not stacked."""

    number: int
    group: tuple[Trial, ...]
    stacked: bool
    why: str = ""

    @property
    def backend(self) -> str:
        """How the record names it."""
        return "stacked" if self.stacked else f"loop: {self.why}" if self.why else "loop"


@dataclass(frozen=True, eq=False)
class JobRunner:
    """All that a job needs, in this process or another one."""

    setup: Setup
    recordings: Recordings = field(default_factory=dict)

    def work(self, job: Job, advance: Callable[[int], None]) -> Iterator[Run]:
        """Train the students of a job and give the record of each as it ends."""
        for _, run, _ in self.train(job, advance):
            yield run

    def train(self, job: Job, advance: Callable[[int], None]) -> Iterator[tuple[Trial, Run, nn.Module | None]]:
        """Train the students of a job: each trial with its record and its model (None where it diverged)."""
        if not job.stacked:
            for trial in job.group:
                yield trial, *train_alone(self.setup, trial, advance, backend=job.backend)
            return
        arm, seed = job.group[0].arm, job.group[0].seed
        stack_setup = self.setup.stack_setup(arm, [seed])
        assert stack_setup is not None
        task, _ = self.setup.part(arm.share, seed)
        members = [StackMember(t.arm.name, t.seed, t.arm.recipe_for(t.seed).objective) for t in job.group]
        outcomes = train_stacked(
            lambda: task.model(arm.recipe.student, seed),
            members,
            stack_setup,
            advance=advance,
            recordings=self.recordings,
        )
        for trial, outcome in zip(job.group, outcomes, strict=True):
            run = record_of(outcome, trial, self.setup, stack_setup, backend=job.backend)
            yield trial, run, outcome.model if outcome.diverged_at is None else None

    def steps(self, job: Job) -> int:
        """Optimiser steps of one student of a job."""
        arm = job.group[0].arm
        return arm.recipe.training.steps_for(self.setup.size(arm.share))

    def lost(self, trial: Trial, reason: str) -> Run:
        """The record of a student that could not be trained."""
        return Run(
            arm=trial.arm.name,
            seed=trial.seed,
            status="stopped",
            contract=trial.arm.recipe.contract(),
            steps=0,
            wall_seconds=0.0,
            parameters=0,
            settings={**self.setup.settings, **trial.arm.settings},
            note=reason,
        )
