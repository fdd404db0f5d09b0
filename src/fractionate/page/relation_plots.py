"""Heat maps of class relations, the student's beside the teacher's, in the order of the teacher's clusters."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from fractionate.page.figure import Figure
from fractionate.page.marks import tag
from fractionate.page.order import blocks, cluster_order, square
from fractionate.page.text import decimals, number, short
from fractionate.records import Matrix

SHADES = 14
MOST_LABELS = 30
MOST_ROWS = 4_000  # of the download: the strongest relations of very many classes


def relation_figure(
    relations: Sequence[tuple[str, Matrix]], class_names: Sequence[str] = (), file: str = "class-relation"
) -> Figure | None:
    """Heat maps side by side with one colour scale, all in the order of the first one's clusters."""
    first = square(relations[0][1])
    if first is None or not first.any():
        return None
    order = cluster_order(first)
    names = [short(class_names[i] if i < len(class_names) else i) for i in range(len(first))]
    found = [(who, square(matrix)) for who, matrix in relations]
    ordered = [(who, m[np.ix_(order, order)]) for who, m in found if m is not None and len(m) == len(first)]
    most = max(float(blocks(m)[0].max()) for _, m in ordered)
    panels = [
        tag(
            "div",
            tag("div", short(who, 60), class_="panel-name"),
            _heat_map(matrix, [names[i] for i in order], most),
            class_="panel",
        )
        for who, matrix in ordered
    ]
    pairs = [(i, j) for i in range(len(order)) for j in range(len(order)) if i != j]
    pairs.sort(key=lambda pair: -float(ordered[0][1][pair]))
    rows = tuple(
        (names[order[i]], names[order[j]], *(float(m[i, j]) for _, m in ordered)) for i, j in pairs[:MOST_ROWS]
    )
    a, b, strongest = *rows[0][:2], float(ordered[0][1][pairs[0]])
    size = blocks(first)[1]
    caption = (
        "Row: the label. Column: where the probability that is not given to the label goes; every row adds up to 1. "
    )
    caption += (
        "Both panels share one scale; related classes stand together."
        if len(panels) > 1
        else "Related classes stand together."
    )
    likeness = _likeness([m for _, m in ordered])
    caption += (
        f" Over all pairs of classes the two correlate by {decimals(likeness, 2)}." if likeness is not None else ""
    )
    caption += f" Blocks of {size} neighbouring classes are averaged." if size > 1 else ""
    shown, every = min(40, len(rows)), "all" if len(pairs) <= MOST_ROWS else f"the {MOST_ROWS:,} strongest"
    whose = short(relations[0][0], 40)
    return Figure(
        file,
        f"What is “{short(a, 32)}” the {whose} takes for “{short(b, 32)}” most readily: {number(strongest, 2)} of the rest",
        tag("div", *panels, class_=f"panels panels-{min(2, len(panels))}") + _key(most),
        caption,
        ("label", "other class", *(short(who) for who, _ in ordered)),
        rows,
        rows[:shown],
        f"The {shown} strongest of {len(pairs):,} relations; the download has {every}.",
    )


def _likeness(matrices: Sequence[NDArray[np.float64]]) -> float | None:
    if len(matrices) < 2 or len(matrices[0]) < 3:
        return None
    off = ~np.eye(len(matrices[0]), dtype=bool)
    first, second = matrices[0][off], matrices[1][off]
    return float(np.corrcoef(first, second)[0, 1]) if first.std() > 0 and second.std() > 0 else None


def _key(most: float) -> Markup:
    step = f"{100 / SHADES:.2f}%"
    boxes = [
        tag("rect", x=f"{100 * s / SHADES:.2f}%", width=step, height=10, class_="heat", fill_opacity=(s + 1) / SHADES)
        for s in range(SHADES)
    ]
    bar = tag("svg", *boxes, width=140, height=10, class_="plot", aria_hidden="true")
    return tag("div", tag("span", "0"), bar, tag("span", number(most, 2)), class_="heat-key")


def _heat_map(matrix: NDArray[np.float64], names: Sequence[str], most: float) -> Markup:
    """Cells as one path a shade, the runs of a row joined: few bytes also for many classes."""
    drawn, size = blocks(matrix)
    cells = len(drawn)
    shades = np.clip(np.ceil(np.maximum(drawn, 0.0) / (most or 1.0) * SHADES), 0, SHADES).astype(int)
    paths: dict[int, list[str]] = {}
    for i in range(cells):
        j = 0
        while j < cells:
            shade, start = int(shades[i, j]), j
            while j < cells and shades[i, j] == shade:
                j += 1
            paths.setdefault(shade, []).append(f"M{start} {i}h{j - start}v1h{start - j}z")
    marks = [
        tag("path", d="".join(parts), class_="heat", fill_opacity=shade / SHADES)
        for shade, parts in sorted(paths.items())
        if shade
    ]
    if size == 1:
        marks.append(tag("path", d="".join(f"M{i} {i}h1v1h-1z" for i in range(cells)), class_="own"))
    grid = tag("svg", *marks, viewBox=f"0 0 {cells} {cells}", preserveAspectRatio="none", width="100%", height="100%")
    labels: list[Markup] = []
    longest = 0
    if size == 1 and cells <= MOST_LABELS:
        words = [short(name, 14) for name in names]
        longest = max(map(len, words))
        for i, word in enumerate(words):
            middle = f"{(i + 0.5) / cells * 100:.2f}%"
            labels.append(tag("text", word, x=-6, y=middle, dy="0.35em", text_anchor="end", class_="tick"))
            turn = {"transform": "rotate(-45)", "x": 3, "y": -3} if longest > 2 else {"text_anchor": "middle", "y": -6}
            labels.append(tag("svg", tag("text", word, class_="tick", **turn), x=middle, class_="spill"))
    rise = 1.4 if longest <= 2 else 0.42 * longest + 1.0
    room = f"--left:{max(0.9, 0.58 * longest + 0.6) if labels else 0:.1f}em;--rise:{rise if labels else 0:.1f}em"
    names_at_hand = tag("svg", grid, *labels, class_="plot square", aria_hidden="true")
    return tag("div", names_at_hand, class_="heat-box", style=room)
