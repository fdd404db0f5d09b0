"""Rows of a chart: a name, a mark with its interval, and a number. On a phone the mark moves below the name."""

from __future__ import annotations

from markupsafe import Markup

from fractionate.page.marks import Scale, axis, canvas, finite, gridlines, line, tag
from fractionate.page.text import short
from fractionate.records import Interval

ROW = 34.0
REACH = 60.0  # bands and lines reach over the plot; the row cuts them, so that they join however high it is
SIGNS = {  # the shape is the second cue next to colour
    "▲": "M0-6L6 5H-6z",
    "▼": "M0 6L6-5H-6z",
    "=": "M-5-5h10v10h-10z",
    "◇": "M0-6L6 0 0 6-6 0z",
    "●": "M-5 0a5 5 0 1 0 10 0a5 5 0 1 0-10 0z",
}


def row(name: Markup | str, plot: Markup, end: Markup, class_: str = "", of: str | None = None) -> Markup:
    """One row; `of` is the variant it is about, for highlighting it everywhere."""
    label = name if isinstance(name, Markup) else tag("div", short(name, 48), class_="row-name", title=short(name))
    about = None if of is None else short(of, 48)
    return tag(
        "div", label, tag("div", plot, class_="row-plot"), end, class_=f"row {class_}".strip(), data_variant=about
    )


def ground(scale: Scale, *marks: Markup, height: float = ROW, zero: bool = True, band: Markup | None = None) -> Markup:
    """The plot of a row: grid, zero, and what stands on them."""
    naught = line(scale(0), -REACH, scale(0), height + REACH, "zero") if zero else Markup("")
    return canvas(height, band or Markup(""), gridlines(scale, -REACH, height + REACH), naught, *marks)


def mark(scale: Scale, mean: float, interval: Interval | None, class_: str, sign: str, words: str) -> Markup:
    """A mean and its interval."""
    y, parts = ROW / 2, []
    if interval and finite(interval.low, interval.high):
        low, high = scale(interval.low), scale(interval.high)
        parts += [line(low, y, high, y, f"whisker {class_}")]
        parts += [line(x, y - 4, x, y + 4, f"whisker thin {class_}") for x in (low, high)]
    if finite(mean):
        dot = tag("path", tag("title", words), d=SIGNS[sign], class_=f"dot {class_}")
        parts.append(tag("svg", dot, x=f"{scale(mean):.2f}%", y=y, class_="spill"))
    return Markup("").join(parts)


def key(*items: tuple[str, str, str]) -> Markup:
    """What the signs mean: (class, sign, words)."""
    shown = [
        tag("span", canvas(ROW, mark(Scale(0, 1), 0.5, Interval(0.0, 1.0), c, sign, ""), class_="plot key-sign"), words)
        for c, sign, words in items
    ]
    return tag("div", *shown, class_="key")


def axis_row(scale: Scale, words: str) -> Markup:
    """The numbers under the rows."""
    return tag(
        "div",
        tag("div", words, class_="row-name axis-name"),
        tag("div", canvas(20, axis(scale, 15)), class_="row-plot"),
        class_="row axis-row",
    )
