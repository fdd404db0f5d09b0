"""What is wrong with a teacher and which recipe to use: the findings, the pilot and the advice of a diagnosis."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from fractionate.records.base import Record
from fractionate.records.knowledge import ClassCorrelation, ClassPart, Spectrum, Term
from fractionate.records.measures import Histogram, Interval, Matrix, Scores

Severity = Literal["error", "warning", "info", "ok", "skipped"]


@dataclass(frozen=True)
class Evidence(Record):
    """One measured number behind a finding.

    Args:
        name: What was measured.
        value: The number.
        unit: Its unit; "" for none.
        interval: Its confidence interval, where it has one.
        threshold: What it was compared with.
    """

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

    Args:
        name: Of the probe.
        severity: error, warning, info, ok, or skipped.
        score: From 0 (bad) to 1 (good).
        summary: What was found, in a sentence.
        cause: What usually causes it.
        fix: What to do.
        evidence: The numbers it rests on.
        command: A command line; may be empty.
        patch: Settings of a run file that mend it; may be empty.
        anchor: Its place in the documentation.
        examples: Ids of the examples it is about, worst first.
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
    examples: tuple[str, ...] = ()

    def __str__(self) -> str:
        lines = [f"{self.severity.upper():<8} {self.name}: {self.summary}"]
        lines += [f"         {item}" for item in self.evidence]
        lines += [f"         fix: {self.fix}"] if self.fix else []
        return "\n".join(lines)


@dataclass(frozen=True)
class Recommendation(Record):
    """The settings to distil with, and why.

    Args:
        distil: False advises to train without the teacher.
        cell: Of the objective.
        temperature: Of teacher and student.
        teacher_weight: Of the teacher's part of the loss, in [0, 1].
        divergence: Between the two distributions.
        scale_by_temperature_squared: Whether the teacher's part is multiplied by T².
        reason: Why these.
        stored_entries: How many of the teacher's classes are worth caching; None: all.
        learning_rate_factor: The learning rate as a multiple of the one given: targets of different kinds want different rates, and
            only a pilot tries them.
        repair: The finding that has to be repaired first, and how; the settings are then no advice.
        terms: Of tasks without classes: what is learned from the teacher, in place of a cell.
    """

    distil: bool
    cell: str
    temperature: float
    teacher_weight: float
    divergence: str
    scale_by_temperature_squared: bool
    reason: str
    stored_entries: int | None = None
    learning_rate_factor: float = 1.0
    repair: str = ""
    terms: tuple[str, ...] = ()

    @property
    def settings(self) -> str:
        """What is learned from the teacher, in one line."""
        rate = "" if self.learning_rate_factor == 1 else f", {self.learning_rate_factor:g} × the learning rate"
        if self.terms:
            return f"the term {' and '.join(self.terms)} next to the labels{rate}"
        squared = "with" if self.scale_by_temperature_squared else "without"
        return (
            f"{self.cell} at temperature {self.temperature:g}, teacher weight {self.teacher_weight:g}{rate}, "
            f"{self.divergence} {squared} T²"
        )

    @property
    def patch(self) -> dict[str, str | float | bool]:
        """The recipe as settings of a run file; empty for terms, which stand in the recipes of its variants."""
        if self.terms:
            return {}
        return {
            "objective.cell": self.cell,
            "objective.temperature": self.temperature,
            "objective.teacher_weight": self.teacher_weight,
            "objective.divergence": self.divergence,
            "objective.scale_by_temperature_squared": self.scale_by_temperature_squared,
        }

    def __str__(self) -> str:
        rate = "" if self.learning_rate_factor == 1 else f", {self.learning_rate_factor:g} × the learning rate"
        if self.repair:
            return f"repair first: {self.reason}"
        if not self.distil:
            return f"do not distil{rate}: {self.reason}"
        return f"{self.settings}: {self.reason}"


@dataclass(frozen=True)
class Trial(Record):
    """One arm of a pilot: its settings, and what it gained on the validation data over no teacher.

    Args:
        arm: Its name.
        cell: Of the objective.
        temperature: Of teacher and student.
        teacher_weight: Of the teacher's part of the loss.
        accuracy: Per cent, mean over its seeds.
        gain_points: Gain in points of accuracy.
        interval: Of the gain, over seeds and validation examples; of one seed without bounds.
        seeds: How many.
        learning_rate_factor: The learning rate as a multiple of the training's.
        nll_gain_nats: What it saved in negative log-likelihood a row; after the best scale of its logits where accuracy decides.
    """

    arm: str
    cell: str
    temperature: float
    teacher_weight: float
    accuracy: float
    gain_points: float
    interval: Interval
    seeds: int
    learning_rate_factor: float = 1.0
    nll_gain_nats: float | None = None

    def __str__(self) -> str:
        gain = f"{self.gain_points:+7.2f}"
        gain += f" [{self.interval.low:+.2f}, {self.interval.high:+.2f}]" if self.seeds > 1 else ""
        saved = "" if self.nll_gain_nats is None else f"  {self.nll_gain_nats:+.3f} nats"
        return f"{self.arm:<28} {self.accuracy:6.2f} %  {gain}{saved}  {self.seeds} {'seed' if self.seeds == 1 else 'seeds'}"


@dataclass(frozen=True)
class Pilot(Record):
    """A small study by successive halving that refined a recipe: every arm tried, and the last ones again on fresh seeds.

    Nothing that is computed depends on a clock, only where it stopped (`complete`).

    Args:
        chosen: The best arm by all examples.
        gain_points: Its gain over the best arm without a teacher, in points of accuracy, on seeds that took no part in the choice;
            each is chosen on other validation examples than those it is judged on.
        interval: 95 % interval of `gain_points`.
        confirming_seeds: How many fresh seeds.
        trials: Every arm, best first.
        students: How many students were trained.
        examples: Of the transfer set.
        validation_examples: Of the validation set.
        share_of_steps: Share of the real training's steps that each student got.
        wall_seconds: What it took.
        budget_seconds: What it was allowed; 0: no bound.
        complete: False: the time ran out before the last round.
        note: What was unusual.
        nll_gain_nats: As `gain_points`, in nats of negative log-likelihood a row.
        nll_interval: 95 % interval of `nll_gain_nats`.
        decided_by: What chose the arms.
        no_teacher: The best arm without a teacher by all examples.
        first_seed: Where its seeds count from.
        margin: A smaller gain is none, in points or, where likelihood decides, in nats.
    """

    chosen: str
    gain_points: float
    interval: Interval
    confirming_seeds: int
    trials: tuple[Trial, ...]
    students: int
    examples: int
    validation_examples: int
    share_of_steps: float
    wall_seconds: float
    budget_seconds: float
    complete: bool = True
    note: str = ""
    nll_gain_nats: float | None = None
    nll_interval: Interval | None = None
    decided_by: Literal["accuracy", "likelihood"] = "accuracy"
    no_teacher: str = "no teacher"
    first_seed: int = 0
    margin: float = 0.5

    @property
    def decisive(self) -> tuple[float, Interval, str]:
        """The gain by what decides, its 95 % interval, and their unit."""
        if self.decided_by == "likelihood" and self.nll_gain_nats is not None and self.nll_interval is not None:
            return self.nll_gain_nats, self.nll_interval, "nats a row"
        return self.gain_points, self.interval, "points of accuracy"

    @property
    def rules_out_a_gain(self) -> bool:
        """Whether a gain of the margin or more lies above the 95 % interval: evidence against distilling."""
        return self.decisive[1].high < self.margin

    def __str__(self) -> str:
        bound = f" of {self.budget_seconds:.0f}" if self.budget_seconds else ""
        head = (
            f"pilot: {self.students} students on {self.examples:,} examples, {self.share_of_steps:.0%} of the steps, in "
            f"{self.wall_seconds:.0f}{bound} s; points of accuracy over {self.no_teacher} on "
            f"{self.validation_examples:,} validation examples"
        )
        rows = [f"  {trial}" for trial in self.trials[:8]]
        rows += [f"  … {len(self.trials) - 8} more"] * (len(self.trials) > 8)
        sure = f"{self.gain_points:+.2f} [{self.interval.low:+.2f}, {self.interval.high:+.2f}]"
        if self.nll_gain_nats is not None:
            sure += f", {self.nll_gain_nats:+.3f} nats {self.nll_interval}"
        last = f"  {self.chosen} over {self.no_teacher} on {self.confirming_seeds} fresh seeds: {sure}"
        return "\n".join([head, *rows, last, *([f"  {self.note}"] if self.note else [])])


@dataclass(frozen=True)
class PredictedGain(Record):
    """What the best distillation is predicted to gain over no teacher, each at its best learning rate.

    Args:
        gain: The predicted gain.
        interval: Its 95 % interval.
        unit: Points of accuracy, or nats per row.
        basis: What it was predicted from.
        note: Where it is beyond what was calibrated.
    """

    gain: float
    interval: Interval
    unit: Literal["points", "nats"]
    basis: Literal["signal", "signal and student", "pilot", "signal and pilot"]
    note: str = ""

    def __str__(self) -> str:
        note = f"; {self.note}" if self.note else ""
        return f"predicted gain {self.gain:.2g} {self.unit} {self.interval}, from {self.basis}{note}"


@dataclass(frozen=True)
class Diagnosis(Record):
    """What a teacher knows, what will go wrong and which recipe to use; from one pass, without training but for a pilot's.

    Args:
        name: Of the data.
        spectrum: What the teacher knows, at temperature 1; None: the task has no classes.
        findings: One per probe.
        recipe: What is recommended.
        spectrum_over_temperature: The spectrum at other temperatures.
        class_names: The names of the classes.
        class_relation: [classes][classes] off-label class means of the teacher at the recipe's temperature.
        class_correlations: At a low and a high temperature.
        confidence: The teacher's probability of the label over examples.
        rescaling: The factor on the label's gradient over examples.
        teacher: The teacher's own scores.
        pilot: The small study that refined the recipe, where one ran.
        terms: The spectrum at temperature 1 with intervals, chance and what is reproducible.
        class_parts: The terms class by class.
        superclass_parts: The same for groups of classes.
        row: What a row of the signal is: an example, a token, or a label.
        predicted: The gain to expect; None where the recipe is not to distil or a fault has to be repaired first, and where nothing
            was calibrated.
    """

    name: str
    spectrum: Spectrum | None
    findings: tuple[Finding, ...]
    recipe: Recommendation
    spectrum_over_temperature: tuple[Spectrum, ...] = ()
    class_names: tuple[str, ...] = ()
    class_relation: Matrix = ()
    class_correlations: tuple[ClassCorrelation, ...] = ()
    confidence: Histogram | None = None
    rescaling: Histogram | None = None
    teacher: Scores | None = None
    pilot: Pilot | None = None
    terms: tuple[Term, ...] = ()
    class_parts: tuple[ClassPart, ...] = ()
    superclass_parts: tuple[ClassPart, ...] = ()
    row: str = "example"
    predicted: PredictedGain | None = None

    @property
    def problems(self) -> tuple[Finding, ...]:
        """The errors and warnings, worst first."""
        found = [f for f in self.findings if f.severity in ("error", "warning")]
        return tuple(sorted(found, key=lambda f: (f.severity != "error", f.score)))

    def __str__(self) -> str:
        shown = "\n".join(map(str, self.problems)) or f"no problem found ({len(self.findings)} probes)"
        pilot = f"\n\n{self.pilot}" if self.pilot else ""
        predicted = f"\n{self.predicted}" if self.predicted else ""
        known = self.spectrum.text(self.row) if self.spectrum else "numbers, no classes"
        return f"{self.name}: {known}{self._details()}\n\n{shown}{pilot}\n\nrecipe: {self.recipe}{predicted}"

    def _details(self) -> str:
        """Intervals of the terms, and the superclasses or the classes with most and least off the label."""
        lines = ["  in nats, with 95 % intervals over examples:"] * bool(self.terms)
        lines += [f"  {term}" for term in self.terms]
        parts = self.superclass_parts or self.class_parts
        ranked = sorted(parts, key=lambda part: -part.relations_nats)
        notes = [f"{part.name} {part.relations_nats:.3f}" for part in ranked]
        if len(notes) > 8:
            notes = [*notes[:4], "…", *notes[-3:]]
        kind = "superclass" if self.superclass_parts else "class"
        lines += [f"  off the label, by {kind} (both shapes, nats): {', '.join(notes)}"] * bool(notes)
        return "\n" + "\n".join(lines) if lines else ""
