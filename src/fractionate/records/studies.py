"""Which part of a teacher pays: effects over seeds and the shares of the levels."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from fractionate.errors import MismatchError
from fractionate.records.base import Record
from fractionate.records.measures import Interval, Level, MetricInfo, Scores
from fractionate.records.training import Run

ShareLevel = Literal[Level, "domain", "instance"]  # the last two: confidence and shape not distinguished
Verdict = Literal["helps", "hurts", "equivalent", "cannot tell"]
NO_TEACHER = "no teacher"
VERDICT_WORDS: dict[Verdict, str] = {
    "helps": "helps",
    "hurts": "hurts",
    "equivalent": "equivalent",
    "cannot tell": "no clear difference",
}


def variant_name(arm: str) -> str:
    """The name of a variant as people read it: `hard` is "no teacher"."""
    return NO_TEACHER + arm[4:] if arm == "hard" or arm.startswith("hard ") else arm


@dataclass(frozen=True)
class Effect(Record):
    """A paired difference of two variants over seeds: `arm` minus `against`, in the metric's unit.

    Args:
        arm: The variant.
        against: What it is compared with.
        metric: In which.
        gain: Mean of the paired differences.
        interval: Its 95 % interval.
        p_value: Of no difference.
        p_holm: The same after Holm's correction for the study's comparisons.
        seeds: How many both have.
        verdict: What interval and margin decide.
        placebo: Whether `arm` is a control.
        seeds_to_settle: How many seeds in all would settle a "cannot tell".
        smallest_effect: The smallest true difference that so many seeds find in 8 of 10 studies.
    """

    arm: str
    against: str
    metric: str
    gain: float
    interval: Interval
    p_value: float
    p_holm: float
    seeds: int
    verdict: Verdict
    placebo: bool = False
    seeds_to_settle: int | None = None
    smallest_effect: float | None = None

    def __str__(self) -> str:
        message = f"{self.arm} − {self.against}: {self.gain:+.3g} {self.interval} {self.metric}: {self.verdict}"
        return message + self.reach

    @property
    def reach(self) -> str:
        """Of a "cannot tell": what the study could have seen, and what would settle it; else nothing."""
        if self.verdict != "cannot tell":
            return ""
        smallest = self.smallest_effect
        words = [] if smallest is None else [f"{self.seeds} seeds find an effect of {smallest:.2g} or more"]
        words += [f"{self.seeds_to_settle} would settle it" if self.seeds_to_settle else "no 1,000 would settle it"]
        return f" ({'; '.join(words)})"


@dataclass(frozen=True)
class Comparison(Record):
    """A student's recipe against no teacher under the same training, from a study's runs; an export rests on it.

    Args:
        arm: The student's variant.
        against: The variant without a teacher; "" where the study has none.
        metric: In which they are compared.
        verdict: "not compared" where the study has no such variant without a teacher.
        gain: `arm` minus `against`, in the metric's unit; paired over seeds.
        interval: Its 95 % interval.
        seeds: How many both have.
        smallest_effect: The smallest true difference that so many seeds find in 8 of 10 studies.
        seeds_to_settle: How many seeds in all would settle a "cannot tell".
    """

    arm: str
    against: str
    metric: str
    verdict: Literal["surely better", "surely worse", "equal", "cannot tell", "not compared"]
    gain: float | None = None
    interval: Interval | None = None
    seeds: int = 0
    smallest_effect: float | None = None
    seeds_to_settle: int | None = None

    def __str__(self) -> str:
        if self.gain is None:
            return f"{self.arm} was not compared with no teacher under the same training"
        return f"{self.arm} − {self.against}: {self.gain:+.3g} {self.interval} {self.metric} on {self.seeds} seeds: {self.verdict}"


@dataclass(frozen=True)
class Share(Record):
    """One level's part of the total gain; the parts of one method add up to the whole.

    Args:
        level: Which part of the teacher's knowledge.
        method: How the gain is divided: step by step along the ladder of cells, or by Shapley values.
        gain: In the metric's unit.
        interval: Its 95 % interval.
    """

    level: ShareLevel
    method: Literal["ladder", "Shapley"]
    gain: float
    interval: Interval


@dataclass(frozen=True)
class Tuning(Record):
    """What is tried for each variant before a study: every temperature × teacher weight × learning rate.

    The variant without a teacher has no temperature and no weight; it gets as many tries, all of them learning rates.

    Args:
        temperatures: Those tried.
        teacher_weights: Those tried, in [0, 1].
        learning_rates: Those tried; left out, that of the training.
        seeds: How many each setting is trained with; they are not the study's.

    Example:
        from fractionate.records import Tuning
        print(Tuning(temperatures=(1.0, 4.0), teacher_weights=(0.9,), learning_rates=(2e-3, 1e-2)))
    """

    temperatures: tuple[float, ...] = (1.0, 4.0)
    teacher_weights: tuple[float, ...] = (0.5, 0.9)
    learning_rates: tuple[float, ...] = ()
    seeds: int = 1


@dataclass(frozen=True)
class Try(Record):
    """One setting tried for a variant.

    Args:
        arm: The variant.
        temperature: Of teacher and student.
        teacher_weight: Of the teacher's part of the loss.
        learning_rate: Of the training.
        value: The metric on validation data, mean over the tuning's seeds; None: it diverged.
        chosen: Whether the study used it.
    """

    arm: str
    temperature: float
    teacher_weight: float
    learning_rate: float
    value: float | None
    chosen: bool = False


@dataclass(frozen=True)
class Study(Record):
    """Which part of the teacher pays: variants over seeds, paired effects, shares of the levels.

    Args:
        name: Of the study.
        metrics: How the metrics are read; the first decides: verdicts, shares and tuning are in it.
        baseline: The variant that others are compared with.
        arms: The names of the variants.
        seeds: Of the trainings.
        runs: One per variant and seed.
        effects: The comparisons.
        shares: Each level's part of the gain.
        notes: What was unusual.
        data: Names and sizes of the data.
        settings: Of the study, by name.
        wall_seconds: What it took.
        tries: Of an equal tuning budget for every variant; empty where nothing was tuned.
        teacher: The teacher's own scores on the test data, where it was evaluated.
    """

    name: str
    metrics: tuple[MetricInfo, ...]
    baseline: str
    arms: tuple[str, ...]
    seeds: tuple[int, ...]
    runs: tuple[Run, ...]
    effects: tuple[Effect, ...]
    shares: tuple[Share, ...] = ()
    notes: tuple[str, ...] = ()
    data: dict[str, str | int | float] = field(default_factory=dict)
    settings: dict[str, str | float | int | bool | None] = field(default_factory=dict)
    wall_seconds: float = 0.0
    tries: tuple[Try, ...] = ()
    teacher: Scores | None = None

    @property
    def deciding(self) -> MetricInfo:
        """The metric that decides. Raises `MismatchError` where the study has none."""
        if not self.metrics:
            raise MismatchError(f"the study {self.name!r} has no metric", fix="give it metrics; the first decides")
        return self.metrics[0]

    @property
    def metric(self) -> str:
        """The name of the metric that decides; empty without one."""
        return self.metrics[0].name if self.metrics else ""

    def __str__(self) -> str:
        size, base = f"{len(self.arms)} variants × {len(self.seeds)} seeds", variant_name(self.baseline)
        title = self.metrics[0].title if self.metrics else ""
        head = f"{self.name}: {size}, {title} against {base}"
        effects = [e for e in self.effects if e.metric == self.metric]
        arms = [
            "~ " * e.placebo
            + variant_name(e.arm)
            + ("" if e.against == self.baseline else f" − {variant_name(e.against)}")
            for e in effects
        ]
        widest = max(map(len, arms), default=0)
        places = 2 if self.metrics and self.metrics[0].unit == "points" else 3

        def gain(e: Effect) -> str:  # z: no zero has a minus
            ends = f"[{e.interval.low:+z.{places}f}, {e.interval.high:+z.{places}f}]"
            return f"{f'{e.gain:+z.{places}f}':>6} {ends}  {VERDICT_WORDS[e.verdict]}"

        rows = [f"  {arm:<{widest}}  {gain(e)}" for e, arm in zip(effects, arms, strict=True)]
        rows += ["  (95 % intervals; verdicts after Holm)"] * bool(effects)
        rows += ["  (~ placebo: as good in form, wrong about examples or classes)"] * any(
            e.placebo for e in self.effects
        )
        return "\n".join([head, *rows])
