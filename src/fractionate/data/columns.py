"""Columns of a table: what each holds (numbers, categories, text), told from its cells by one rule, or said by a person."""

from __future__ import annotations

import math
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from fractionate.data.numerals import CODE, DATE, PLAIN, Numerals, other_numerals
from fractionate.errors import ConfigError, printable

Kind = Literal["number", "category"]
MISSING = ("", "NA", "N/A", "NaN", "nan", "null", "?")
MOST_CATEGORIES = 100  # more different values are taken for text
MOST_CLASSES = 1000
ODD_SHARE = 0.1  # a column of numbers with this many other cells or fewer is a column of numbers with mistakes
FEWEST_ROWS = 10  # from here on, a column that counts up by one is taken for row numbers


@dataclass(frozen=True, eq=False)
class Column:
    """One column: numbers (NaN where missing), or places in its sorted categories (-1 where missing)."""

    name: str
    kind: Kind
    values: NDArray[Any]
    categories: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Labels:
    """The class of each row, and the names of the classes."""

    numbers: NDArray[np.int64]
    names: tuple[str, ...]


Cells = Sequence[str | None] | NDArray[np.float64]  # as text (None: missing), or numbers already (NaN: missing)
Where = Callable[[int], str]  # the place of a row, for a message


def names_of(given: Sequence[str], what: str) -> tuple[str, ...]:
    """A list of names that a setting takes. Raises `ConfigError` for a single one."""
    if isinstance(given, str) or not all(isinstance(name, str) for name in given):
        raise ConfigError(f"{what}= takes a list", expected=f"{what}=['one', 'two']", got=repr(given))
    return tuple(given)


def told_kind(kinds: Mapping[str, Any], names: Sequence[str], drop: Sequence[str], label: str) -> None:
    """Raise `ConfigError` for kinds nobody knows, and for kinds and dropped columns that the table does not have."""
    wrong = {name: kind for name, kind in kinds.items() if kind not in get_args(Kind)}
    if wrong:
        raise ConfigError("kinds are not known", expected=" or ".join(get_args(Kind)), got=str(wrong))
    absent = [name for name in (label, *kinds, *drop) if name not in names]
    if absent:
        shown = ", ".join(printable(str(name)) for name in names[:50]) + (", …" if len(names) > 50 else "")
        raise ConfigError(
            f"there is no column {', '.join(repr(printable(str(name))) for name in absent)}", expected=f"one of {shown}"
        )
    if label in drop or label in kinds:
        raise ConfigError(f"{label!r} is the label", fix="name it in label= alone")


def make_columns(
    cells: Mapping[str, Cells],
    kinds: Mapping[str, Kind],
    *,
    where: Where,
    numerals: Numerals = PLAIN,
    unfit: Mapping[str, str] | None = None,
) -> tuple[Column, ...]:
    """Columns out of cells; a kind that is not said is told from the cells of the whole table.

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
        raise ConfigError("there is no column to learn from", expected="at least one beside the label")
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


def make_labels(
    name: str, cells: Cells, *, where: Where, missing: Sequence[str] = ("",), numerals: Numerals = PLAIN
) -> Labels:
    """The classes of the rows: their names are the cells as they stand, in sorted order, numbers in theirs.

    Raises `ConfigError` for rows without a label (`missing` are the cells that stand for none), for a single class, for one number
    written in several ways (1 and 1.0), and for what is no class: fractions, and values of which there are more than 1,000 or
    fewer than two rows each.
    """
    text = (
        [None if math.isnan(v) else plain_number(v) for v in cells.tolist()] if isinstance(cells, np.ndarray) else cells
    )
    shown, gone = f"the label {printable(name)!r}", frozenset(missing)
    without = [place for place, cell in enumerate(text) if cell is None or cell in gone]
    if without:
        places = ", ".join(where(place) for place in without[:10])
        counts = Counter("an empty cell" if not text[place] else repr(text[place]) for place in without)
        words = [word for word in dict.fromkeys(text[place] for place in without) if word]
        fix = f"label them, or leave them out ({shown})"
        if words:
            kept = [word for word in missing if word not in words]
            fix += f"; or, where {' and '.join(map(repr, words))} is a class, say what is missing: missing={kept}"
        raise ConfigError(
            f"{len(without)} rows have no label: {places}",
            expected="a class in every row",
            got=", ".join(f"{count} × {what}" for what, count in counts.items()),
            fix=fix,
        )
    labelled = [composed(str(cell)) for cell in text]
    values = {cell: numerals.exact(cell) for cell in set(labelled)}
    numbers = [value for value in values.values() if value is not None]
    for value, count in Counter(numbers).items():
        if count > 1:
            alike = sorted(cell for cell, other in values.items() if other == value)
            raise ConfigError(
                f"{shown} writes one number in several ways",
                expected="one spelling a class, for classes are told apart by their text",
                got=", ".join(printable(cell) for cell in alike[:10]),
                fix="write them alike where they are one class, with a letter before them where they are not",
            )
    if len(numbers) == len(values):
        fractions = [cell for cell, value in values.items() if value is not None and value != value.to_integral_value()]
        if fractions:
            raise ConfigError(
                f"{shown} is a quantity",
                expected="classes",
                got=printable(min(fractions)),
                fix="make classes of it: low, middle, high",
            )
    names = sorted(values, key=lambda cell: (values[cell] or 0, cell) if len(numbers) == len(values) else (0, cell))
    if len(names) == 1:
        raise ConfigError(f"{shown} has a single class", expected="at least two", got=printable(names[0]))
    if len(names) > MOST_CLASSES or 2 * len(names) > len(labelled):
        raise ConfigError(
            f"{shown} has {len(names):,} different values in {len(labelled):,} rows",
            expected=f"classes: at most {MOST_CLASSES:,}, of two rows or more on average",
            fix="choose another column, or make classes of it",
        )
    number = {cell: place for place, cell in enumerate(names)}
    return Labels(np.array([number[cell] for cell in labelled]), class_names(names))
