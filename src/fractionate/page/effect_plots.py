"""Figures of what pays: the ladder of effects and the shares of the levels."""

from __future__ import annotations

from collections.abc import Mapping

from fractionate.page.figure import LEVEL_CLASSES, Figure
from fractionate.page.marks import canvas, rect, scale_for, tag
from fractionate.page.rows import REACH, ROW, axis_row, ground, key, mark, row
from fractionate.page.summaries import (
    BETTER,
    LEVEL_WORDS,
    main_effects,
    pays,
    size_text,
    variant,
    with_unit,
)
from fractionate.page.text import decimals, short
from fractionate.records import Share, Study, Verdict
from fractionate.records.studies import VERDICT_WORDS

VERDICT_SIGNS: dict[Verdict, str] = {"helps": "▲", "hurts": "▼", "equivalent": "=", "cannot tell": "◇"}


def ladder_figure(
    study: Study, file: str = "ladder", marked: Mapping[str, tuple[str, str]] | None = None
) -> Figure | None:
    """Effects with intervals: variants, steps between variants, and placebos set apart.

    `marked`: words under the name of a variant (the one to use, the recommended one, the usual one) and under its verdict.
    """
    arms, steps, placebos = main_effects(study)
    effects = [*arms, *steps, *placebos]
    if not effects:
        return None
    metric = study.deciding
    title, unit, places, margin = short(metric.title, 40), metric.unit, metric.places, metric.margin
    ends = [v for e in effects for v in (e.gain, e.interval.low, e.interval.high)]
    scale = scale_for([*ends, -margin, margin], zero=True)
    left, right = scale(-margin), scale(margin)
    band = rect(left, -REACH, right - left, ROW + 2 * REACH, "margin")
    baseline = variant(study.baseline)
    sham = {e.arm for e in placebos}
    groups = (
        (f"against {baseline}", arms, ""),
        ("against its own placebo", [e for e in steps if e.against in sham], ""),
        ("step by step", [e for e in steps if e.against not in sham], ""),
        (
            f"placebos against {baseline}: as soft as the real ones, about the wrong examples or classes",
            placebos,
            "placebo",
        ),
    )
    drawn = []
    for words, members, class_ in groups:
        drawn += [tag("div", words, class_=f"row-group {class_}".strip())] if members else []
        for e in members:
            verdict, message = f"v-{e.verdict.replace(' ', '-')}", VERDICT_WORDS[e.verdict]
            gain, low, high = (decimals(v, places, sign=True) for v in (e.gain, e.interval.low, e.interval.high))
            own = e in arms or e in placebos
            name = variant(e.arm, 48) if own else f"{variant(e.arm, 30)} − {variant(e.against, 30)}"
            text = f"{variant(e.arm)} − {variant(e.against)}: {gain} {unit} [{low}, {high}], {message}"
            plot = ground(scale, mark(scale, e.gain, e.interval, verdict, VERDICT_SIGNS[e.verdict], text), band=band)
            sign = tag("span", VERDICT_SIGNS[e.verdict], aria_hidden="true")
            end = [tag("b", gain), tag("span", sign, " ", message, class_=f"verdict {verdict}")]
            if e.verdict == "cannot tell":
                most = max(abs(e.interval.low), abs(e.interval.high))
                end.append(tag("small", f"above ±{size_text(metric, most)} unlikely"))
            under, fair = (marked or {}).get(e.arm, ("", "")) if own else ("", "")
            end += [tag("small", fair)] if fair else []
            label = tag("div", name, *([tag("small", under)] if under else []), class_="row-name", title=short(e.arm))
            drawn.append(row(label, plot, tag("div", *end, class_="row-end"), class_, of=e.arm))
    drawn.append(axis_row(scale, with_unit(title, unit)))
    best = max((e for e in arms if e.verdict == "helps"), key=lambda e: abs(e.gain), default=None)
    known = {m.name: m for m in study.metrics}
    heading = f"No variant is shown to beat {baseline}"
    if best:
        size = size_text(metric, abs(best.gain))
        # an estimate that is larger and not sure makes nothing the most
        most = all(metric.sign * e.gain <= abs(best.gain) for e in arms)
        heading = f"{variant(best.arm)} {'gains most' if most else 'is shown to gain'}: {size} over {baseline}"
        if metric.better == "less":
            verb = f"lowers {title} most" if most else f"is shown to lower {title}"
            heading = f"{variant(best.arm)} {verb}: by {size} against {baseline}"
        fair = (marked or {}).get(best.arm, ("", ""))[1]
        heading += f", {fair}" if fair else ""
    seeds = len(study.seeds)
    return Figure(
        file,
        heading,
        tag("div", *drawn, class_="rows"),
        f"Paired differences in {with_unit(title, unit)} over {seeds} {'seed' if seeds == 1 else 'seeds'}, with 95 % intervals; "
        f"{BETTER[metric.better]}. In the shaded band, ±{margin:,.4g}, two variants count as equal. Verdicts are corrected for the "
        "number of comparisons (Holm)."
        + (" A part of the teacher pays where its variant helps and its placebo does not." if placebos else ""),
        ("variant", "against", "metric", "unit", "gain", "low", "high", "p (Holm)", "seeds", "verdict", "placebo"),
        tuple(
            (
                *(variant(e.arm, 200), variant(e.against, 200)),
                *((m.title, m.unit) if (m := known.get(e.metric)) else (e.metric, "")),
                *(e.gain, e.interval.low, e.interval.high, e.p_holm, e.seeds),
                *(VERDICT_WORDS[e.verdict], "placebo" if e.placebo else ""),
            )
            for e in [*effects, *(e for e in study.effects if e.metric != study.metric)]
        ),
    )


