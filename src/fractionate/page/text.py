"""Text and numbers as they may stand on a page or in a CSV cell: no control characters, no run-away length."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from fractionate.system.plain_text import clean

PLOT_CHARACTERS = 80  # a name in a plot is cut here; tables and downloads hold it whole

_PERCENT = re.compile(r"(?<=\d) ?%")
_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def short(text: object, limit: int = PLOT_CHARACTERS) -> str:
    """A name for a plot: one line, at most `limit` characters."""
    return clean(" ".join(clean(text).split()) or "(no name)", limit)


def number(value: float | None, digits: int = 3) -> str:
    """A number to read, with a true minus sign; `–` where there is none."""
    if value is None or math.isnan(value):
        return "–"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    most = max(digits, 3)  # decimals; smaller numbers are written with a power of ten
    if value != 0 and (abs(value) >= 1e6 or abs(value) < 10**-most):
        digits_shown, power = f"{value:.{digits - 1}e}".split("e")
        return f"{digits_shown} × 10{str(int(power)).translate(_RAISED)}".replace("-", "−")
    places = max(0, digits - 1 - (math.floor(math.log10(abs(value))) if value else 0))
    return f"{value:,.{min(places, most if value else digits)}f}".replace("-", "−")


def decimals(value: float, places: int, *, sign: bool = False) -> str:
    """A number of a column to read: the same decimals in every row, with its sign where wanted."""
    if not math.isfinite(value) or abs(value) >= 1e9:
        return number(value)
    shown = f"{value:{'+' if sign else ''},.{places}f}"
    return (shown.lstrip("+-") if float(shown.replace(",", "")) == 0 else shown).replace("-", "−")


def half_width(value: float, half: float) -> str:
    """Half an interval with the decimals of the value it belongs to; with two digits where that leaves nothing."""
    places, own = (len(number(v, d).partition(" ")[0].partition(".")[2]) for v, d in ((value, 3), (half, 2)))
    return decimals(half, min(places, own)) if half >= 10**-places / 2 else number(half, 2)


def percent(value: float | None, places: int = 0) -> str:
    """A share in 0..1 as per cent."""
    return "–" if value is None or not math.isfinite(value) else f"{100 * value:.{places}f} %".replace("-", "−")


def count(value: float) -> str:
    """A number of parameters: 1,810, 85.0 k, 22.7 M."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if value >= size:
            return f"{number(value / (1e3 if unit == 'k' else size))} {unit}"
    return f"{value:,.0f}"


def seconds(value: float) -> str:
    """A time to read."""
    if value < 90:
        return f"{number(value)} s"
    return f"{number(value / 60, 2)} min" if value < 5400 else f"{number(value / 3600, 2)} h"


def with_smaller_unit(value: float, unit: str) -> str:
    """A value in MB or ms; below one in kB or µs."""
    smaller = {"MB": "kB", "ms": "µs"}
    return (
        f"{number(1e3 * value)} {smaller[unit]}"
        if value < 1 and unit in smaller
        else f"{number(value)} {unit}".rstrip()
    )


def listing(words: Sequence[str]) -> str:
    """Words as a phrase: a, b and c."""
    return " and ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else "".join(words)


def unparted(words: object) -> str:
    """A text whose per cent signs stand in the line of their numbers, all with the same space."""
    return _PERCENT.sub("\u00a0%", clean(words))


def sentence(words: object) -> str:
    """The words with a capital and a full stop, as a sentence stands."""
    plain = clean(words).strip()
    return plain[:1].upper() + plain[1:] + ("" if plain.endswith((".", "!", "?", "…")) or not plain else ".")
