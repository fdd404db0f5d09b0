"""Columns of a table: what each holds (numbers, categories, text), found from its cells by one rule, or set by a person."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from fractionate.data.numerals import CODE, DATE, PLAIN, Numerals, other_numerals
from fractionate.errors import ConfigError, printable
from fractionate.system.memory import require_bytes

Kind = Literal["number", "category"]
MISSING = ("", "NA", "N/A", "NaN", "nan", "null", "?")
MOST_CATEGORIES = 100  # more different values are taken for text
NO_TEXT = b"\xff"  # of a missing cell among text in UTF-8, where this byte never stands
TRUTHS = {
    "True": True,
    "TRUE": True,
    "true": True,
    "False": False,
    "FALSE": False,
    "false": False,
}  # as pandas reads them
ODD_SHARE = 0.1  # a column of numbers with this many other cells or fewer is a column of numbers with mistakes
FEWEST_ROWS = 10  # from here on, a column that counts up by one is taken for row numbers


@dataclass(frozen=True, eq=False)
class Column:
    """One column: numbers (NaN where missing), or places in its sorted categories (-1 where missing)."""

    name: str
    kind: Kind
    values: NDArray[Any]
    categories: tuple[str, ...] = ()

    def as_read(self, places: NDArray[np.int64]) -> NDArray[Any]:
        """Cells as pandas reads them of the file: numbers or truths [rows], or the text of `text_cells` [rows, bytes]."""
        values = self.values[places]
        if self.kind == "number":
            return values.astype(np.float64)
        cells: NDArray[Any]
        words = self.categories
        if all(word in TRUTHS for word in words) and (self.values >= 0).all():
            cells = np.array([TRUTHS[word] for word in words])
        elif all(is_plain_number(word) for word in words):
            cells = np.array([*map(float, words), math.nan])  # the last for -1
        else:
            cells = text_cells([*words, None])
        found: NDArray[Any] = cells[values]
        return found


def is_plain_number(word: str) -> bool:
    """Whether a number is written as it is printed: no code such as 007."""
    try:
        return plain_number(float(word)) == word
    except (ValueError, OverflowError):
        return False


def text_cells(words: Sequence[str | None]) -> NDArray[np.uint8]:
    """Texts as UTF-8 [texts, bytes] that ends in zeros: a tensor can hold them. `NO_TEXT` where one is missing.

    Raises `ResourceError` where one long text makes all rows too long for the memory.
    """
    encoded = [NO_TEXT if word is None else word.encode() for word in words]
    longest = max(map(len, encoded), default=1)
    require_bytes(
        2 * len(encoded) * longest, "the texts for the teacher", fix=f"leave out the longest text, of {longest:,} bytes"
    )
    cells: NDArray[np.uint8] = np.array(encoded, dtype=np.bytes_).view(np.uint8).reshape(len(words), -1)
    return cells


Cells = Sequence[str | None] | NDArray[np.float64]  # as text (None: missing), or numbers already (NaN: missing)
Where = Callable[[int], str]  # the place of a row, for a message


def names_of(given: Sequence[str], what: str) -> tuple[str, ...]:
    """A list of names that a setting takes. Raises `ConfigError` for a single one."""
    if isinstance(given, (str, Mapping)) or not (
        isinstance(given, Iterable) and all(isinstance(name, str) for name in given)
    ):
        raise ConfigError(f"{what}= takes a list", expected=f"{what}=['one', 'two']", got=repr(given))
    return tuple(given)


def check_columns(kinds: Mapping[str, Any], names: Sequence[str], drop: Sequence[str], roles: Sequence[str]) -> None:
    """Raise `ConfigError` for kinds nobody knows, columns that the table does not have, and one that is named for two things."""
    if not isinstance(kinds, Mapping):
        raise ConfigError("kinds= takes a mapping", expected="kinds={'name': 'category'}", got=repr(kinds))
    wrong = {name: kind for name, kind in kinds.items() if kind not in get_args(Kind)}
    if wrong:
        raise ConfigError("kinds are not known", expected=" or ".join(get_args(Kind)), got=str(wrong))
    absent = [name for name in (*roles, *kinds, *drop) if name not in names]
    if absent:
        shown = ", ".join(printable(str(name)) for name in names[:50]) + (", …" if len(names) > 50 else "")
        raise ConfigError(
            f"there is no column {', '.join(repr(printable(str(name))) for name in absent)}", expected=f"one of {shown}"
        )
    twice = [name for name in roles if name in drop or name in kinds or list(roles).count(name) > 1]
    if twice:
        raise ConfigError(
            f"{printable(twice[0])!r} is named for two things",
            fix="name it in one of label, target, part, group, drop, kinds",
        )


def make_columns(
    cells: Mapping[str, Cells],
    kinds: Mapping[str, Kind],
    *,
    where: Where,
    numerals: Numerals = PLAIN,
    unfit: Mapping[str, str] | None = None,
) -> tuple[Column, ...]:
    """Columns out of cells; a kind that is not set is found from the cells of the whole table.

    All cells numbers: number. Else up to 100 different values, in at most half as many as there are rows: category; so are codes
    with leading zeros. Raises `ConfigError` with everything that is none of these: text, dates, numbers written in another way than
    `numerals`, whole numbers that floating-point numbers do not keep apart, columns without values or with a single one, row
    numbers, and columns of numbers with other cells among them. `unfit` names columns of another type and says of which.
    """
    made: list[Column] = []
    faults: list[str] = []
    to_drop: list[str] = list(unfit or ())
    for name, found in cells.items():
        column = _column(name, found, kinds.get(name), where, numerals)
        if isinstance(column, Column):
            made.append(column)
        else:
            faults.append(f"{printable(name)!r} {column[0]}")
            to_drop += [name] * column[1]
    faults += [f"{printable(name)!r} holds {what}" for name, what in (unfit or {}).items()]
    if faults:
        names = ", ".join(repr(name) for name in to_drop[:50])
        settings = "set what stands in brackets" if any("=" in fault for fault in faults) else ""
        raise ConfigError(
            f"{len(faults)} column{'s' * (len(faults) > 1)} cannot be learned from\n  - " + "\n  - ".join(faults[:20]),
            expected="numbers, or categories",
            fix="; or ".join(filter(None, (settings, f"leave them out: drop=[{names}]" if names else ""))),
        )
    if not made:
        raise ConfigError("there is no column to learn from", expected="at least one other than the label")
    return tuple(made)


def _column(name: str, cells: Cells, kind: Kind | None, where: Where, numerals: Numerals) -> Column | tuple[str, bool]:
    """A column, or what is wrong with it and whether leaving it out is the way."""
    if isinstance(cells, np.ndarray):
        if kind == "category":
            named = [None if math.isnan(v) else plain_number(v) for v in cells.tolist()]
            return _column(name, named, kind, where, numerals)
        return _numbers(name, cells, kind, where)
    cells = [None if cell is None else composed(cell) for cell in cells]
    there = [cell for cell in cells if cell is not None]
    if not there:
        return "is empty", True
    first = f"{where(next(p for p, cell in enumerate(cells) if cell is not None))} {printable(there[0], 40)!r}"
    different = set(there)
    values = {} if kind == "category" else {cell: numerals.number(cell) for cell in different}
    odd = [place for place, c in enumerate(cells) if c is not None and c in values and values[c] is None]
    if kind is None and odd:
        others = other_numerals(different, numerals)
        if others:
            return (
                f"is numbers written in another way: {first} ({', or '.join(map(str, others))}, or kinds=category)",
                False,
            )
        if all(DATE.fullmatch(cell) for cell in different):
            return f"is dates or times: {first} (make numbers of them, or kinds=category)", True
    if (kind == "number" and odd) or (kind is None and 0 < len(odd) <= ODD_SHARE * len(there)):
        cell = printable(str(cells[odd[0]]), 40)
        return f"is numbers, but {len(odd)} cells are not: {where(odd[0])} {cell!r} (missing=? kinds=category?)", False
    codes = kind is None and any(CODE.fullmatch(cell) for cell in different)
    if kind == "number" or (kind is None and not odd and not codes):
        merged = next((cell for cell in different if numerals.merges(cell)), None)
        if kind is None and merged:
            return f"is whole numbers of too many digits to be kept apart: {merged} (kinds=category or number)", True
        numbers = np.array([math.nan if c is None else values[c] for c in cells], dtype=np.float64)
        return _numbers(name, numbers, kind, where)
    categories = tuple(sorted(different))
    if kind is None and (len(categories) > MOST_CATEGORIES or 2 * len(categories) > len(cells)):
        if codes and not odd:
            return f"is codes with leading zeros: {first} (kinds=category or number)", True
        return f"is text, {len(categories):,} different values ({first})", True
    if len(categories) == 1 and len(there) == len(cells):
        return f"is always {printable(categories[0], 40)!r}", True
    places = {category: place for place, category in enumerate(categories)}
    return Column(name, "category", np.array([-1 if c is None else places[c] for c in cells]), categories)


def _numbers(name: str, values: NDArray[np.float64], kind: Kind | None, where: Where) -> Column | tuple[str, bool]:
    missing = np.isnan(values)
    there = values[~missing]
    if not len(there):
        return "is empty", True
    if not np.isfinite(there).all():
        return f"is not finite: {where(int(np.isinf(values).argmax()))}", True
    if len(there) == len(values) and (there == there[0]).all():
        return f"is always {there[0]:g}", True
    if kind is None and len(values) == len(there) >= FEWEST_ROWS and (np.diff(values) == 1).all():
        return "counts the rows (kinds=number keeps it)", True
    return Column(name, "number", values.astype(np.float64))


def plain_number(value: float) -> str:
    """A number as a category: whole ones without a point."""
    return str(int(value)) if float(value).is_integer() else repr(float(value))


def cell_of(value: Any) -> str | None:
    """A value as the cell of a file that it would have been; None where it is missing."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, (bool, np.bool_)):
        return "true" if value else "false"
    if isinstance(value, (float, np.floating)):
        return plain_number(float(value)) if math.isfinite(value) else repr(float(value))
    return composed(str(value).strip())


def composed(text: str) -> str:
    """A name in the one spelling of its accents (Unicode NFC): macOS writes file names in the other."""
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def class_names(names: Iterable[str]) -> tuple[str, ...]:
    """Names of classes as they are shown, in the order given. Raises `ConfigError` where two would be shown alike."""
    shown = tuple(printable(composed(name)) for name in names)
    if len(set(shown)) < len(shown):
        twice = max(shown, key=shown.count)
        raise ConfigError(
            "classes share a name", expected="names that differ in their first 79 characters", got=f"{twice!r} twice"
        )
    return shown
