"""Figures of a diagnosis beyond its spectrum: how sure the terms are, class by class, and what a pilot tried."""

from __future__ import annotations

from markupsafe import Markup

from fractionate.page.figure import LEVEL_CLASSES, Figure
from fractionate.page.marks import Scale, canvas, rect, scale_for, tag
from fractionate.page.rows import REACH, ROW, axis_row, ground, mark, row
from fractionate.page.summaries import LEVEL_WORDS
from fractionate.page.text import decimals, number, percent, short
from fractionate.records import LEVEL_NAMES, ClassPart, Diagnosis, Level
from fractionate.records.measures import with_article

MOST_BARS = 20  # more classes are in the numbers
MOST_TRIALS = 8  # likewise variants of a pilot; they stand best first


def terms_figure(d: Diagnosis, file: str = "certainty") -> Figure | None:
    """The terms beyond the universe with their intervals, what chance gives, and what comes again in a second view."""
    shown = [t for t in d.terms if t.level != "universe"]
    if not shown:
        return None
    ends = [v for t in shown for v in (t.nats, t.interval.high, t.chance_high_nats or 0.0, t.reproducible_nats or 0.0)]
    scale = scale_for([*ends, 0.0], zero=True)
    drawn = []
    for t in shown:
        swatch = canvas(12, rect(0, 0, 100, 12, f"seg {LEVEL_CLASSES[t.level]}"), class_="swatch")
        label = tag("div", swatch, t.level, tag("small", LEVEL_WORDS[t.level]), class_="row-name")
        text = f"{t.level}: {number(t.nats)} nats [{number(t.interval.low)}, {number(t.interval.high)}]"
        band = None
        if t.chance_high_nats is not None:
            band = rect(scale(0), -REACH, scale(t.chance_high_nats) - scale(0), ROW + 2 * REACH, "margin")
        marks = [mark(scale, t.nats, t.interval, "m-ladder", "●", text)]
        end = [tag("b", decimals(t.nats, 3))]
        if t.chance_nats is not None:
            end.append(tag("small", f"{decimals(t.chance_nats, 3)} by chance"))
        if t.reproducible_nats is not None:
            again = f"{number(t.reproducible_nats)} nats come again in the second view"
            marks.append(mark(scale, t.reproducible_nats, None, "m-shapley", "◇", again))
            end.append(tag("small", f"{decimals(t.reproducible_nats, 3)} come again"))
        drawn.append(row(label, ground(scale, *marks, band=band), tag("div", *end, class_="row-end")))
    drawn.append(axis_row(scale, f"nats {with_article(d.row)}"))
    lost = [t.level for t in shown if t.beyond_chance is False]
    title = (
        f"Not shown to be more than chance: {', '.join(lost)}"
        if lost
        else "How sure these parts are: 95 % intervals over examples"
    )
    again_words = (
        " The diamond is the part that comes again in the second view."
        if any(t.reproducible_nats for t in shown)
        else ""
    )
    chance_words = (
        " Shaded: what shuffled labels produce 95 % of the time. Inside it, it may be chance."
        if any(t.chance_high_nats is not None for t in shown)
        else ""
    )
    return Figure(
        file,
        title,
        tag("div", *drawn, class_="rows"),
        f"The parts beyond the universe at temperature 1.{chance_words}{again_words}",
        ("level", "nats", "low", "high", "by chance", "by chance, 95 %", "comes again", "low", "high"),
        tuple(
            (
                *(
                    t.level,
                    t.nats,
                    t.interval.low,
                    t.interval.high,
                    t.chance_nats,
                    t.chance_high_nats,
                    t.reproducible_nats,
                ),
                *(
                    (t.reproducible_interval.low, t.reproducible_interval.high)
                    if t.reproducible_interval
                    else (None, None)
                ),
            )
            for t in d.terms
        ),
    )


