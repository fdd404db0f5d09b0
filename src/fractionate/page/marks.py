"""Fluid SVG: across in per cent of the width, down in pixels. So a plot fits a phone and its letters keep their size.

Colours are CSS classes, never attributes: light, dark and paper share one drawing. Everything is escaped by `Markup`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from markupsafe import Markup

from fractionate.page.text import decimals, number
from fractionate.system.plain_text import clean

MOST_PATH = 1_000_000  # characters of a drawing; names and texts are cut far earlier
WHOLE = ("d", "points", "data_names", "data_values")  # a path that is cut short draws nothing


def tag(name: str, *children: object, **attributes: object) -> Markup:
    """An element; `class_` gives class, `font_size` font-size; text children and values are cleaned and escaped."""
    written = Markup("").join(
        Markup(' {}="{}"').format(key.rstrip("_").replace("_", "-"), _value(key, value))
        for key, value in attributes.items()
        if value is not None
    )
    inside = Markup("").join(child if isinstance(child, Markup) else clean(child) for child in children)
    return Markup("<{0}{1}>{2}</{0}>").format(Markup(name), written, inside)  # noqa: S704 (names are ours)


def _value(key: str, value: object) -> str:
    if isinstance(value, float):
        return f"{value:.2f}".rstrip("0").rstrip(".")
    return clean(value, MOST_PATH) if key in WHOLE else clean(value)


@dataclass(frozen=True)
class Scale:
    """From values to per cent of the width (or pixels of the height); values that are not finite go nowhere."""

    low: float
    high: float
    start: float = 0.0
    stop: float = 100.0

    def __call__(self, value: float) -> float:
        share = (min(max(value, self.low), self.high) - self.low) / (self.high - self.low)
        return self.start + share * (self.stop - self.start)

    def ticks(self, wanted: int = 5) -> list[float]:
        """Round values inside the scale, about as many as wanted."""
        raw = (self.high - self.low) / max(1, wanted)
        power = 10.0 ** math.floor(math.log10(raw))
        step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= raw * 0.999)
        first = math.ceil(self.low / step - 1e-9)
        return [i * step for i in range(first, math.floor(self.high / step + 1e-9) + 1)]


def scale_for(values: Iterable[float], *, zero: bool = False, room: float = 0.04) -> Scale:
    """A scale that holds all finite values, with a little room; from zero where wanted."""
    finite = [v for v in values if math.isfinite(v) and abs(v) < 1e300] + ([0.0] if zero else [])
    low, high = (min(finite), max(finite)) if finite else (0.0, 1.0)
    if high - low < 1e-12 * max(1.0, abs(high)):
        low, high = low - (0 if zero and low == 0 else 0.5), high + 0.5
    span = (high - low) * room
    return Scale(low if zero and low == 0 else low - span, high if zero and high == 0 else high + span)


def finite(*values: float) -> bool:
    """Whether all can be drawn."""
    return all(math.isfinite(v) for v in values)


def canvas(height: float, *children: Markup, label: str = "", class_: str = "plot") -> Markup:
    """An SVG as wide as its place; hidden from screen readers without a label (the table next to it speaks)."""
    label_for_readers = {"role": "img", "aria_label": label} if label else {"aria_hidden": "true"}
    return tag("svg", *children, class_=class_, width="100%", height=height, **label_for_readers)


def rect(x: float, y: float, width: float, height: float, class_: str, title: str = "") -> Markup:
    """A box: x and width in per cent, y and height in pixels."""
    inside = [tag("title", title)] if title else []
    return tag(
        "rect", *inside, x=f"{x:.2f}%", y=y, width=f"{max(0.0, width):.2f}%", height=max(0.0, height), class_=class_
    )


def line(x1: float, y1: float, x2: float, y2: float, class_: str) -> Markup:
    """A line: x in per cent, y in pixels."""
    return tag("line", x1=f"{x1:.2f}%", y1=y1, x2=f"{x2:.2f}%", y2=y2, class_=class_)


def text(x: float, y: float, words: object, class_: str = "", anchor: str | None = None, dx: float = 0) -> Markup:
    """A line of text: x in per cent, y in pixels, dx pixels to the right of it."""
    return tag("text", words, x=f"{x:.2f}%", y=y, dx=dx or None, class_=class_ or None, text_anchor=anchor)


def tick_words(ticks: Sequence[float]) -> list[str]:
    """Ticks with as many decimals as their steps need, the same for all."""
    step = min((b - a for a, b in pairwise(ticks)), default=abs(ticks[0]) if ticks else 1.0) or 1.0
    places = next((p for p in range(9) if math.isclose(step, round(step, p), rel_tol=1e-6)), 9)
    return [number(t) if places > 6 or abs(t) >= 1e6 else decimals(round(t, places) + 0.0, places) for t in ticks]


def axis(scale: Scale, y: float, *, wanted: int = 5) -> Markup:
    """Numbers under a plot."""
    marks = []
    ticks = scale.ticks(wanted)
    for tick, words in zip(ticks, tick_words(ticks), strict=True):
        x = scale(tick)
        anchor = "start" if x < 2 else "end" if x > 98 else "middle"
        marks.append(text(x, y, words, "tick", anchor))
    return Markup("").join(marks)


def upright_axis(down: Scale, ticks: Sequence[float], words: Sequence[str] = ()) -> list[Markup]:
    """Faint lines across a plot at the ticks, and their numbers to the left of it."""
    marks = [line(0, down(t), 100, down(t), "grid") for t in ticks]
    return marks + [
        text(0, down(t) + 4, w, "tick", "end", -6) for t, w in zip(ticks, words or tick_words(ticks), strict=True)
    ]


def gridlines(scale: Scale, top: float, bottom: float, wanted: int = 5) -> Markup:
    """Faint upright lines at the ticks."""
    return Markup("").join(line(scale(t), top, scale(t), bottom, "grid") for t in scale.ticks(wanted))


def curve(
    points: Sequence[tuple[float, float]],
    across: Scale,
    down: Scale,
    height: float,
    class_: str,
    id_: str | None = None,
) -> Markup:
    """A line through points, in a box of its own that stretches with the width; the stroke keeps its thickness."""
    path = " ".join(f"{across(x):.2f},{down(y):.2f}" for x, y in points if finite(x, y))
    drawn = tag("polyline", points=path, class_=class_, id=id_)
    return tag("svg", drawn, viewBox=f"0 0 100 {height:g}", preserveAspectRatio="none", width="100%", height=height)
