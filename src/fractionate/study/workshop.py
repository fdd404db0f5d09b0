"""Where the students of a study are trained and judged: the jobs, each a group of students, and what becomes of one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from fractionate.data.examples import Examples
from fractionate.records import Run
from fractionate.study.arms import Arm
from fractionate.study.course import Course, Entrant, StudentFactory, Way
from fractionate.study.fleet import Recordings, train_group
from fractionate.study.measured import make_run
from fractionate.teacher import TeacherSignal

Place = tuple[float, float]  # share of the data and learning rate: students of one place can share a stack


@dataclass(frozen=True, eq=False)
class Job:
    """Students that are trained together, at one place and in one way."""

    number: int
    place: Place
    group: tuple[Entrant, ...]
    way: Way


@dataclass(frozen=True, eq=False)
class Workshop:
    """All that a job needs, in this process or another one."""

    factory: StudentFactory
    courses: Mapping[Place, Course]
    arms: Mapping[str, Arm]
    settings: Mapping[str, str | float | int | bool | None]
    test: Examples | None = None
    test_signal: TeacherSignal | None = None
    recordings: Recordings = field(default_factory=dict)

    def work(self, job: Job, advance: Callable[[int], None]) -> Iterator[Run]:
        """Train the students of a job and give the record of each as it ends."""
        course = self.courses[job.place]
        for outcome in train_group(
            self.factory, job.group, course, job.way, advance=advance, recordings=self.recordings
        ):
            yield make_run(
                outcome,
                self.arms[outcome.entrant.arm],
                course,
                test=self.test,
                test_signal=self.test_signal,
                settings=self.settings,
            )

    def lost(self, entrant: Entrant, reason: str) -> Run:
        """The record of a student that could not be trained."""
        return Run(
            arm=entrant.arm,
            seed=entrant.seed,
            status="stopped",
            contract=None if entrant.objective is None else entrant.objective.describe(),
            steps=0,
            wall_seconds=0.0,
            parameters=0,
            settings={**self.settings, **self.arms[entrant.arm].settings},
            note=reason,
        )
