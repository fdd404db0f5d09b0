"""Histograms in panels: confidence and the rescaling factor."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fractionate.page.figure import Figure
from fractionate.page.marks import Scale, axis, canvas, finite, gridlines, line, rect, tag, text
from fractionate.page.text import number, percent, short
from fractionate.records import Histogram

HEIGHT, TOP = 104.0, 16.0
CROWDED = 0.9  # share of the examples in one column, above which a panel shows nothing


def histogram_figure(
    name: str, title: str, caption: str, histograms: Sequence[tuple[str, Histogram]], *, landmark: float | None = None
) -> Figure | None:
    """One panel a histogram, with the mean as a line and, dashed, a landmark.

    All share one scale across, but where a panel would be a single column on it: then each has its own.
    """
    shown = [
        (who, h)
        for who, h in histograms
        if sum(h.counts) and len(h.edges) == len(h.counts) + 1 and finite(*h.edges) and h.edges[-1] > h.edges[0]
    ]
    if not shown:
        return None
    across = shared_scale([h for _, h in shown], landmark)
    own = any(max(rebinned(h, across)[1]) > CROWDED * sum(h.counts) for _, h in shown)
    panels = []
    for who, h in shown:
        across = shared_scale([h], landmark) if own else across
        edges, counts = rebinned(h, across)
        total = sum(counts)
        down = Scale(0.0, max(counts) / total, HEIGHT, TOP)
        marks = [gridlines(across, TOP, HEIGHT, 4)]
        for start, stop, count in zip(edges, edges[1:], counts, strict=False):
            if count > total / 2000:
                y = down(count / total)
                words = f"{number(start)} to {number(stop)}: {count:,.0f} ({percent(count / total, 1)})"
                marks.append(rect(across(start), y, (across(stop) - across(start)) * 0.94, HEIGHT - y, "column", words))
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
    caption += " Every panel has a scale of its own." if own and len(shown) > 1 else ""
    caption += " The outer bins hold all that lies beyond them." if landmark is not None else ""
    return Figure(
        name,
        title,
        tag("div", *panels, class_=f"panels panels-{min(3, len(panels))}" + (" dense" if len(panels) > 3 else "")),
        caption,
        ("of", "from", "to", "examples"),
        tuple(
            (who, start, stop, count)
            for who, h in shown
            for start, stop, count in zip(h.edges, h.edges[1:], h.counts, strict=False)
        ),
    )


def shared_scale(histograms: Sequence[Histogram], landmark: float | None) -> Scale:
    """From the 1st to the 99th percentile of all panels, each counting the same, with the landmark inside."""
    if all(h.edges == histograms[0].edges for h in histograms):
        return Scale(histograms[0].edges[0], histograms[0].edges[-1])
    grid = np.unique(np.concatenate([h.edges for h in histograms]))
    below = sum(np.interp(grid, h.edges, np.cumsum([0, *h.counts]) / sum(h.counts)) for h in histograms) / len(
        histograms
    )
    low, high = (float(np.interp(q, below, grid)) for q in (0.01, 0.99))
    if landmark is not None:
        low, high = min(low, landmark), max(high, landmark)
    room = 0.03 * (high - low) or 0.5
    return Scale(low - room, high + room)


def rebinned(histogram: Histogram, across: Scale, bins: int = 40) -> tuple[list[float], list[float]]:
    """The histogram in the bins of a scale, its own spread evenly over their width; what lies beyond goes to the outer bins."""
    if (histogram.edges[0], histogram.edges[-1]) == (across.low, across.high):
        return list(histogram.edges), [float(c) for c in histogram.counts]
    edges = np.linspace(across.low, across.high, bins + 1)
    below = np.interp(edges, histogram.edges, np.cumsum([0, *histogram.counts]))
    below[0], below[-1] = 0.0, sum(histogram.counts)
    return edges.tolist(), np.diff(below).tolist()
