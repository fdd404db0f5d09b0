"""Superfeatures, and what a model's explanations by superfeature say: per example, over all, and next to its teacher's."""

from __future__ import annotations

from dataclasses import dataclass, field

from fractionate.records.base import Record
from fractionate.records.knowledge import Spectrum
from fractionate.records.measures import Interval, Matrix


@dataclass(frozen=True)
class Superfeatures(Record):
    """Disjoint groups of input features that together are all of them.

    Args:
        groups: Places of columns in the flattened input, one tuple a group.
        features: The number of all features.
        names: One per group.
        feature_names: One per feature; () where they have none.
        resolution: Of the communities the groups were found as; None where they were given.
        modularity: Likewise.
        notes: What was unusual when they were found.
    """

    groups: tuple[tuple[int, ...], ...]
    features: int
    names: tuple[str, ...]
    feature_names: tuple[str, ...] = ()
    resolution: float | None = None
    modularity: float | None = None
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.groups)

    def members(self, group: int, most: int = 6) -> str:
        """The features of a group in words, the first few by name."""
        columns = self.groups[group]
        known = len(self.feature_names) == self.features
        shown = [self.feature_names[c] if known and 0 <= c < self.features else str(c) for c in columns[:most]]
        return ", ".join(shown) + (f" and {len(columns) - most} more" if len(columns) > most else "")

    def __str__(self) -> str:
        found = "given" if self.resolution is None else f"found at resolution {self.resolution:.4g}"
        rows = [
            f"  {name:<12} {len(group):4d}  {self.members(i)}"
            for i, (name, group) in enumerate(zip(self.names, self.groups, strict=False))
        ]
        head = f"{len(self)} superfeatures of {self.features} features, {found}"
        return "\n".join([head, *rows, *(f"  {note}" for note in self.notes)])


@dataclass(frozen=True)
class Superfeature(Record):
    """What one superfeature tells over all examples, in the teacher and in the student.

    Information is E KL(explanation ‖ prior), how far an explanation moves from the prior; evidence is
    E log(explanation[y] / prior[y]), how much of that is towards the label.

    Args:
        name: Of the superfeature.
        members: Its features in words.
        features: Their number.
        teacher_information_nats: Information in the teacher's explanations.
        student_information_nats: Information in the student's.
        teacher_evidence_nats: Evidence in the teacher's explanations.
        student_evidence_nats: Evidence in the student's.
        agreement: Share of examples on which student and teacher put the same class first.
        agreement_by_chance: The same with the student's explanations of other examples.
        divergence_nats: E KL(teacher ‖ student).
        teacher_spectrum: Spectrum of the teacher's explanations.
        student_spectrum: Spectrum of the student's.
        paid: Gain of teaching this superfeature's explanation alone, in the metric's unit; None where no study measured it.
        paid_interval: Its 95 % interval.
        paid_verdict: The study's, corrected for its number of comparisons.
        outside_correlation: Correlation over examples of the teacher's evidence with the black box's Shapley values.
    """

    name: str
    members: str
    features: int
    teacher_information_nats: float
    student_information_nats: float
    teacher_evidence_nats: float
    student_evidence_nats: float
    agreement: float
    agreement_by_chance: float
    divergence_nats: float
    teacher_spectrum: Spectrum | None = None
    student_spectrum: Spectrum | None = None
    paid: float | None = None
    paid_interval: Interval | None = None
    paid_verdict: str = ""
    outside_correlation: float | None = None


@dataclass(frozen=True)
class ExampleExplanation(Record):
    """Why one example is predicted as it is: log-odds of the predicted class over the next one, in nats, split exactly.

    prior_nats + Σ student_nats = the log-odds of the student's prediction.

    Args:
        example: Its id.
        label: The name of its class.
        predicted: The class the student puts first.
        next_class: The class it puts second.
        log_odds_nats: Of the first over the second.
        prior_nats: The part of the class prior.
        student_nats: The student's evidence, one number per superfeature.
        teacher_nats: The teacher's, for the same two classes.
    """

    example: str
    label: str
    predicted: str
    next_class: str
    log_odds_nats: float
    prior_nats: float
    student_nats: tuple[float, ...]
    teacher_nats: tuple[float, ...]


@dataclass(frozen=True)
class Explanations(Record):
    """What a student and its teacher explain by superfeature: over all examples, and for some of them.

    Args:
        name: Of the data or the run.
        class_names: The names of the classes.
        superfeatures: What each superfeature tells over all examples.
        examples: Single examples, split exactly.
        measured_on: The number of examples.
        prior: The class prior of the student's combination.
        paid_unit: Unit of `Superfeature.paid`.
        outside_method: What `outside_correlation` compares with.
        interaction: [superfeatures][superfeatures] mean interaction strength between the features of two.
        notes: What was unusual when the superfeatures were found.
        settings: Of the measurement, by name.
    """

    name: str
    class_names: tuple[str, ...]
    superfeatures: tuple[Superfeature, ...]
    examples: tuple[ExampleExplanation, ...]
    measured_on: int
    prior: tuple[float, ...]
    paid_unit: str = ""
    outside_method: str = ""
    interaction: Matrix = ()
    notes: tuple[str, ...] = ()
    settings: dict[str, str | float | int | bool | None] = field(default_factory=dict)

    def rows(self) -> tuple[tuple[str | float, ...], ...]:
        """One row per example and superfeature, for export: see `HEAD`."""
        return tuple(
            (e.example, e.label, e.predicted, e.next_class, e.log_odds_nats, e.prior_nats, s.name, ours, theirs)
            for e in self.examples
            for s, ours, theirs in zip(self.superfeatures, e.student_nats, e.teacher_nats, strict=False)
        )

    def __str__(self) -> str:
        head = f"{self.name}: {len(self.superfeatures)} superfeatures on {self.measured_on:,} examples"
        lines = [
            f"  {s.name:<12} information {s.teacher_information_nats:.3f} → {s.student_information_nats:.3f} nats, "
            f"agreement {s.agreement:.1%} (by chance {s.agreement_by_chance:.1%})"
            + ("" if s.paid is None else f", paid {s.paid:+.3g} {s.paid_interval} {self.paid_unit}")
            for s in self.superfeatures
        ]
        return "\n".join([head, *lines])


HEAD = (
    *("example", "label", "predicted", "next class", "log-odds (nats)", "prior (nats)"),
    *("superfeature", "student (nats)", "teacher (nats)"),
)