def parts_figure(parts: tuple[ClassPart, ...], kind: str, file: str, row_is: str = "example") -> Figure | None:
    """The four parts beyond the universe for each class (or superclass), most off-label mass first."""
    if len(parts) < 2:
        return None
    ranked = sorted(parts, key=lambda part: -part.relations_nats)
    levels: tuple[Level, ...] = LEVEL_NAMES[
        2:
    ]  # the universe and a class's own confidence may be negative for one class
    widest = max(sum(max(0.0, p.nats[level]) for level in levels) for p in ranked)
    scale = Scale(0.0, widest or 1.0)
    drawn = []
    for part in ranked[:MOST_BARS]:
        at, marks = 0.0, []
        for level in levels:
            nats = max(0.0, part.nats[level])
            marks.append(
                rect(
                    scale(at), 9, scale(nats), ROW - 18, f"seg {LEVEL_CLASSES[level]}", f"{level}: {number(nats)} nats"
                )
            )
            at += nats
        end = tag(
            "div",
            tag("b", decimals(part.relations_nats, 3)),
            tag("span", f"{part.examples:,} {row_is}s", class_="quiet"),
            class_="row-end",
        )
        drawn.append(row(part.name, canvas(ROW, *marks), end))
    drawn.append(axis_row(scale, f"nats {with_article(row_is)}"))
    first, last = ranked[0], ranked[-1]
    return Figure(
        file,
        f"By {kind}: most off the label for {short(first.name, 30)}, least for {short(last.name, 30)}",
        tag("div", *drawn, class_="rows"),
        f"What the teacher knows of each {kind}'s {row_is}s, in nats: class relations and both instance parts, in the colours "
        "above. The number is the off-label part (both shapes)."
        + (f" {len(ranked) - MOST_BARS} more are in the download." if len(ranked) > MOST_BARS else ""),
        (kind, "examples", *(f"{level} (nats)" for level in LEVEL_NAMES)),
        tuple((p.name, p.examples, *(p.nats[level] for level in LEVEL_NAMES)) for p in ranked),
    )


def _gain(points: float, seeds: int) -> Markup:
    message = tag("span", f"{seeds} {'seed' if seeds == 1 else 'seeds'}", class_="quiet")
    return tag("div", tag("b", decimals(points, 2, sign=True)), message, class_="row-end")


def pilot_figure(d: Diagnosis, file: str = "pilot") -> Figure | None:
    """What a pilot tried: gains over no teacher on validation data, and the chosen arm once more on fresh seeds."""
    pilot = d.pilot
    if pilot is None:
        return None
    ends = [
        v
        for t in pilot.trials[:MOST_TRIALS]
        for v in (t.gain_points, *((t.interval.low, t.interval.high) if t.seeds > 2 else ()))
    ]
    again = pilot.interval if pilot.confirming_seeds > 2 else None  # of two seeds it would hide all else
    ends += [pilot.gain_points, *((again.low, again.high) if again else ())]
    scale = scale_for(ends, zero=True)
    sure = pilot.interval.low > 0
    drawn = [tag("div", "again on fresh seeds", class_="row-group")]
    text = f"{pilot.chosen}: {number(pilot.gain_points)} points [{number(pilot.interval.low)}, {number(pilot.interval.high)}]"
    verdict, sign = ("v-helps", "▲") if sure else ("v-cannot-tell", "◇")
    end = _gain(pilot.gain_points, pilot.confirming_seeds)
    drawn.append(row(pilot.chosen, ground(scale, mark(scale, pilot.gain_points, again, verdict, sign, text)), end))
    drawn.append(tag("div", "tried, the better half going on to more seeds", class_="row-group"))
    for t in pilot.trials[:MOST_TRIALS]:
        message = f"{t.arm}: {number(t.gain_points)} points on {t.seeds} seeds"
        plot = ground(scale, mark(scale, t.gain_points, t.interval if t.seeds > 2 else None, "m-ladder", "●", message))
        drawn.append(row(t.arm, plot, _gain(t.gain_points, t.seeds)))
    drawn.append(axis_row(scale, "accuracy (points)"))
    change = "gains" if pilot.gain_points >= 0 else "costs"
    title = (
        f"A pilot: {short(pilot.chosen, 40)} {change} {decimals(abs(pilot.gain_points), 1)} points against "
        f"{short(pilot.no_teacher, 40)}"
        if d.recipe.distil
        else "A pilot found nothing that surely beats no teacher"
    )
    if not any(ends):
        words = f"All {pilot.students} students are right as often as those without a teacher: there is no difference to draw."
        drawn = [tag("p", words)]
    return Figure(
        file,
        title,
        tag("div", *drawn, class_="rows"),
        f"{pilot.students} students of {pilot.examples:,} examples with {percent(pilot.share_of_steps)} of the steps; gains over "
        f"no teacher on {pilot.validation_examples:,} validation examples, paired over seeds, with 95 % intervals from three on. "
        "The upper row was not used to choose; among the others the best looks better than it is. T: temperature; w: teacher "
        "weight; lr×3: three times the learning rate of the run file."
        + (f" Note: {pilot.note.removesuffix('.')}." if pilot.note else "")
        + (f" {left} more are in the numbers." if (left := len(pilot.trials) - MOST_TRIALS) > 0 else ""),
        ("variant", "seeds", "accuracy", "gain (points)", "low", "high"),
        tuple((t.arm, t.seeds, t.accuracy, t.gain_points, t.interval.low, t.interval.high) for t in pilot.trials),
    )
