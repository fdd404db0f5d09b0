"""From records to chapters: what the template shows, and nothing for what was not given."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fractionate.page.attention_plots import attention_figures
from fractionate.page.cost_plots import cost_figure
from fractionate.page.diagnosis_plots import parts_figure, pilot_figure, terms_figure
from fractionate.page.effect_plots import ladder_figure, shares_figure
from fractionate.page.explanation_plots import explanation_figures, explanation_verdict
from fractionate.page.figure import Figure, mean_interval, pooled
from fractionate.page.histogram_plots import histogram_figure
from fractionate.page.mechanism_plots import mechanism_figures
from fractionate.page.relation_plots import relation_figure
from fractionate.page.spectrum_plots import spectrum_figure, temperature_figure
from fractionate.page.student_plots import (
    arms_of,
    curves_figure,
    heading,
    metrics_of,
    of_test,
    score_values,
    students_figure,
)
from fractionate.page.text import number, percent, seconds, sentence, short
from fractionate.page.verdict import verdict
from fractionate.records import AttentionStudy, Contract, Diagnosis, Explanations, Matrix, MetricInfo, Run, Study
from fractionate.records.base import Record

PLAIN = re.compile(r"[A-Za-z_][\w.+/()-]*( [\w.+/()-]+)*")


@dataclass(frozen=True)
class ScoreRow:
    """An arm's scores: (mean, half an interval, whether it is the best) for each column."""

    arm: str
    runs: int
    placebo: bool
    cells: tuple[tuple[str, str, bool], ...]


@dataclass(frozen=True)
class Students:
    """The runs of a study, or the runs given one by one."""

    name: str
    figures: tuple[Figure, ...]
    head: tuple[str, ...]
    scores: tuple[ScoreRow, ...]
    runs: tuple[dict[str, Any], ...]


@dataclass(frozen=True)
class Content:
    """All that the template reads."""

    title: str
    verdict: str
    facts: tuple[tuple[str, str], ...]
    diagnoses: tuple[Diagnosis, ...]
    studies: tuple[Study, ...]
    knowledge: tuple[Figure, ...]
    distributions: tuple[Figure, ...]
    pilots: tuple[Figure, ...]
    ladders: tuple[tuple[Study, tuple[Figure, ...]], ...]
    shares: tuple[tuple[Study, tuple[Figure, ...]], ...]
    explanations: tuple[tuple[Explanations, tuple[Figure, ...]], ...]
    attention: tuple[tuple[AttentionStudy, tuple[Figure, ...]], ...]
    students: tuple[Students, ...]
    contracts: tuple[tuple[str, Contract | None], ...]
    formulas: tuple[str, ...]  # the distinct ones of the arms that listen to the teacher
    reductions: tuple[str, ...]
    provenance: tuple[tuple[str, dict[str, str]], ...]
    notes: tuple[str, ...]
    versions: dict[str, str]
    commands: tuple[str, ...]


