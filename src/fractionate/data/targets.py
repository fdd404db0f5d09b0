"""What the rows of a table are labelled with: classes, multiple labels of 0 and 1, or numbers; and how a student is fed them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from fractionate.data.columns import Cells, Where, class_names, composed, names_of, plain_number
from fractionate.data.labels import IGNORED
from fractionate.data.numerals import PLAIN, Numerals
from fractionate.errors import ConfigError, NumericsError, printable
from fractionate.records.base import Record

Task = Literal["classification", "multi-label", "regression"]
MOST_CLASSES = 1000
YES_NO = {"1": 1, "true": 1, "yes": 1, "0": 0, "false": 0, "no": 0}


@dataclass(frozen=True)
class Target:
    """The columns of labels, and what they hold; `single` for [rows], else [rows, columns]."""

    columns: tuple[str, ...]
    task: Task
    single: bool = True

    @classmethod
    def of(cls, label: str | Sequence[str] | None, target: str | Sequence[str] | None) -> Self:
        """What `table` is given. Raises `ConfigError` for both of them or none."""
        if (label is None) == (target is None):
            raise ConfigError(
                "a table has a label or a target", expected="one of them", got="none" if label is None else "both",
                fix="label='grape' for classes, label=['a', 'b'] for columns of 0 and 1, target='price' for numbers",
            )  # fmt: skip
        given, what = (label, "label") if label is not None else (target, "target")
        single = isinstance(given, str)
        columns = (str(given),) if single else names_of(given or (), what)
        if not columns:
            raise ConfigError(f"{what}= is an empty list", expected="one column or more")
        numbers = what == "target"
        return cls(columns, "regression" if numbers else "classification" if single else "multi-label", single)


@dataclass(frozen=True, eq=False)
class Labels:
    """The labels of the rows.

    Args:
        values: [rows] class numbers, [rows, labels] of 0 and 1, or [rows] or [rows, targets] numbers.
        names: Of the classes, or of the labels; none for numbers.
    """

    target: Target
    values: NDArray[Any]
    names: tuple[str, ...]

    def __str__(self) -> str:
        many = {"classification": f"{len(self.names)} classes", "multi-label": f"{len(self.names)} labels"}
        return many.get(self.target.task, f"numbers {', '.join(map(printable, self.target.columns))}")


@dataclass(frozen=True)
class TargetEncoding(Record):
    """How labels become what a student learns: class numbers, 0 and 1, or (number - mean) / deviation for each target."""

    columns: tuple[str, ...]
    task: Task
    single: bool = True
    class_names: tuple[str, ...] = ()
    mean: tuple[float, ...] = ()
    deviation: tuple[float, ...] = ()

    @classmethod
    def fit(cls, labels: Labels, places: NDArray[np.int64]) -> Self:
        """The encoding of some rows' labels. Raises `NumericsError` for targets without a finite deviation above 0."""
        target = labels.target
        mean: tuple[float, ...] = ()
        deviation: tuple[float, ...] = ()
        if target.task == "regression":
            rows = labels.values[places].reshape(len(places), -1)
            with np.errstate(over="ignore", invalid="ignore"):
                mean, deviation = tuple(rows.mean(0).tolist()), tuple(rows.std(0).tolist())
            if not all(map(math.isfinite, mean)) or not all(0 < value < math.inf for value in deviation):
                raise NumericsError(
                    f"the target {', '.join(map(printable, target.columns))} cannot be standardised",
                    expected="numbers that differ, none of them too large",
                )
        return cls(target.columns, target.task, target.single, labels.names, mean, deviation)

    def standardised(self, values: Any) -> Any:
        """Targets as a student learns them, or its predictions from the targets' unit; class numbers as they are."""
        return self._scaled(values, lambda numbers, mean, deviation: (numbers - mean) / deviation)

    def in_units(self, values: Any) -> Any:
        """What a student predicts, in the unit of the targets."""
        return self._scaled(values, lambda numbers, mean, deviation: numbers * deviation + mean)

    def _scaled(self, values: Any, scale: Any) -> Any:
        if self.task != "regression":
            return values
        mean, deviation = (values.new_tensor(numbers) for numbers in (self.mean, self.deviation))
        return scale(values, mean[0], deviation[0]) if self.single else scale(values, mean, deviation)


