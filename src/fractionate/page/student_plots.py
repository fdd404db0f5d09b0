"""Figures of the students: scores of the runs by arm, and learning curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from markupsafe import Markup

from fractionate.page.figure import Figure, mean_interval
from fractionate.page.marks import Scale, canvas, curve, finite, line, scale_for, tag, text, tick_words
from fractionate.page.rows import BETTER, ROW, axis_row, ground, mark, row, value_text, with_unit
from fractionate.page.text import number, short
from fractionate.records import MetricInfo, Run, Scores, Study


def of_test(run: Run) -> Scores | None:
    """The scores that count: of the test data, else of the validation data."""
    return run.test or run.validation


def arms_of(runs: Sequence[Run], order: Sequence[str] = ()) -> dict[str, list[Run]]:
    """Runs by arm, in the study's order."""
    found: dict[str, list[Run]] = {arm: [] for arm in order}
    for run in runs:
        found.setdefault(run.arm or "student", []).append(run)
    return {arm: members for arm, members in found.items() if members}


ARROWS = {"more": "↑", "less": "↓"}


def metrics_of(runs: Sequence[Run], study: Study | None = None) -> tuple[MetricInfo, ...]:
    """How the scores of runs are read, the deciding metric first; only those that a run has a value of."""
    every = {m.name: m for run in runs for m in run.metrics}
    every = ({m.name: m for m in study.metrics} if study else {}) | every
    valued = {name for run in runs if (scores := of_test(run)) for name in scores.values}
    return tuple(m for name, m in every.items() if name in valued)


def deciding(runs: Sequence[Run]) -> MetricInfo | None:
    """The metric that decides; None where no run has scores whose reading is known."""
    return next(iter(metrics_of(runs)), None)


def best_run(runs: Sequence[Run], metric: MetricInfo | None) -> Run:
    """The run with the best value, the first of runs without."""
    valued = [run for run in runs if metric and score_values([run], metric.name)]
    return (
        max(valued, key=lambda run: metric.sign * score_values([run], metric.name)[0]) if metric and valued else runs[0]
    )


def heading(metric: MetricInfo) -> str:
    """A metric as the head of a column: its unit and which direction is better."""
    return f"{with_unit(short(metric.title, 40), metric.value_unit)} {ARROWS[metric.better]}"


def score_values(runs: Sequence[Run], metric: str) -> list[float]:
    """One metric over the seeds of an arm."""
    found = [s.values.get(metric) for s in map(of_test, runs) if s is not None]
    return [float(v) for v in found if v is not None and finite(v)]