def content(records: Sequence[Record], title: str = "", command: str = "") -> Content:
    """Sort the records by kind and make the figures."""
    diagnoses = tuple(r for r in records if isinstance(r, Diagnosis))
    studies = tuple(r for r in records if isinstance(r, Study))
    attention = tuple(r for r in records if isinstance(r, AttentionStudy))
    loose = tuple(r for r in records if isinstance(r, Run))
    explained = tuple(r for r in records if isinstance(r, Explanations))
    runs = tuple(run for study in studies for run in study.runs) + loose
    groups = [
        (study.name, study.runs, metrics_of(study.runs, study), study.arms, _placebos(study)) for study in studies
    ]
    groups += [("", loose, metrics_of(loose), (), frozenset())] if loose else []
    names = [short(s.name, 60) for s in studies] + [short(d.name, 60) for d in diagnoses]
    names = names or [short(r.name, 60) for r in explained]
    names = names or [short(a.name, 60) for a in attention]
    names = names or [short(r.arm or "student", 60) for r in loose]
    settings = [s.settings for s in studies] + [r.settings for r in loose]
    return Content(
        title=short(title, 120) if title else ", ".join(dict.fromkeys(names[:3])),
        verdict=_verdict(diagnoses, studies, runs, explained, attention),
        facts=_facts(diagnoses, studies, runs),
        diagnoses=diagnoses,
        studies=studies,
        knowledge=_knowledge(diagnoses, studies, runs),
        distributions=_distributions(diagnoses, groups),
        pilots=tuple(f for i, d in enumerate(diagnoses) if (f := pilot_figure(d, numbered("pilot", i)))),
        ladders=tuple((s, (f,)) for i, s in enumerate(studies) if (f := ladder_figure(s, numbered("ladder", i)))),
        shares=tuple((s, (f,)) for i, s in enumerate(studies) if (f := shares_figure(s, numbered("shares", i)))),
        explanations=tuple((r, explanation_figures(r, numbered("", i))) for i, r in enumerate(explained)),
        attention=tuple((a, attention_figures(a, f"-{i}" if i > 1 else "")) for i, a in enumerate(attention, 1)),
        students=tuple(_students(i, *group) for i, group in enumerate(groups) if group[1]),
        contracts=_contracts(runs),
        formulas=tuple(dict.fromkeys(r.contract.formula for r in runs if r.contract)),
        reductions=tuple(dict.fromkeys(r.contract.reduction for r in runs if r.contract)),
        provenance=_provenance(studies, loose),
        notes=tuple(note for s in studies for note in (*s.notes, *_chosen(s)))
        + tuple(r.note for r in runs if r.note)[:20],
        versions={key: value for run in runs for key, value in run.versions.items()},
        commands=tuple(
            dict.fromkeys([command] * bool(command) + [str(s["command"]) for s in settings if s.get("command")])
        ),
    )


def _verdict(
    diagnoses: Sequence[Diagnosis],
    studies: Sequence[Study],
    runs: Sequence[Run],
    explained: Sequence[Explanations],
    attention: Sequence[AttentionStudy],
) -> str:
    """What was found, in a sentence or two: of knowledge and students, or of explanations; then of attention."""
    said = [verdict(diagnoses, studies, runs)] if diagnoses or studies or runs else []
    said += [explanation_verdict(explained[0])] if explained and not said else []
    said += [sentence(f"{a.quantization}: {a.finding.summary}") for a in attention if a.finding]
    return " ".join(said) or "What quantization did to attention."


def numbered(name: str, index: int) -> str:
    """The name of a figure that may come more than once: `ladder`, `ladder-2`."""
    return name if index == 0 else f"{name}-{index + 1}"


def _placebos(study: Study) -> frozenset[str]:
    return frozenset(e.arm for e in study.effects if e.placebo)


def _facts(
    diagnoses: Sequence[Diagnosis], studies: Sequence[Study], runs: Sequence[Run]
) -> tuple[tuple[str, str], ...]:
    facts: list[tuple[str, str]] = []
    if diagnoses:
        d = diagnoses[0]
        facts.append((f"{number(d.spectrum.total_nats)} nats", "known beyond a guess"))
        if d.teacher and "accuracy" in d.teacher.values:
            facts.append((percent(d.teacher.accuracy, 1), "teacher accuracy"))
        problems = sum(len(d.problems) for d in diagnoses)
        facts.append((str(problems), "problem found" if problems == 1 else "problems found"))
    if studies:
        facts.append((f"{len(studies[0].arms)} × {len(studies[0].seeds)}", "arms × seeds"))
    if runs:
        total = sum(s.wall_seconds for s in studies) + sum(r.wall_seconds for r in runs if not studies)
        facts.append((seconds(total), f"to train {len(runs):,} {'student' if len(runs) == 1 else 'students'}"))
    return tuple(facts)


def _best_run(studies: Sequence[Study], runs: Sequence[Run]) -> Run | None:
    """The run whose student is shown beside the teacher: of the arm that gains most, the first seed."""
    for study in studies:
        effects = [
            e for e in study.effects if e.metric == study.metric and e.against == study.baseline and not e.placebo
        ]
        for e in sorted(effects, key=lambda e: (e.verdict != "helps", -abs(e.gain))):
            found = [r for r in study.runs if r.arm == e.arm and r.student_relation]
            if found:
                return found[0]
    return next((r for r in runs if r.student_relation), None)