def make_labels(
    target: Target,
    cells: Mapping[str, Cells],
    unfit: Mapping[str, str],
    *,
    where: Where,
    missing: Sequence[str],
    numerals: Numerals,
) -> Labels:
    """The labels of the rows of a table. Raises `ConfigError` for cells that are none, naming their rows."""
    for column in target.columns:
        if column in unfit:
            raise ConfigError(f"the label {printable(column)!r} is no class", got=unfit[column])
    found: list[NDArray[Any]] = []
    names: tuple[str, ...] = () if target.task == "regression" else class_names(target.columns)
    for column in target.columns:
        notes: dict[str, Any] = {"where": where, "missing": missing}
        if target.task == "classification":
            values, names = class_labels(column, cells[column], numerals=numerals, **notes)
        else:
            values = _numbers(column, cells[column], numerals if target.task == "regression" else None, **notes)
        found.append(values)
    return Labels(target, found[0] if target.single else np.stack(found, axis=1), names)


def present(name: str, cells: Cells, *, where: Where, missing: Sequence[str]) -> list[str]:
    """Cells of labels as text. Raises `ConfigError` for rows without one, naming them."""
    text, gone = _text(cells), frozenset(missing)
    without = [place for place, cell in enumerate(text) if cell is None or cell in gone]
    if without:
        places = ", ".join(where(place) for place in without[:10])
        counts = Counter("an empty cell" if not text[place] else repr(text[place]) for place in without)
        words = [word for word in dict.fromkeys(text[place] for place in without) if word]
        fix = f"label them, or leave them out (the label {printable(name)!r})"
        if words:
            kept = [word for word in missing if word not in words]
            fix += f"; or, where {' and '.join(map(repr, words))} is a class, say what is missing: missing={kept}"
        raise ConfigError(
            f"{len(without)} rows have no label: {places}",
            expected="a class in every row",
            got=", ".join(f"{count} × {what}" for what, count in counts.items()),
            fix=fix,
        )
    return [str(cell) for cell in text]


def _text(cells: Cells) -> Sequence[str | None]:
    if isinstance(cells, np.ndarray):
        return [None if math.isnan(value) else plain_number(value) for value in cells.tolist()]
    return cells


def _numbers(
    name: str, cells: Cells, numerals: Numerals | None, *, where: Where, missing: Sequence[str]
) -> NDArray[Any]:
    """Numbers as they are written; or, where there are no numerals, 0 and 1, and `IGNORED` for a cell that stands for nothing."""
    value: dict[str, float | None]
    if numerals is None:
        text, gone = [cell or "" for cell in _text(cells)], {"", *missing}
        value = {cell: IGNORED if cell in gone else YES_NO.get(cell.lower()) for cell in set(text)}
    else:
        text = present(name, cells, where=where, missing=missing)
        value = {cell: numerals.number(cell) for cell in set(text)}
    wrong = [place for place, cell in enumerate(text) if value[cell] is None]
    if wrong:
        raise ConfigError(
            f"the column {printable(name)!r} is no {'label of 0 and 1' if numerals is None else 'target'}: {where(wrong[0])}",
            expected=", ".join(YES_NO) if numerals is None else "a finite number in every row",
            got=f"{printable(text[wrong[0]], 40)!r}, {len(wrong):,} such rows",
            fix="label='one column' for classes"
            if numerals is None
            else "decimal= and thousands= say how numbers are written",
        )
    return np.array([value[cell] for cell in text], dtype=np.int64 if numerals is None else np.float64)


def class_labels(
    name: str, cells: Cells, *, where: Where, missing: Sequence[str] = ("",), numerals: Numerals = PLAIN
) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """The classes of the rows and their names, which are the cells as they stand, in sorted order, numbers in theirs.

    Raises `ConfigError` for rows without a label (`missing` are the cells that stand for none), for a single class, for one number
    written in more than one way (1 and 1.0), and for what is no class: fractions, and values of which there are more than 1,000 or
    fewer than two rows each.
    """
    shown = f"the label {printable(name)!r}"
    labelled = [composed(cell) for cell in present(name, cells, where=where, missing=missing)]
    values = {cell: numerals.exact(cell) for cell in set(labelled)}
    numbers = [value for value in values.values() if value is not None]
    for value, count in Counter(numbers).items():
        if count > 1:
            alike = sorted(cell for cell, other in values.items() if other == value)
            raise ConfigError(
                f"{shown} writes one number in more than one way",
                expected="one spelling a class, for classes are distinguished by their text",
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
                fix="predict the number: target= in the place of label=; or make classes of it: low, middle, high",
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
    return np.array([number[cell] for cell in labelled]), class_names(names)
