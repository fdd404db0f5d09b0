"""Figures of a diagnosis: the spectrum, over temperature, the class relation, confidence and rescaling."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from fractionate.page.figure import LEVEL_CLASSES, LEVEL_WORDS, Figure
from fractionate.page.marks import Scale, axis, canvas, finite, gridlines, line, rect, tag, text
from fractionate.page.order import blocks, cluster_order, square
from fractionate.page.text import number, percent, short
from fractionate.records import LEVEL_NAMES, Diagnosis, Histogram, Matrix, Spectrum


def spectrum_figure(bars: Sequence[tuple[str, Spectrum]]) -> Figure:
    """One stacked bar a teacher (or student), in nats; the outline is all there is to know, log K."""
    most = max([math.log(max(2, s.classes)) for _, s in bars] + [s.total_nats for _, s in bars if finite(s.total_nats)])
    scale = Scale(0.0, most)
    parts = []
    for name, found in bars:
        at, marks = 0.0, [rect(0, 0, scale(math.log(max(2, found.classes))), 40, "all-there-is")]
        for level, nats in found.nats.items():
            if not finite(nats) or nats <= 0:
                continue
            share = nats / found.total_nats
            words = f"{level}: {number(nats)} nats, {percent(share)}"
            marks.append(rect(scale(at), 0, scale(nats), 40, f"seg {LEVEL_CLASSES[level]}", words))
            if scale(nats) > 9:
                marks.append(text(scale(at + nats / 2), 25, percent(share), "on-seg", "middle"))
            at += nats
        head = tag("span", short(name, 48), class_="bar-name")
        note = tag(
            "span",
            f"{number(found.total_nats)} of {number(math.log(max(2, found.classes)))} nats at temperature {found.temperature:g}",
            class_="bar-note",
        )
        parts.append(tag("div", head, note, class_="bar-head") + canvas(40, *marks))
    parts.append(canvas(22, axis(scale, 14)))
    parts.append(_legend(bars))
    columns = [(name, s.nats) for name, s in bars]
    largest = max(LEVEL_NAMES, key=lambda level: bars[0][1].nats[level])
    total = bars[0][1].total_nats
    title = f"The largest part is {largest}: {LEVEL_WORDS[largest]}" + (
        f" ({percent(bars[0][1].nats[largest] / total)})" if total > 0 else ""
    )
    return Figure(
        "spectrum",
        title,
        Markup("").join(parts),
        "What the teacher knows beyond a uniform guess, in nats an example, split exactly into five parts. "
        "The outline ends at log K, a teacher that is certain and right everywhere. Colour is the level; "
        "stripes are shape, plain is confidence.",
        ("level", *(f"{short(name)} (nats)" for name, _ in columns)),
        (
            *((level, *(nats[level] for _, nats in columns)) for level in LEVEL_NAMES),
            ("total", *(s.total_nats for _, s in bars)),
        ),
    )


def _legend(bars: Sequence[tuple[str, Spectrum]]) -> Markup:
    items = []
    for level in LEVEL_NAMES:
        swatch = canvas(12, rect(0, 0, 100, 12, f"seg {LEVEL_CLASSES[level]}"), class_="swatch")
        nats = [number(s.nats[level]) for _, s in bars[:1]]
        items.append(
            tag("li", swatch, tag("b", level), " ", tag("span", LEVEL_WORDS[level]), tag("i", f"{nats[0]} nats"))
        )
    return tag("ul", *items, class_="legend")


def temperature_figure(diagnoses: Sequence[Diagnosis]) -> Figure | None:
    """Stacked columns of the five parts, one a temperature, one panel a teacher."""
    shown = [d for d in diagnoses if len(d.spectrum_over_temperature) > 1]
    if not shown:
        return None
    totals = [s.total_nats for d in shown for s in d.spectrum_over_temperature if finite(s.total_nats)]
    height, top = 150.0, 8.0
    down = Scale(0.0, max([*totals, 1e-9]) * 1.02, height, top)
    panels = []
    for d in shown:
        spectra = sorted(d.spectrum_over_temperature, key=lambda s: s.temperature)
        width = 100 / len(spectra)
        marks = [
            line(0, down(t), 100, down(t), "grid") + text(0, down(t), number(t), "tick", "end", -6)
            for t in down.ticks(4)
        ]
        for i, found in enumerate(spectra):
            at = 0.0
            for level, nats in found.nats.items():
                if finite(nats) and nats > 0:
                    y = down(at + nats)
                    words = f"temperature {found.temperature:g}, {level}: {number(nats)} nats"
                    marks.append(
                        rect(
                            i * width + width * 0.14,
                            y,
                            width * 0.72,
                            down(at) - y,
                            f"seg {LEVEL_CLASSES[level]}",
                            words,
                        )
                    )
                    at += nats
            chosen = d.recipe.distil and found.temperature == d.recipe.temperature
            marks.append(
                text(
                    (i + 0.5) * width,
                    height + 16,
                    f"{found.temperature:g}",
                    "tick strong" if chosen else "tick",
                    "middle",
                )
            )
        head = tag("div", short(d.name, 48), class_="panel-name")
        panels.append(tag("div", head, tag("div", canvas(height + 22, *marks), class_="indent"), class_="panel"))
    chosen_words = " The recipe's temperature is set in bold." if any(d.recipe.distil for d in shown) else ""
    return Figure(
        "spectrum-over-temperature",
        "Over temperature",
        tag("div", *panels, class_=f"panels panels-{min(3, len(panels))}"),
        "The same five parts, in nats, read at other temperatures: heat turns certainty down and lets the shapes show."
        + chosen_words,
        ("teacher", "temperature", *(f"{level} (nats)" for level in LEVEL_NAMES), "total (nats)"),
        tuple(
            (short(d.name), s.temperature, *s.nats.values(), s.total_nats)
            for d in shown
            for s in d.spectrum_over_temperature
        ),
    )


def relation_figure(
    name: str, relations: Sequence[tuple[str, Matrix]], class_names: Sequence[str], file: str = "class-relation"
) -> Figure | None:
    """Heat maps of class relations side by side, all in the order of the first one's clusters."""
    matrices = [(who, square(matrix)) for who, matrix in relations]
    first = matrices[0][1]
    if first is None:
        return None
    order = cluster_order(first)
    names = [short(class_names[i] if i < len(class_names) else i) for i in range(len(first))]
    ordered = [(who, m[np.ix_(order, order)]) for who, m in matrices if m is not None and len(m) == len(first)]
    panels = [
        tag(
            "div",
            tag("div", short(who, 60), class_="panel-name"),
            _heat_map(matrix, [names[i] for i in order]),
            class_="panel",
        )
        for who, matrix in ordered
    ]
    off = ~np.eye(len(first), dtype=bool)
    likeness = ""
    if len(ordered) > 1 and all(m[off].std() > 0 for _, m in ordered[:2]) and len(first) > 2:
        r = float(np.corrcoef(ordered[0][1][off], ordered[1][1][off])[0, 1])
        likeness = f" Student and teacher correlate by {number(r, 2)} over all pairs of classes."
    rows = [
        (names[a], names[b], *(float(m[i, j]) for _, m in ordered))
        for i, a in enumerate(order)
        for j, b in enumerate(order)
        if i != j
    ]
    strongest = sorted(rows, key=lambda row: -float(row[2]))  # type: ignore[arg-type]
    size = blocks(first)[1]
    blocked = f" Blocks of {size} neighbouring classes are averaged." if size > 1 else ""
    a, b = strongest[0][:2]
    return Figure(
        file,
        f"Its strongest relation: what is “{a}” might be “{b}”",
        tag("div", *panels, class_=f"panels panels-{min(2, len(panels))}"),
        f"Row: the label. Column: where {name} puts the probability it does not give to the label. Darker is more; related "
        f"classes stand together.{likeness}{blocked}",
        ("label", "other class", *(short(who) for who, _ in ordered)),
        tuple(rows) if len(rows) <= 20_000 else tuple(strongest[:20_000]),
        tuple(strongest[:40]),
        f"The {min(40, len(strongest))} strongest of {len(rows):,} relations; the download has "
        f"{'all' if len(rows) <= 20_000 else 'the 20,000 strongest'}.",
    )


