"""Records as Markdown, for a pull request or an issue: the decisions, and what every variant gained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fractionate.page.card import decide_case, summed_up
from fractionate.page.cases import Case, cases
from fractionate.page.decisions import Decision, table
from fractionate.page.index import IndexRow
from fractionate.page.settings_text import patch_text
from fractionate.page.side_by_side import side_by_side
from fractionate.page.summaries import interval_text, main_effects, size_text, variant
from fractionate.page.text import short
from fractionate.records import Study
from fractionate.records.base import Record
from fractionate.records.studies import VERDICT_WORDS
from fractionate.system.plain_text import clean

_ESCAPED = str.maketrans({c: f"\\{c}" for c in "\\`*_[]|#<>"})


def plain(text: object, limit: int = 2000) -> str:
    """Text of a record as it may stand in Markdown: no markup of its own, one line."""
    return clean(" ".join(clean(text).split()), limit).translate(_ESCAPED).replace("&", "&amp;").replace("@", "@\u2060")


def markdown(
    records: Sequence[Record],
    *,
    title: str = "",
    run_files: Mapping[str, Sequence[str]] | None = None,
    compare: bool = False,
    links: Mapping[str, str] | None = None,
) -> str:
    """The records as Markdown; `compare` puts two cases side by side first, `links` make an index of them."""
    found = cases(records)
    decisions = [decide_case(case, run_files) for case in found]
    names = ", ".join(short(case.name or "student", 60) for case in found[:3])
    parts = [f"# {plain(title or names, 120)}"]
    if len(decisions) > 1:
        parts.append(plain(summed_up(decisions)))
    if compare and len(found) == 2:
        both = side_by_side(found, decisions)
        parts.append(_table(("", *both.names), both.answers))
        if both.differences:
            parts += [both.paired, _table(("variant", *both.names, "difference", "95 % interval"), both.rows)]
        if both.settings:
            parts.append(_table(("setting", *both.names), both.settings))
    if links is not None:
        head = ("run", "decision", "metric", "gain", "95 % interval", "student", "no teacher", "teacher", "parameters")
        runs = [IndexRow.of(decision, "") for decision in decisions]
        parts.append(
            _table(head, [(r.name, r.answer, r.metric, r.gain, r.interval, *r.values, r.parameters) for r in runs])
        )
        return "\n\n".join(parts) + "\n"
    for case, decision in zip(found, decisions, strict=True):
        parts += _decision(case, decision, named=len(found) > 1)
    return "\n\n".join(parts) + "\n"


def _decision(case: Case, decision: Decision, *, named: bool) -> list[str]:
    parts = [f"## {plain(decision.name or 'student', 80)}"] if named else []
    start = f"{decision.answer}: "
    if decision.headline.startswith(start):
        parts.append(f"**{decision.answer}**: {plain(decision.headline.removeprefix(start))}")
    else:
        parts.append(f"**{plain(decision.headline)}**")
    parts += ["\n".join(f"- {plain(reason)}" for reason in decision.reasons)] * bool(decision.reasons)
    head, rows = table(decision)
    parts += [_table(head, rows)] * bool(rows)
    parts += [_fenced(patch_text(decision.recipe), "yaml")] * bool(decision.recipe)
    parts += [_fenced(decision.next, "bash")] if decision.next else [plain(decision.then)] * bool(decision.then)
    if case.study is not None and case.study.effects and case.study.metrics:
        parts.append(_effects(case.study))
    return parts


def _effects(study: Study) -> str:
    metric = study.deciding
    arms, steps, placebos = main_effects(study)
    rows = tuple(
        (
            ("placebo " if e.placebo else "") + variant(e.arm, 60),
            variant(e.against, 60),
            size_text(metric, e.gain, sign=True),
            interval_text(metric, e.interval),
            VERDICT_WORDS[e.verdict],
        )
        for e in (*arms, *steps, *placebos)
    )
    words = f"{metric.title}, {len(study.seeds)} seeds, 95 % intervals, verdicts after Holm"
    return f"{plain(words)}:\n\n" + _table(("variant", "against", "gain", "95 % interval", "verdict"), rows)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] + ["---:"] * (len(head) - 1)]
    shown = [f"| {' | '.join(map(str, lines[1]))} |"]
    return "\n".join(
        [
            f"| {' | '.join(plain(cell, 200) for cell in head)} |",
            *shown,
            *(f"| {' | '.join(plain(cell, 400) for cell in row)} |" for row in rows),
        ]
    )


def _fenced(text: str, language: str) -> str:
    fence = "```"
    while fence in text:
        fence += "`"
    return f"{fence}{language}\n{clean(text)}\n{fence}"
