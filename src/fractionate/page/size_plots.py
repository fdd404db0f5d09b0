"""The size ladder: the deciding metric against what students of different sizes need, with intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence

from markupsafe import Markup

from fractionate.page.figure import Figure
from fractionate.page.marks import Scale, canvas, curve, line, scale_for, tag, text, upright_axis
from fractionate.page.rows import SIGNS
from fractionate.page.summaries import (
    arms_of,
    judged_on,
    mean_interval,
    of_test,
    score_values,
    value_text,
    variant,
    with_unit,
)
from fractionate.page.text import count, number, short
from fractionate.records import Interval, MetricInfo, Run

HEIGHT, TOP = 240.0, 10.0
TICK_WIDTH = 9.0  # per cent of the width, between two sizes under the axis
Point = tuple[str, int, float | None, float, Interval | None, bool]  # variant, parameters, ms, mean, interval, placebo


def size_figures(
    runs: Sequence[Run],
    metrics: Sequence[MetricInfo],
    order: Sequence[str],
    placebos: frozenset[str],
    names: tuple[str, str],
) -> list[Figure]:
    """The metric against parameters, and against latency where that was measured; none where all students have one size."""
    points = [] if not metrics else _points(runs, metrics[0], order, placebos)
    if len({parameters for _, parameters, *_ in points}) < 2:
        return []
    teacher = _teacher(runs, metrics[0])
    found = [_figure(points, teacher, metrics[0], runs, names[0], "parameters")]
    if sum(ms is not None for _, _, ms, *_ in points) > 1:
        found.append(_figure([p for p in points if p[2] is not None], teacher, metrics[0], runs, names[1], "latency"))
    return found


def _points(runs: Sequence[Run], metric: MetricInfo, order: Sequence[str], placebos: frozenset[str]) -> list[Point]:
    found: list[Point] = []
    for arm, members in arms_of(runs, order).items():
        values = score_values(members, metric.name)
        done = [run for run in members if of_test(run) is not None]
        if values and done[0].parameters:
            mean, interval = mean_interval(values)
            latency = next((r.cost["student_latency_ms"] for r in done if "student_latency_ms" in r.cost), None)
            found.append((arm, done[0].parameters, latency, mean, interval, arm in placebos))
    return found


def _teacher(runs: Sequence[Run], metric: MetricInfo) -> tuple[float, float, float] | None:
    """Parameters, latency and score of the teacher, where all three were measured."""
    cost = next((r.cost for r in runs if "teacher_parameters" in r.cost), None)
    scores = next((r.teacher for r in runs if r.teacher is not None), None)
    value = None if scores is None else scores.values.get(metric.name)
    if cost is None or value is None or not math.isfinite(value):
        return None
    return cost["teacher_parameters"], cost["teacher_latency_ms"], value


def _figure(
    points: Sequence[Point],
    teacher: tuple[float, float, float] | None,
    metric: MetricInfo,
    runs: Sequence[Run],
    name: str,
    axis: str,
) -> Figure:
    title = short(metric.title, 40)
    best = max(points, key=lambda p: metric.sign * p[3])
    small = min(points, key=lambda p: p[1])
    end = None if teacher is None else (teacher[0 if axis == "parameters" else 1], teacher[2])
    against = "parameters" if axis == "parameters" else "ms an example, one at a time"
    sentences = [f"{variant(p[0])} at {_size(p, axis)}: {value_text(metric, p[3])}" for p in (small, best)]
    caption = [
        f"Mean {with_unit(title, metric.value_unit)} on the {judged_on(runs)} data with its 95 % interval (Student’s t over seeds)",
        f"against {against}, on a logarithmic axis. ◇: no teacher; hollow: placebo.",
        "Dashed: the teacher." if teacher else "",
        ""
        if axis == "parameters"
        else "Latency: the median of 15 calls on the machine of the study; others are faster or slower.",
    ]
    return Figure(
        name,
        f"{title[:1].upper()}{title[1:]} against {'size' if axis == 'parameters' else 'latency'}: "
        + "; ".join(dict.fromkeys(sentences)),
        _plot(points, end, metric, axis),
        " ".join(filter(None, caption)),
        ("variant", "parameters", "latency (ms)", with_unit(metric.title, metric.value_unit), "low", "high"),
        tuple(
            (variant(arm, 200), parameters, ms, mean, i.low if i else None, i.high if i else None)
            for arm, parameters, ms, mean, i, _ in points
        ),
    )


def _size(point: Point, axis: str) -> str:
    return f"{count(point[1])} parameters" if axis == "parameters" else f"{number(point[2] or 0.0)} ms"


def _plot(points: Sequence[Point], teacher: tuple[float, float] | None, metric: MetricInfo, axis: str) -> Markup:
    at = [math.log10(p[1] if axis == "parameters" else p[2] or 1.0) for p in points]
    ends = [v for p in points for v in ((p[4].low, p[4].high) if p[4] else (p[3],))]
    across = scale_for([*at, *([math.log10(teacher[0])] if teacher else [])], room=0.12)
    vertical = scale_for([*ends, *([teacher[1]] if teacher else [])])
    down = Scale(vertical.low, vertical.high, HEIGHT, TOP)
    marks = upright_axis(down, down.ticks(4))
    for place in _ticks(sorted({*at, *([math.log10(teacher[0])] if teacher else [])}), across):
        words = count(10**place) if axis == "parameters" else f"{number(10**place)} ms"
        marks += [line(across(place), TOP, across(place), HEIGHT, "grid")]
        marks += [text(across(place), HEIGHT + 16, words, "tick", "middle")]
    if teacher:
        marks.append(line(0, down(teacher[1]), 100, down(teacher[1]), "zero"))
        marks.append(text(100, down(teacher[1]) - 4, "teacher", "tick", "end"))
    for group in _lines(points, at):
        marks.append(curve(group, across, down, HEIGHT, "curve other"))
    for (arm, _, _, mean, interval, placebo), x in zip(points, at, strict=True):
        marks.append(_mark(arm, across(x), mean, interval, placebo, down, metric))
    return tag("div", canvas(HEIGHT + 22, *marks), class_="indent")


def _mark(
    arm: str, x: float, mean: float, interval: Interval | None, placebo: bool, down: Scale, metric: MetricInfo
) -> Markup:
    tone = "v-cannot-tell" if placebo else "m-mean"
    parts = [line(x, down(interval.low), x, down(interval.high), f"whisker {tone}")] if interval else []
    ends = f" [{number(interval.low)}, {number(interval.high)}]" if interval else ""
    sign = SIGNS["◇" if variant(arm).startswith("no teacher") else "●"]
    dot = tag("path", tag("title", f"{variant(arm)}: {value_text(metric, mean)}{ends}"), d=sign, class_=f"dot {tone}")
    spot = tag("svg", dot, x=f"{x:.2f}%", y=down(mean), class_="spill")
    return tag("g", *parts, spot, data_variant=short(arm, 48))


def _lines(points: Sequence[Point], at: Sequence[float]) -> list[list[tuple[float, float]]]:
    """What joins points: the variants of one cell at different sizes, by the first word of their names."""
    groups: dict[str, list[tuple[float, float]]] = {}
    for (arm, _, _, mean, *_), x in zip(points, at, strict=True):
        groups.setdefault(arm.split(" ", 1)[0], []).append((x, mean))
    return [sorted(group) for group in groups.values() if len({x for x, _ in group}) > 1]


def _ticks(places: Sequence[float], across: Scale) -> list[float]:
    """The sizes there are, those left out whose words would stand on those of a smaller one."""
    kept: list[float] = []
    for place in places:
        if not kept or across(place) - across(kept[-1]) > TICK_WIDTH:
            kept.append(place)
    return kept