SHADES = 12


def _heat_map(matrix: NDArray[np.float64], names: Sequence[str]) -> Markup:
    """Cells as one path a shade, runs of a row joined: small in bytes also for many classes."""
    drawn, size = blocks(matrix)
    cells = len(drawn)
    most = float(drawn.max()) or 1.0
    shades = np.clip(np.ceil(np.maximum(drawn, 0.0) / most * SHADES), 0, SHADES).astype(int)
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
    labels = []
    if size == 1 and cells <= 30:
        for i, name in enumerate(names):
            middle = f"{(i + 0.5) / cells * 100:.2f}%"
            labels.append(tag("text", short(name, 14), x=-6, y=middle, dy="0.35em", text_anchor="end", class_="tick"))
            turned = (
                tag("text", short(name, 14), class_="tick", transform="rotate(-45)", x=2, y=-6)
                if max(map(len, names)) > 2
                else tag("text", name, class_="tick", text_anchor="middle", y=-6)
            )
            labels.append(tag("svg", turned, x=middle, class_="spill"))
    long = max(len(short(n, 14)) for n in names) if labels else 0
    style = f"--label:{max(1.2, 0.56 * long):.1f}em;--rise:{1.2 if long <= 2 else 0.42 * long + 0.8:.1f}em"
    data = Markup('<div class="heat-box" style="{}">{}</div>').format(style, canvas_square(grid, *labels))
    return data


