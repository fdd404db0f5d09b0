"""Heat maps of class relations, the student's next to the teacher's, in the order of the teacher's clusters."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from fractionate.page.figure import Figure
from fractionate.page.heat import SHADES, heat_key, shaded
from fractionate.page.marks import tag
from fractionate.page.order import LARGEST_DRAWN, between_clusters, cluster_order, clusters, square
from fractionate.page.text import decimals, number, percent, short
from fractionate.records import Diagnosis, Matrix

MOST_LABELS = 30
MOST_ROWS = 2_000  # of the download: the strongest relations of very many classes


def relation_figure(
    relations: Sequence[tuple[str, Matrix]], class_names: Sequence[str] = (), file: str = "class-relation"
) -> Figure | None:
    """Heat maps side by side with one colour scale, all in the order of the first one's clusters; nothing for two classes."""
    first = square(relations[0][1])
    if first is None or len(first) < 3 or not first.any():  # of two classes the one takes all that the other leaves
        return None
    names = [short(class_names[i] if i < len(class_names) else i) for i in range(len(first))]
    found = [(who, matrix) for who, m in relations if (matrix := square(m)) is not None and len(matrix) == len(first)]
    pairs = [(i, j) for i in range(len(first)) for j in range(len(first)) if i != j]
    pairs.sort(key=lambda pair: -float(first[pair]))
    rows = tuple((names[i], names[j], *(float(m[i, j]) for _, m in found)) for i, j in pairs[:MOST_ROWS])
    many = len(first) > LARGEST_DRAWN
    groups = clusters(first) if many else [[i] for i in cluster_order(first)]
    drawn = [(who, between_clusters(m, groups)) for who, m in found]
    most = max(float(m.max()) for _, m in drawn)
    labels = [_group_name(group, first, names) for group in groups]
    panels = [
        tag(
            "div",
            tag("div", short(who, 60), class_="panel-name"),
            _heat_map(matrix, labels, most, own=not many),
            class_="panel",
        )
        for who, matrix in drawn
    ]
    both = "Both panels share one scale; related" if len(panels) > 1 else "Related"
    caption = (
        "Row: the label. Column: where the probability that is not given to the label goes; every row adds up to 1. "
        f"{both} classes stand together."
    )
    if many:
        caption = (
            f"{len(first):,} classes in {len(groups)} clusters of related ones; a cluster is named after the class that its others "
            "are taken for most, with how many more it has. Row: labels of a cluster, on average. Column: the cluster that the "
            f"off-label probability goes to; every row adds up to 1. {both} clusters stand "
            "together."
        )
    likeness = _likeness([m for _, m in found])
    caption += (
        f" Over all pairs of classes the two correlate by {decimals(likeness, 2)}." if likeness is not None else ""
    )
    shown, every = min(40, len(rows)), "all" if len(pairs) <= MOST_ROWS else f"the {MOST_ROWS:,} strongest"
    a, b, strongest = *rows[0][:2], float(first[pairs[0]])
    whose = short(relations[0][0], 40)
    return Figure(
        file,
        f"“{short(a, 32)}” looks most like “{short(b, 32)}” to the {whose}: {percent(strongest)} of the rest",
        tag("div", *panels, class_=f"panels panels-{min(2, len(panels))}") + heat_key("0", most),
        caption,
        ("label", "other class", *(short(who) for who, _ in found)),
        rows,
        rows[:shown],
        f"The {shown} strongest of {len(pairs):,} relations; the download has {every}." if shown < len(pairs) else "",
    )


def _group_name(group: Sequence[int], relation: NDArray[np.float64], names: Sequence[str]) -> str:
    """A class alone by its name; a cluster by the member that the others are taken for most."""
    if len(group) == 1:
        return names[group[0]]
    middle = max(group, key=lambda i: float(relation[list(group), i].sum()))
    return f"{short(names[middle], 10)} +{len(group) - 1}"


