"""Superfeatures, and what a model's explanations by superfeature say: per example, over all, and beside its teacher's."""

from __future__ import annotations

from dataclasses import dataclass, field

from fractionate.records.base import Record
from fractionate.records.knowledge import Spectrum
from fractionate.records.measures import Interval, Matrix


@dataclass(frozen=True)
class Superfeatures(Record):
    """Disjoint groups of input features that together are all of them: places of columns in the flattened input.

    `resolution` and `modularity` are those of the communities the groups were found as; None where they were given.
    """

    groups: tuple[tuple[int, ...], ...]
    features: int
    names: tuple[str, ...]  # of the groups
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
    """What one superfeature says over all examples, in the teacher and in the student.

    `information_nats` is E KL(explanation ‖ prior), how far it moves from the prior; `evidence_nats` is E log(explanation[y] /
    prior[y]), how much of that is towards the label. `agreement` is the share of examples on which student and teacher put the
    same class first, `agreement_by_chance` the same with the student's explanations of other examples; `divergence_nats` is
    E KL(teacher ‖ student). `paid` is the gain of teaching this superfeature's explanation alone, where a study
    measured it, in its metric's unit. `outside_correlation` is that of the teacher's evidence, over examples, with the black box's
    Shapley values of the same columns.
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
    paid_verdict: str = ""  # the study's, corrected for its number of contrasts
    outside_correlation: float | None = None


@dataclass(frozen=True)
class ExampleExplanation(Record):
    """Why one example is predicted as it is: log-odds of the predicted class over the next one, in nats, split exactly.

    prior_nats + the sum of the student's evidence = the log-odds of the student's prediction; the teacher's evidence is for the
    same two classes.
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
    """What a student explains by superfeature, beside its teacher: over all examples, and for some of them."""

    name: str
    class_names: tuple[str, ...]
    superfeatures: tuple[Superfeature, ...]
    examples: tuple[ExampleExplanation, ...]
    measured_on: int
    prior: tuple[float, ...]
    paid_unit: str = ""
    outside_method: str = ""
    interaction: Matrix = ()  # mean strength between the features of two superfeatures
    notes: tuple[str, ...] = ()
    settings: dict[str, str | float | int | bool | None] = field(default_factory=dict)

    def rows(self) -> tuple[tuple[str | float, ...], ...]:
        """One row an example and superfeature, for export: see `HEAD`."""
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