def _knowledge(diagnoses: Sequence[Diagnosis], studies: Sequence[Study], runs: Sequence[Run]) -> tuple[Figure, ...]:
    best = _best_run(studies, runs)
    bars = [(d.name, d.spectrum) for d in diagnoses]
    if best and best.student_spectrum:
        bars.append((f"student {best.arm}, seed {best.seed}", best.student_spectrum))
    figures: list[Figure | None] = [spectrum_figure(bars)] if bars else []
    for i, d in enumerate(diagnoses):
        figures.append(terms_figure(d, numbered("certainty", i)))
    figures.append(temperature_figure(diagnoses))
    for i, d in enumerate(diagnoses):
        figures.append(parts_figure(d.superclass_parts, "superclass", numbered("superclasses", i)))
        figures.append(parts_figure(d.class_parts, "class", numbered("classes", i)))
    for i, d in enumerate(diagnoses):
        if not d.class_relation:
            continue
        shown: list[tuple[str, Matrix]] = [(d.name, d.class_relation)]
        if best and i == 0:
            shown.append((f"student {best.arm}, seed {best.seed}", best.student_relation))
        figures.append(relation_figure(shown, d.class_names, numbered("class-relation", i)))
    if best and not any(d.class_relation for d in diagnoses):
        who = f"student {best.arm}, seed {best.seed}"
        figures.append(relation_figure([(who, best.student_relation)]))
    return tuple(f for f in figures if f)


def _distributions(diagnoses: Sequence[Diagnosis], groups: Sequence[Any]) -> tuple[Figure, ...]:
    confidence = histogram_figure(
        "confidence",
        "How sure the teacher is of the label",
        "Share of examples by the probability the teacher gives to the label.",
        [(d.name, d.confidence) for d in diagnoses if d.confidence],
    )
    factors = [(d.name, d.rescaling) for d in diagnoses if d.rescaling]
    for name, members, _, order, _ in groups:
        for arm, runs in arms_of(members, order).items():
            found = pooled(run.rescaling for run in runs if run.rescaling)
            factors += (
                [(f"{short(arm, 30)}, {short(name, 30)}" if len(groups) > 1 and name else arm, found)] if found else []
            )
    rescaling = histogram_figure(
        "rescaling",
        "How much it rescales each example’s gradient",
        "The factor by which the objective multiplies the cross-entropy gradient of each example, by teacher (as diagnosed) "
        "and by arm (at the end of training, all seeds). "
        "At 1, the dashed line, an example counts as without a teacher; below 0 it is pushed away.",
        factors[:16],
        landmark=1.0,
    )
    return tuple(f for f in (confidence, rescaling) if f)


def _students(
    index: int,
    name: str,
    runs: Sequence[Run],
    metrics: Sequence[MetricInfo],
    order: Sequence[str],
    placebos: frozenset[str],
) -> Students:
    figures = (
        students_figure(runs, metrics, order, placebos, numbered("students", index)),
        curves_figure(runs, metrics, order, numbered("learning-curves", index)),
        *mechanism_figures(runs, order, lambda file: numbered(file, index)),
        cost_figure(runs, numbered("cost", index)),
    )
    arms = arms_of(runs, order)
    found = {
        (arm, m.name): mean_interval(values)
        for arm, members in arms.items()
        for m in metrics
        if (values := score_values(members, m.name))
    }
    columns = [m for m in metrics if any((arm, m.name) in found for arm in arms)]
    best = {}  # as it is shown; where all are alike none is best
    for m in columns:
        means = [found[arm, m.name][0] for arm in arms if arm not in placebos and (arm, m.name) in found]
        best[m.name] = number((max if m.better == "more" else min)(means, default=None))
        if len({number(mean) for mean in means}) == 1:
            best[m.name] = ""
    rows = []
    for arm, members in arms.items():
        cells = []
        for m in columns:
            mean, interval = found.get((arm, m.name), (None, None))
            half = number((interval.high - interval.low) / 2, 2) if interval else ""
            cells.append((number(mean), half, arm not in placebos and number(mean) == best[m.name]))
        rows.append(ScoreRow(arm, len(members), arm in placebos, tuple(cells)))
    head = tuple(map(heading, columns))
    return Students(name, tuple(f for f in figures if f), head, tuple(rows), _run_rows(runs, columns))


