"""The figure of what compression bought: what the student needs where it runs, as a share of what the teacher needs."""

from __future__ import annotations

from collections.abc import Sequence

from fractionate.page.figure import Figure
from fractionate.page.marks import Scale, line, tag
from fractionate.page.rows import ROW, axis_row, ground, mark, row
from fractionate.page.summaries import variant
from fractionate.page.text import count, number, with_smaller_unit
from fractionate.records import Run

NEEDS: tuple[tuple[str, str, str], ...] = (  # name in the record, words, unit
    ("parameters", "parameters", ""),
    ("megabytes", "weights", "MB"),
    ("latency_ms", "latency", "ms"),
    ("forward_megabytes", "activations", "MB"),
)


def cost_figure(runs: Sequence[Run], file: str = "cost") -> Figure | None:
    """Parameters, bytes and time of the first student whose teacher was measured next to it."""
    for run in runs:
        both = [
            (words, run.cost[f"student_{name}"], run.cost[f"teacher_{name}"], unit)
            for name, words, unit in NEEDS
            if run.cost.get(f"student_{name}") and run.cost.get(f"teacher_{name}")
        ]
        if both:
            return _drawn(run, both, file)
    return None


def _drawn(run: Run, both: list[tuple[str, float, float, str]], file: str) -> Figure:
    shares = [100 * student / teacher for _, student, teacher, _ in both]
    scale = Scale(0.0, max(100.0, *shares))
    drawn = []
    for (words, student, teacher, unit), share in zip(both, shares, strict=True):
        own, other = (with_smaller_unit(v, unit) if unit else count(v) for v in (student, teacher))
        outputs = f"{words}: {own} of {other}"
        bar = line(scale(0), ROW / 2, scale(share), ROW / 2, "whisker m-mean")
        end = tag("div", tag("b", own), f" of {other}", class_="row-end")
        drawn.append(row(words, ground(scale, bar, mark(scale, share, None, "m-mean", "●", outputs)), end))
    drawn.append(axis_row(scale, "share of the teacher’s (%)"))
    # the first need in which the two differ: a quantized student has as many parameters as its teacher
    words, share = next(
        ((words, s) for (words, *_), s in zip(both, shares, strict=True) if abs(s - 100) >= 1), (both[0][0], shares[0])
    )
    title = f"The student has {number(share)} % of the teacher’s {words}"
    if share > 100:
        title = f"The student has {number(share / 100)} times the teacher’s {words}"
    simulated = run.contract is not None and any(
        prepared.startswith("Quantization(") for prepared in run.contract.preparations
    )
    return Figure(
        file,
        title,
        tag("div", *drawn, class_="rows"),
        f"What the student ({variant(run.arm)}) needs where it runs, next to its teacher. Measured where it was trained, on one "
        "example: latency is the median of 15 calls, activations what a forward pass holds."
        + (
            " Quantization is simulated here: weights are kept in full precision, and rounding them takes time."
            * simulated
        ),
        ("need", "student", "teacher", "unit"),
        tuple((words, student, teacher, unit) for words, student, teacher, unit in both),
    )
