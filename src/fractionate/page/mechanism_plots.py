"""Figures of what happened inside the students along their training: the logit layer against the teacher's relations."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from fractionate.page.figure import Figure
from fractionate.page.marks import finite, tag
from fractionate.page.student_plots import arms_of, curve_panels
from fractionate.records import Point, Run


def _gap(point: Point) -> float | None:
    if point.rows_within_superclass is None or point.rows_between_superclasses is None:
        return None
    return point.rows_within_superclass - point.rows_between_superclasses


MEASURES: tuple[tuple[str, str, Callable[[Point], float | None], str], ...] = (
    (
        "logit-rows",
        "How the student’s logit layer takes on the teacher’s class relations",
        lambda p: p.rows_to_relation,
        "Correlation, over pairs of classes, of the cosines of the student’s logit rows with the teacher’s relations of the "
        "classes; mean over seeds, the other arms in grey behind. 0 is chance.",
    ),
    (
        "superclass-gap",
        "How much nearer rows of one superclass lie than rows of two",
        _gap,
        "Mean cosine of logit rows within a superclass less that between superclasses; mean over seeds. 0 is no structure.",
    ),
    (
        "distance-order",
        "How often the student’s distances keep the teacher’s order of wrong classes",
        lambda p: p.distance_order,
        "Share of pairs of wrong classes of which the one the teacher finds likelier has the logit row nearer to the example’s "
        "features; mean over seeds. ½ is chance; 1 follows at a stationary point with rows of equal length (Tang et al., "
        "arXiv 2002.03532).",
    ),
)


def mechanism_figures(runs: Sequence[Run], order: Sequence[str], suffix: Callable[[str], str]) -> list[Figure]:
    """A figure for each measure that was taken at least twice along the training; `suffix` makes file names differ."""
    return [
        figure
        for name, title, read, words in MEASURES
        if (figure := _figure(runs, order, suffix(name), title, read, words))
    ]


def _figure(
    runs: Sequence[Run],
    order: Sequence[str],
    file: str,
    title: str,
    read: Callable[[Point], float | None],
    words: str,
) -> Figure | None:
    curves: dict[str, list[tuple[float, float]]] = {}
    for arm, members in arms_of(runs, order).items():
        by_step: dict[int, list[float]] = {}
        for run in members:
            for point in run.history:
                value = read(point)
                if value is not None and finite(value):
                    by_step.setdefault(point.step, []).append(value)
        if len(by_step) > 1:
            curves[arm] = [(float(step), sum(v) / len(v)) for step, v in sorted(by_step.items())]
    if not curves:
        return None
    return Figure(
        file,
        title,
        tag("div", *curve_panels(curves, file), class_="panels panels-4"),
        words,
        ("arm", "step", file),
        tuple((arm, int(x), y) for arm, points in curves.items() for x, y in points),
    )
