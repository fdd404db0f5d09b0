"""Columns of a table: what each holds (numbers, categories, text), told from its cells by one rule, or said by a person."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from fractionate.errors import ConfigError, printable

Kind = Literal["number", "category"]
MISSING = ("", "NA", "N/A", "NaN", "nan", "null", "?")
MOST_CATEGORIES = 100  # more different values are taken for text
MOST_CLASSES = 1000
ODD_SHARE = 0.1  # a column of numbers with this many other cells or fewer is a column of numbers with mistakes
FEWEST_ROWS = 10  # from here on, a column that counts up by one is taken for row numbers
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)


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


def number_of(cell: str) -> float | None:
    """A cell as a finite number; None where it is none. No `inf`, no `1_000`, no other alphabet's digits."""
    if not NUMBER.fullmatch(cell):
        return None
    value = float(cell)
    return value if math.isfinite(value) else None


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
    cells: Mapping[str, Cells], kinds: Mapping[str, Kind], *, where: Where, unfit: Mapping[str, str] | None = None
) -> tuple[Column, ...]:
    """Columns out of cells; a kind that is not said is told from the cells of the whole table.

    All cells numbers: number. Else up to 100 different values, in at most half as many as there are rows: category. Raises
    `ConfigError` with everything that is none of these: text, columns without values or with a single one, row numbers, and columns
    of numbers with other cells among them. `unfit` names columns of another type and says of which.
    """
    made: list[Column] = []
    faults: list[str] = []
    to_drop: list[str] = list(unfit or ())
    for name, found in cells.items():
        column = _column(name, found, kinds.get(name), where)
        if isinstance(column, Column):
            made.append(column)
        else:
            faults.append(f"{printable(name)!r} {column[0]}")
            to_drop += [name] * column[1]
    faults += [f"{printable(name)!r} holds {what}" for name, what in (unfit or {}).items()]
    if faults:
        names = ", ".join(repr(name) for name in to_drop[:50])
        raise ConfigError(
            f"{len(faults)} column{'s' * (len(faults) > 1)} cannot be learned from\n  - " + "\n  - ".join(faults[:20]),
            expected="numbers, or categories",
            fix=f"leave them out: drop=[{names}]" if names else "say missing= or kinds=",
        )
    if not made:
        raise ConfigError("there is no column to learn from", expected="at least one beside the label")
    return tuple(made)


def _column(name: str, cells: Cells, kind: Kind | None, where: Where) -> Column | tuple[str, bool]:
    """A column, or what is wrong with it and whether leaving it out is the way."""
    if isinstance(cells, np.ndarray):
        if kind == "category":
            return _column(name, [None if math.isnan(v) else plain_number(v) for v in cells.tolist()], kind, where)
        return _numbers(name, cells, kind, where)
    there = [cell for cell in cells if cell is not None]
    if not there:
        return "is empty", True
    odd = (
        [] if kind == "category" else [place for place, c in enumerate(cells) if c is not None and number_of(c) is None]
    )
    if (kind == "number" and odd) or (kind is None and 0 < len(odd) <= ODD_SHARE * len(there)):
        cell = printable(str(cells[odd[0]]), 40)
        return f"is numbers, but {len(odd)} cells are not: {where(odd[0])} {cell!r} (missing=? kinds=category?)", False
    if kind == "number" or (kind is None and not odd):
        numbers = np.array([math.nan if c is None else float(c) for c in cells])
        return _numbers(name, numbers, kind, where)
    categories = tuple(sorted(set(there)))
    if kind is None and (len(categories) > MOST_CATEGORIES or 2 * len(categories) > len(cells)):
        commas = all(re.fullmatch(r"[+-]?\d+,\d+", cell) for cell in there[:100])
        what = "numbers with decimal commas" if commas else f"text, {len(categories):,} different values"
        return f"is {what} ({where(0)} {printable(there[0], 40)!r})", True
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


def class_names(names: Iterable[str]) -> tuple[str, ...]:
    """Names of classes as they are shown, in the order given. Raises `ConfigError` where two would be shown alike."""
    shown = tuple(map(printable, names))
    if len(set(shown)) < len(shown):
        twice = max(shown, key=shown.count)
        raise ConfigError(
            "classes share a name", expected="names that differ in their first 79 characters", got=f"{twice!r} twice"
        )
    return shown


def make_labels(name: str, cells: Cells, *, where: Where) -> Labels:
    """The classes of the rows: names in sorted order, whole numbers in theirs.

    Raises `ConfigError` for rows without a label, for a single class, and for what is no class: fractions, and values of which
    there are more than 1,000 or fewer than two rows each.
    """
    text = (
        [None if math.isnan(v) else plain_number(v) for v in cells.tolist()] if isinstance(cells, np.ndarray) else cells
    )
    shown = f"the label {printable(name)!r}"
    without = [place for place, cell in enumerate(text) if cell is None]
    if without:
        places = ", ".join(where(place) for place in without[:10])
        raise ConfigError(
            f"{len(without)} rows have no label: {places}", fix=f"label them, or leave them out ({shown})"
        )
    labelled = [str(cell) for cell in text]
    values = {cell: number_of(cell) for cell in set(labelled)}
    numbers = [value for value in values.values() if value is not None]
    if len(numbers) == len(values):
        if not all(value.is_integer() for value in numbers):
            fraction = min(cell for cell, value in values.items() if value is not None and not value.is_integer())
            raise ConfigError(
                f"{shown} is a quantity", expected="classes", got=fraction, fix="make classes of it: low, middle, high"
            )
        whole = {cell: plain_number(value) for cell, value in values.items() if value is not None}
        labelled = [whole[cell] for cell in labelled]
        names = sorted(set(labelled), key=int)
    else:
        names = sorted(values)
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
