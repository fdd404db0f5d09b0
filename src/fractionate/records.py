"""What the verbs hand over: frozen records, JSON both ways, units in the field names. No torch here."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from fractionate.record import Record

Level = Literal["universe", "domain.confidence", "domain.shape", "instance.confidence", "instance.shape"]
ShareLevel = Literal[Level, "domain", "instance"]  # the last two: confidence and shape not told apart
Severity = Literal["error", "warning", "info", "ok", "skipped"]
Verdict = Literal["helps", "hurts", "equivalent", "cannot tell"]
Matrix = tuple[tuple[float, ...], ...]

LEVEL_NAMES: tuple[Level, ...] = (
    "universe",
    "domain.confidence",
    "domain.shape",
    "instance.confidence",
    "instance.shape",
)


def bar(share: float, width: int = 30) -> str:
    """A bar of text for a share in [0, 1]."""
    return "█" * round(max(0.0, min(1.0, share)) * width)


@dataclass(frozen=True)
class Interval(Record):
    """A confidence interval."""

    low: float
    high: float
    coverage: float = 0.95

    def __str__(self) -> str:
        return f"[{self.low:.3g}, {self.high:.3g}]"


@dataclass(frozen=True)
class Spectrum(Record):
    """What the teacher knows beyond a uniform guess at a temperature, in nats an example, level by level."""

    temperature: float
    examples: int
    classes: int
    universe_nats: float
    domain_confidence_nats: float
    domain_shape_nats: float
    instance_confidence_nats: float
    instance_shape_nats: float

    @property
    def total_nats(self) -> float:
        """log K minus the teacher's mean entropy: the sum of the five terms."""
        return sum(self.nats.values())

    @property
    def nats(self) -> dict[Level, float]:
        """The five terms by the name of their level."""
        return {
            "universe": self.universe_nats,
            "domain.confidence": self.domain_confidence_nats,
            "domain.shape": self.domain_shape_nats,
            "instance.confidence": self.instance_confidence_nats,
            "instance.shape": self.instance_shape_nats,
        }

    def __str__(self) -> str:
        total = self.total_nats
        data = f"{self.examples:,} examples, {self.classes:,} classes"
        head = f"{total:.3f} nats an example at temperature {self.temperature:g} ({data})"
        rows = [
            f"  {name:<20} {value:8.4f}  {value / total if total else 0:4.0%}  {bar(value / total if total else 0)}"
            for name, value in self.nats.items()
        ]
        return "\n".join([head, *rows])


@dataclass(frozen=True)
class Evidence(Record):
    """One measured number behind a finding."""

    name: str
    value: float
    unit: str
    interval: Interval | None = None
    threshold: float | None = None

    def __str__(self) -> str:
        interval = f" {self.interval}" if self.interval else ""
        threshold = f" (threshold {self.threshold:.3g})" if self.threshold is not None else ""
        return f"{self.name} {self.value:.3g} {self.unit}{interval}{threshold}".strip()


@dataclass(frozen=True)
class Finding(Record):
    """A judgement on a teacher, its evidence, its cause and its fix.

    `score` runs from 0 (bad) to 1 (good). `command` is a command line, `patch` settings of a run file; either may be empty.
    """

    name: str
    severity: Severity
    score: float
    summary: str
    cause: str
    fix: str
    evidence: tuple[Evidence, ...] = ()
    command: str = ""
    patch: dict[str, str | float | int | bool] = field(default_factory=dict)
    anchor: str = ""
    examples: tuple[str, ...] = ()  # ids of the examples it is about, worst first

    def __str__(self) -> str:
        lines = [f"{self.severity.upper():<8} {self.name}: {self.summary}"]
        lines += [f"         {item}" for item in self.evidence]
        lines += [f"         fix: {self.fix}"] if self.fix else []
        return "\n".join(lines)


