"""How the rows of a table become a student's inputs: a record that learns its numbers from what the student learns from."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from fractionate.data.columns import Column, Kind, cell_of, composed
from fractionate.data.examples import Examples
from fractionate.data.memory import MemorySplit
from fractionate.data.numerals import PLAIN, Numerals
from fractionate.data.targets import Labels, Target, TargetEncoding, make_labels
from fractionate.errors import MismatchError, NumericsError, printable
from fractionate.records.base import Record
from fractionate.system.memory import require_bytes


@dataclass(frozen=True)
class ColumnEncoding(Record):
    """What one column becomes: a standardised number, or a place for each category; then a flag where values were missing."""

    name: str
    kind: Kind
    mean: float = 0.0
    deviation: float = 0.0
    categories: tuple[str, ...] = ()
    flagged: bool = False

    @property
    def features(self) -> tuple[str, ...]:
        """The names of the inputs this column becomes."""
        own = (self.name,) if self.kind == "number" else tuple(f"{self.name}={c}" for c in self.categories)
        return own + (f"{self.name} missing",) * self.flagged

    def encoded(self, values: NDArray[Any]) -> NDArray[np.float32]:
        """Numbers (NaN: missing) or places of categories (-1: missing, -2: unknown) as inputs [rows, features]."""
        missing = np.isnan(values) if self.kind == "number" else values == -1
        made = np.zeros((len(values), len(self.features)), np.float32)
        if self.kind == "number":
            if self.deviation > 0:
                with np.errstate(over="ignore"):
                    made[:, 0] = np.where(missing, 0.0, (values - self.mean) / self.deviation)
                if not np.isfinite(made[:, 0]).all():
                    raise NumericsError(
                        f"{printable(self.name)!r} is too far from its mean", expected=f"about {self.mean:g}"
                    )
        else:
            known = np.flatnonzero(values >= 0)
            made[known, values[known]] = 1
        if self.flagged:
            made[:, -1] = missing
        return made


@dataclass(frozen=True)
class TableEncoding(Record):
    """How the rows of a table become inputs: `encode` does it to new ones, with the numbers of the part students learned from.

    Columns are in the order of the file. A number is (value - mean) / deviation, 0 where it is missing or was always the same. A
    category is 1 at its place among those seen, in sorted order; one that was never seen is 0 everywhere. Where values were
    missing, one more input says so. Kept as data.json with a student.

    Args:
        target: How labels become classes or numbers.
        columns: How each column becomes inputs.
        missing: The cells that stand for nothing.
        decimal: The decimal mark of numbers.
        thousands: The mark between thousands; "" for none.

    Example:
        from pathlib import Path
        from fractionate.data import table
        Path("wine.csv").write_text("alcohol,grape\\n" + "12,red\\n13,white\\n" * 10)
        encoding = table("wine.csv", label="grape").parts().encoding
        print(encoding.class_names, encoding.encode([{"alcohol": 12.5}]))
    """

    target: TargetEncoding
    columns: tuple[ColumnEncoding, ...]
    missing: tuple[str, ...]
    decimal: str = PLAIN.decimal
    thousands: str = PLAIN.thousands

    @classmethod
    def fit(
        cls,
        columns: Sequence[Column],
        places: NDArray[np.int64],
        labels: Labels,
        missing: tuple[str, ...],
        numerals: Numerals = PLAIN,
    ) -> Self:
        """The encoding that some rows of a table give, and no others."""
        fitted = tuple(_fitted(column, places) for column in columns)
        return cls(TargetEncoding.fit(labels, places), fitted, missing, numerals.decimal, numerals.thousands)

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of the classes, or of the labels."""
        return self.target.class_names

    @property
    def features(self) -> tuple[str, ...]:
        """The names of the inputs, in their order."""
        return tuple(feature for column in self.columns for feature in column.features)

    def encode(self, rows: Iterable[Mapping[str, Any]]) -> Float[Tensor, "rows features"]:
        """New rows, each a mapping of column names to values, as inputs. Columns the student does not know are passed over.

        Raises `MismatchError` naming row and column where a column is absent or a number is none.
        """
        rows = list(rows)
        parts = [column.encoded(self._values(column, rows)) for column in self.columns]
        return torch.from_numpy(np.concatenate(parts, 1))

    def decode(self, inputs: Float[Tensor, "features"]) -> dict[str, str]:
        """One row of inputs as the cells it was made of, as far as inputs tell: what `encode` does, backwards."""
        values, cells = inputs.tolist(), {}
        for column in self.columns:
            own, values = values[: len(column.features)], values[len(column.features) :]
            if column.flagged and own[-1] == 1:
                cells[column.name] = "missing"
            elif column.kind == "number":
                cells[column.name] = f"{column.mean + own[0] * column.deviation:.5g}"
            else:
                places = range(len(column.categories))
                cells[column.name] = next((column.categories[i] for i in places if own[i] == 1), "unknown")
        return cells

    def labelled(
        self, inputs: Float[Tensor, "rows features"], labels: Tensor, name: str, ids: tuple[str, ...]
    ) -> Examples | MemorySplit:
        """Inputs with labels as they are read: class numbers, 0 and 1, or numbers, which are standardised here."""
        if self.target.task == "classification":
            return Examples(inputs, labels, self.class_names, name, ids)
        learned = self.target.standardised(labels)
        return MemorySplit(
            inputs, learned.float() if learned.is_floating_point() else learned, name, ids, self.class_names
        )

    def labels_of(self, rows: Sequence[Mapping[str, Any]], name: str) -> Tensor:
        """The labels of new rows. Raises `MismatchError` for classes that the student does not know, `ConfigError` for no label."""
        numerals = Numerals(self.decimal, self.thousands)
        if self.target.task == "classification":
            numbers = {known: number for number, known in enumerate(self.class_names)}
            found = [self.class_of(row) for row in rows]
            unknown = sorted({known for known in found if known not in numbers})
            if unknown:
                raise MismatchError(
                    f"{name} has classes the student does not know",
                    expected=f"in {printable(self.target.columns[0])!r}: {', '.join(self.class_names[:20])}",
                    got=", ".join(unknown[:20]),
                )
            return torch.tensor([numbers[known] for known in found])
        target = Target(self.target.columns, self.target.task, self.target.single)
        cells = {column: [cell_of(row.get(column)) for row in rows] for column in target.columns}
        made = make_labels(target, cells, {}, where=lambda row: f"row {row}", missing=self.missing, numerals=numerals)
        return torch.from_numpy(made.values)

    def class_of(self, row: Mapping[str, Any]) -> str:
        """The name of a row's class, as `class_names` has it; a number also where it is written in another way."""
        cell = cell_of(row.get(self.target.columns[0])) or ""
        number, numerals = PLAIN.exact(cell), Numerals(self.decimal, self.thousands)
        if number is None or cell in self.class_names:
            return printable(cell)
        return next((name for name in self.class_names if numerals.exact(name) == number), cell)

    def _values(self, column: ColumnEncoding, rows: Sequence[Mapping[str, Any]]) -> NDArray[Any]:
        places = {category: place for place, category in enumerate(column.categories)}
        found: list[float] = []
        numerals = Numerals(self.decimal, self.thousands)
        for number, row in enumerate(rows):
            where = f"row {number}, column {printable(column.name)!r}"
            if column.name not in row:
                raise MismatchError(f"{where}: there is no such value", fix="give None where a value is missing")
            cell = cell_of(row[column.name])
            gone = cell is None or cell in self.missing
            if column.kind == "category":
                as_given = places.get(
                    composed(str(row[column.name]).strip()), -2
                )  # 1.0, where the file says 1.0 and not 1
                found.append(-1 if gone else places.get(str(cell), as_given))
                continue
            given = row[column.name]
            typed = isinstance(given, (int, float, np.number)) and not isinstance(given, bool)
            value = math.nan if gone else (PLAIN if typed else numerals).number(str(cell))
            if value is None:
                raise MismatchError(f"{where}: this is no number", got=printable(str(cell), 40))
            found.append(value)
        return np.array(found, dtype=np.float64 if column.kind == "number" else np.int64)

    def encode_columns(self, columns: Sequence[Column], places: NDArray[np.int64]) -> Float[Tensor, "rows features"]:
        """Some rows of a table as inputs. Raises `MismatchError` where a column is absent or of another kind."""
        by_name = {column.name: column for column in columns}
        size = 4 * len(places) * len(self.features)
        require_bytes(
            2 * size, f"{len(places):,} rows of {len(self.features):,} inputs", fix="leave columns out: drop=[…]"
        )
        made = []
        for column in self.columns:
            found = by_name.get(column.name)
            if found is None or found.kind != column.kind:
                raise MismatchError(
                    f"column {printable(column.name)!r} does not fit",
                    expected=column.kind,
                    got=found.kind if found else "no such column",
                    fix="say kinds= as for the table the encoding comes from" if found else None,
                )
            values = found.values[places]
            if column.kind == "category":
                slots = {category: place for place, category in enumerate(column.categories)}
                slot_of = np.array([*(slots.get(category, -2) for category in found.categories), -1])  # -1 is the last
                values = slot_of[values]
            made.append(column.encoded(values))
        return torch.from_numpy(np.concatenate(made, 1))


def _fitted(column: Column, places: NDArray[np.int64]) -> ColumnEncoding:
    values = column.values[places]
    if column.kind == "category":
        seen = tuple(column.categories[place] for place in np.unique(values[values >= 0]).tolist())
        return ColumnEncoding(column.name, "category", categories=seen, flagged=bool((values == -1).any()))
    there = values[~np.isnan(values)]
    with np.errstate(over="ignore", invalid="ignore"):
        mean, deviation = (float(there.mean()), float(there.std())) if len(there) else (0.0, 0.0)
    if not (math.isfinite(mean) and math.isfinite(deviation)):
        raise NumericsError(f"the numbers of {printable(column.name)!r} are too large to be standardised")
    if len(there) and float(np.ptp(there)) == 0:  # rounding may leave a deviation of 1e-17
        deviation = 0.0
    return ColumnEncoding(column.name, "number", mean, deviation, flagged=len(there) < len(values))
