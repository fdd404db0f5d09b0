"""Single examples worth seeing: the teacher unsure or against the label, the student winning, losing or disagreeing."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from fractionate.records.base import Record

ExampleKind = Literal[
    "least sure", "contradicts the label", "student wins", "student loses", "disagreement", "takes for another class"
]
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
    other: str = (
        ""  # the class beside the label that the teacher finds likeliest, where the list is about pairs of classes
    )
    of_other: float | None = None  # its probability


@dataclass(frozen=True)
class ExampleList(Record):
    """The rows of one kind, most telling first; `count`: how many rows of the split are of this kind in all."""

    kind: ExampleKind
    count: int
    rows: tuple[ExampleRow, ...]


@dataclass(frozen=True)
class Reliability(Record):
    """How often a model's first choice is right, by how sure the model is of it: ten bins of equal width from 0 to 1.

    Args:
        counts: Rows in each bin.
        confidence: Mean probability of the first choice in each bin; 0 where there is no row.
        right: Share of rows in each bin whose first choice is the label; 0 where there is no row.

    Source: DeGroot and Fienberg (1983), The comparison and evaluation of forecasters; Guo et al. (2017), arXiv 1706.04599, eq. 2.
    """

    who: Who
    counts: tuple[int, ...]
    confidence: tuple[float, ...]
    right: tuple[float, ...]


@dataclass(frozen=True)
class NotableExamples(Record):
    """Examples worth seeing of one run (`name`), on one split."""

    name: str
    split: str
    rows_seen: int
    lists: tuple[ExampleList, ...]
    reliability: tuple[Reliability, ...] = ()

    def __str__(self) -> str:
        lines = [f"{self.name}: {self.rows_seen:,} rows of {self.split}"]
        for found in self.lists:
            ids = ", ".join(row.id for row in found.rows)
            lines.append(f"  {found.kind}: {found.count:,}" + (f" (first: {ids})" if ids else ""))
        return "\n".join(lines)
