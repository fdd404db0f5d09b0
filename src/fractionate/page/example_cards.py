"""Examples on the page: what each looks like where that may be shown, and how likely teacher and student find the label."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from fractionate.page.marks import Scale, canvas, rect, tag
from fractionate.page.text import percent, short
from fractionate.records.examples import ExampleKind, ExampleList, ExampleRow, NotableExamples, Shown

PICTURE = re.compile(r"data:image/png;base64,[A-Za-z0-9+/=]+")
MOST_PICTURE_BYTES = 300_000  # of a page
MOST_COLUMNS = 6  # of a table's row
HEADINGS: dict[ExampleKind, tuple[str, str]] = {
    "least sure": ("Where the teacher is least sure", "By the probability of its first choice."),
    "contradicts the label": (
        "Where the teacher contradicts the label",
        "Its first choice is another class: the label may be wrong, or the teacher.",
    ),
    "student wins": (
        "Where the student wins against no teacher",
        "Right, where the same student without a teacher is wrong.",
    ),
    "student loses": (
        "Where the student loses against no teacher",
        "Wrong, where the same student without a teacher is right.",
    ),
    "disagreement": (
        "Where student and teacher disagree most",
        "Their first choices differ; most different first.",
    ),
    "takes for another class": (
        "Examples by pair of classes",
        "Of each pair the example that the teacher takes most for the other class; strongest pairs first.",
    ),
}
PAIRS: ExampleKind = "takes for another class"
BARS = {"label": "seg lv-u", "teacher": "seg lv-dc", "student": "seg lv-ic", "no teacher": "seg lv-u"}


@dataclass(frozen=True)
class DrawnExamples:
    """Examples of one kind: heading, what it means, the examples; `paired`: whether they are about pairs of classes."""

    title: str
    words: str
    drawing: Markup
    count: int
    paired: bool


def example_lists(records: Sequence[NotableExamples]) -> tuple[DrawnExamples, ...]:
    """The examples of each kind that there are."""
    left = MOST_PICTURE_BYTES
    found = []
    for record in records:
        for one in record.lists:
            title, words = HEADINGS[one.kind]
            if not one.rows:
                continue
            drawn = []
            for row in one.rows:
                size = len(row.shown.picture) if row.shown else 0
                left -= size
                drawn.append(_card(row, pictured=left >= 0))
            words = f"{words} {_share(one, record)}"
            drawing = tag("div", *drawn, class_="examples")
            found.append(DrawnExamples(title, words, drawing, len(drawn), one.kind == PAIRS))
    return tuple(found)


def _share(one: ExampleList, record: NotableExamples) -> str:
    if one.kind in ("least sure", PAIRS):
        return f"Of {record.rows_seen:,} rows of {short(record.split, 40)}."
    return f"{one.count:,} of {record.rows_seen:,} rows of {short(record.split, 40)} ({percent(one.count / record.rows_seen, 1)})."


def _card(row: ExampleRow, *, pictured: bool) -> Markup:
    place = "" if row.position is None else f", token {row.position + 1}"
    pair = (
        ""
        if row.of_other is None
        else f": {short(row.label, 24)} taken for {short(row.other, 24)}, {percent(row.of_other)}"
    )
    head = tag("div", tag("span", short(row.id, 40), class_="name"), place, pair, class_="example-id")
    bars = [_bar("label", row.label, None)]
    for one in row.opinions:
        bars.append(_bar(one.who, one.choice, one.of_label, one.probability))
    parts = [head, *([_shown(row.shown, pictured)] if row.shown else []), tag("div", *bars, class_="opinions")]
    if row.of_other is None:
        return tag("article", *parts, class_="example")
    return tag(
        "article", *parts, class_="example", tabindex=-1, data_label=short(row.label), data_other=short(row.other)
    )


def _bar(who: str, choice: str, of_label: float | None, top: float | None = None) -> Markup:
    scale = Scale(0.0, 1.0)
    text = f"{who}: {short(choice, 40)}"
    if of_label is not None:
        text += f" with {percent(top, 1)}; the label has {percent(of_label, 1)}"
    share = 1.0 if of_label is None else of_label
    plot = canvas(10, rect(0, 0, 100, 10, "margin"), rect(0, 0, scale(share), 10, BARS[who], text))
    value = "" if of_label is None else percent(of_label)
    words = tag("span", short(choice, 24), class_="choice")
    return tag(
        "div", tag("span", who, class_="who"), words, plot, tag("span", value, class_="of-label"), class_="opinion"
    )


def _shown(shown: Shown, pictured: bool) -> Markup:
    if shown.picture:
        if not pictured or not PICTURE.fullmatch(shown.picture):
            return Markup("")
        return Markup('<img class="thumb" alt="" src="{}">').format(shown.picture)
    if shown.tokens:
        weights = shown.weights if len(shown.weights) == len(shown.tokens) else (0.0,) * len(shown.tokens)
        tokens = [
            tag("span", token, " ", class_=f"piece w{min(4, max(0, int(5 * weight)))}" if weight == weight else "piece")
            for token, weight in zip(shown.tokens, weights, strict=True)
        ]
        return tag("p", *tokens, class_="example-text")
    if shown.columns:
        columns = list(shown.columns.items())[:MOST_COLUMNS]
        cells = [tag("div", tag("dt", short(k, 30)), tag("dd", short(v, 40))) for k, v in columns]
        return tag("dl", *cells, class_="settings")
    return tag("p", shown.text, class_="example-text")