def shares_figure(study: Study, file: str = "shares") -> Figure | None:
    """The total gain by level: along the ladder and as a Shapley value."""
    shares = study.shares
    if not shares:
        return None
    metric = study.deciding
    title, unit, places = short(metric.title, 40), metric.unit, metric.places
    scale = scale_for([v for s in shares for v in (s.gain, s.interval.low, s.interval.high)], zero=True)
    known = (("ladder", "m-ladder", "●", "along the ladder"), ("Shapley", "m-shapley", "◇", "Shapley value"))
    methods = [m for m in known if any(s.method == m[0] for s in shares)]
    drawn = [key(*(m[1:] for m in methods))]
    height = ROW + 10
    for level in LEVEL_WORDS:
        marks, values = [], []
        for k, (method, class_, sign, words) in enumerate(methods):
            for s in shares:
                if (s.level, s.method) != (level, method):
                    continue
                gain, low, high = (decimals(v, places, sign=True) for v in (s.gain, s.interval.low, s.interval.high))
                text = f"{level}, {words}: {gain} {unit} [{low}, {high}]"
                y = 5 + (0 if len(methods) == 1 else -8 if k == 0 else 8)
                drawing = mark(scale, s.gain, s.interval, class_, sign, text)
                marks.append(tag("svg", drawing, y=y, width="100%", height=ROW, class_="spill"))
                values.append(tag("b", gain, class_=class_))
        if marks:
            swatch = canvas(12, rect(0, 0, 100, 12, f"seg {LEVEL_CLASSES[level]}"), class_="swatch")
            label = tag("div", swatch, level, tag("small", LEVEL_WORDS[level]), class_="row-name")
            drawn.append(row(label, ground(scale, *marks, height=height), tag("div", *values, class_="row-end")))
    drawn.append(axis_row(scale, with_unit(title, unit)))
    totals = [
        f"{words} to {decimals(sum(s.gain for s in shares if s.method == method), places, sign=True)} {unit}".strip()
        for method, _, _, words in (("ladder", "", "", "along the ladder"), ("Shapley", "", "", "as Shapley values"))
        if any(s.method == method for s in shares)
    ]
    largest: Share = max((s for s in shares if s.method == methods[-1][0]), key=lambda s: metric.sign * s.gain)
    whole = metric.sign * sum(s.gain for s in shares if s.method == largest.method)
    start = "No level is sure to pay; the largest is"
    if pays(largest, metric):
        start = (
            "The largest part of the gain comes from"
            if whole > 0
            else "The levels together gain nothing, though there is a gain from"
        )
    heading = f"{start} {largest.level}: {LEVEL_WORDS[largest.level]}"
    if not any(abs(v) > metric.margin for s in shares for v in (s.interval.low, s.interval.high)):
        margin = f"±{metric.margin:,.4g} {unit}".rstrip()
        heading = f"No level changes {title} by more than {margin}"
        drawn = [tag("p", "The interval of every level lies within what counts as equal.")]
    return Figure(
        file,
        heading,
        tag("div", *drawn, class_="rows"),
        f"The gain of the whole over {variant(study.baseline)} ({BETTER[metric.better]}), split by level; "
        f"the parts add up {' and '.join(totals)}. "
        "The ladder adds one level after the other"
        + ("; the Shapley value averages over every order" if any(s.method == "Shapley" for s in shares) else "")
        + ". Bars are 95 % intervals.",
        ("level", "method", with_unit("gain", unit), "low", "high"),
        tuple((s.level, s.method, s.gain, s.interval.low, s.interval.high) for s in shares),
    )