def students_figure(
    runs: Sequence[Run],
    metrics: Sequence[MetricInfo],
    order: Sequence[str] = (),
    placebos: frozenset[str] = frozenset(),
    file: str = "students",
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
        said = mark(scale, mean, interval, "m-mean", "●", f"{short(arm)}: {value_text(first, mean)}{ends}")
        plot = ground(scale, *seeds, said, zero=False)
        end = tag("div", tag("b", value_text(first, mean)), class_="row-end")
        drawn.append(row(arm, plot, end, "placebo" if arm in placebos else ""))
    drawn.append(axis_row(scale, with_unit(title, first.value_unit)))
    best = max(means, key=lambda arm: first.sign * means[arm][0])
    most = "highest" if first.better == "more" else "lowest"
    rows: list[tuple[object, ...]] = []
    for arm, members in arms_of(runs, order).items():
        cells: list[object] = [arm, len(members)]
        for metric in metrics:
            values = score_values(members, metric.name)
            mean, interval = mean_interval(values) if values else (float("nan"), None)
            cells += [mean, interval.low if interval else None, interval.high if interval else None]
        rows.append(tuple(cells))
    head = ["arm", "runs"] + [
        f"{name}{part}"
        for m in metrics
        for name, part in ((with_unit(m.title, m.value_unit), ""), (m.title, " low"), (m.title, " high"))
    ]
    which = "test" if any(r.test for r in runs) else "validation"
    return Figure(
        file,
        f"{short(best, 40)} has the {most} mean {title}: {value_text(first, means[best][0])}"
        if len(means) > 1
        else f"{short(best, 40)}: {value_text(first, means[best][0])} {title}",
        tag("div", *drawn, class_="rows"),
        f"{title[:1].upper()}{title[1:]} on the {which} data ({BETTER[first.better]}): a dot a seed, the mean with "
        "its 95 % interval (Student’s t over seeds). "
        "Seeds are paired, so compare arms by the effects above, not by the overlap of these bars.",
        tuple(head),
        tuple(rows),
    )


def curve_panels(curves: Mapping[str, Sequence[tuple[float, float]]], file: str, unit: str = "") -> list[Markup]:
    """A panel an arm: its points (step, value) in front of the other arms'."""
    height = 84.0
    across = Scale(0.0, max(x for points in curves.values() for x, _ in points))
    values = sorted(y for points in curves.values() for _, y in points)
    vertical = scale_for(values)
    down = Scale(vertical.low, vertical.high, height, 4.0)
    behind = [curve(thinned(points), across, down, height, "curve other") for points in curves.values()]
    group = f"{file}-behind"  # drawn once, shown again behind every other arm
    again = tag("use", href=f"#{group}")
    ticks = down.ticks(3)
    panels: list[Markup] = []
    for i, (arm, points) in enumerate(curves.items()):
        marks = [line(0, down(t), 100, down(t), "grid") for t in ticks]
        marks += [text(0, down(t) + 4, w, "tick", "end", -6) for t, w in zip(ticks, tick_words(ticks), strict=True)]
        marks += [
            again if i else tag("g", *behind, id=group),
            curve(thinned(points), across, down, height, "curve mine"),
        ]
        marks.append(text(100, height + 15, f"{across.high:,.0f} steps", "tick", "end"))
        last = tag("span", f"{number(points[-1][1])}{unit}")
        head = tag("div", short(arm, 36), last, class_="panel-name")
        panels.append(tag("div", head, tag("div", canvas(height + 20, *marks), class_="indent"), class_="panel"))
    return panels


def curves_figure(
    runs: Sequence[Run], metrics: Sequence[MetricInfo], order: Sequence[str] = (), file: str = "learning-curves"
) -> Figure | None:
    """Learning curves in the deciding metric, or the loss: a panel an arm, the mean over seeds in front of the other arms."""
    curves: dict[str, list[tuple[float, float]]] = {}
    measured = {name for r in runs for p in r.history if p.validation for name in p.validation.values}
    metric = next((m for m in metrics if m.name in measured), None)  # BLEU is for the end alone
    for arm, members in arms_of(runs, order).items():
        by_step: dict[int, list[float]] = {}
        for run in members:
            for p in run.history:
                value = p.loss if metric is None else p.validation.values.get(metric.name) if p.validation else None
                if value is not None and finite(value):
                    by_step.setdefault(p.step, []).append(value)
        if len(by_step) > 1:
            curves[arm] = [(float(step), sum(v) / len(v)) for step, v in sorted(by_step.items())]
    if not curves:
        return None
    panels = curve_panels(curves, file, f" {metric.value_unit}".rstrip() if metric else "")
    what = with_unit(f"validation {short(metric.title, 40)}", metric.value_unit) if metric else "training loss"
    return Figure(
        file,
        "Learning curves",
        tag("div", *panels, class_="panels panels-4"),
        f"Mean {what} over seeds along the training; the other arms in grey behind.",
        ("arm", "step", what),
        tuple((arm, int(x), y) for arm, points in curves.items() for x, y in points),
    )


def thinned(points: Sequence[tuple[float, float]], most: int = 80) -> list[tuple[float, float]]:
    """At most so many points of a curve, the last one among them: a panel is not wider than that."""
    step = -(-len(points) // most)
    return [*points[:-1:step], points[-1]]
