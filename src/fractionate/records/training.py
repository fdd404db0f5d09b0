"""What a training computes, how it is set, what a few steps predict and what came out."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from functools import cache
from numbers import Integral
from typing import Literal, get_args, get_type_hints

from fractionate.errors import ConfigError
from fractionate.records.base import Record
from fractionate.records.knowledge import Spectrum
from fractionate.records.measures import Histogram, Matrix, MetricInfo, Scores


@dataclass(frozen=True)
class Contract(Record):
    """What exactly an objective computes: printed before a run, stored in its record.

    Args:
        formula: Of the loss of a row.
        cell: Confidence rule × shape rule, by name.
        confidence: The rule that gives the label its probability.
        shape: The rule that divides the rest among the other classes.
        level: What the rules depend on: nothing (universe), the class (domain) or the example (instance).
        temperature: Of teacher and student.
        teacher_weight: Of the teacher's part, in [0, 1].
        divergence: Between target and student.
        scale_by_temperature_squared: Whether the teacher's part is multiplied by T².
        reduction: How the numbers of rows become the loss of a step.
        objective_weight: Of the objective next to the terms.
        terms: Further losses with weight, formula and what they are averaged over.
        preparations: What was done to the student before training.
        transforms: What is done to the data.
        uses_teacher: Whether anything is learned from a teacher.
    """

    formula: str
    cell: str
    confidence: str
    shape: str
    level: str
    temperature: float
    teacher_weight: float
    divergence: str
    scale_by_temperature_squared: bool
    reduction: str = "none: one number a row; the loss of a step is the weighted mean over its rows"
    objective_weight: float = 1.0
    terms: tuple[str, ...] = ()
    preparations: tuple[str, ...] = ()
    transforms: tuple[str, ...] = ()
    uses_teacher: bool = True

    def __str__(self) -> str:
        squared = "times T²" if self.scale_by_temperature_squared else "not scaled by T²"
        return "\n".join(
            [
                f"loss = {self.formula}",
                f"  target      {self.cell}: confidence {self.confidence}, shape {self.shape} ({self.level} level)",
                f"  temperature {self.temperature:g} for teacher and student, soft term {squared}",
                f"  weights     label {1 - self.teacher_weight:g}, teacher {self.teacher_weight:g}",
                f"  divergence  {self.divergence}",
                f"  reduction   {self.reduction}",
                *(f"  term        {term}" for term in self.terms),
                *(f"  prepared    {part}" for part in self.preparations),
                *(f"  data        {part}" for part in self.transforms),
            ]
        )


@dataclass(frozen=True)
class Preflight(Record):
    """What a few steps with the student tell about the long run: losses, gradients, estimate of time and memory.

    Args:
        first_loss_nats: Cross-entropy of the untrained student.
        first_loss_of_uniform: The same over log K: 1 is a uniform guess.
        gradient_ratio: Norm of the teacher's gradient over the label's at step 0; None where the objective has one part only.
        gradient_cosine: Cosine of the two; None likewise.
        losses: Of the steps.
        parameters: Of the student.
        step_seconds: Median of a step.
        steps: Of the whole training.
        wall_seconds: Estimate for all of them.
        memory_bytes: Estimate of the peak.
    """

    first_loss_nats: float
    first_loss_of_uniform: float
    gradient_ratio: float | None
    gradient_cosine: float | None
    losses: tuple[float, ...]
    parameters: int
    step_seconds: float
    steps: int
    wall_seconds: float
    memory_bytes: int

    def __str__(self) -> str:
        ratio = (
            ""
            if self.gradient_ratio is None
            else (
                f"gradients: teacher's part {self.gradient_ratio:.2g} × the label's, cosine {self.gradient_cosine:.2f}\n"
            )
        )
        return (
            f"first loss {self.first_loss_nats:.3f} nats ({self.first_loss_of_uniform:.2f} × a uniform guess)\n{ratio}"
            f"estimate: {self.steps:,} steps of {1e3 * self.step_seconds:.3g} ms, {self.wall_seconds:,.1f} s in all, "
            f"{self.memory_bytes / 2**20:,.1f} MiB"
        )


LOOP_SETTINGS = (
    "micro_batch_size",
    "clip_norm",
    "precision",
    "average_decay",
    "evaluate_every",
    "patience",
    "keep",
    "loss_from",
)


EPOCHS = 30  # where neither steps nor epochs are given
COUNTS = ("steps", "batch_size", "micro_batch_size", "evaluate_every", "patience")
RANGES = {"epochs": "above 0", "learning_rate": "of at least 0", "weight_decay": "of at least 0", "clip_norm": "above 0",
          "warmup_share": "in 0..1", "average_decay": "in 0..1"}  # fmt: skip


@dataclass(frozen=True)
class Training(Record):
    """How long and how fast a student is trained; the same for every variant of a study.

    Give `steps` or `epochs`; without both it is 30 epochs. The defaults are those of every verb and of run files. They suit small
    students that start from random weights; a pretrained or large student wants a learning rate of 1e-3 or less.

    Args:
        epochs: Passes over the transfer set.
        steps: Optimiser steps, in place of `epochs`.
        batch_size: Examples in a step.
        learning_rate: The highest of the schedule.
        optimizer: "sgd" has momentum 0.9 and Nesterov, "momentum" is SGD with plain momentum 0.9.
        weight_decay: Of the optimiser.
        schedule: "cosine" falls to 0; "tenths" multiplies by 0.1 at 5/8, 6/8 and 7/8 of the steps, "thirds" at 1/3 and 2/3.
        warmup_share: Share of the steps in which the rate rises linearly.
        micro_batch_size: At most so many examples at once on a device; the step stays `batch_size`.
        clip_norm: The gradient's norm is cut to this.
        precision: Of the student's forward and backward pass.
        average_decay: The student is the running average of the weights, with this decay per step.
        evaluate_every: Steps between evaluations on the validation data; None: an epoch where one is needed.
        patience: Stop after so many evaluations without a better one.
        keep: Which weights become the student; best by the task's first metric.
        loss_from: "hidden": the loss never holds [rows, classes]; for large vocabularies.

    Example:
        from fractionate.records import Training
        print(Training(steps=400, batch_size=32, learning_rate=5e-3))
    """

    epochs: float | None = None
    steps: int | None = None
    batch_size: int = 32
    learning_rate: float = 5e-3
    optimizer: Literal["adamw", "sgd", "momentum"] = "adamw"
    weight_decay: float = 0.0
    schedule: Literal["cosine", "constant", "tenths", "thirds"] = "cosine"
    warmup_share: float = 0.0
    micro_batch_size: int | None = None
    clip_norm: float | None = None
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    average_decay: float | None = None
    evaluate_every: int | None = None
    patience: int | None = None
    keep: Literal["last", "best"] = "last"
    loss_from: Literal["logits", "hidden"] = "logits"

    def check(self) -> None:
        """Raise `ConfigError` for a setting of another type or out of range, and for two lengths."""
        for setting in fields(self):
            name, value = setting.name, getattr(self, setting.name)
            if value is None and setting.default is None:
                continue
            number = (
                isinstance(value, (int, float, Integral))
                and not isinstance(value, bool)
                and math.isfinite(float(value))
            )
            if name in COUNTS:
                fits, expected = (
                    number and isinstance(value, Integral) and int(value) >= 1,
                    "a whole number of at least 1",
                )
            elif name in RANGES:
                expected = f"a number {RANGES[name]}"
                fits = (
                    number
                    and value >= 0
                    and (value > 0 or "above" not in expected)
                    and (value <= 1 or "in" not in expected.split())
                )
            else:
                names = _choices()[name]
                fits, expected = value in names, f"one of {', '.join(names)}"
            if not fits:
                raise ConfigError(f"invalid value for {name}", expected=expected, got=repr(value)[:80])
        if self.steps is not None and self.epochs is not None:
            raise ConfigError(
                "steps and epochs cannot be combined",
                expected="one of them",
                got=f"steps={self.steps}, epochs={self.epochs}",
            )

    @property
    def loop_settings(self) -> tuple[str, ...]:
        """The settings in use that only `distill` knows; a fleet of students has no place for them."""
        plain = Training()
        return tuple(name for name in LOOP_SETTINGS if getattr(self, name) != getattr(plain, name))

    def steps_for(self, examples: int) -> int:
        """The number of optimiser steps on this many examples (the last batch of an epoch may be smaller)."""
        if self.steps is not None:
            return self.steps
        return max(1, round((self.epochs or EPOCHS) * -(-examples // self.batch_size)))


@cache
def _choices() -> dict[str, tuple[str, ...]]:
    return {name: get_args(hint) for name, hint in get_type_hints(Training).items()}


@dataclass(frozen=True)
class Point(Record):
    """One measurement along a training.

    Args:
        step: After how many steps.
        loss: Of the step.
        validation: Scores on the validation data.
        rescaling_mean: Mean factor on the label's gradient.
        rescaling_deviation: Its standard deviation over examples.
        rescaling_correlation: Its correlation with the teacher's confidence over examples.
        rows_to_relation: Correlation of the cosines of the output layer's rows with the teacher's class relation.
        rows_within_superclass: Mean cosine of rows of one superclass.
        rows_between_superclasses: Mean cosine of rows of different superclasses.
        distance_order: Share of pairs of wrong classes of which the one that the teacher finds likelier is nearer.
    """

    step: int
    loss: float
    validation: Scores | None = None
    rescaling_mean: float | None = None
    rescaling_deviation: float | None = None
    rescaling_correlation: float | None = None
    rows_to_relation: float | None = None
    rows_within_superclass: float | None = None
    rows_between_superclasses: float | None = None
    distance_order: float | None = None


@dataclass(frozen=True)
class Run(Record):
    """One training: its settings, its results, its cost.

    Args:
        arm: The variant.
        seed: Of the training.
        status: How it ended.
        contract: What the objective computes; None: trained on the labels alone.
        steps: How many were taken.
        wall_seconds: What they took.
        parameters: Of the student.
        validation: Scores on the validation data.
        test: Scores on the test data.
        history: Measurements along the training.
        student_relation: [classes][classes] off-label class means of the student.
        student_spectrum: What the student knows.
        rescaling: The factor on the label's gradient over examples.
        settings: Of the training, by name.
        versions: Of Python, torch and this package.
        note: Why it diverged or stopped.
        cost: What student and teacher need: `student_megabytes`, `teacher_latency_ms`.
        metrics: How the scores are read; the first decided.
        teacher: The teacher's own scores on the data of `test`, where it was evaluated.
    """

    arm: str
    seed: int
    status: Literal["completed", "diverged", "stopped"]
    contract: Contract | None
    steps: int
    wall_seconds: float
    parameters: int
    validation: Scores | None = None
    test: Scores | None = None
    history: tuple[Point, ...] = ()
    student_relation: Matrix = ()
    student_spectrum: Spectrum | None = None
    rescaling: Histogram | None = None
    settings: dict[str, str | float | int | bool | None] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    note: str = ""
    cost: dict[str, float] = field(default_factory=dict)
    metrics: tuple[MetricInfo, ...] = ()
    teacher: Scores | None = None

    def __str__(self) -> str:
        scores = self.test or self.validation
        return f"{self.arm} seed {self.seed}: {self.status} after {self.steps} steps in {self.wall_seconds:.1f} s" + (
            f", {scores.describe(self.metrics)}" if scores else ""
        )
