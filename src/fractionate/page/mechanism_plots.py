"""Figures of what happened inside the students along their training: the logit layer against the teacher's relations."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from fractionate.page.figure import Figure
from fractionate.page.student_plots import curve_plot, curve_rows, mean_curves
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
        "classes; mean over seeds. 0 is chance.",
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


def mechanism_figures(
    runs: Sequence[Run], order: Sequence[str], suffix: Callable[[str], str], strong: Sequence[str] = ()
) -> list[Figure]:
    """A figure for each measure that was taken at least twice along the training; `suffix` makes file names differ."""
    found = []
    for name, title, read, words in MEASURES:
        curves = mean_curves(runs, order, read)
        if curves:
            head = ("variant", "step", suffix(name))
            found.append(Figure(suffix(name), title, curve_plot(curves, strong), words, head, curve_rows(curves)))
    return found
