"""Figures of what pays: the ladder of effects and the shares of the levels."""

from __future__ import annotations

from fractionate.page.figure import LEVEL_CLASSES, LEVEL_WORDS, Figure
from fractionate.page.marks import canvas, rect, scale_for, tag
from fractionate.page.rows import BETTER, REACH, ROW, axis_row, ground, key, mark, row, with_unit
from fractionate.page.text import decimals, short
from fractionate.records import Effect, MetricInfo, Share, Study

VERDICT_SIGNS = {"helps": "▲", "hurts": "▼", "equivalent": "=", "cannot tell": "◇"}


def main_effects(study: Study) -> tuple[list[Effect], list[Effect], list[Effect]]:
    """Effects in the study's metric: against the baseline (in the order of the arms), against another arm, placebos."""
    mine = [e for e in study.effects if e.metric == study.metric]
    order = {arm: i for i, arm in enumerate(study.arms)}
    mine.sort(key=lambda e: order.get(e.arm, len(order)))
    return (
        [e for e in mine if not e.placebo and e.against == study.baseline],
        [e for e in mine if not e.placebo and e.against != study.baseline],
        [e for e in mine if e.placebo],
    )


def ladder_figure(study: Study, file: str = "ladder") -> Figure | None:
    """Effects with intervals: arms, steps between arms, and placebos set apart."""
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
    baseline = short(study.baseline, 40)
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
            verdict = f"v-{e.verdict.replace(' ', '-')}"
            gain, low, high = (decimals(v, places, sign=True) for v in (e.gain, e.interval.low, e.interval.high))
            name = e.arm if e.against == study.baseline else f"{short(e.arm, 30)} − {short(e.against, 30)}"
            said = f"{short(e.arm)} − {short(e.against)}: {gain} {unit} [{low}, {high}], {e.verdict}"
            plot = ground(scale, mark(scale, e.gain, e.interval, verdict, VERDICT_SIGNS[e.verdict], said), band=band)
            settle = e.seeds_to_settle if e.verdict == "cannot tell" else None
            sign = tag("span", VERDICT_SIGNS[e.verdict], aria_hidden="true")
            end = [tag("b", gain), tag("span", sign, " ", e.verdict, class_=f"verdict {verdict}")]
            end += [tag("small", f"{settle:,} seeds would settle")] if settle else []
            drawn.append(row(name, plot, tag("div", *end, class_="row-end"), class_))
    drawn.append(axis_row(scale, with_unit(title, unit)))
    best = max((e for e in arms if e.verdict == "helps"), key=lambda e: abs(e.gain), default=None)
    known = {m.name: m for m in study.metrics}
    heading = f"No arm is shown to beat {baseline}"
    if best:
        size = f"{decimals(abs(best.gain), places)} {unit}".rstrip()
        heading = f"{short(best.arm, 40)} gains most: {size} over {baseline}"
        if metric.better == "less":
            heading = f"{short(best.arm, 40)} lowers {title} most: by {size} against {baseline}"
    seeds = len(study.seeds)
    return Figure(
        file,
        heading,
        tag("div", *drawn, class_="rows"),
        f"Paired differences in {with_unit(title, unit)} over {seeds} {'seed' if seeds == 1 else 'seeds'}, with 95 % intervals; "
        f"{BETTER[metric.better]}. In the shaded band, ±{margin:g}, two arms count as equal. Verdicts are corrected for the "
        "number of contrasts (Holm). A part of the teacher pays where its arm helps and its placebo does not.",
        ("arm", "against", "metric", "unit", "gain", "low", "high", "p (Holm)", "seeds", "verdict", "placebo"),
        tuple(
            (
                *(e.arm, e.against, *((m.title, m.unit) if (m := known.get(e.metric)) else (e.metric, ""))),
                *(e.gain, e.interval.low, e.interval.high, e.p_holm, e.seeds),
                *(e.verdict, "placebo" if e.placebo else ""),
            )
            for e in [*effects, *(e for e in study.effects if e.metric != study.metric)]
        ),
    )


def pays(share: Share, metric: MetricInfo) -> bool:
    """Whether a level's part is an improvement for certain: its interval excludes 0 on the better side."""
    return share.interval.low > 0 if metric.better == "more" else share.interval.high < 0


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
                said = f"{level}, {words}: {gain} {unit} [{low}, {high}]"
                y = 5 + (0 if len(methods) == 1 else -8 if k == 0 else 8)
                drawing = mark(scale, s.gain, s.interval, class_, sign, said)
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
    start = (
        "The largest part of the gain comes from"
        if pays(largest, metric)
        else "No level is sure to pay; the largest is"
    )
    return Figure(
        file,
        f"{start} {largest.level}: {LEVEL_WORDS[largest.level]}",
        tag("div", *drawn, class_="rows"),
        f"The gain of the whole over {short(study.baseline, 40)} ({BETTER[metric.better]}), split by level; "
        f"the parts add up {' and '.join(totals)}. "
        "The ladder adds one level after the other; the Shapley value averages over every order. Bars are 95 % intervals.",
        ("level", "method", with_unit("gain", unit), "low", "high"),
        tuple((s.level, s.method, s.gain, s.interval.low, s.interval.high) for s in shares),
    )
