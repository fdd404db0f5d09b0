"""The jobs of a study: groups of trials that are trained together, and the record of each as it ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import xxhash
from torch import nn

from fractionate.models.modes import plain_module
from fractionate.models.weights import to_bytes
from fractionate.records import Run
from fractionate.study.alone import train_alone
from fractionate.study.arms import Arm, Settings
from fractionate.study.results import ALIAS, STUDENT
from fractionate.study.run_record import bare_run, record_of
from fractionate.study.setup import Setup, Trial
from fractionate.training.fleet.loop import Recordings, train_stacked


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


class Trained(NamedTuple):
    """A run that has ended, and the student's weights as safetensors where they are kept."""

    run: Run
    weights: bytes | None = None


@dataclass(frozen=True, eq=False)
class JobRunner:
    """All that a job needs, in this process or another one; `keep` the students' weights."""

    setup: Setup
    keep: bool = False
    recordings: Recordings = field(default_factory=dict)

    def work(self, job: Job, advance: Callable[[int], None]) -> Iterator[Trained]:
        """Train the students of a job and give the record of each as it ends."""
        for _, run, model in self.train(job, advance):
            if model is None or not self.keep:
                yield Trained(run)
                continue
            content, aliases = to_bytes(plain_module(model).state_dict())
            written: Settings = {STUDENT: xxhash.xxh3_128_hexdigest(content)}
            written |= {f"{ALIAS}{name}": of for name, of in aliases.items()}
            yield Trained(replace(run, settings=run.settings | written), content)

    def train(self, job: Job, advance: Callable[[int], None]) -> Iterator[tuple[Trial, Run, nn.Module | None]]:
        """Train the students of a job: each trial with its record and its model (None where it diverged)."""
        if not job.stacked:
            yield from self._one_by_one(job, advance)
            return
        arm, seed = job.group[0].arm, job.group[0].seed
        stack_setup = self.setup.stack_setup(arm, seed)
        assert stack_setup is not None
        task, _ = self.setup.part(arm, seed)
        objectives = [trial.arm.recipe_for(seed).objective for trial in job.group]
        outcomes = train_stacked(
            [task.model(arm.recipe.student, seed) for _ in objectives],
            objectives,
            stack_setup,
            advance=advance,
            recordings=self.recordings,
        )
        for trial, outcome in zip(job.group, outcomes, strict=True):
            run = record_of(outcome, trial, self.setup, stack_setup, backend=job.backend)
            yield trial, run, outcome.model if outcome.diverged_at is None else None

    def _one_by_one(self, job: Job, advance: Callable[[int], None]) -> Iterator[tuple[Trial, Run, nn.Module | None]]:
        """By the loop; a variant that starts from another comes after it in the job."""
        trained: dict[str, nn.Module | None] = {}
        starts = {t.arm.start.name for t in job.group if isinstance(t.arm.start, Arm)}
        for trial in job.group:
            begun = trial.arm.start.name if isinstance(trial.arm.start, Arm) else ""
            if begun and trained[begun] is None:
                run, model = bare_run(self.setup, trial, "diverged", f"{begun}, its start, diverged"), None
            else:
                run, model = train_alone(self.setup, trial, advance, backend=job.backend, start=trained.get(begun))
            if trial.arm.name in starts:
                trained[trial.arm.name] = model
            yield trial, run, model

    def steps(self, job: Job) -> int:
        """Optimiser steps of one student of a job."""
        arm = job.group[0].arm
        return arm.recipe.training.steps_for(self.setup.size(arm.share))

    def lost(self, trial: Trial, reason: str) -> Trained:
        """The record of a student that could not be trained."""
        return Trained(bare_run(self.setup, trial, "stopped", reason))
