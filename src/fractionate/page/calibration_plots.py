"""The figure of calibration: how often first choices are right, by how sure a model is of them."""

from __future__ import annotations

from collections.abc import Sequence

from fractionate.page.figure import Figure
from fractionate.page.marks import Scale, curve, tag, text, upright_axis
from fractionate.page.student_plots import End, with_names
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
    marks = upright_axis(down, ticks, [percent(t) for t in ticks])
    marks += [
        text(across(t), HEIGHT + 17, percent(t), "tick", "start" if t == 0 else "end" if t == 1 else "middle")
        for t in ticks[::2]
    ]
    marks.append(curve([(0, 0), (1, 1)], across, down, HEIGHT, "curve landmark"))
    ends: list[End] = []
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
            error = decimals(expected_calibration_error(one), 1)
            ends.append((down(points[-1][1]), one.who, f"{error} points off", style, None))
    return Figure(
        file,
        _title(record.reliability),
        with_names(marks, ends, HEIGHT, "curves calibration"),
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
    if right < 0.01:
        return (
            f"The {one.who} is hardly ever right: {percent(right, 1)} of the time, {percent(sure, 1)} sure on average"
        )
    if abs(gap) < 1:
        return f"The {one.who} is right {percent(right, 1)} of the time, and as sure as that"
    word = "too sure" if gap > 0 else "not sure enough"
    return f"The {one.who} is {word}: right {percent(right, 1)} of the time, {percent(sure, 1)} sure on average"
