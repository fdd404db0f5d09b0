"""A pilot: a small study by successive halving that tries recipes at multiple learning rates and keeps what beats no teacher."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from fractionate.data.batch import Split
from fractionate.data.splits import as_split
from fractionate.diagnosis.recipe import labels_alone
from fractionate.errors import ConfigError, MismatchError
from fractionate.losses.objective import Objective, needs_whole
from fractionate.models.outputs import device_of
from fractionate.records import Pilot, Recommendation, Training, Trial
from fractionate.study.arms import Arm
from fractionate.study.jobs import JobRunner
from fractionate.study.pilot_answers import Answers
from fractionate.study.pilot_arms import (
    CAUTIOUS,
    FALLBACK,
    GRID,
    HARD,
    RATES,
    SMALL_GRID,
    USUAL,
    Candidate,
    Round,
    Setting,
    gained,
    ruled,
)
from fractionate.study.pilot_budget import default_budget
from fractionate.study.pilot_scores import Answer, Compared, answer_of, gain_interval, no_answer
from fractionate.study.setup import Setup
from fractionate.study.trials import Trials
from fractionate.system.hashing import content_hash
from fractionate.system.progress import Progress, Show
from fractionate.tasks.reader import reading
from fractionate.tasks.task import Task
from fractionate.teachers.cached import Cached
from fractionate.teachers.given import as_source
from fractionate.teachers.shared import CachedRows, kept_in_memory
from fractionate.teachers.source import TeacherSource
from fractionate.theory.teacher_signal import TeacherSignal
from fractionate.theory.topk_signal import CompactSignal
from fractionate.training.recipe import Recipe

MOST_CLASSES = 2000  # statistics of every class against every other are not made of larger vocabularies


@dataclass(frozen=True, eq=False)
class PilotPlan:
    """How a pilot is run: `diagnose(..., pilot=PilotPlan.default(task, training))`, or every number by itself.

    Args:
        minutes: Ends it early, with what there is; None: no bound. What is computed never depends on a clock.
        validation: Chooses, and is never trained on; left out, the task's.
        training: The training that the recipe is for; each student gets `share` of its steps.
        rounds: Each keeps the best arms over the seeds so far; the last are then trained on `confirming_seeds` that took no
            part in the choice. Seeds count from `first_seed`.
        coverage: It says "distil" where the interval of this coverage lies above 0: 0.7 is about one standard error.
        grid: Settings (cell, temperature, teacher weight) in addition to no teacher, T = 4 / 0.9, T = 1 / 0.6 and the rule's.
        fallback: The setting that is recommended, at the best of its learning rates, where neither gain nor harm is shown.
        rates: Multiples of the learning rate that every arm is tried at; a best one at their end adds the next, at most twice.
        recipe: What all students share: the task's model by name, preparations, terms, transforms.
        out: A folder for every student's predictions, so that a stopped pilot resumes.
        device, progress: Where students are trained; whether a progress bar is shown.

    Raises `ConfigError` for settings out of range.
    """

    minutes: float | None = None
    validation: Any = None
    training: Training | None = None
    share: float = 1.0
    rounds: tuple[Round, ...] = (Round(None, 1), Round(10, 2), Round(4, 2))
    confirming_seeds: int = 4
    first_seed: int = 0
    coverage: float = 0.7
    grid: tuple[Setting, ...] = GRID
    fallback: Setting = FALLBACK
    rates: tuple[float, ...] = RATES
    recipe: Recipe = field(default_factory=Recipe)
    out: Path | str | None = None
    device: str = "cpu"
    progress: Literal["auto", "off"] = "auto"

    def __post_init__(self) -> None:
        minutes = self.minutes
        faults = [
            *["minutes must be above 0"] * (minutes is not None and not 0 < minutes < math.inf),
            *["share must be in (0, 1]"] * (not 0 < self.share <= 1),
            *["a pilot needs rounds of at least one seed"] * (not self.rounds or any(r.seeds < 1 for r in self.rounds)),
            *["confirming_seeds must be 2 or more"] * (self.confirming_seeds < 2),
            *["coverage must be in (0, 1)"] * (not 0 < self.coverage < 1),
            *["rates must be different numbers above 0"]
            * (not self.rates or len(set(self.rates)) < len(self.rates) or not all(0 < r < math.inf for r in self.rates)),
        ]  # fmt: skip
        if faults:
            raise ConfigError("invalid pilot", got="; ".join(faults), fix="PilotPlan.default(task, training)")

    @classmethod
    def default(
        cls, task: Task | None = None, training: Training | None = None, *, budget: float | None = None, **changes: Any
    ) -> PilotPlan:
        """A plan that costs at most `budget` whole trainings: fewer arms and seeds, never shorter trainings, which favour others.

        None: 110 where all of them are quick (about half a minute on one core, by counted operations), else 50. `changes` are
        fields of the plan. Raises `ConfigError` for a budget below 28 trainings, and for a task without validation data where
        none are given.
        """
        if task is not None and task.splits.validation is None and changes.get("validation") is None:
            raise _no_validation()
        full = cls(training=training, **changes)
        rounds = (Round(None, 1), Round(3, 1))
        medium = replace(full, grid=SMALL_GRID, rounds=rounds, confirming_seeds=3, fallback=CAUTIOUS)
        small = replace(medium, grid=(), rounds=rounds[:1], confirming_seeds=2)
        most = default_budget(task, training, full.recipe) if budget is None else budget
        for plan in (full, medium, small):
            if plan.students <= most:
                return plan
        raise ConfigError(
            "this pilot cannot be run", expected=f"a budget of at least {small.students} trainings", got=f"{most:g}",
            fix="a larger budget, or no pilot: the rule's recipe was not tried, and is cautious",
        )  # fmt: skip

    @property
    def settings(self) -> tuple[Setting, ...]:
        """What is tried whatever the diagnosis says: no teacher, T = 1 / 0.6, T = 4 / 0.9, the fallback, and the grid."""
        return tuple(dict.fromkeys([HARD, CAUTIOUS, USUAL, self.fallback, *self.grid]))

    @property
    def students(self) -> int:
        """The most trainings that the whole pilot is, one setting of the rule's included."""
        arms = (len(self.settings) + 1) * len(self.rates)
        plain = min(2, len(self.rates))
        first, *later = self.rounds
        found = arms * first.seeds
        if len(self.rates) > 1:  # the next rates, where the best is the last
            kept = (later[0].keep if later else None) or 3
            found += ((min(arms, kept) + 1) // 2 + 1 + 3) * first.seeds
        found += sum((min(arms, (r.keep or arms) + 1) + plain) * r.seeds for r in later)
        return found + (min(3, arms) + plain) * self.confirming_seeds

    def __call__(self, task: Task, teacher: Any, recipe: Recommendation) -> tuple[Recommendation, Pilot]:
        """The refined recipe and its evidence, on the task's students and validation data.

        Args:
            teacher: A source, a model, a signal or a store, over the task's transfer set.
            recipe: What the rule says: one of the arms where it says to distil.

        Raises `MismatchError` for parts that do not fit, `ConfigError` without validation data.
        """
        validation = task.splits.validation if self.validation is None else as_split(self.validation, "validation")
        if validation is None:
            raise _no_validation()
        source = kept_in_memory(as_source(teacher), task, task.splits.transfer)
        if source is None:
            raise ConfigError("a pilot needs a teacher", got="None")
        return _Halving(self, task, source, validation).refine(recipe)


def _no_validation() -> ConfigError:
    return ConfigError(
        "a pilot chooses on validation data", expected="PilotPlan(validation=…) or a task's own", got="none"
    )


class _Halving:
    """The students of a pilot: what each predicted for the validation examples, by arm and seed."""

    def __init__(self, plan: PilotPlan, task: Task, source: TeacherSource, validation: Split) -> None:
        self.plan, self.source, self.validation, self.data = plan, source, validation, task.splits.transfer
        self.task = replace(task, validation=None, test=None, device=plan.device)
        self.begin, self.stopped = time.perf_counter(), False
        self.likelihood = task.deciding.unit == "nats"
        self.margin = task.deciding.margin if self.likelihood or task.deciding.unit == "points" else 0.5
        self.training = plan.training or Training()
        self.steps = max(1, round(plan.share * self.training.steps_for(len(self.data))))
        self.found: dict[tuple[Candidate, int], Answer] = {}
        self.setup = Setup(self.task, source, {}, {}, points=1)
        self.trials = Trials(self.setup)
        model = self.task.model(plan.recipe.student, plan.first_seed)
        first = self.task.example(validation)
        with reading(model) as reader:
            content = self.task.read(reader, first.to(device_of(model)), head=task.head)
        self.classes = content.required_logits.shape[-1]
        signal = _signal(source)
        if signal is not None and signal.classes != self.classes:
            raise MismatchError("student and teacher speak of different classes",
                                expected=f"rows of {signal.classes} classes", got=f"{self.classes}")  # fmt: skip
        how = repr((self.training, self.steps, plan.recipe, self.likelihood))
        mark = content_hash(
            self.data.fingerprint(), validation.fingerprint(), source.fingerprint(), str(model), *model.state_dict().values(), how
        )  # fmt: skip
        self.answers = Answers(plan.out, mark)

    def refine(self, recipe: Recommendation) -> tuple[Recommendation, Pilot]:
        """Measure, halve, confirm, decide."""
        plan = self.plan
        own = [(recipe.cell, recipe.temperature, recipe.teacher_weight)] * recipe.distil
        settings = [s for s in dict.fromkeys([*plan.settings, *own]) if self._possible(s)]
        pool = [Candidate(setting, rate) for rate in plan.rates for setting in settings]
        show: Show = "auto" if plan.progress == "auto" else "nothing"
        bar = Progress("pilot", plan.students, parts=("student", plan.students), show=show)
        seeds: list[int] = []
        try:
            for number, each in enumerate(plan.rounds):
                if seeds:
                    pool = self._best(pool, seeds, each.keep)
                fresh = self._next(seeds, each.seeds)
                self._train(pool, fresh, bar.advance, must=() if number else pool[:2])  # whatever the clock says
                pool, seeds = self._whole(pool, seeds, fresh)
                if number == 0 and not self.stopped:
                    pool = self._with_next_rates(pool, seeds, bar.advance)
                if self.stopped:
                    break
            pool = self._best(pool, seeds, 1 if self.stopped else 2)
            fresh = self._next(seeds, plan.confirming_seeds)
            self._train(pool, fresh, bar.advance, must=pool[:2])
            pool, every = self._whole(pool, seeds, fresh, least=2)
        finally:
            bar.close()
        return self._decide(recipe, pool, every, [s for s in every if s in fresh])

    def _possible(self, setting: Setting) -> bool:
        """Whether a teacher of few stored classes does for it, and statistics of all classes fit."""
        objective, signal = Objective(*setting), _signal(self.source)
        whole = needs_whole(objective) and (signal is None or self.classes > MOST_CLASSES)
        try:
            if isinstance(signal, CompactSignal) and setting != HARD:
                objective.check_compact(signal)
        except (ConfigError, MismatchError):
            return False
        return setting == HARD or not whole

    def _next(self, seeds: Sequence[int], count: int) -> list[int]:
        first = max(seeds, default=self.plan.first_seed - 1) + 1
        return list(range(first, first + count))

    def _with_next_rates(
        self, pool: list[Candidate], seeds: list[int], advance: Callable[[int], None]
    ) -> list[Candidate]:
        """The arms, and for the best of them whose rate is the lowest or highest tried the next one; for the very best twice."""
        rates = sorted(self.plan.rates)
        if len(rates) == 1:
            return pool
        later = (self.plan.rounds[1].keep if len(self.plan.rounds) > 1 else None) or 3
        for number, most in enumerate((later + 1, 3)):
            low, high = min(c.rate for c in pool), max(c.rate for c in pool)
            beyond = {low: low * rates[0] / rates[1], high: high * rates[-1] / rates[-2]}
            kept = [c for c in self._best(pool, seeds, later)[:most] if c.rate in beyond]
            added = [replace(c, rate=beyond[c.rate]) for c in kept][: len(kept) if number else len(kept) // 2 + 1]
            self._train(added, seeds, advance, must=())
            pool = self._whole([*pool, *added], seeds, [])[0]
        return pool

    def _best(self, arms: Sequence[Candidate], seeds: Sequence[int], keep: int | None) -> list[Candidate]:
        """The best arms: the two without a teacher, so many with one, and the fallback; best first within each."""
        scores = dict(zip(arms, self._compared(arms, seeds).scores(self._plain(arms)[0]).tolist(), strict=True))
        ranked = sorted(arms, key=lambda c: -scores[c])
        plain, distilled = ([c for c in ranked if (c.setting == HARD) == hard] for hard in (True, False))
        fallback = [c for c in distilled if c.setting == self.plan.fallback][:1]
        kept = list(dict.fromkeys([*distilled[:keep], *fallback]))
        return [plain[0], *kept, *plain[1:2]]

    def _plain(self, arms: Sequence[Candidate]) -> list[int]:
        return [i for i, c in enumerate(arms) if c.setting == HARD]

    def _compared(self, arms: Sequence[Candidate], seeds: Sequence[int]) -> Compared:
        return Compared.of(self.found, arms, seeds, likelihood=self.likelihood)

    def _whole(self, pool: Sequence[Candidate], seeds: Sequence[int], fresh: Sequence[int], *,
               least: int = 0) -> tuple[list[Candidate], list[int]]:  # fmt: skip
        """The arms and seeds that make a whole table: fewer seeds where the time ran out, in the first round fewer arms."""
        if not seeds:
            pool = [c for c in pool if (c, fresh[0]) in self.found]
        done = [s for s in fresh if all((c, s) in self.found for c in pool)]
        if len(done) < least:
            distilled = [c for c in pool if c.setting != HARD][:1]
            pool = [pool[0], *distilled]
            done = [s for s in fresh if all((c, s) in self.found for c in pool)]
        every = [*seeds, *done]
        return [c for c in pool if all((c, s) in self.found for s in every)], every

    def _train(self, arms: Iterable[Candidate], seeds: Sequence[int], advance: Callable[[int], None], *,
               must: Sequence[Candidate]) -> None:  # fmt: skip
        """Train what is missing, until the time is over; `must` on up to two seeds whatever the time."""
        of_name = {c.name: c for c in arms}
        for name, candidate in of_name.items():
            for seed in seeds:
                kept = self.answers.load(name, seed)
                if kept is not None:
                    self.found[candidate, seed] = kept
        done = {(c.name, seed) for c, seed in self.found}
        runner = JobRunner(self.setup)
        for job in self.trials.jobs([self._arm(c) for c in of_name.values()], seeds, done):
            over = self.plan.minutes is not None and time.perf_counter() - self.begin > 60 * self.plan.minutes
            if over and not any(of_name[t.arm.name] in must and t.seed in seeds[:2] for t in job.group):
                self.stopped = True
                continue
            for trial, _, model in runner.train(job, lambda _: None):
                if model is None:
                    answer = no_answer(len(self.validation), self.classes)
                else:
                    answer = answer_of(self.task, model, self.validation, calibrated=not self.likelihood)
                self.answers.save(trial.arm.name, trial.seed, answer)
                self.found[of_name[trial.arm.name], trial.seed] = answer
                advance(1)

    def _arm(self, candidate: Candidate) -> Arm:
        objective = None if candidate.setting == HARD else Objective(*candidate.setting)
        rate = self.training.learning_rate * candidate.rate
        training = replace(self.training, epochs=None, steps=self.steps, learning_rate=rate)
        terms = () if objective is None else self.plan.recipe.terms
        recipe = replace(self.plan.recipe, objective=objective, training=training, terms=terms)
        return Arm(recipe, name=candidate.name)

    def _decide(
        self, rule: Recommendation, pool: list[Candidate], seeds: list[int], fresh: list[int]
    ) -> tuple[Recommendation, Pilot]:
        """The recipe by all seeds, and the gain that is reported by the fresh ones alone."""
        compared, plain = self._compared(pool, seeds), self._plain(pool)
        scores = compared.scores(plain[0]).tolist()
        best = pool[max((i for i in range(len(pool)) if i not in plain), key=lambda i: scores[i])]
        alone = pool[max(plain, key=lambda i: scores[i])]
        places = [i for i, seed in enumerate(seeds) if seed in fresh]
        points, nats = (replace(compared, likelihood=kind) for kind in (False, True))
        gain, interval = gain_interval(points.cross_fitted(plain, places))
        saved, saved_interval = gain_interval(nats.cross_fitted(plain, places))
        judged = gain_interval(compared.cross_fitted(plain, range(len(seeds))), coverage=self.plan.coverage)[1]
        own = [i for i, c in enumerate(pool) if c.setting == self.plan.fallback]
        fallback = max(own, key=lambda i: scores[i], default=pool.index(best))
        trials = [self._trial(c, alone) for c in dict.fromkeys(c for c, _ in self.found)]
        pilot = Pilot(
            chosen=best.name, gain_points=gain, interval=interval, confirming_seeds=len(fresh),
            trials=tuple(sorted(trials, key=lambda t: (-t.seeds, -t.gain_points))), students=len(self.found),
            examples=len(self.data), validation_examples=len(self.validation), share_of_steps=self.plan.share,
            wall_seconds=time.perf_counter() - self.begin, budget_seconds=60 * (self.plan.minutes or 0.0),
            complete=not self.stopped, note=self._note(best, alone), nll_gain_nats=saved, nll_interval=saved_interval,
            decided_by="likelihood" if self.likelihood else "accuracy", no_teacher=alone.name, margin=self.margin,
            first_seed=self.plan.first_seed,
        )  # fmt: skip
        if judged.low > 0:
            return self._recipe(rule, best, alone, pilot, "best of"), pilot
        unit = "nats" if self.likelihood else "points"
        if judged.high >= self.margin and scores[fallback] >= scores[pool.index(alone)]:
            why = (
                f"nothing surely beat no teacher, and gains up to {judged.high:.2g} {unit} are possible: the default of"
            )
            return self._recipe(rule, pool[fallback], alone, pilot, why), pilot
        tried = f"{len(pilot.trials)} arms in a pilot of {pilot.students} students"
        message = f"a gain above {max(judged.high, 0.0):.2g} {unit} is unlikely; best of {tried} was {best.name}: {gained(pilot)}"
        return replace(labels_alone(f"{message}. {ruled(rule)}"), learning_rate_factor=alone.rate), pilot

    def _note(self, best: Candidate, alone: Candidate) -> str:
        rates = [c.rate for c, _ in self.found]
        notes = ["the time ran out before the last round: more minutes would make it surer"] * self.stopped
        for candidate in (best, alone):
            if len(set(rates)) > 1 and candidate.rate in (min(rates), max(rates)):
                end = "lowest" if candidate.rate == min(rates) else "highest"
                notes.append(f"{candidate.name} is best at the {end} learning rate tried")
        return "; ".join(notes)

    def _recipe(
        self, rule: Recommendation, chosen: Candidate, alone: Candidate, pilot: Pilot, why: str
    ) -> Recommendation:
        cell, temperature, weight = chosen.setting
        against = f"over {alone.name} on fresh seeds"
        return Recommendation(
            distil=True, cell=cell, temperature=temperature, teacher_weight=weight, divergence="cross-entropy",
            scale_by_temperature_squared=True, learning_rate_factor=chosen.rate,
            reason=f"{why} {len(pilot.trials)} arms in a pilot of {pilot.students} students, whose best gains "
            f"{gained(pilot)} {against}. {ruled(rule)}",
        )  # fmt: skip

    def _trial(self, arm: Candidate, alone: Candidate) -> Trial:
        seeds = [s for c, s in self.found if c == arm and (alone, s) in self.found]
        mine = [self.found[arm, s] for s in seeds]
        compared = self._compared([arm, alone], seeds)
        gain, interval = gain_interval(compared.right[0] - compared.right[1])
        accuracy = 100 * sum(float(one.right.mean()) for one in mine) / len(seeds)
        saved = float((compared.nats[1] - compared.nats[0]).mean())
        return Trial(arm.name, *arm.setting, accuracy=accuracy, gain_points=gain, interval=interval, seeds=len(seeds),
                     learning_rate_factor=arm.rate, nll_gain_nats=saved)  # fmt: skip


def _signal(source: TeacherSource) -> TeacherSignal | CompactSignal | None:
    kept = source.cached if isinstance(source, Cached) else None
    if isinstance(kept, CachedRows):
        return kept.signal
    return kept if isinstance(kept, (TeacherSignal, CompactSignal)) else None
