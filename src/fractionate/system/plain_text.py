"""Text as it may stand in a cell, a file or a page: no control characters, no formulas a spreadsheet would run."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Sequence

TABLE_CHARACTERS = 2_000  # nobody reads on beyond it, and one hostile name must not fill the file
_ESCAPE_SEQUENCE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-Z\\-_])")
# C0 and C1 controls but for tab and newline, marks that turn the direction of what follows, lone surrogates, non-characters
_FORBIDDEN = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff\ud800-\udfff\ufffe\uffff]"
)


def clean(text: object, limit: int = TABLE_CHARACTERS) -> str:
    """The text without terminal escapes, control characters and direction marks, cut after `limit` characters."""
    plain = _FORBIDDEN.sub("", _ESCAPE_SEQUENCE.sub("", str(text)))
    return plain if len(plain) <= limit else plain[: limit - 1] + "…"


def csv_text(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A CSV that no spreadsheet runs: text that starts like a formula is quoted by an apostrophe. Numbers stay exact."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    for row in [head, *rows]:
        writer.writerow([_csv_cell(cell) for cell in row])
    return out.getvalue()


def _csv_cell(cell: object) -> str:
    if cell is None:
        return ""
    if isinstance(cell, (int, float)):
        return repr(cell)
    text = clean(cell)
    return f"'{text}" if text.lstrip().startswith(("=", "+", "-", "@", "\t", "\r", "＝", "＋", "－", "＠")) else text
