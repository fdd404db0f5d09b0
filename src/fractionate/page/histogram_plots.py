"""Histograms in panels: confidence and the rescaling factor."""

from __future__ import annotations

from collections.abc import Sequence

from fractionate.page.figure import Figure
from fractionate.page.marks import Scale, axis, canvas, finite, gridlines, line, rect, tag, text
from fractionate.page.text import number, percent, short
from fractionate.records import Histogram

HEIGHT, TOP = 104.0, 16.0


def histogram_figure(
    name: str, title: str, caption: str, histograms: Sequence[tuple[str, Histogram]], *, landmark: float | None = None
) -> Figure | None:
    """One panel a histogram, with the mean as a line and, dashed, a landmark.

    All share one scale across, unless their ranges differ more than fourfold.
    """
    shown = [
        (who, h)
        for who, h in histograms
        if sum(h.counts) and len(h.edges) == len(h.counts) + 1 and finite(*h.edges) and h.edges[-1] > h.edges[0]
    ]
    if not shown:
        return None
    spans = [h.edges[-1] - h.edges[0] for _, h in shown]
    low, high = min(h.edges[0] for _, h in shown), max(h.edges[-1] for _, h in shown)
    shared = Scale(low, high) if high - low <= 4 * min(spans) else None
    panels = []
    for who, h in shown:
        across = shared or Scale(h.edges[0], h.edges[-1])
        total = sum(h.counts)
        down = Scale(0.0, max(h.counts) / total, HEIGHT, TOP)
        marks = [gridlines(across, TOP, HEIGHT, 4)]
        for start, stop, count in zip(h.edges, h.edges[1:], h.counts, strict=False):
            if count:
                y = down(count / total)
                said = f"{number(start)} to {number(stop)}: {count:,} ({percent(count / total, 1)})"
                marks.append(rect(across(start), y, (across(stop) - across(start)) * 0.94, HEIGHT - y, "column", said))
        marks.append(line(0, HEIGHT, 100, HEIGHT, "base"))
        if landmark is not None and across.low < landmark < across.high:
            marks.append(line(across(landmark), TOP, across(landmark), HEIGHT, "landmark"))
        if finite(h.mean) and across.low <= h.mean <= across.high:
            x = across(h.mean)
            anchor, dx = ("end", -5) if x > 60 else ("start", 5)
            marks.append(line(x, 3, x, HEIGHT, "mean"))
            marks.append(text(x, 11, f"mean {number(h.mean)}", "tick strong", anchor, dx))
        elif finite(h.mean):
            marks.append(text(100, 11, f"mean {number(h.mean)}, off the scale", "tick strong", "end"))
        marks.append(axis(across, HEIGHT + 16, wanted=4))
        head = tag("div", short(who, 40), tag("span", f"sd {number(h.deviation)}"), class_="panel-name")
        panels.append(tag("div", head, canvas(HEIGHT + 24, *marks), class_="panel"))
    caption += "" if shared or len(shown) == 1 else " Each panel has its own scale."
    caption += " The outer bins hold all that lies beyond them." if name == "rescaling" else ""
    return Figure(
        name,
        title,
        tag("div", *panels, class_=f"panels panels-{min(3, len(panels))}"),
        caption,
        ("of", "from", "to", "examples"),
        tuple(
            (who, start, stop, count)
            for who, h in shown
            for start, stop, count in zip(h.edges, h.edges[1:], h.counts, strict=False)
        ),
    )