@dataclass(frozen=True)
class Recipe(Record):
    """The settings to distil with, and why. `distil = False` advises to train without the teacher."""

    distil: bool
    cell: str
    temperature: float
    teacher_weight: float
    divergence: str
    scale_by_temperature_squared: bool
    reason: str
    stored_entries: int | None = None  # how many of the teacher's classes are worth caching; None: all

    @property
    def patch(self) -> dict[str, str | float | bool]:
        """The recipe as settings of a run file."""
        return {
            "objective.cell": self.cell,
            "objective.temperature": self.temperature,
            "objective.teacher_weight": self.teacher_weight,
            "objective.divergence": self.divergence,
            "objective.scale_by_temperature_squared": self.scale_by_temperature_squared,
        }

    def __str__(self) -> str:
        if not self.distil:
            return f"do not distil: {self.reason}"
        squared = "with" if self.scale_by_temperature_squared else "without"
        return (
            f"{self.cell} at temperature {self.temperature:g}, teacher weight {self.teacher_weight:g}, "
            f"{self.divergence} {squared} T²: {self.reason}"
        )


@dataclass(frozen=True)
class Histogram(Record):
    """Counts between edges (one edge more than counts), with mean and standard deviation of the values."""

    name: str
    edges: tuple[float, ...]
    counts: tuple[int, ...]
    mean: float
    deviation: float


@dataclass(frozen=True)
class Diagnosis(Record):
    """What a teacher knows, what will go wrong and which recipe to use; from one pass, without training."""

    name: str
    spectrum: Spectrum
    findings: tuple[Finding, ...]
    recipe: Recipe
    spectrum_over_temperature: tuple[Spectrum, ...] = ()
    class_names: tuple[str, ...] = ()
    class_relation: Matrix = ()  # off-label class means of the teacher at the recipe's temperature
    confidence: Histogram | None = None
    rescaling: Histogram | None = None
    teacher: Scores | None = None

    @property
    def problems(self) -> tuple[Finding, ...]:
        """The errors and warnings, worst first."""
        found = [f for f in self.findings if f.severity in ("error", "warning")]
        return tuple(sorted(found, key=lambda f: (f.severity != "error", f.score)))

    def __str__(self) -> str:
        shown = "\n".join(map(str, self.problems)) or f"no problem found ({len(self.findings)} probes)"
        return f"{self.name}: {self.spectrum}\n\n{shown}\n\nrecipe: {self.recipe}"


@dataclass(frozen=True)
class Scores(Record):
    """How good predictions are: accuracy in 0..1, NLL in nats, ECE in 0..1, agreement with the teacher in 0..1."""

    examples: int
    accuracy: float
    nll_nats: float
    ece: float
    agreement: float | None = None

    def __str__(self) -> str:
        agreement = "" if self.agreement is None else f", agreement {self.agreement:.1%}"
        return f"accuracy {self.accuracy:.2%}, NLL {self.nll_nats:.3f} nats, ECE {self.ece:.3f}{agreement}"


@dataclass(frozen=True)
class Contract(Record):
    """What exactly an objective computes: printed before a run, stored in its record."""

    formula: str
    cell: str
    confidence: str
    shape: str
    level: str
    temperature: float
    teacher_weight: float
    divergence: str
    scale_by_temperature_squared: bool
    reduction: str = "none: one number an example; the engine takes the weighted mean over valid examples"

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
            ]
        )


@dataclass(frozen=True)
class Preflight(Record):
    """What a few steps with the student at hand tell about the long run: losses, gradients, forecast of time and memory.

    `gradient_ratio` is the teacher's part over the label's at step 0; None where the objective has one part only.
    """

    first_loss_nats: float
    first_loss_of_uniform: float  # over log K: 1 is a uniform guess
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
            f"forecast: {self.steps:,} steps of {1e3 * self.step_seconds:.3g} ms, {self.wall_seconds:,.1f} s in all, "
            f"{self.memory_bytes / 2**20:,.1f} MiB"
        )