def correlation_figure(d: Diagnosis, file: str = "class-correlation") -> Figure | None:
    """Correlations of classes over examples at a low and a high temperature, in the order of the last one's clusters."""
    if len(d.class_correlations) < 2 or any(square(found.matrix) is None for found in d.class_correlations):
        return None
    matrices = [np.array(found.matrix) for found in d.class_correlations]
    order = cluster_order(matrices[-1].copy())
    names = [short(d.class_names[i] if i < len(d.class_names) else i) for i in order]
    many = len(order) > LARGEST_DRAWN
    groups = clusters(matrices[-1]) if many else [[i] for i in order]
    labels = [_group_name(group, matrices[-1], [names[order.index(i)] for i in range(len(order))]) for group in groups]
    panels = [
        tag(
            "div",
            tag("div", f"temperature {number(found.temperature, 2)}", class_="panel-name"),
            _heat_map(between_clusters(matrix, groups) / [len(g) for g in groups], labels, 1.0, own=not many, unit=""),
            class_="panel",
        )
        for found, matrix in zip(d.class_correlations, matrices, strict=True)
    ]
    last = matrices[-1][np.ix_(order, order)]
    pairs = sorted(((i, j) for i in range(len(order)) for j in range(i)), key=lambda pair: -float(last[pair]))
    rows = tuple((names[i], names[j], *(float(m[order[i], order[j]]) for m in matrices)) for i, j in pairs[:MOST_ROWS])
    high = d.class_correlations[-1]
    title = f"At temperature {number(high.temperature, 2)} the teacher's probabilities of related classes rise and fall together"
    caption = "Correlation of the probabilities of two classes over all examples; 0 and below is blank. Both panels have one order."
    if high.within is not None and high.between is not None:
        means = [
            f"{decimals(found.within, 2)} within and {decimals(found.between, 2)} between superclasses at temperature "
            f"{number(found.temperature, 2)}"
            for found in d.class_correlations
            if found.within is not None and found.between is not None
        ]
        caption += f" Mean: {'; '.join(means)}."
        if high.within <= high.between:
            title = "Classes of one superclass do not move together more than others"
    headings = [f"at temperature {number(found.temperature, 2)}" for found in d.class_correlations]
    return Figure(
        file, title, tag("div", *panels, class_="panels panels-2") + heat_key("0", 1.0), caption,
        ("class", "other class", *headings), rows, rows[:20], f"The {min(20, len(rows))} strongest pairs of classes.",
    )  # fmt: skip


def _likeness(matrices: Sequence[NDArray[np.float64]]) -> float | None:
    if len(matrices) < 2 or len(matrices[0]) < 3:
        return None
    off = ~np.eye(len(matrices[0]), dtype=bool)
    first, second = matrices[0][off], matrices[1][off]
    return float(np.corrcoef(first, second)[0, 1]) if first.std() > 0 and second.std() > 0 else None


def _heat_map(
    matrix: NDArray[np.float64], names: Sequence[str], most: float, *, own: bool, unit: str = " of the rest"
) -> Markup:
    """Cells as one path a shade, the runs of a row joined: few bytes also for many classes.

    Names and values (in thousandths) stand on the drawing as data: what the script shows of a cell, with `unit` behind the value.
    """
    cells = len(matrix)
    shades = np.clip(np.ceil(np.maximum(matrix, 0.0) / (most or 1.0) * SHADES), 0, SHADES).astype(int)
    if own:
        np.fill_diagonal(shades, 0)
    paths: dict[int, list[str]] = {}
    for i in range(cells):
        j = 0
        while j < cells:
            shade, start = int(shades[i, j]), j
            while j < cells and shades[i, j] == shade:
                j += 1
            paths.setdefault(shade, []).append(f"M{start} {i}h{j - start}v1h{start - j}z")
    marks = shaded(paths)
    if own:
        marks.append(tag("path", d="".join(f"M{i} {i}h1v1h-1z" for i in range(cells)), class_="own"))
    grid = tag("svg", *marks, viewBox=f"0 0 {cells} {cells}", preserveAspectRatio="none", width="100%", height="100%")
    labels: list[Markup] = []
    longest = 0
    if cells <= MOST_LABELS:
        words = [short(name, 14) for name in names]
        longest = max(map(len, words))
        for i, word in enumerate(words):
            middle = f"{(i + 0.5) / cells * 100:.2f}%"
            labels.append(tag("text", word, x=-6, y=middle, dy="0.35em", text_anchor="end", class_="tick"))
            turn = {"transform": "rotate(-45)", "x": 3, "y": -3} if longest > 2 else {"text_anchor": "middle", "y": -6}
            labels.append(tag("svg", tag("text", word, class_="tick", **turn), x=middle, class_="spill"))
    rise = 1.4 if longest <= 2 else 0.42 * longest + 1.0
    room = f"--left:{max(0.9, 0.58 * longest + 0.6) if labels else 0:.1f}em;--rise:{rise if labels else 0:.1f}em"
    drawing = tag("svg", grid, *labels, class_="plot square", aria_hidden="true")
    values = " ".join(f"{1000 * value:.0f}" for value in matrix.flat)
    box = tag(
        "div", drawing, class_="heat-cells", data_names=json.dumps(list(names)), data_values=values, data_words=unit
    )
    return tag("div", box, class_="heat-box", style=room)
