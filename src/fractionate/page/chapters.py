"""From records to chapters: what the template shows of each case, and nothing for what was not given.

A case is one teacher (or one study): its diagnosis, its study, the student that was exported. Multiple cases are tabs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fractionate.page.attention_plots import attention_figures
from fractionate.page.calibration_plots import calibration_figure
from fractionate.page.card import decide_case, summed_up
from fractionate.page.carried import packed
from fractionate.page.cases import Case, cases
from fractionate.page.chosen import shown_run
from fractionate.page.compared import USUAL, compared
from fractionate.page.cost_plots import cost_figure
from fractionate.page.decisions import Decision, table
from fractionate.page.diagnosis_plots import parts_figure, pilot_figure, terms_figure
from fractionate.page.effect_plots import ladder_figure, shares_figure
from fractionate.page.example_cards import DrawnExamples, example_lists
from fractionate.page.explanation_plots import explanation_figures
from fractionate.page.figure import Figure, pooled
from fractionate.page.histogram_plots import histogram_figure
from fractionate.page.index import IndexRow
from fractionate.page.mechanism_plots import mechanism_figures
from fractionate.page.page_settings import PageSettings
from fractionate.page.provenance import contracts_of, notes_of, provenance_of
from fractionate.page.relation_plots import correlation_figure, relation_figure
from fractionate.page.score_tables import RunRow, ScoreRow, run_rows, score_rows
from fractionate.page.side_by_side import SideBySide, side_by_side
from fractionate.page.size_plots import size_figures
from fractionate.page.spectrum_plots import beyond_universe, nothing_words, spectrum_figure, temperature_figure
from fractionate.page.student_plots import curves_figure, heading, students_figure
from fractionate.page.summaries import (
    arms_of,
    judged_on,
    metrics_of,
    variant,
)
from fractionate.page.text import decimals, seconds, short
from fractionate.records import AttentionStudy, Contract, Diagnosis, Explanations, Matrix, MetricInfo, Run
from fractionate.records.base import Record

NOTHING_NATS = 1e-3  # less is written in a sentence, not drawn


@dataclass(frozen=True)
class Teacher:
    """What a teacher (or a student) knows: figures, and those that are folded."""

    words: str
    figures: tuple[Figure, ...]
    more: tuple[Figure, ...]


@dataclass(frozen=True)
class Students:
    """The runs of a case by variant."""

    judged_on: str
    head: tuple[str, ...]
    scores: tuple[ScoreRow, ...]
    figures: tuple[Figure, ...]
    runs: tuple[RunRow, ...]


@dataclass(frozen=True)
class Appendix:
    """What is folded at the end: mechanisms, gradients, the loss, where it all comes from."""

    figures: tuple[Figure, ...]
    contracts: tuple[tuple[str, Contract | None], ...]
    formulas: tuple[str, ...]  # the distinct ones of the variants with a loss of their own
    reductions: tuple[str, ...]
    provenance: tuple[tuple[str, dict[str, str]], ...]
    notes: tuple[str, ...]

    def __bool__(self) -> bool:
        return bool(self.figures or self.contracts or self.provenance or self.notes)


@dataclass(frozen=True)
class Chapters:
    """One case as the template reads it."""

    mark: str  # at the end of its anchors: "", "-2"
    name: str
    decision: Decision
    answer_rest: str  # the headline after the answer
    head: tuple[str, ...]
    rows: tuple[tuple[str, tuple[str, ...]], ...]  # a variant and its cells
    effort: str
    pays: tuple[Figure, ...]
    pilot: Figure | None  # folded where there is a study, which tells more
    diagnosis: Diagnosis | None
    examples: tuple[DrawnExamples, ...]
    pairs: tuple[DrawnExamples, ...]  # of classes, under their relation
    explained: tuple[tuple[Explanations, tuple[Figure, ...]], ...]
    attention: tuple[tuple[AttentionStudy, tuple[Figure, ...]], ...]
    teacher: Teacher | None
    students: Students | None
    appendix: Appendix


@dataclass(frozen=True)
class Content:
    """All that the template reads."""

    title: str
    summary: str  # over multiple cases; empty for one
    both: SideBySide | None  # two cases compared
    index: tuple[IndexRow, ...]  # of a page that lists runs and shows none
    cases: tuple[Chapters, ...]
    versions: dict[str, str]
    commands: tuple[str, ...]
    carried: str  # the records, packed


def content(records: Sequence[Record], given: PageSettings) -> Content:
    """Sort the records by what they are about and make the figures."""
    found = cases(records)
    decisions = [decide_case(case, given.run_files) for case in found]
    settings = [case.study.settings for case in found if case.study]
    settings += [run.settings for case in found for run in case.runs]
    runs = [run for case in found for run in case.every_run]
    names = [short(case.name or "student", 60) for case in found]
    shown = [] if given.links is not None else list(zip(found, decisions, strict=True))
    return Content(
        title=short(given.title, 120) if given.title else ", ".join(dict.fromkeys(names[:3])),
        summary=summed_up(decisions) if len(decisions) > 1 else "",
        both=side_by_side(found, decisions) if given.compare and len(found) == 2 else None,
        index=() if given.links is None else tuple(IndexRow.of(d, given.links.get(d.name, "")) for d in decisions),
        cases=tuple(_chapters(i, c, d) for i, (c, d) in enumerate(shown)),
        versions={key: value for run in runs for key, value in run.versions.items()},
        commands=tuple(
            dict.fromkeys(
                [given.command] * bool(given.command) + [str(s["command"]) for s in settings if s.get("command")]
            )
        ),
        carried=packed(records, given),
    )


def numbered(name: str, index: int) -> str:
    """The name of a figure that may come more than once: `ladder`, `ladder-2`."""
    return name if index == 0 else f"{name}-{index + 1}"


def _chapters(i: int, case: Case, decision: Decision) -> Chapters:
    study, d = case.study, case.diagnosis
    metrics = metrics_of(case.every_run, study)
    head, rows = table(decision)
    names = tuple(short(c.variant, 48) for c in decision.contenders)
    start = f"{decision.answer}: "
    strong = tuple(dict.fromkeys(c.variant for c in decision.contenders[:2] if c.variant))
    pays: list[Figure | None] = []
    if study:
        pays += [ladder_figure(study, numbered("ladder", i), _marked(case, decision))]
        pays += [shares_figure(study, numbered("shares", i))]
    pilot = pilot_figure(d, numbered("pilot", i)) if d else None
    if not study:
        pays.append(pilot)
    examples = example_lists(case.examples)
    return Chapters(
        mark=f"-{i + 1}" if i else "",
        name=short(case.name or "student", 60),
        decision=decision,
        answer_rest=decision.headline.removeprefix(start) if case.diagnosis or case.every_run else "",
        head=head,
        rows=tuple(zip(names, rows, strict=True)) if rows else (),
        effort=_effort(case),
        pays=tuple(f for f in pays if f),
        pilot=pilot if study else None,
        diagnosis=d,
        examples=tuple(e for e in examples if not e.paired),
        pairs=tuple(e for e in examples if e.paired),
        explained=tuple(
            (r, explanation_figures(r, numbered("", i) + (f"-{k + 1}" if k else "")))
            for k, r in enumerate(case.explained)
        ),
        attention=tuple(
            (a, attention_figures(a, numbered("", i) + (f"-{k + 1}" if k else "")))
            for k, a in enumerate(case.attention)
        ),
        teacher=_teacher(i, case),
        students=_students(i, case, metrics, strong),
        appendix=_appendix(i, case, strong),
    )


def _marked(case: Case, decision: Decision) -> dict[str, tuple[str, str]]:
    """Words under the names of variants (to use, recommended, usual), and what the card says where it compares with another."""
    assert case.study is not None
    found = compared(case.study)
    marked: dict[str, list[str]] = {}
    fair = {}
    if decision.metric and decision.gain is not None:
        student, none = decision.contenders[:2]
        if decision.answer == "Distil":
            marked[student.variant] = ["the one to use"]
        if all(e.against != none.variant for e in case.study.effects if e.arm == student.variant):
            gain = decimals(decision.gain, decision.metric.places, sign=True)
            fair[student.variant] = f"{gain} over {variant(none.variant)}"
    advised = found.at(case.diagnosis.recipe if case.diagnosis else None)
    if advised is not None:
        marked.setdefault(advised.arm, []).append("recipe of the diagnosis")
    usual = found.at(USUAL)
    if usual is not None:
        marked.setdefault(usual.arm, []).append("the usual recipe")
    return {arm: (", ".join(marked.get(arm, ())), fair.get(arm, "")) for arm in {**marked, **fair}}


def _effort(case: Case) -> str:
    words = []
    if case.study:
        words.append(f"{len(case.study.arms)} variants × {len(case.study.seeds)} seeds")
    runs = case.every_run
    if runs:
        total = case.study.wall_seconds if case.study else 0.0
        total += sum(r.wall_seconds for r in case.runs)
        words.append(f"{len(runs):,} {'student' if len(runs) == 1 else 'students'} trained in {seconds(total)}")
    return ", ".join(words)


def _teacher(i: int, case: Case) -> Teacher | None:
    d, run = case.diagnosis, shown_run(case)
    who = f"student {variant(run.arm)}, seed {run.seed}" if run else ""
    if d is None or d.spectrum is None:  # nothing to show of what has no classes
        shown = relation_figure([(who, run.student_relation)], file=numbered("class-relation", i)) if run else None
        return Teacher("", (shown,), ()) if shown else None
    most = max(beyond_universe(s) for s in (d.spectrum, *d.spectrum_over_temperature))
    words = ""
    figures: list[Figure | None] = []
    more: list[Figure | None] = []
    if beyond_universe(d.spectrum) < NOTHING_NATS:
        words = nothing_words(d.spectrum, d.row)
    else:
        bars = [("teacher", d.spectrum)]
        bars += [(who, run.student_spectrum)] if run and run.student_spectrum else []
        figures.append(spectrum_figure(bars, numbered("spectrum", i), d.row))
        shown_relations: list[tuple[str, Matrix]] = [("teacher", d.class_relation)] if d.class_relation else []
        if run and shown_relations:
            shown_relations.append((who, run.student_relation))
        if shown_relations:
            figures.append(relation_figure(shown_relations, d.class_names, numbered("class-relation", i)))
        grouped = any(found.within is not None for found in d.class_correlations)
        (figures if grouped else more).append(correlation_figure(d, numbered("class-correlation", i)))
        more.append(terms_figure(d, numbered("certainty", i)))
        more.append(parts_figure(d.superclass_parts, "superclass", numbered("superclasses", i), d.row))
        more.append(parts_figure(d.class_parts, "class", numbered("classes", i), d.row))
    if most >= NOTHING_NATS:
        more.append(temperature_figure(d, numbered("spectrum-over-temperature", i)))
    more.append(
        histogram_figure(
            numbered("confidence", i),
            "How sure the teacher is of the label",
            f"Share of {d.row}s by the probability the teacher gives to the label.",
            [("teacher", d.confidence)] if d.confidence else [],
        )
    )
    return Teacher(words, tuple(f for f in figures if f), tuple(f for f in more if f))


def _students(i: int, case: Case, metrics: Sequence[MetricInfo], strong: Sequence[str]) -> Students | None:
    runs = case.study.runs if case.study and case.study.runs else case.runs
    if not runs:
        return None
    order, placebos = case.arms, case.placebos
    figures = (
        calibration_figure(case.examples, numbered("calibration", i)),
        *size_figures(runs, metrics, order, placebos, (numbered("size", i), numbered("latency", i))),
        curves_figure(runs, metrics, order, numbered("learning-curves", i), strong),
        cost_figure([*case.runs, *runs], numbered("cost", i)),
    )
    columns, rows = score_rows(runs, metrics, order, placebos)
    return Students(
        judged_on(runs),
        tuple(map(heading, columns)),
        rows,
        tuple(f for f in figures if f),
        run_rows([*runs, *(case.runs if case.study else ())], columns),
    )


def _appendix(i: int, case: Case, strong: Sequence[str]) -> Appendix:
    study, runs, order, placebos = case.study, case.every_run, case.arms, case.placebos
    figures: list[Figure | None] = []
    if study and study.runs:
        figures.append(
            students_figure(study.runs, metrics_of(study.runs, study), order, placebos, numbered("by-seed", i))
        )
    figures += mechanism_figures(runs, order, lambda file: numbered(file, i), strong)
    figures.append(_gradients(i, case.diagnosis, runs, order))
    return Appendix(
        tuple(f for f in figures if f),
        contracts_of(runs),
        tuple(dict.fromkeys(r.contract.formula for r in runs if r.contract)),
        tuple(dict.fromkeys(r.contract.reduction for r in runs if r.contract)),
        provenance_of(case),
        notes_of(case),
    )


def _gradients(i: int, d: Diagnosis | None, runs: Sequence[Run], order: Sequence[str]) -> Figure | None:
    factors = [("teacher", d.rescaling)] if d and d.rescaling else []
    for arm, members in arms_of(runs, order).items():
        found = pooled(run.rescaling for run in members if run.rescaling)
        factors += [(variant(arm), found)] if found and found.deviation > 0 else []
    return histogram_figure(
        numbered("rescaling", i),
        "How much each example’s gradient is rescaled",
        "The factor by which the objective multiplies the cross-entropy gradient of each example, by teacher (as diagnosed) "
        "and by variant (at the end of training, all seeds). "
        "At 1, the dashed line, an example counts as without a teacher; below 0 it is pushed away.",
        factors[:16],
        landmark=1.0,
    )
