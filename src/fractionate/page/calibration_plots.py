"""The figure of calibration: how often first choices are right, by how sure a model is of them."""

from __future__ import annotations

from collections.abc import Sequence

from fractionate.page.figure import Figure
from fractionate.page.marks import Scale, canvas, curve, line, tag, text
from fractionate.page.student_plots import LABEL, spread
from fractionate.page.text import decimals, percent, short
from fractionate.records import NotableExamples, Reliability

HEIGHT = 200.0
STYLES = {"student": "mine-0", "no teacher": "mine-1", "teacher": "mine-2"}


def expected_calibration_error(one: Reliability) -> float:
    """Mean distance between confidence and share of right choices over the bins, weighted by their rows, in points.

    Source: Guo et al. (2017), arXiv 1706.04599, eq. 3.
    """
    parts = zip(one.counts, one.confidence, one.right, strict=True)
    return 100 * sum(n * abs(right - sure) for n, sure, right in parts) / max(1, sum(one.counts))


def calibration_figure(records: Sequence[NotableExamples], file: str = "calibration") -> Figure | None:
    """A curve for each model: confidence across, share of right first choices up; on the diagonal the two are equal."""
    record = next((r for r in records if r.reliability), None)
    if record is None:
        return None
    across, down = Scale(0.0, 1.0), Scale(0.0, 1.0, HEIGHT, 6.0)
    ticks = (0.0, 0.25, 0.5, 0.75, 1.0)
    marks = [line(0, down(t), 100, down(t), "grid") for t in ticks]
    marks += [text(0, down(t) + 4, percent(t), "tick", "end", -6) for t in ticks]
    marks += [
        text(across(t), HEIGHT + 17, percent(t), "tick", "start" if t == 0 else "end" if t == 1 else "middle")
        for t in ticks[::2]
    ]
    marks.append(curve([(0, 0), (1, 1)], across, down, HEIGHT, "curve landmark"))
    ends: list[tuple[float, str, str, str]] = []
    for one in record.reliability:
        points = [(sure, right, n) for n, sure, right in zip(one.counts, one.confidence, one.right, strict=True) if n]
        style = STYLES[one.who]
        marks.append(curve([(x, y) for x, y, _ in points], across, down, HEIGHT, f"curve {style}"))
        for x, y, n in points:
            words = f"{one.who}: {percent(x)} sure, {percent(y)} right, {n:,} rows"
            dot = tag(
                "circle",
                tag("title", words),
                r=round(2.5 + 4 * (n / sum(one.counts)) ** 0.5, 1),
                class_=f"spot {style}",
            )
            marks.append(tag("svg", dot, x=f"{across(x):.2f}%", y=down(y), class_="spill"))
        if points:
            ends.append((down(points[-1][1]), one.who, style, decimals(expected_calibration_error(one), 1)))
    ends.sort()
    names = []
    for (own, who, style, error), y in zip(ends, spread([end[0] for end in ends], LABEL, 8.0, HEIGHT), strict=True):
        leader = tag("line", x1=1, y1=own, x2=12, y2=y, class_=f"leader {style}")
        words = tag("text", who, " ", tag("tspan", f"{error} points off", class_="tick"), x=16, y=y + 4)
        names.append(tag("g", leader, words, class_=f"curve-name {style}"))
    plot = tag("div", canvas(HEIGHT + 22, *marks), class_="indent")
    beside = canvas(HEIGHT + 22, *names, class_="plot curve-names")
    return Figure(
        file,
        _title(record.reliability),
        tag("div", plot, beside, class_="curves calibration"),
        f"Across: the probability of the first choice, in ten bins. Up: how often it is the label, on {short(record.split, 40)} "
        "(test data). On the dashed line confidence is right; below it a model is too sure. A larger dot holds more rows; points "
        "off: mean distance from the line (ECE).",
        ("model", "rows", "confidence", "right"),
        tuple(
            (one.who, n, sure, right)
            for one in record.reliability
            for n, sure, right in zip(one.counts, one.confidence, one.right, strict=True)
            if n
        ),
    )


def _title(found: Sequence[Reliability]) -> str:
    one = next((r for r in found if r.who == "student"), found[0])
    total = max(1, sum(one.counts))
    sure = sum(n * c for n, c in zip(one.counts, one.confidence, strict=True)) / total
    right = sum(n * r for n, r in zip(one.counts, one.right, strict=True)) / total
    gap = 100 * (sure - right)
    if abs(gap) < 1:
        return f"The {one.who} is right {percent(right, 1)} of the time, and as sure as that"
    word = "too sure" if gap > 0 else "not sure enough"
    return f"The {one.who} is {word}: right {percent(right, 1)} of the time, {percent(sure, 1)} sure on average"
