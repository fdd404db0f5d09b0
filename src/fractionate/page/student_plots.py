"""Figures of the students: scores of the runs by arm, and learning curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from markupsafe import Markup

from fractionate.page.figure import Figure, mean_interval
from fractionate.page.marks import Scale, canvas, curve, finite, line, scale_for, tag, text, tick_words
from fractionate.page.rows import ROW, axis_row, ground, mark, row
from fractionate.page.text import number, short
from fractionate.records import Run, Scores


def of_test(run: Run) -> Scores | None:
    """The scores that count: of the test data, else of the validation data."""
    return run.test or run.validation


def arms_of(runs: Sequence[Run], order: Sequence[str] = ()) -> dict[str, list[Run]]:
    """Runs by arm, in the study's order."""
    found: dict[str, list[Run]] = {arm: [] for arm in order}
    for run in runs:
        found.setdefault(run.arm or "student", []).append(run)
    return {arm: members for arm, members in found.items() if members}


SCORES: tuple[tuple[str, str, str], ...] = (  # metric, words, unit
    ("accuracy", "accuracy", "%"),
    ("nll", "NLL", "nats"),
    ("ece", "ECE", "points"),
    ("agreement", "agreement", "%"),
)


def score_values(runs: Sequence[Run], metric: str) -> list[float]:
    """One metric over the seeds of an arm."""
    found = [s.values.get(metric) for s in map(of_test, runs) if s is not None]
    return [float(v) for v in found if v is not None and finite(v)]


def students_figure(
    runs: Sequence[Run],
    order: Sequence[str] = (),
    placebos: frozenset[str] = frozenset(),
    file: str = "students",
) -> Figure | None:
    """Accuracy of every arm: each seed a dot, the mean with its interval."""
    arms = {arm: score_values(members, "accuracy") for arm, members in arms_of(runs, order).items()}
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
        said = mark(scale, mean, interval, "m-mean", "●", f"{short(arm)}: {number(mean)} %{ends}")
        plot = ground(scale, *seeds, said, zero=False)
        end = tag("div", tag("b", f"{number(mean)} %"), class_="row-end")
        drawn.append(row(arm, plot, end, "placebo" if arm in placebos else ""))
    drawn.append(axis_row(scale, "accuracy (%)"))
    best = max(means, key=lambda arm: means[arm][0])
    rows: list[tuple[object, ...]] = []
    for arm, members in arms_of(runs, order).items():
        cells: list[object] = [arm, len(members)]
        for metric, *_ in SCORES:
            values = score_values(members, metric)
            mean, interval = mean_interval(values) if values else (float("nan"), None)
            cells += [mean, interval.low if interval else None, interval.high if interval else None]
        rows.append(tuple(cells))
    head = ["arm", "runs"] + [
        f"{name}{part}"
        for _, word, unit in SCORES
        for name, part in ((f"{word} ({unit})", ""), (word, " low"), (word, " high"))
    ]
    which = "test" if any(r.test for r in runs) else "validation"
    return Figure(
        file,
        f"{short(best, 40)} has the highest mean accuracy: {number(means[best][0])} %"
        if len(means) > 1
        else f"{short(best, 40)}: {number(means[best][0])} % accuracy",
        tag("div", *drawn, class_="rows"),
        f"Accuracy on the {which} data: a dot a seed, the mean with its 95 % interval (Student’s t over seeds). "
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


def curves_figure(runs: Sequence[Run], order: Sequence[str] = (), file: str = "learning-curves") -> Figure | None:
    """Learning curves: a panel an arm, the mean over seeds in front of the other arms."""
    curves: dict[str, list[tuple[float, float]]] = {}
    validated = any(p.validation for r in runs for p in r.history)
    for arm, members in arms_of(runs, order).items():
        by_step: dict[int, list[float]] = {}
        for run in members:
            for p in run.history:
                value = (100 * p.validation.accuracy if p.validation else None) if validated else p.loss
                if value is not None and finite(value):
                    by_step.setdefault(p.step, []).append(value)
        if len(by_step) > 1:
            curves[arm] = [(float(step), sum(v) / len(v)) for step, v in sorted(by_step.items())]
    if not curves:
        return None
    panels = curve_panels(curves, file, " %" if validated else "")
    what = "validation accuracy (%)" if validated else "training loss"
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