@dataclass(frozen=True)
class Training(Record):
    """How long and how fast a student is trained; the same for every arm of a study. Give `steps` or `epochs`."""

    epochs: float | None = None
    steps: int | None = None
    batch_size: int = 64
    learning_rate: float = 1e-3
    optimizer: Literal["adamw", "sgd"] = "adamw"  # sgd: momentum 0.9, Nesterov
    weight_decay: float = 0.0
    schedule: Literal["cosine", "constant"] = "cosine"
    warmup_share: float = 0.0
    micro_batch_size: int | None = None  # at most so many examples at once on a device; the step stays batch_size
    clip_norm: float | None = None  # the gradient's norm is cut to this
    precision: Literal["float32", "bfloat16", "float16"] = "float32"  # of the student's forward and backward pass
    average_decay: float | None = None  # the student is the running average of the weights, with this decay a step
    evaluate_every: int | None = None  # steps between looks at the validation data; None: an epoch where one is needed
    patience: int | None = None  # stop after so many looks without a better one
    keep: Literal["last", "best"] = "last"  # which weights become the student; best by validation accuracy, then NLL

    def steps_for(self, examples: int) -> int:
        """The number of optimiser steps on this many examples (the last batch of an epoch may be smaller)."""
        if self.steps is not None:
            return self.steps
        return max(1, round((self.epochs or 30) * -(-examples // self.batch_size)))


@dataclass(frozen=True)
class Point(Record):
    """One measurement along a training."""

    step: int
    loss: float
    validation: Scores | None = None
    rescaling_mean: float | None = None
    rescaling_deviation: float | None = None
    rescaling_correlation: float | None = None  # with the teacher's confidence, over examples


@dataclass(frozen=True)
class Run(Record):
    """One training: what was asked, what came out, what it cost."""

    arm: str
    seed: int
    status: Literal["completed", "diverged", "stopped"]
    contract: Contract | None  # None: trained on the labels alone
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

    def __str__(self) -> str:
        scores = self.test or self.validation
        return f"{self.arm} seed {self.seed}: {self.status} after {self.steps} steps in {self.wall_seconds:.1f} s" + (
            f", {scores}" if scores else ""
        )


@dataclass(frozen=True)
class Effect(Record):
    """A paired difference of two arms over seeds: `arm` minus `against`, in the metric's unit."""

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
    seeds_to_settle: int | None = None  # how many seeds in all would settle a "cannot tell"

    def __str__(self) -> str:
        return f"{self.arm} − {self.against}: {self.gain:+.3g} {self.interval} {self.metric}: {self.verdict}"


@dataclass(frozen=True)
class Share(Record):
    """One level's part of the total gain, in the metric's unit; the parts of one method add up to the whole."""

    level: ShareLevel
    method: Literal["ladder", "Shapley"]
    gain: float
    interval: Interval


@dataclass(frozen=True)
class Study(Record):
    """Which part of the teacher pays: arms over seeds, paired effects, shares of the levels."""

    name: str
    metric: str
    baseline: str
    margin: float
    arms: tuple[str, ...]
    seeds: tuple[int, ...]
    runs: tuple[Run, ...]
    effects: tuple[Effect, ...]
    shares: tuple[Share, ...] = ()
    notes: tuple[str, ...] = ()
    data: dict[str, str | int | float] = field(default_factory=dict)
    settings: dict[str, str | float | int | bool | None] = field(default_factory=dict)
    wall_seconds: float = 0.0

    def __str__(self) -> str:
        size = f"{len(self.arms)} arms × {len(self.seeds)} seeds"
        head = f"{self.name}: {size}, {self.metric} against {self.baseline} (95 % intervals, p after Holm)"
        rows = []
        for e in self.effects:
            if e.metric == self.metric:
                arm = ("~ " if e.placebo else "") + e.arm + ("" if e.against == self.baseline else f" − {e.against}")
                rows.append(
                    f"  {arm:<34} {e.gain:+8.3f} [{e.interval.low:+.3f}, {e.interval.high:+.3f}]  {e.verdict:<11}"
                )
                rows[-1] += f"  p {e.p_holm:.2g}"
        rows += ["  (~ placebo: as good in form, wrong about examples or classes)"] * any(
            e.placebo for e in self.effects
        )
        return "\n".join([head, *rows])


RECORDS: tuple[type[Record], ...] = tuple(Record.__subclasses__())
