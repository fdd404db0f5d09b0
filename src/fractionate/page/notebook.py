"""What a notebook shows of a record: the card of its decision, and its text folded below."""

from __future__ import annotations

from html import escape

from fractionate.errors import visible
from fractionate.page.card import decide
from fractionate.page.decisions import Card, Decision, table
from fractionate.page.settings_text import patch_text
from fractionate.records import Diagnosis, Run, Study
from fractionate.records.base import Record
from fractionate.system.plain_text import clean


def card_html(record: Record) -> str | None:
    """HTML for a notebook; None for records that are about no decision. Colours and fonts are the notebook's own."""
    if isinstance(record, Card):
        return "".join(map(_decision, record.decisions))
    if not isinstance(record, (Diagnosis, Study, Run)):
        return None
    folded = f"<details><summary>{type(record).__name__}</summary><pre>{escape(visible(str(record)))}</pre></details>"
    return "".join(map(_decision, decide([record]).decisions)) + folded


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