def canvas_square(*children: Markup) -> Markup:
    """A square SVG."""
    return tag("svg", *children, class_="plot square", aria_hidden="true")


def histogram_figure(
    name: str, title: str, caption: str, histograms: Sequence[tuple[str, Histogram]], *, at_one: str = ""
) -> Figure | None:
    """Histograms in panels with one scale across; a line marks the mean, another one the value 1 where it means something."""
    shown = [
        (who, h) for who, h in histograms if sum(h.counts) and len(h.edges) == len(h.counts) + 1 and finite(*h.edges)
    ]
    shown = [(who, h) for who, h in shown if h.edges[-1] > h.edges[0]]
    if not shown:
        return None
    across = Scale(min(h.edges[0] for _, h in shown), max(h.edges[-1] for _, h in shown))
    height, top = 110.0, 14.0
    panels = []
    for who, h in shown:
        down = Scale(0.0, max(h.counts) / sum(h.counts), height, top)
        marks = [gridlines(across, top, height, 4), line(0, height, 100, height, "base")]
        for low, high, count in zip(h.edges, h.edges[1:], h.counts, strict=False):
            y = down(count / sum(h.counts))
            words = f"{number(low)} to {number(high)}: {count:,} ({percent(count / sum(h.counts), 1)})"
            marks.append(rect(across(low), y, (across(high) - across(low)) * 0.94, height - y, "column", words))
        if finite(h.mean):
            x = across(h.mean)
            marks.append(line(x, 2, x, height, "mean"))
            right = x > 60
            marks.append(
                text(x, 10, f"mean {number(h.mean)}", "tick strong", "end" if right else "start", -5 if right else 5)
            )
        if at_one and across.low < 1 < across.high:
            marks.append(line(across(1), top, across(1), height, "one"))
        marks.append(axis(across, height + 16, wanted=4))
        head = tag("div", short(who, 48), tag("span", f"sd {number(h.deviation)}"), class_="panel-name")
        panels.append(tag("div", head, canvas(height + 22, *marks), class_="panel"))
    return Figure(
        name,
        title,
        tag("div", *panels, class_=f"panels panels-{min(3, len(panels))}"),
        caption,
        ("of", "from", "to", "examples"),
        tuple(
            (short(who), low, high, count)
            for who, h in shown
            for low, high, count in zip(h.edges, h.edges[1:], h.counts, strict=False)
        ),
    )
