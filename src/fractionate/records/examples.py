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
    """What one model predicts for a row.

    Args:
        who: Teacher, student or the student trained without a teacher.
        choice: Its first choice.
        probability: Of that choice.
        of_label: The probability of the label.
    """

    who: Who
    choice: str
    probability: float
    of_label: float


@dataclass(frozen=True)
class Shown(Record):
    """What an example looks like to a person; made only where the run file allows it.

    Args:
        text: The example as text.
        tokens, weights: A text token by token, and how far student and teacher are apart at each, from 0 to 1.
        picture: A PNG as a data address.
        columns: A row of a table.
    """

    text: str = ""
    tokens: tuple[str, ...] = ()
    weights: tuple[float, ...] = ()
    picture: str = ""
    columns: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class ExampleRow(Record):
    """One row of the data: an example of a classifier, or a labelled token of a text.

    Args:
        id: Of the example.
        label: The name of its class.
        opinions: What each model predicts.
        position: Place among the labelled tokens of its example; None for rows that are examples.
        shown: The example as text, picture or table row.
        other: The class other than the label that the teacher finds likeliest, in lists of pairs of classes.
        of_other: Its probability.
    """

    id: str
    label: str
    opinions: tuple[Opinion, ...]
    position: int | None = None
    shown: Shown | None = None
    other: str = ""
    of_other: float | None = None


@dataclass(frozen=True)
class ExampleList(Record):
    """The rows of one kind.

    Args:
        kind: The name of the kind.
        count: How many rows of the split are of this kind in all.
        rows: The most telling first.
    """

    kind: ExampleKind
    count: int
    rows: tuple[ExampleRow, ...]


@dataclass(frozen=True)
class Reliability(Record):
    """How often a model's first choice is right, by how sure the model is of it: ten bins of equal width from 0 to 1.

    Source: DeGroot and Fienberg (1983), The comparison and evaluation of forecasters; Guo et al. (2017), arXiv 1706.04599, eq. 2.

    Args:
        counts: Rows in each bin.
        confidence: Mean probability of the first choice in each bin; 0 where there is no row.
        right: Share of rows in each bin whose first choice is the label; 0 where there is no row.
        who: Whose first choice it is.
    """

    who: Who
    counts: tuple[int, ...]
    confidence: tuple[float, ...]
    right: tuple[float, ...]


@dataclass(frozen=True)
class NotableExamples(Record):
    """Examples worth seeing of one run, on one split.

    Args:
        name: Of the run.
        split: The split that was read.
        rows_seen: How many rows it has.
        lists: Examples by why they are worth seeing.
        reliability: How often each model is right, by its confidence.
    """

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
