"""What a teacher knows: the records of a spectrum, level by level and class by class."""

from __future__ import annotations

from dataclasses import dataclass, field

from fractionate.records.base import Record
from fractionate.records.measures import Interval, Level, Matrix, bar, with_article


@dataclass(frozen=True)
class Spectrum(Record):
    """What the teacher knows beyond a uniform guess at a temperature, in nats per example, level by level.

    log K − E[H(p)] = universe + domain.confidence + domain.shape + instance.confidence + instance.shape; `theory.spectrum` has the
    terms.

    Args:
        temperature: Of the teacher's distribution.
        examples: The number of rows.
        classes: The number of classes.
        universe_nats: What is the same for every example: how sure the teacher is on average.
        domain_confidence_nats: How sure it is of each class.
        domain_shape_nats: Which classes it finds alike.
        instance_confidence_nats: How sure it is of each example.
        instance_shape_nats: Which classes it finds alike on each example.
    """

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
        return self.text()

    def text(self, row: str = "example") -> str:
        """Total and parts, a bar each; `row` names what a row is."""
        total = self.total_nats
        data = f"{self.examples:,} {row}s, {self.classes:,} classes"
        head = f"{total:.3f} nats {with_article(row)} at temperature {self.temperature:g} ({data})"
        rows = [
            f"  {name:<20} {value:8.4f}  {value / total if total else 0:4.0%}  {bar(value / total if total else 0)}"
            for name, value in self.nats.items()
        ]
        return "\n".join([head, *rows])


@dataclass(frozen=True)
class Term(Record):
    """One term of a spectrum with its uncertainty, in nats per example.

    Args:
        level: Which term.
        nats: Its value.
        interval: 95 % interval over examples.
        chance_nats: Mean of what class means of so few examples show where labels and shapes are unrelated; domain terms only.
        chance_high_nats: The 95th percentile of the same.
        reproducible_nats: The part that comes again in a second view; instance.shape only.
        reproducible_interval: Its 95 % interval.
    """

    level: Level
    nats: float
    interval: Interval
    chance_nats: float | None = None
    chance_high_nats: float | None = None
    reproducible_nats: float | None = None
    reproducible_interval: Interval | None = None

    @property
    def beyond_chance(self) -> bool | None:
        """Whether the term is above what chance gives in 95 of 100; None where chance adds nothing."""
        return None if self.chance_high_nats is None else self.nats > self.chance_high_nats

    def __str__(self) -> str:
        words = [f"{self.level:<20} {self.nats:8.4f}  [{self.interval.low:.4f}, {self.interval.high:.4f}]"]
        if self.chance_nats is not None:
            words.append(f"by chance {self.chance_nats:.4f}" + ("" if self.beyond_chance else ": not shown to be more"))
        if self.reproducible_nats is not None:
            words.append(f"comes again {self.reproducible_nats:.4f} {self.reproducible_interval}")
        return "  ".join(words)


@dataclass(frozen=True)
class ClassPart(Record):
    """The spectrum's terms of one class or superclass.

    Args:
        name: Of the class.
        examples: How many it has.
        nats: Nats per example of it, by level.
    """

    name: str
    examples: int
    nats: dict[str, float] = field(default_factory=dict)

    @property
    def relations_nats(self) -> float:
        """What the teacher says off the label: both shape terms."""
        return self.nats.get("domain.shape", 0.0) + self.nats.get("instance.shape", 0.0)


@dataclass(frozen=True)
class ClassCorrelation(Record):
    """How the teacher's probabilities of two classes move together over examples.

    Args:
        temperature: At which they are read.
        matrix: [classes][classes] correlations.
        within: Mean over pairs of classes of one superclass.
        between: Mean over pairs of different superclasses.
    """

    temperature: float
    matrix: Matrix
    within: float | None = None
    between: float | None = None
