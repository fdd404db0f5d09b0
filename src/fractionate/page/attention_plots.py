"""What quantization did to attention: heat maps over layer × head, arm next to arm, and what each layer's quantization costs."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from fractionate.page.figure import Figure
from fractionate.page.heat import SHADES, heat_key, shaded
from fractionate.page.marks import Scale, line, tag
from fractionate.page.rows import ROW, axis_row, ground, mark, row
from fractionate.page.text import number, short
from fractionate.records import ArmAttention, AttentionStudy, Interval, Matrix

KINDS = (
    (
        "ranking_loss",
        "ranking-loss",
        "lost order of tokens (ranking loss)",
        "How much of the teacher’s order of tokens each head has lost: for every pair of tokens in the other order, by how much "
        "(mean over rows). 0 keeps the order.",
    ),
    (
        "cover_length_ratio",
        "cover-length",
        "search for the teacher’s five tokens (cover length ratio)",
        "How far down a head’s order one must go to meet the five tokens its teacher attends to most, as a share of the text. "
        "1: to the end.",
    ),
)


def attention_figures(study: AttentionStudy, suffix: str = "") -> tuple[Figure, ...]:
    """Heat maps of both measures, all arms on one scale, and the sensitivity of the layers; what is not there is left out."""
    figures = [_heat(study, *kind, suffix) for kind in KINDS]
    figures.append(_sensitivity(study, suffix))
    return tuple(f for f in figures if f)


def _heat(study: AttentionStudy, field: str, file: str, words: str, caption: str, suffix: str) -> Figure | None:
    found: list[tuple[ArmAttention, Matrix]] = [(arm, getattr(arm, field)) for arm in study.attention_arms]
    found = [(arm, matrix) for arm, matrix in found if matrix and matrix[0]]
    if not found:
        return None
    every = [value for _, matrix in found for values in matrix for value in values]
    bounds = (0.0 if field == "ranking_loss" else min(every), max(every))  # no head can cover five tokens with none
    panels = []
    for arm, matrix in found:
        mean, interval = _summary(arm, field)
        text = number(mean) + (f" ± {number((interval.high - interval.low) / 2)}" if interval else "")
        head = tag("div", short(arm.arm, 40), tag("span", text), class_="panel-name")
        panels.append(tag("div", head, _drawn(matrix, *bounds), class_="panel"))
    means = {arm.arm: _summary(arm, field)[0] for arm, _ in found}
    best = min(means, key=lambda arm: means[arm])
    first = found[0][0].arm
    rows = tuple(
        (arm.arm, layer + 1, head + 1, value)
        for arm, matrix in found for layer, values in enumerate(matrix) for head, value in enumerate(values)
    )  # fmt: skip
    table = tuple(
        (arm.arm, number(_summary(arm, field)[0]), str(_summary(arm, field)[1] or "–"), arm.seeds) for arm, _ in found
    )
    title = f"{words[0].upper()}{words[1:]}: least with “{short(best, 40)}”, {number(means[best])}"
    title += f" against {number(means[first])} with “{short(first, 40)}”" if best != first else ""
    return Figure(
        f"{file}{suffix}",
        title,
        tag("div", *panels, class_=f"panels panels-{min(3, len(panels))}") + heat_key(number(bounds[0], 2), bounds[1]),
        f"{caption} Rows are layers from the first, columns heads; next to the name the mean over all heads"
        + (" and half its 95 % interval over seeds." if any(_summary(arm, field)[1] for arm, _ in found) else "."),
        ("arm", "layer", "head", field.replace("_", " ")),
        rows,
        tuple((arm, "all", "all", f"{mean} {interval}") for arm, mean, interval, _ in table),
        "Means over all heads and their 95 % intervals over seeds; the download has every head.",
    )


def _summary(arm: ArmAttention, field: str) -> tuple[float, Interval | None]:
    return (arm.ranking_mean, arm.ranking_interval) if field == "ranking_loss" else (arm.cover_mean, arm.cover_interval)


def _drawn(matrix: Matrix, least: float, most: float) -> Markup:
    """A box a head, as one path a shade."""
    span = (most - least) or 1.0
    paths: dict[int, list[str]] = {}
    for i, values in enumerate(matrix):
        for j, value in enumerate(values):
            shade = min(SHADES, max(0, round((value - least) / span * SHADES)))
            paths.setdefault(shade, []).append(f"M{j} {i}h1v1h-1z")
    marks = shaded(paths)
    layers, heads = len(matrix), len(matrix[0])
    grid = tag(
        "svg", *marks, viewBox=f"0 0 {heads} {layers}", preserveAspectRatio="none", width="100%", height="100%",
        class_="plot", aria_hidden="true", style="display:block",
    )  # fmt: skip
    return tag("div", grid, class_="heat-grid", style=f"aspect-ratio:{heads}/{layers}")


def _sensitivity(study: AttentionStudy, suffix: str) -> Figure | None:
    if not study.sensitivity:
        return None
    parts: Sequence[float] = study.attention_sensitivity or (float("nan"),) * len(study.sensitivity)
    scale = Scale(0.0, max(*study.sensitivity, 1e-9) * 1.04)
    drawn = []
    for layer, (whole, attention) in enumerate(zip(study.sensitivity, parts, strict=True), 1):
        bar = line(scale(0), ROW / 2, scale(whole), ROW / 2, "whisker m-mean")
        dot = mark(scale, whole, None, "m-mean", "●", f"layer {layer}: {number(whole)} nats")
        text = f" {number(attention)} by attention" if study.attention_sensitivity else ""
        end = tag("div", tag("b", number(whole)), text, class_="row-end")
        drawn.append(row(f"layer {layer}", ground(scale, bar, dot), end))
    drawn.append(axis_row(scale, "KL of the predictions from the teacher’s (nats)"))
    worst = max(range(len(study.sensitivity)), key=lambda i: study.sensitivity[i])
    return Figure(
        f"sensitivity{suffix}",
        f"Layer {worst + 1} suffers most from being quantized: {number(study.sensitivity[worst])} nats",
        tag("div", *drawn, class_="rows"),
        "One layer quantized, all others in full precision, before any training: how far the predictions move. Next to it the part "
        "of its attention block alone.",
        ("layer", "block", "attention"),
        tuple((i + 1, a, b) for i, (a, b) in enumerate(zip(study.sensitivity, parts, strict=True))),
    )
