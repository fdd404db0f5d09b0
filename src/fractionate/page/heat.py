"""Shades of heat maps: one path a shade, and the key below a map."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from markupsafe import Markup

from fractionate.page.marks import tag
from fractionate.page.text import number

SHADES = 14


def shaded(paths: Mapping[int, Sequence[str]]) -> list[Markup]:
    """The boxes of each shade as one path; those of the lowest shade are left blank."""
    return [
        tag("path", d="".join(parts), class_="heat", fill_opacity=shade / SHADES)
        for shade, parts in sorted(paths.items())
        if shade
    ]


def heat_key(least: str, most: float) -> Markup:
    """The shades from the least to the largest value."""
    step = f"{100 / SHADES:.2f}%"
    boxes = [
        tag("rect", x=f"{100 * s / SHADES:.2f}%", width=step, height=10, class_="heat", fill_opacity=(s + 1) / SHADES)
        for s in range(SHADES)
    ]
    bar = tag("svg", *boxes, width=140, height=10, class_="plot", aria_hidden="true")
    return tag("div", tag("span", least), bar, tag("span", number(most, 2)), class_="heat-key")
