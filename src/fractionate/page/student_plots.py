"""Figures of the students: the deciding metric of every variant, and learning curves on one plot."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from markupsafe import Markup

from fractionate.page.figure import Figure
from fractionate.page.marks import Scale, canvas, curve, finite, scale_for, tag, text, tick_words, upright_axis
from fractionate.page.rows import ROW, axis_row, ground, mark, row
from fractionate.page.summaries import (
    BETTER,
    arms_of,
    judged_on,
    mean_interval,
    named_value,
    score_values,
    value_text,
    variant,
    with_unit,
)
from fractionate.page.text import number, sentence, short
from fractionate.records import MetricInfo, Point, Run

ARROWS = {"more": "↑", "less": "↓"}
CURVE_HEIGHT = 240.0
LABEL = 15.0  # pixels between two labels of curves
MOST_CURVES = 14  # labels that fit; more curves are drawn without


def heading(metric: MetricInfo) -> str:
    """A metric as the head of a column: its unit and which direction is better."""
    return f"{with_unit(short(metric.title, 40), metric.value_unit)} {ARROWS[metric.better]}"


def students_figure(
    runs: Sequence[Run],
    metrics: Sequence[MetricInfo],
    order: Sequence[str] = (),
    placebos: frozenset[str] = frozenset(),
    file: str = "by-seed",
) -> Figure | None:
    """The deciding metric of every arm: each seed a dot, the mean with its interval."""
    if not metrics:
        return None
    first = metrics[0]
    title = short(first.title, 40)
    arms = {arm: score_values(members, first.name) for arm, members in arms_of(runs, order).items()}
    arms = {arm: values for arm, values in arms.items() if values}
    if not arms:
        return None
    means = {arm: mean_interval(values) for arm, values in arms.items()}
    scale = scale_for(
        [v for values in arms.values() for v in values] + [v for _, i in means.values() if i for v in (i.low, i.high)]
    )
    drawn = []
    for arm, values in arms.items():
        mean, interval = means[arm]
        seeds = [tag("circle", cx=f"{scale(v):.2f}%", cy=ROW / 2, r=3, class_="seed") for v in values]
        ends = f" [{number(interval.low)}, {number(interval.high)}]" if interval else ""
        outputs = mark(scale, mean, interval, "m-mean", "●", f"{variant(arm)}: {value_text(first, mean)}{ends}")
        plot = ground(scale, *seeds, outputs, zero=False)
        end = tag("div", tag("b", value_text(first, mean)), class_="row-end")
        drawn.append(row(variant(arm, 48), plot, end, "placebo" if arm in placebos else "", of=arm))
    drawn.append(axis_row(scale, with_unit(title, first.value_unit)))
    best = max(means, key=lambda arm: first.sign * means[arm][0])
    most = "highest" if first.better == "more" else "lowest"
    rows: list[tuple[object, ...]] = []
    for arm, members in arms_of(runs, order).items():
        cells: list[object] = [variant(arm, 200), len(members)]
        for metric in metrics:
            values = score_values(members, metric.name)
            mean, interval = mean_interval(values) if values else (float("nan"), None)
            cells += [mean, interval.low if interval else None, interval.high if interval else None]
        rows.append(tuple(cells))
    head = ["variant", "runs"] + [
        f"{name}{part}"
        for m in metrics
        for name, part in ((with_unit(m.title, m.value_unit), ""), (m.title, " low"), (m.title, " high"))
    ]
    return Figure(
        file,
        f"{variant(best)} has the {most} mean {title}: {value_text(first, means[best][0])}"
        if len(means) > 1
        else f"{variant(best)}: {named_value(first, means[best][0])}",
        tag("div", *drawn, class_="rows"),
        f"{title[:1].upper()}{title[1:]} on the {judged_on(runs)} data ({BETTER[first.better]}): a dot a seed, the mean with "
        "its 95 % interval (Student’s t over seeds). "
        "Seeds are paired, so compare variants by the effects above, not by the overlap of these bars.",
        tuple(head),
        tuple(rows),
    )


def mean_curves(
    runs: Sequence[Run], order: Sequence[str], read: Callable[[Point], float | None]
) -> dict[str, list[tuple[float, float]]]:
    """For each variant what `read` finds along its trainings, mean over seeds; only where it was measured twice."""
    curves: dict[str, list[tuple[float, float]]] = {}
    for arm, members in arms_of(runs, order).items():
        by_step: dict[int, list[float]] = {}
        for point in (point for run in members for point in run.history):
            value = read(point)
            if value is not None and finite(value):
                by_step.setdefault(point.step, []).append(value)
        if len(by_step) > 1:
            curves[arm] = [(float(step), sum(v) / len(v)) for step, v in sorted(by_step.items())]
    return curves


def curve_plot(
    curves: Mapping[str, Sequence[tuple[float, float]]], strong: Sequence[str] = (), unit: str = ""
) -> Markup:
    """All curves on one plot, each with its name at its end; those of `strong` in colour, the others in grey behind."""
    across = Scale(0.0, max(x for points in curves.values() for x, _ in points))
    vertical = scale_for(y for points in curves.values() for _, y in points)
    down = Scale(vertical.low, vertical.high, CURVE_HEIGHT, 6.0)
    ticks = down.ticks(6)
    marks = upright_axis(down, ticks, [f"{words}{unit if unit == ' %' else ''}" for words in tick_words(ticks)])
    classes = {arm: f"mine-{strong.index(arm) % 2}" if arm in strong else "other" for arm in curves}
    for arm in sorted(curves, key=lambda arm: arm in strong):
        sentence = f"{variant(arm)}: {number(curves[arm][-1][1])}{unit} at the end"
        drawn = curve(thinned(curves[arm]), across, down, CURVE_HEIGHT, f"curve {classes[arm]}")
        marks.append(tag("g", tag("title", sentence), drawn, data_variant=short(arm, 48)))
    marks += [
        text(across(t), CURVE_HEIGHT + 16, f"{t:,.0f}", "tick", "middle" if t else "start")
        for t in across.ticks(4) if across(t) <= 60
    ]  # fmt: skip
    marks.append(text(100, CURVE_HEIGHT + 16, f"{across.high:,.0f} steps", "tick", "end"))
    ends = [
        (down(points[-1][1]), variant(arm, 22), number(points[-1][1]), classes[arm], short(arm, 48))
        for arm, points in curves.items()
    ]
    return with_names(marks, ends if len(ends) <= MOST_CURVES else [], CURVE_HEIGHT)


End = tuple[
    float, str, str, str, str | None
]  # y of a curve's end, its name, its value, its class, the variant it is of


def with_names(marks: Sequence[Markup], ends: Sequence[End], height: float, class_: str = "curves") -> Markup:
    """A plot and, to its right, the name of each curve with a line to its end."""
    named = sorted(ends, key=lambda end: end[0])
    labels = []
    for (own, name, value, style, of), y in zip(
        named, spread([end[0] for end in named], LABEL, 8.0, height), strict=True
    ):
        leader = tag("line", x1=1, y1=own, x2=12, y2=y, class_=f"leader {style}")
        words = tag("text", name, " ", tag("tspan", value, class_="tick"), x=16, y=y + 4)
        labels.append(tag("g", leader, words, class_=f"curve-name {style}", data_variant=of))
    names = canvas(height + 22, *labels, class_="plot curve-names")
    return tag("div", tag("div", canvas(height + 22, *marks), class_="indent"), names, class_=class_)


def spread(places: Sequence[float], apart: float, low: float, high: float) -> list[float]:
    """Sorted places moved as little as keeps them this far apart: those that collide stand around their common middle."""
    groups: list[list[float]] = []  # of places that stand closely one after the other
    for place in places:
        groups.append([place])
        while len(groups) > 1 and _start(groups[-1], apart, low, high) < _end(groups[-2], apart, low, high) + apart:
            last = groups.pop()
            groups[-1] += last
    return [_start(group, apart, low, high) + i * apart for group in groups for i in range(len(group))]


def _start(group: Sequence[float], apart: float, low: float, high: float) -> float:
    length = (len(group) - 1) * apart
    return max(low, min(sum(group) / len(group) - length / 2, high - length))


def _end(group: Sequence[float], apart: float, low: float, high: float) -> float:
    return _start(group, apart, low, high) + (len(group) - 1) * apart


def curves_figure(
    runs: Sequence[Run],
    metrics: Sequence[MetricInfo],
    order: Sequence[str] = (),
    file: str = "learning-curves",
    strong: Sequence[str] = (),
) -> Figure | None:
    """Learning curves in the deciding metric; the loss only of a single variant: losses of two have no common scale."""
    measured = {name for r in runs for p in r.history if p.validation for name in p.validation.values}
    metric = next((m for m in metrics if m.name in measured), None)  # BLEU is for the end alone

    def read(point: Point) -> float | None:
        if metric is None:
            return point.loss
        return point.validation.values.get(metric.name) if point.validation else None

    curves = mean_curves(runs, order, read)
    if not curves or (metric is None and len(curves) > 1):
        return None
    unit = f" {metric.value_unit}".rstrip() if metric else ""
    what = with_unit(f"validation {short(metric.title, 40)}", metric.value_unit) if metric else "training loss"
    return Figure(
        file,
        f"{sentence(what)[:-1]} over training" if metric else "Training loss",
        curve_plot(curves, strong, unit),
        f"Mean over seeds at each measurement. The scores of the decision are of the {judged_on(runs)} data.",
        ("variant", "step", what),
        curve_rows(curves),
    )


def curve_rows(curves: Mapping[str, Sequence[tuple[float, float]]]) -> tuple[tuple[object, ...], ...]:
    """The points of curves as rows: variant, step, value."""
    return tuple((variant(arm, 200), int(x), y) for arm, points in curves.items() for x, y in points)


def thinned(points: Sequence[tuple[float, float]], most: int = 80) -> list[tuple[float, float]]:
    """At most so many points of a curve, the last one among them: a panel is not wider than that."""
    step = -(-len(points) // most)
    return [*points[:-1:step], points[-1]]
