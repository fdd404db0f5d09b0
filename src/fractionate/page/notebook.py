"""What a notebook shows of a record: the card of its decision, its plots, and its text folded below."""

from __future__ import annotations

from html import escape
from importlib.resources import files

from fractionate.errors import visible
from fractionate.page.card import decide
from fractionate.page.decisions import Card, Decision, table
from fractionate.page.effect_plots import ladder_figure, shares_figure
from fractionate.page.settings_text import patch_text
from fractionate.page.spectrum_plots import spectrum_figure
from fractionate.records import Diagnosis, Run, Study
from fractionate.records.base import Record
from fractionate.system.plain_text import clean

STRIPES = "".join(
    f'<svg width="0" height="0" style="position:absolute"><pattern id="stripes-{level}" width="6" height="6" '
    'patternUnits="userSpaceOnUse" patternTransform="rotate(45)">'
    f'<rect width="6" height="6" class="pat-{level}"/><rect width="2" height="6" class="pat-line"/></pattern></svg>'
    for level in ("domain", "instance")
)


def card_html(record: Record) -> str | None:
    """HTML for a notebook; None for records that are about no decision. Colours and fonts are the notebook's own."""
    if isinstance(record, Card):
        return "".join(map(_decision, record.decisions))
    if not isinstance(record, (Diagnosis, Study, Run)):
        return None
    folded = f"<details><summary>{type(record).__name__}</summary><pre>{escape(visible(str(record)))}</pre></details>"
    return "".join(map(_decision, decide([record]).decisions)) + _plots(record) + folded


def _plots(record: Record) -> str:
    """What pays, or what the teacher knows, as the page draws it: in a frame of its own, so that no style or script gets out."""
    drawn = [ladder_figure(record), shares_figure(record)] if isinstance(record, Study) and record.metrics else []
    if isinstance(record, Diagnosis) and record.spectrum is not None:
        drawn = [spectrum_figure([(record.name, record.spectrum)])]
    figures = [figure for figure in drawn if figure]
    if not figures:
        return ""
    style = files("fractionate.page").joinpath("style.css").read_text(encoding="utf-8")
    body = "".join(f"<h3>{_text(f.title)}</h3>{f.drawing}<p>{_text(f.caption)}</p>" for f in figures)
    rows = sum(f.drawing.count('class="row') + 2 * f.drawing.count('class="bar-head') for f in figures)
    frame = f"<!doctype html><style>{style}</style>{STRIPES}{body}"
    height = min(1300, 160 * len(figures) + 38 * rows)
    return f'<iframe sandbox width="100%" height="{height}" style="border:0" srcdoc="{escape(frame)}"></iframe>'


def _text(words: object) -> str:
    return escape(clean(words))


def _decision(decision: Decision) -> str:
    parts = [f"<p><b>{_text(decision.headline)}</b></p>"]
    if decision.reasons:
        parts.append(f"<ul>{''.join(f'<li>{_text(reason)}</li>' for reason in decision.reasons)}</ul>")
    head, rows = table(decision)
    if rows:
        cells = "".join(f"<th>{_text(cell)}</th>" for cell in head)
        body = "".join(f"<tr>{''.join(f'<td>{_text(cell)}</td>' for cell in row)}</tr>" for row in rows)
        parts.append(f"<table><thead><tr>{cells}</tr></thead><tbody>{body}</tbody></table>")
    if decision.recipe:
        parts.append(f"<pre>{_text(patch_text(decision.recipe))}</pre>")
    if decision.next:
        parts.append(f"<p>next: <code>{_text(decision.next)}</code></p>")
    elif decision.then:
        parts.append(f"<p>{_text(decision.then)}</p>")
    return "".join(parts)
