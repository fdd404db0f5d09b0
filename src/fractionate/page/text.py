"""Text and numbers as they may stand on a page or in a CSV cell: no control characters, no run-away length."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Iterable, Sequence

PLOT_CHARACTERS = 80  # a name in a plot is cut here; tables and downloads hold it whole
TABLE_CHARACTERS = 2_000  # nobody reads on beyond it, and one hostile name must not fill the file

_ESCAPE_SEQUENCE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-Z\\-_])")
# C0 and C1 controls but for tab and newline, marks that turn the direction of what follows, lone surrogates, non-characters
_FORBIDDEN = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff\ud800-\udfff\ufffe\uffff]"
)


_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def clean(text: object, limit: int = TABLE_CHARACTERS) -> str:
    """The text without terminal escapes, control characters and direction marks, cut after `limit` characters."""
    plain = _FORBIDDEN.sub("", _ESCAPE_SEQUENCE.sub("", str(text)))
    return plain if len(plain) <= limit else plain[: limit - 1] + "…"


def short(text: object, limit: int = PLOT_CHARACTERS) -> str:
    """A name for a plot: one line, at most `limit` characters."""
    return clean(" ".join(clean(text).split()) or "(no name)", limit)


def number(value: float | None, digits: int = 3) -> str:
    """A number to read, with a true minus sign; `–` where there is none."""
    if value is None or math.isnan(value):
        return "–"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    if value != 0 and (abs(value) >= 1e6 or abs(value) < 10 ** -(digits + 1)):
        digits_shown, power = f"{value:.{digits - 1}e}".split("e")
        return f"{digits_shown} × 10{str(int(power)).translate(_RAISED)}".replace("-", "−")
    places = max(0, digits - 1 - (math.floor(math.log10(abs(value))) if value else 0))
    return f"{value:,.{min(places, digits)}f}".replace("-", "−")


def decimals(value: float, places: int, *, sign: bool = False) -> str:
    """A number of a column to read: the same decimals in every row, with its sign where asked for."""
    if not math.isfinite(value) or abs(value) >= 1e9:
        return number(value)
    shown = f"{value:{'+' if sign else ''},.{places}f}"
    return (shown.lstrip("+-") if float(shown.replace(",", "")) == 0 else shown).replace("-", "−")


def percent(value: float | None, places: int = 0) -> str:
    """A share in 0..1 as per cent."""
    return "–" if value is None or not math.isfinite(value) else f"{100 * value:.{places}f} %".replace("-", "−")


def seconds(value: float) -> str:
    """A time to read."""
    if value < 90:
        return f"{number(value)} s"
    return f"{number(value / 60)} min" if value < 5400 else f"{number(value / 3600)} h"


def listing(words: Sequence[str]) -> str:
    """Words as a phrase: a, b and c."""
    return " and ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else "".join(words)


def sentence(words: object) -> str:
    """The words with a capital and a full stop, as a sentence stands."""
    plain = clean(words).strip()
    return plain[:1].upper() + plain[1:] + ("" if plain.endswith((".", "!", "?", "…")) or not plain else ".")


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
