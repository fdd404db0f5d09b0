"""A pilot: a small study by successive halving that tries a grid around a recipe, in minutes, and keeps what beats no teacher."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from fractionate.data.batch import Split
from fractionate.data.splits import as_split
from fractionate.diagnosis.recipe import entries_worth_storing, labels_alone
from fractionate.errors import ConfigError, MismatchError
from fractionate.losses.objective import Objective
from fractionate.models.outputs import device_of
from fractionate.records import Interval, Pilot, Recommendation, Training, Trial
from fractionate.study.arms import Arm
from fractionate.study.effects.contrasts import statistics
from fractionate.study.jobs import JobRunner
from fractionate.study.results import Answers, Progress, fingerprint
from fractionate.study.setup import Setup
from fractionate.study.trials import Trials
from fractionate.tasks.reader import reading
from fractionate.tasks.task import Task
from fractionate.teachers.cached import Cached, check_fits
from fractionate.theory.cells import as_cell
from fractionate.theory.teacher_signal import TeacherSignal
from fractionate.training.recipe import Recipe

Setting = tuple[str, float, float]  # cell, temperature, teacher weight
HARD: Setting = ("hard", 1.0, 0.0)
USUAL: Setting = ("kd", 4.0, 0.9)  # what everyone copies: always among the arms, so that the record shows how it does
GRID: tuple[Setting, ...] = (
    *(("kd", t, w) for t in (1.0, 2.0, 4.0, 8.0) for w in (0.3, 0.6, 0.9)),
    ("kd", 1.0, 1.0),
    *(("kd-pt", 1.0, w) for w in (0.5, 0.9)),
    *(("class-mean", t, w) for t, w in ((1.0, 0.9), (4.0, 0.5))),
    *(("kd-pt+sim", t, 0.9) for t in (1.0, 4.0)),
    ("ls", 1.0, 1.0),
)
SHARES = (1.0, 0.5, 0.25, 0.125, 0.0625)  # of the training's steps: the largest that the time allows
SPENT = 0.8  # of the minutes are planned for; the rest is for what takes longer than measured


@dataclass(frozen=True)
class Round:
    """`keep` of the arms so far (None: all) get `seeds` further seeds."""

    keep: int | None
    seeds: int


@dataclass(frozen=True, eq=False)
class PilotPlan:
    """How a pilot is run: `diagnose(..., pilot=PilotPlan(minutes=2, validation=examples, training=training))`.

    `validation` (else the task's) chooses and is never trained on; `training` is the training that the recipe is for. Each of
    `rounds` keeps the best arms by mean validation accuracy over the seeds so far; the best is then trained again, with no teacher,
    on `confirming_seeds` that took no part. Seeds count from `first_seed`. The students get the largest share of the training's
    steps that fits `minutes` by a short measurement, or `share`, with which a pilot that ends in time repeats itself, up to
    rounding where the clock stacks its students differently.
    It says "distil" where the interval of this `coverage`, over all seeds of the chosen arm, lies above 0: 0.7 is about one
    standard error. `out` keeps every student's answers, so that a stopped pilot goes on.
    """

    minutes: float
    validation: Any = None
    training: Training | None = None
    share: float | None = None
    rounds: tuple[Round, ...] = (Round(None, 2), Round(8, 2), Round(3, 2))
    confirming_seeds: int = 4
    first_seed: int = 0
    coverage: float = 0.7
    grid: tuple[Setting, ...] = GRID
    out: Path | str | None = None
    device: str = "cpu"
    progress: Literal["auto", "off"] = "auto"

    def __post_init__(self) -> None:
        faults = [
            *["minutes must be above 0"] * (not 0 < self.minutes < float("inf")),
            *["share must be in (0, 1]"] * (self.share is not None and not 0 < self.share <= 1),
            *["a pilot needs rounds of at least one seed"] * (not self.rounds or any(r.seeds < 1 for r in self.rounds)),
            *["confirming_seeds must be 2 or more"] * (self.confirming_seeds < 2),
            *["coverage must be in (0, 1)"] * (not 0 < self.coverage < 1),
            *["the grid is empty"] * (not self.grid),
        ]
        if faults:
            raise ConfigError(
                "this pilot cannot be run", got="; ".join(faults), fix="PilotPlan(minutes=5, validation=…)"
            )

    def __call__(self, task: Task, signal: TeacherSignal, recipe: Recommendation) -> tuple[Recommendation, Pilot]:
        """The refined recipe and its evidence, on the task's students.

        Raises `MismatchError` for parts that do not fit, and for tasks that are not judged by accuracy, one row an example: the
        interval over seeds and examples is of right answers.
        """
        data, validation = task.splits.transfer, task.splits.validation
        if self.validation is not None:
            validation = as_split(self.validation, "validation")
        if validation is None:
            raise ConfigError("a pilot chooses on validation data", expected="PilotPlan(validation=…) or a task's own",
                              got="none")  # fmt: skip
        if task.deciding.name != "accuracy":
            raise MismatchError("a pilot compares right answers", expected="a task whose first metric is accuracy",
                                got=task.deciding.name, fix="compare the recipes by dissect")  # fmt: skip
        check_fits(signal, data)
        return _Trainings(self, task, signal, validation).refine(recipe)


def arm_name(setting: Setting) -> str:
    """How a pilot calls an arm."""
    cell, temperature, weight = setting
    return "no teacher" if setting == HARD else f"{cell} T={temperature:g} w={weight:g}"


def gain_interval(differences: Float[Tensor, "seeds examples"], *, coverage: float = 0.95) -> tuple[float, Interval]:
    """Mean of differences of right answers, in points, with an interval over both seeds and examples.

    Two-way random effects: Var = S²(seed means)/seeds + S²(example means)/examples - S²(residuals)/(seeds · examples), which is
    part of either; Student's t for the seeds' part. Source: Owen, The pigeonhole bootstrap (2007), section 3; ours in the t.
    """
    values = differences.double() * 100
    seeds, examples = values.shape
    mean = values.mean()
    rows, columns = values.mean(1), values.mean(0)
    residual = values - rows[:, None] - columns[None] + mean
    by_seed = float(rows.var()) / seeds if seeds > 1 else float("inf")
    by_example = float(columns.var()) / examples if examples > 1 else float("inf")
    both = float(residual.square().sum()) / max(1, (seeds - 1) * (examples - 1)) / (seeds * examples)
    t = float(statistics().t(max(1, seeds - 1)).ppf(0.5 + coverage / 2))
    z = float(statistics().norm.ppf(0.5 + coverage / 2))
    half = (t**2 * by_seed + z**2 * max(0.0, by_example - both)) ** 0.5
    return float(mean), Interval(float(mean) - half, float(mean) + half, coverage)


class _Trainings:
    """The students of a pilot: which validation examples each gets right, by arm and seed, and the clock."""

    def __init__(self, plan: PilotPlan, task: Task, signal: TeacherSignal, validation: Split) -> None:
        self.plan, self.signal, self.validation, self.data = plan, signal, validation, task.splits.transfer
        self.task = replace(task, validation=None, test=None, device=plan.device)
        self.begin, self.budget = time.perf_counter(), 60 * plan.minutes
        self.training = plan.training or Training(epochs=60)
        self.whole_steps = self.training.steps_for(len(self.data))
        self.share = 1.0
        self.student_seconds = 0.0  # 0: not known yet
        self.right: dict[tuple[Setting, int], Bool[Tensor, "examples"]] = {}
        model = self.task.model(seed=plan.first_seed)
        first = self.task.example(validation)
        with reading(model) as reader:
            found = self.task.read(reader, first.to(device_of(model)), head=task.head)
        outputs = found.required_logits
        if outputs.shape[1:] != (signal.classes,):
            raise MismatchError("student and teacher speak of different classes",
                                expected=f"logits [batch, {signal.classes}]", got=str(list(outputs.shape)))  # fmt: skip
        if first.labels.ndim > 1:
            raise MismatchError("a pilot needs one row an example", expected="one label an example",
                                got=f"labels {list(first.labels.shape)}", fix="compare the recipes by dissect")  # fmt: skip
        mark = fingerprint(self.data.fingerprint(), validation.fingerprint(), signal.logits, str(model),
                           *model.state_dict().values(), str(self.training))  # fmt: skip
        self.answers = Answers(plan.out, mark)

    @property
    def left(self) -> float:
        """Seconds until the time is over."""
        return self.budget - (time.perf_counter() - self.begin)

    def refine(self, recipe: Recommendation) -> tuple[Recommendation, Pilot]:
        """Measure, halve, confirm, decide."""
        plan, own = self.plan, (recipe.cell, recipe.temperature, recipe.teacher_weight)
        arms = self._plan_time(list(dict.fromkeys([USUAL, *([own] if recipe.distil else []), *plan.grid])))
        kept, seeds, whole = arms, 0, True
        bar = Progress("pilot", self._students(len(arms)), show=plan.progress)
        try:
            for each in plan.rounds:
                kept = self._best(kept, seeds)[: each.keep]
                got = self._train([HARD, *kept], seeds, each.seeds, bar.advance, least=int(seeds == 0))
                seeds += got
                whole = got == each.seeds
                if not whole:
                    break
            chosen = self._best(kept, seeds)[0]
            fresh = self._train([HARD, chosen], seeds, plan.confirming_seeds, bar.advance, least=2)
        finally:
            bar.close()
        whole = whole and fresh == plan.confirming_seeds
        confirming = range(plan.first_seed + seeds, plan.first_seed + seeds + fresh)
        gain, interval = self._gain(chosen, confirming)
        found = [self._trial(arm) for arm in arms if self._seeds_of(arm)]
        pilot = Pilot(
            chosen=arm_name(chosen), gain_points=gain, interval=interval, confirming_seeds=fresh,
            trials=tuple(sorted(found, key=lambda t: (-t.seeds, -t.gain_points))), students=len(self.right),
            examples=len(self.data), validation_examples=len(self.validation), share_of_steps=self.share,
            wall_seconds=time.perf_counter() - self.begin, budget_seconds=self.budget, complete=whole,
            note="" if whole else "the time ran out before the last round: more minutes would make it surer",
        )  # fmt: skip
        # the decision takes all seeds: the choice of the best of many flatters it less than fewer seeds would cost in power
        return self._recipe(recipe, chosen, pilot, self._gain(chosen, self._seeds_of(chosen), plan.coverage)[1]), pilot

    def _recipe(self, rule: Recommendation, chosen: Setting, pilot: Pilot, judged: Interval) -> Recommendation:
        gained = f"{pilot.gain_points:+.1f} points {pilot.interval} over no teacher on fresh seeds"
        tried = f"{len(pilot.trials)} arms in a pilot of {pilot.students} students"
        ruled = arm_name((rule.cell, rule.temperature, rule.teacher_weight)) if rule.distil else "do not distil"
        if judged.low <= 0:
            return labels_alone(
                f"nothing surely beat no teacher; best of {tried} was {pilot.chosen}: {gained}. The rule alone said: {ruled}"
            )
        cell, temperature, weight = chosen
        return Recommendation(
            distil=True, cell=cell, temperature=temperature, teacher_weight=weight, divergence="cross-entropy",
            scale_by_temperature_squared=True, stored_entries=entries_worth_storing(self.signal, temperature),
            reason=f"best of {tried}: {gained}. The rule alone said: {ruled}",
        )  # fmt: skip

    def _seeds_of(self, arm: Setting) -> list[int]:
        return sorted(seed for kind, seed in self.right if kind == arm)

    def _best(self, arms: Sequence[Setting], seeds: int) -> list[Setting]:
        """Arms by mean accuracy over the seeds so far, best first; in their own order before there are any."""
        if seeds == 0:
            return list(arms)
        own = range(self.plan.first_seed, self.plan.first_seed + seeds)
        return sorted(arms, key=lambda arm: -sum(float(self.right[arm, s].double().mean()) for s in own))

    def _gain(self, arm: Setting, seeds: Sequence[int], coverage: float = 0.95) -> tuple[float, Interval]:
        both = [(self.right[arm, s].double(), self.right[HARD, s].double()) for s in seeds]
        return gain_interval(torch.stack([a - b for a, b in both]), coverage=coverage)

    def _trial(self, arm: Setting) -> Trial:
        seeds = self._seeds_of(arm)
        gain, interval = self._gain(arm, seeds)
        accuracy = 100 * sum(float(self.right[arm, s].double().mean()) for s in seeds) / len(seeds)
        return Trial(arm_name(arm), *arm, accuracy=accuracy, gain_points=gain, interval=interval, seeds=len(seeds))

    def _students(self, arms: int) -> int:
        """How many trainings the whole pilot is."""
        return 2 * self.plan.confirming_seeds + sum((min(arms, r.keep or arms) + 1) * r.seeds for r in self.plan.rounds)

    def _plan_time(self, arms: list[Setting]) -> list[Setting]:
        """Set the share of the steps and what a student takes; give the arms that there is time for (the first of them, or all)."""
        kept = self.answers.share
        if self.plan.share is not None and kept not in (None, self.plan.share):
            raise MismatchError(f"{self.plan.out} holds a pilot with another share of the steps", got=f"{kept:g}",
                                expected=f"share {self.plan.share:g}", fix="choose another folder")  # fmt: skip
        trained: list[float] = []
        for steps in (1, 5):  # what a step takes beyond the start
            begin = time.perf_counter()
            self._answers([HARD, *arms], [self.plan.first_seed], steps)
            trained.append((time.perf_counter() - begin) / (len(arms) + 1))
            if trained[-1] * (len(arms) + 1) > self.budget / 20:
                break
        step = max(0.0, (trained[1] - trained[0]) / 4) if len(trained) > 1 else trained[0]
        need = {share: trained[0] + step * share * self.whole_steps for share in SHARES}
        fits = [share for share in SHARES if need[share] * self._students(len(arms)) <= SPENT * self.left]
        self.share = self.plan.share or kept or (fits[0] if fits else SHARES[-1])
        self.student_seconds = trained[0] + step * self.share * self.whole_steps
        self.answers.share = self.share
        count = len(arms)
        while count > 2 and self.student_seconds * self._students(count) > 2 * SPENT * self.left:
            count -= 1  # even the shortest trainings of all arms would take more than twice the time
        return arms[:count]

    def _train(
        self, arms: Sequence[Setting], start: int, seeds: int, advance: Callable[[int], None], *, least: int
    ) -> int:
        """Train arms on further seeds while there is time, the `least` whatever the time; how many seeds are whole."""
        done = 0
        while done < seeds:
            each = max(self.student_seconds * len(arms), 1e-9)
            count = max(1, min(seeds - done, int(self.budget / 8 / each)))  # a stack is not stopped on the way
            if done >= least and self.left < count * each:
                count = int(max(0.0, self.left) / each)
            if count == 0:
                break
            begin = time.perf_counter()
            part = [self.plan.first_seed + start + done + i for i in range(count)]
            absent = [seed for seed in part if not self._known(arms, seed)]
            if absent:
                found = self._answers(arms, absent, max(1, round(self.share * self.whole_steps)))
                for (arm, seed), right in found.items():
                    self.answers.save(arm_name(arm), seed, right)
                self.right |= found
                self.student_seconds = (time.perf_counter() - begin) / (len(arms) * len(absent))
            advance(len(arms) * count)
            done += count
        return done

    def _known(self, arms: Sequence[Setting], seed: int) -> bool:
        """Whether an earlier pilot in this folder trained all of these on the seed; takes its answers."""
        kept = {(arm, seed): self.answers.load(arm_name(arm), seed) for arm in arms}
        whole = {key: right for key, right in kept.items() if right is not None}
        if len(whole) == len(kept):
            self.right |= whole
        return len(whole) == len(kept)

    def _answers(
        self, arms: Sequence[Setting], seeds: Sequence[int], steps: int
    ) -> dict[tuple[Setting, int], Bool[Tensor, "examples"]]:
        """Train each arm on each seed and see which validation examples it gets right; a diverged student gets none."""
        training = replace(self.training, epochs=None, steps=steps)
        setup = Setup(self.task, Cached(self.signal), {}, {}, points=1)
        arms_of: dict[str, Setting] = {arm_name(arm): arm for arm in arms}
        variants = [
            Arm(Recipe(objective=None if arm == HARD else Objective(as_cell(arm[0]), *arm[1:]), training=training), name=name)
            for name, arm in arms_of.items()
        ]  # fmt: skip
        runner = JobRunner(setup)
        found = {}
        for job in Trials(setup).jobs(variants, seeds):
            for trial, _, model in runner.train(job, lambda _: None):
                right = torch.zeros(len(self.validation), dtype=torch.bool)
                if model is not None:
                    said = self.task.predictions(model, self.validation, head=self.task.head)
                    right = torch.cat([each.reading.correct for each in said])
                found[arms_of[trial.arm.name], trial.seed] = right
        return found