def _run_rows(runs: Sequence[Run], columns: Sequence[MetricInfo]) -> tuple[dict[str, Any], ...]:
    return tuple(
        {
            "arm": run.arm or "student",
            "seed": run.seed,
            "status": run.status,
            "scores": tuple(number(scores.values.get(m.name) if (scores := of_test(run)) else None) for m in columns),
            "steps": f"{run.steps:,}",
            "time": seconds(run.wall_seconds),
            "parameters": f"{run.parameters:,}",
        }
        for run in runs
    )


def _contracts(runs: Sequence[Run]) -> tuple[tuple[str, Contract | None], ...]:
    found: dict[str, Contract | None] = {}
    for run in runs:
        found.setdefault(run.arm or "student", run.contract)
    return tuple(found.items())


def _provenance(studies: Sequence[Study], loose: Sequence[Run]) -> tuple[tuple[str, dict[str, str]], ...]:
    parts: list[tuple[str, dict[str, str]]] = []
    for s in studies:
        facts: dict[str, object] = {**{f"data {k}" if k != "name" else "data": v for k, v in s.data.items()}}
        facts |= {"seeds": ", ".join(map(str, s.seeds)), "baseline": s.baseline, "metric": s.metric}
        facts |= {"margin": s.deciding.margin} if s.metrics else {}
        facts |= {k: v for k, v in s.settings.items() if k != "command"}
        shared = _shared([r.settings for r in s.runs])
        facts |= {k: v for k, v in shared.items() if k not in facts and k != "command"}
        parts.append((s.name, {k: setting(v) for k, v in facts.items()}))
    for r in loose[:8]:
        facts = {"seed": r.seed, "steps": r.steps, **{k: v for k, v in r.settings.items() if k != "command"}}
        parts.append((r.arm or "student", {k: setting(v) for k, v in facts.items()}))
    return tuple(parts)


def _chosen(study: Study) -> tuple[str, ...]:
    """What was chosen for each arm of a study whose settings were tuned."""
    return tuple(
        f"{one.arm}: temperature {one.temperature:g}, teacher weight {one.teacher_weight:g}, learning rate "
        f"{one.learning_rate:g} chosen on validation data of {sum(t.arm == one.arm for t in study.tries)} settings tried"
        for one in study.tries
        if one.chosen
    )


def _shared(settings: Sequence[Mapping[str, object]]) -> dict[str, object]:
    """What is the same in all runs."""
    if not settings:
        return {}
    return {k: v for k, v in settings[0].items() if all(other.get(k, "") == v for other in settings[1:])}


def setting(value: object) -> str:
    """A setting as it is written in a run file."""
    if isinstance(value, str):
        return value
    return json.dumps(value)


def patch_text(patch: Mapping[str, object]) -> str:
    """Dotted settings as the lines of a run file: `objective.cell` is `cell` under `objective`."""
    tree: dict[str, Any] = {}
    for key, value in patch.items():
        *parents, last = key.split(".")
        place = tree
        for parent in parents:
            if not isinstance(place.setdefault(parent, {}), dict):
                place[parent] = {}
            place = place[parent]
        place[last] = value
    return "\n".join(_yaml(tree, 0))


def _yaml(tree: Mapping[str, Any], depth: int) -> list[str]:
    lines = []
    for key, value in tree.items():
        name = key if PLAIN.fullmatch(key) else json.dumps(key)
        if isinstance(value, dict):
            lines += [f"{'  ' * depth}{name}:", *_yaml(value, depth + 1)]
        else:
            plain = isinstance(value, str) and PLAIN.fullmatch(value) and value.lower() not in ("true", "false", "null")
            lines.append(f"{'  ' * depth}{name}: {value if plain else json.dumps(value)}")
    return lines
