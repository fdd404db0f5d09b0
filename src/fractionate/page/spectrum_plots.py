"""Figures of the spectrum: what a teacher knows in nats, part by part, and at other temperatures."""

from __future__ import annotations

import math
from collections.abc import Sequence

from markupsafe import Markup

from fractionate.page.figure import LEVEL_CLASSES, Figure
from fractionate.page.marks import Scale, axis, canvas, finite, rect, tag, text, upright_axis
from fractionate.page.summaries import LEVEL_WORDS
from fractionate.page.text import decimals, number, percent, short
from fractionate.records import LEVEL_NAMES, Diagnosis, Level, Spectrum
from fractionate.records.measures import with_article

BAR = 38.0


def _known(found: Spectrum) -> dict[Level, float]:
    """The five terms, nothing where a number is not finite."""
    return {level: nats if finite(nats) and nats > 0 else 0.0 for level, nats in found.nats.items()}


def beyond_universe(found: Spectrum) -> float:
    """What is known beyond the confidence that all examples share, in nats per row."""
    parts = _known(found)
    return sum(parts.values()) - parts["universe"]


def nothing_words(found: Spectrum, row: str) -> str:
    """What is shown of a teacher that knows nothing beyond the universe, in place of plots."""
    return (
        f"Beyond the label it says next to nothing: {number(beyond_universe(found))} nats {with_article(row)} at temperature "
        f"{found.temperature:g}, of {number(found.total_nats)} in all. What it knows is how sure it is on average."
    )


def spectrum_figure(bars: Sequence[tuple[str, Spectrum]], file: str = "spectrum", row: str = "example") -> Figure:
    """One stacked bar a teacher (or student) in nats, and the parts beyond the universe once more, enlarged."""
    parts = {name: _known(found) for name, found in bars}
    ceiling = {name: math.log(max(2, found.classes)) for name, found in bars}
    whole = Scale(0.0, max([*ceiling.values(), *(sum(p.values()) for p in parts.values())]))
    drawn: list[Markup] = []
    for name, found in bars:
        total = f"{number(found.total_nats)} of {number(ceiling[name])} nats, temperature {found.temperature:g}"
        outline = rect(0, 0, whole(ceiling[name]), BAR, "all-there-is")
        drawn += [_head(name, total), canvas(BAR, outline, *_stack(parts[name], LEVEL_NAMES, whole))]
    drawn.append(canvas(24, axis(whole, 15)))
    beyond = {name: sum(p.values()) - p["universe"] for name, p in parts.items()}
    if any(0 < b < 0.5 * whole.high for b in beyond.values()):
        fine = Scale(0.0, max(beyond.values()))
        drawn.append(tag("p", "Without that average (universe), enlarged", class_="subhead"))
        for name, _ in bars:
            share = percent(beyond[name] / sum(parts[name].values())) if sum(parts[name].values()) else "–"
            head = _head(name, f"{number(beyond[name])} nats, {share} of what it knows")
            drawn += [head, canvas(BAR, *_stack(parts[name], LEVEL_NAMES[1:], fine))]
        drawn.append(canvas(24, axis(fine, 15)))
    drawn.append(_legend(bars, row))
    first = parts[bars[0][0]]
    largest = max(LEVEL_NAMES[1:], key=lambda level: first[level])
    title = (
        f"Beyond its average certainty it knows most about {largest}: {LEVEL_WORDS[largest]}"
        if first[largest] > 0
        else "It knows nothing beyond its average certainty (universe)"
    )
    return Figure(
        file,
        title,
        Markup("").join(drawn),
        f"What is known beyond a uniform guess, in nats {with_article(row)}, split exactly into five parts. The dashed outline "
        f"ends at log K, where every {row} is certain. Colour is the level; plain is confidence, striped is shape.",
        ("level", *(f"{short(name)} (nats)" for name, _ in bars)),
        (
            *((level, *(found.nats[level] for _, found in bars)) for level in LEVEL_NAMES),
            ("total", *(found.total_nats for _, found in bars)),
        ),
    )


def _head(name: str, note: str) -> Markup:
    words = [tag("span", short(name, 48), class_="bar-name"), tag("span", note, class_="bar-note")]
    return tag("div", *words, class_="bar-head")


def _stack(parts: dict[Level, float], levels: Sequence[Level], scale: Scale) -> list[Markup]:
    marks, at = [], 0.0
    total = sum(parts.values())
    for level in levels:
        nats = parts[level]
        if nats:
            words = f"{level}: {number(nats)} nats, {percent(nats / total, 1)}"
            marks.append(rect(scale(at), 0, scale(nats), BAR, f"seg {LEVEL_CLASSES[level]}", words))
            if scale(nats) > 9:
                middle = scale(at + nats / 2)
                marks.append(text(middle, BAR / 2 + 4, percent(nats / total), "on-segment", "middle"))
            at += nats
    return marks


def _legend(bars: Sequence[tuple[str, Spectrum]], row: str) -> Markup:
    shown = bars[:4]
    heads = [tag("th", short(name, 48), scope="col", class_="num") for name, _ in shown]
    rows = [tag("tr", tag("th", f"nats {with_article(row)}", scope="col", colspan=2), *heads)]
    for level in LEVEL_NAMES:
        swatch = canvas(12, rect(0, 0, 100, 12, f"seg {LEVEL_CLASSES[level]}"), class_="swatch")
        words = tag("th", tag("b", level), tag("span", LEVEL_WORDS[level]), scope="row")
        cells = [tag("td", decimals(found.nats[level], 3), class_="num") for _, found in shown]
        rows.append(tag("tr", tag("td", swatch), words, *cells))
    return tag(
        "div", tag("table", *rows, class_="legend"), class_="scroll", tabindex=0, role="group", aria_label="Legend"
    )


def temperature_figure(d: Diagnosis, file: str = "spectrum-over-temperature") -> Figure | None:
    """Stacked columns of the five parts, one a temperature."""
    spectra = sorted(d.spectrum_over_temperature, key=lambda s: s.temperature)
    if len(spectra) < 2:
        return None
    height, step = 150.0, 100 / len(spectra)
    down = Scale(0.0, max([*(sum(_known(s).values()) for s in spectra), 1e-9]) * 1.02, height, 8.0)
    marks = upright_axis(down, down.ticks(4))
    chosen = d.recipe.temperature if d.recipe.distil else None
    for i, found in enumerate(spectra):
        at = 0.0
        for level, nats in _known(found).items():
            if nats:
                y, words = down(at + nats), f"temperature {found.temperature:g}, {level}: {number(nats)} nats"
                box = rect((i + 0.14) * step, y, 0.72 * step, down(at) - y, f"seg {LEVEL_CLASSES[level]}", words)
                marks.append(box)
                at += nats
        style = "tick strong" if found.temperature == chosen else "tick"
        marks.append(text((i + 0.5) * step, height + 17, f"{found.temperature:g}", style, "middle"))
    marks.append(text(0, height + 17, "T", "tick", "end", -6))
    return Figure(
        file,
        "Over temperature",
        tag("div", canvas(height + 24, *marks), class_="indent"),
        f"The same five parts, in nats {with_article(d.row)}, read at other temperatures T: higher temperature lowers confidence "
        "first; class similarities fade later."
        + (" The temperature of the recipe is set in bold." if any(s.temperature == chosen for s in spectra) else ""),
        ("temperature", *(f"{level} (nats)" for level in LEVEL_NAMES), "total (nats)"),
        tuple((s.temperature, *s.nats.values(), s.total_nats) for s in d.spectrum_over_temperature),
    )
