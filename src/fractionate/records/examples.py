"""Single examples worth seeing: the teacher unsure or against the label, the student winning, losing or disagreeing."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from fractionate.records.base import Record

ExampleKind = Literal["least sure", "contradicts the label", "student wins", "student loses", "disagreement"]
Who = Literal["teacher", "student", "no teacher"]


@dataclass(frozen=True)
class Opinion(Record):
    """What one model says of a row: its first choice, that choice's probability, and the probability of the label."""

    who: Who
    choice: str
    probability: float
    of_label: float


@dataclass(frozen=True)
class Shown(Record):
    """What an example looks like to a person; made only where the run file allows it.

    `tokens` with `weights` (0..1, how far student and teacher are apart there) are a text piece by piece. `picture` is a PNG as a
    data address. `columns` is a row of a table.
    """

    text: str = ""
    tokens: tuple[str, ...] = ()
    weights: tuple[float, ...] = ()
    picture: str = ""
    columns: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class ExampleRow(Record):
    """One row of the data: an example of a classifier, a labelled token of a text."""

    id: str
    label: str
    opinions: tuple[Opinion, ...]
    position: int | None = None  # among the labelled tokens of its example
    shown: Shown | None = None


@dataclass(frozen=True)
class ExampleList(Record):
    """The rows of one kind, most telling first; `count`: how many rows of the split are of this kind in all."""

    kind: ExampleKind
    count: int
    rows: tuple[ExampleRow, ...]


@dataclass(frozen=True)
class NotableExamples(Record):
    """Examples worth seeing of one run (`name`), on one split."""

    name: str
    split: str
    rows_seen: int
    lists: tuple[ExampleList, ...]

    def __str__(self) -> str:
        lines = [f"{self.name}: {self.rows_seen:,} rows of {self.split}"]
        for found in self.lists:
            ids = ", ".join(row.id for row in found.rows)
            lines.append(f"  {found.kind}: {found.count:,}" + (f" (first: {ids})" if ids else ""))
        return "\n".join(lines)
