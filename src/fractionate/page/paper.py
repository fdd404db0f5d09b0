"""Figures for papers: matplotlib, made of the same records as the page. Needs the extra `figures`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fractionate.errors import ConfigError, extra
from fractionate.page.calibration_plots import expected_calibration_error
from fractionate.page.cases import Case, cases
from fractionate.page.chosen import shown_run
from fractionate.page.order import LARGEST_DRAWN, between_clusters, cluster_order, clusters, square
from fractionate.page.student_plots import mean_curves
from fractionate.page.summaries import main_effects, metrics_of, variant, with_unit
from fractionate.page.text import short
from fractionate.records import LEVEL_NAMES, Point, ShareLevel, Verdict
from fractionate.records.base import Record
from fractionate.records.measures import with_article
from fractionate.records.studies import VERDICT_WORDS
from fractionate.system.atomic import make_directory, write_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 6.3  # inches: the text width of a page
COLOURS: dict[ShareLevel, str] = {
    "universe": "#868a93", "domain.confidence": "#4c8aca", "domain.shape": "#a9c8e8", "instance.confidence": "#cf7a1f",
    "instance.shape": "#edc396", "domain": "#4c8aca", "instance": "#cf7a1f",
}  # fmt: skip
MARKS: dict[Verdict, tuple[str, str]] = {
    "helps": ("#00695c", "^"),
    "hurts": ("#b3261e", "v"),
    "equivalent": ("#47578a", "s"),
    "cannot tell": ("#63666d", "D"),
}


def figures(records: Sequence[Record]) -> dict[str, Figure]:
    """The figures of some records by name: `effects`, `shares`, `spectrum`, `temperature`, `relation`, `curves`, `calibration`.

    Those of a second teacher or study end in -2. Change them as any matplotlib figure, and save them with `savefig`.

    Args:
        records: Studies, diagnoses, runs with a history.

    Returns:
        Figures of matplotlib by name.

    Raises:
        MissingExtraError: matplotlib is not installed.
        ConfigError: The records hold nothing to draw.

    Example:
        import torch
        from fractionate import TeacherSignal, diagnose
        from fractionate.page import figures

        drawn = figures([diagnose(TeacherSignal(torch.randn(40, 4), torch.arange(40) % 4))])
        drawn["spectrum"].savefig("spectrum.pdf")
    """
    with extra("figures", "figures need matplotlib"):
        from matplotlib.figure import Figure
    found: dict[str, Figure] = {}
    for number, case in enumerate(cases(records)):
        for name, (rows, draw) in _drawings(case).items():
            figure = Figure(figsize=(WIDTH, 1.1 + 0.27 * rows), layout="constrained")
            draw(figure)
            found[name + (f"-{number + 1}" if number else "")] = figure
    if not found:
        raise ConfigError(
            "these records hold nothing to draw",
            expected="a study, a diagnosis, or runs with a history",
            got=", ".join(type(record).__name__ for record in records) or "nothing",
        )
    return found


def save_figures(records: Sequence[Record], folder: Path, form: str) -> Path:
    """Every figure as a file of a folder, `ladder.svg` and so on; the same records give the same bytes."""
    from io import BytesIO

    import matplotlib

    make_directory(folder)
    with matplotlib.rc_context({"svg.hashsalt": "fractionate", "svg.fonttype": "none"}):
        for name, figure in figures(records).items():
            held = BytesIO()
            figure.savefig(held, format=form, dpi=200, metadata={"Date": None} if form == "svg" else {"Software": None})
            write_file(folder / f"{name}.{form}", held.getvalue())
    return folder


Drawing = tuple[float, "Callable[[Figure], None]"]


def _drawings(case: Case) -> dict[str, Drawing]:
    """What there is to draw of a case: for each figure its height in rows, and how."""
    study, d = case.study, case.diagnosis
    found: dict[str, Drawing] = {}
    if study and study.metrics and (effects := [e for part in main_effects(study) for e in part]):
        found["effects"] = (len(effects), lambda figure: _effects(figure, case))
    if study and study.metrics and study.shares:
        found["shares"] = (1.6 * len({s.level for s in study.shares}), lambda figure: _shares(figure, case))
    if d and d.spectrum:
        found["spectrum"] = (6, lambda figure: _spectrum(figure, case))
    if d and len(d.spectrum_over_temperature) > 1:
        found["temperature"] = (8, lambda figure: _temperature(figure, case))
    if d and (first := square(d.class_relation)) is not None and first.any():
        found["relation"] = (11, lambda figure: _relation(figure, case))
    if any(r.reliability for r in case.examples):
        found["calibration"] = (11, lambda figure: _calibration(figure, case))
    if any(len(run.history) > 1 for run in case.every_run) and metrics_of(case.every_run, study):
        found["curves"] = (9, lambda figure: _curves(figure, case))
    return found


def _axes(figure: Figure) -> Axes:
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    return axes


def _effects(figure: Figure, case: Case) -> None:
    """Paired differences with 95 % intervals, placebos last."""
    assert case.study is not None
    study, axes = case.study, _axes(figure)
    metric = study.deciding
    arms, steps, placebos = main_effects(study)
    axes.axvspan(-metric.margin, metric.margin, color="#efebe0", zorder=0)
    axes.axvline(0, color="#7f8188", linewidth=0.8)
    names = []
    for y, e in enumerate([*arms, *steps, *placebos]):
        colour, mark = MARKS[e.verdict]
        axes.plot([e.interval.low, e.interval.high], [y, y], color=colour, linewidth=1.6)
        axes.plot(e.gain, y, mark, color=colour, markersize=5)
        name = variant(e.arm, 40) if e not in steps else f"{variant(e.arm, 24)} − {variant(e.against, 24)}"
        names.append(f"{name} (placebo)" if e.placebo else name)
    axes.set_yticks(range(len(names)), [_literal(name) for name in names])
    axes.invert_yaxis()
    axes.set_xlabel(
        _literal(f"{with_unit(metric.title, metric.unit)} against {variant(study.baseline)}, 95 % intervals")
    )
    seen = dict.fromkeys(e.verdict for e in [*arms, *steps, *placebos])
    handles = [axes.plot([], [], MARKS[v][1], color=MARKS[v][0], label=VERDICT_WORDS[v])[0] for v in seen]
    axes.legend(handles=handles, frameon=False, fontsize="small", loc="best")


def _shares(figure: Figure, case: Case) -> None:
    """The gain of the whole by level."""
    assert case.study is not None
    study, axes = case.study, _axes(figure)
    levels = list(dict.fromkeys(s.level for s in study.shares))
    methods = list(dict.fromkeys(s.method for s in study.shares))
    axes.axvline(0, color="#7f8188", linewidth=0.8)
    for s in study.shares:
        k = methods.index(s.method)
        y = levels.index(s.level) + 0.25 * (k - (len(methods) - 1) / 2)
        axes.plot([s.interval.low, s.interval.high], [y, y], color=COLOURS[s.level], linewidth=1.6)
        axes.plot(s.gain, y, "oD"[k % 2], color=COLOURS[s.level], markersize=5)
    handles = [axes.plot([], [], "oD"[k % 2], color="#1d1f23", label=m)[0] for k, m in enumerate(methods)]
    axes.legend(handles=handles, frameon=False, fontsize="small")
    axes.set_yticks(range(len(levels)), levels)
    axes.invert_yaxis()
    axes.set_xlabel(_literal(f"share of the gain in {with_unit(study.deciding.title, study.deciding.unit)}"))


def _spectrum(figure: Figure, case: Case) -> None:
    """What teacher and student know, in nats, part by part; below, without the universe."""
    d, run = case.diagnosis, shown_run(case)
    assert d is not None and d.spectrum is not None
    bars = [(short(d.name, 32), d.spectrum)]
    bars += [(f"student {variant(run.arm, 24)}", run.student_spectrum)] if run and run.student_spectrum else []
    for axes, levels in zip(figure.subplots(2, 1), (LEVEL_NAMES, LEVEL_NAMES[1:]), strict=True):
        axes.spines[["top", "right"]].set_visible(False)
        for y, (_, found) in enumerate(bars):
            at = 0.0
            for level in levels:
                nats = max(0.0, found.nats[level])
                axes.barh(y, nats, left=at, color=COLOURS[level], edgecolor="white", label=level if y == 0 else None)
                at += nats
        axes.set_yticks(range(len(bars)), [_literal(name) for name, _ in bars])
        axes.invert_yaxis()
    axes.set_xlabel(f"nats {with_article(d.row)}, without the universe")
    figure.axes[0].set_xlabel(f"nats {with_article(d.row)}")
    figure.legend(
        *figure.axes[0].get_legend_handles_labels(),
        loc="outside upper center",
        ncols=3,
        frameon=False,
        fontsize="small",
    )


def _temperature(figure: Figure, case: Case) -> None:
    """The five parts at other temperatures."""
    assert case.diagnosis is not None
    axes = _axes(figure)
    spectra = sorted(case.diagnosis.spectrum_over_temperature, key=lambda s: s.temperature)
    at = np.zeros(len(spectra))
    for level in LEVEL_NAMES:
        nats = np.array([max(0.0, s.nats[level]) for s in spectra])
        axes.bar(range(len(spectra)), nats, bottom=at, color=COLOURS[level], edgecolor="white", label=level)
        at += nats
    axes.set_xticks(range(len(spectra)), [f"{s.temperature:g}" for s in spectra])
    axes.set_xlabel("temperature")
    axes.set_ylabel(f"nats {with_article(case.diagnosis.row)}")
    axes.legend(frameon=False, fontsize="small")


def _relation(figure: Figure, case: Case) -> None:
    """Where the off-label probability goes: the teacher's, and a student's in the same order."""
    d, run = case.diagnosis, shown_run(case)
    assert d is not None
    first = square(d.class_relation)
    other = square(run.student_relation) if run else None
    assert first is not None
    many = len(first) > LARGEST_DRAWN
    groups = clusters(first) if many else [[i] for i in cluster_order(first)]
    shown = [(short(d.name, 32), first)]
    shown += (
        [(f"student {variant(run.arm, 24)}", other)] if run and other is not None and len(other) == len(first) else []
    )
    drawn = [(name, between_clusters(matrix, groups)) for name, matrix in shown]
    most = max(float(matrix.max()) for _, matrix in drawn)
    panels = np.atleast_1d(figure.subplots(1, len(drawn)))
    names = d.class_names or tuple(map(str, range(len(first))))
    for axes, (name, matrix) in zip(panels, drawn, strict=True):
        image = axes.imshow(matrix, cmap="Blues", vmin=0, vmax=most)
        axes.set_title(_literal(name), fontsize="medium")
        if not many:
            words = [_literal(short(names[group[0]], 12)) for group in groups]
            axes.set_xticks(range(len(words)), words, rotation=90, fontsize="x-small")
            axes.set_yticks(range(len(words)), words, fontsize="x-small")
    figure.colorbar(image, ax=list(panels), shrink=0.6, label="share of what is not the label’s")


def _calibration(figure: Figure, case: Case) -> None:
    """How often first choices are right, by how sure a model is of them."""
    axes = _axes(figure)
    axes.plot([0, 1], [0, 1], "--", color="#7f8188", linewidth=0.8)
    for one in next(r for r in case.examples if r.reliability).reliability:
        points = [(c, r) for n, c, r in zip(one.counts, one.confidence, one.right, strict=True) if n]
        label = f"{one.who} (ECE {expected_calibration_error(one):.1f} points)"
        axes.plot(*zip(*points, strict=True), "o-", markersize=4, label=label)
    axes.set_xlabel("probability of the first choice")
    axes.set_ylabel("share that is right")
    axes.set_aspect("equal")
    axes.legend(frameon=False, fontsize="small")


def _curves(figure: Figure, case: Case) -> None:
    """Learning curves on the validation data, each named at its end."""
    measured = {name for r in case.every_run for p in r.history if p.validation for name in p.validation.values}
    metric = next((m for m in metrics_of(case.every_run, case.study) if m.name in measured), None)

    def read(point: Point) -> float | None:
        return point.loss if metric is None else point.validation.values.get(metric.name) if point.validation else None

    axes, order = _axes(figure), case.study.arms if case.study else ()
    for arm, points in mean_curves(case.every_run, order, read).items():
        (drawn,) = axes.plot(*zip(*points, strict=True), linewidth=1.2)
        axes.annotate(
            _literal(variant(arm, 24)), points[-1], (4, 0), textcoords="offset points", va="center", fontsize="x-small",
            color=drawn.get_color(),
        )  # fmt: skip
    axes.set_xlabel("step")
    axes.set_ylabel(
        _literal("training loss" if metric is None else f"validation {with_unit(metric.title, metric.value_unit)}")
    )


def _literal(text: str) -> str:
    """Names as they are: matplotlib reads what stands between dollar signs as mathematics."""
    return text.replace("$", r"\$")
