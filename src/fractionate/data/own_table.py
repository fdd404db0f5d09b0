"""A person's own table, CSV, Parquet or JSON lines: divided first, made into numbers then, by what the transfer part says alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fractionate.data.bundled import Parts, data_sets
from fractionate.data.columns import (
    MISSING,
    Column,
    Kind,
    check_columns,
    make_columns,
    names_of,
    plain_number,
)
from fractionate.data.delimited import read_delimited
from fractionate.data.dividing import Size, divide
from fractionate.data.encoding import TableEncoding
from fractionate.data.examples import Examples
from fractionate.data.memory import MemorySplit
from fractionate.data.numerals import Numerals
from fractionate.data.parts import balanced
from fractionate.data.table_file import Read, Roles, is_json_lines, is_parquet, read_parquet, read_table
from fractionate.data.targets import Labels, Target, make_labels
from fractionate.data.text_file import json_lines
from fractionate.errors import ConfigError, printable
from fractionate.system.files import existing_file


@dataclass(frozen=True, eq=False, repr=False)
class Table:
    """Columns and labels as they were read, not yet numbers for a student.

    `parts` divides them and encodes every part with what the transfer part says.
    """

    name: str
    columns: tuple[Column, ...]
    labels: Labels
    ids: tuple[str, ...]
    roles: Roles
    given: tuple[str | None, ...] | None = None
    groups: tuple[str, ...] | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def __repr__(self) -> str:
        return f"Table({self.name}: {len(self):,} × {len(self.columns)} columns, {self.labels})"

    def parts(self, *, transfer: Size = None, validation: Size = None, test: Size = None, seed: int = 0) -> Parts:
        """The parts, encoded: means, deviations and categories are those of the transfer part. `Parts.encoding` is the record.

        Labels are [rows] class numbers, [rows, labels] of 0 and 1, or [rows] or [rows, targets] numbers that are standardised.
        Sizes as in `divide`. Raises what it raises.
        """
        labels, roles = torch.from_numpy(self.labels.values), self.roles
        sizes: Mapping[str, Any] = {"transfer": transfer, "validation": validation, "test": test}
        named: Mapping[str, Any] = {
            "given": self.given,
            "groups": self.groups,
            "keys": None if roles.repeats else self._keys(),
        }
        places = divide(len(self), labels=labels, **sizes, **named, seed=seed, name=self.name)
        learned = places["transfer"].numpy()
        encoding = TableEncoding.fit(self.columns, learned, self.labels, roles.missing, roles.numerals)
        made: dict[str, Any] = {}
        for part, some in places.items():
            inputs = encoding.encode_columns(self.columns, some.numpy())
            ids = tuple(self.ids[place] for place in some.tolist())
            made[part] = encoding.labelled(inputs, labels[some], self.name, ids)
            if roles.class_weights and part in ("transfer", "teaching"):
                made[part] = balanced(made[part])
            if roles.raw:
                made[part] = self._with_cells(made[part], some.numpy())
        return Parts(made["transfer"], made["validation"], made["test"], made.get("teaching"), encoding)

    def _with_cells(self, encoded: Examples | MemorySplit, places: NDArray[np.int64]) -> MemorySplit:
        """A part whose view "teacher" holds the cells by column, for estimators that were fitted on the file itself."""
        split = MemorySplit.of(encoded) if isinstance(encoded, Examples) else encoded
        cells = {column.name: torch.from_numpy(column.as_read(places)) for column in self.columns}
        return replace(split, views={**split.views, "teacher": cells})

    def _keys(self) -> list[bytes]:
        values = self.labels.values.reshape(len(self), -1)
        rows = np.column_stack(
            [column.values.astype(np.float64) for column in self.columns] + [values.astype(np.float64)]
        )
        return [row.tobytes() for row in rows]


@data_sets.register("table")
def table(
    path: Path | str,
    label: str | Sequence[str] | None = None,
    *,
    target: str | Sequence[str] | None = None,
    kinds: Mapping[str, Kind] | None = None,
    drop: Sequence[str] = (),
    missing: Sequence[str] = MISSING,
    separator: str | None = None,
    encoding: str | None = None,
    decimal: str = ".",
    thousands: str = "",
    validation: Path | str | None = None,
    test: Path | str | None = None,
    part: str | None = None,
    group: str | None = None,
    repeats: bool = True,
    class_weights: bool = False,
    raw: bool | None = None,
) -> Table:
    r"""Your CSV, Parquet or JSON lines file: `table('wine.csv', label='quality')`. Numbers are standardised, categories one-hot.

    Args:
        path: The file; row ids are its lines.
        label: The column of classes; a list of columns of 0 and 1 is multiple labels per row, and a missing
            cell among them counts for nothing.
        target: The column of numbers to predict, or a list of them, in the place of `label`.
        kinds: What a column holds ("number" or "category"), where the rule of `make_columns` would not tell it.
        drop: Columns to leave out.
        missing: The cells that stand for nothing.
        separator: Between cells, and `encoding` of the text, as in `read_delimited`.
        decimal: The mark in numbers, and `thousands` the one between thousands.
        validation: Another file with the same columns, and `test` a third: the rows of these parts.
        part: The column that names the part of each row: train, validation or test.
        group: The column whose rows of the same value are all in one part, such as a patient.
        repeats: False leaves out of validation and test rows that are in an earlier part as well, with the same label.
        class_weights: Weigh the rows that are learned from so that each class counts the same.
        raw: The teacher reads the cells as they stand, by column: an estimator that was fitted on the file, not on the encoding.
            A run file with a teacher of a file (`sklearn('trees.skops')`, `onnx(...)`) has to say which of them it reads.

    Returns:
        `Table`: the rows, divided into parts by `.parts(...)` with the encoding fitted on what is learned from.

    Raises:
        ConfigError: for columns that cannot be learned from and labels that are not of the kind.
        DamagedError: naming file and line, for a file that is no table.
        ResourceError: for one that would not fit into memory.
        MissingExtraError: for Parquet without pyarrow.

    Example:
        from pathlib import Path
        from fractionate.data import table

        rows = "".join(f"{n * 0.37 % 1:.2f},{'high' if n % 2 else 'low'}\n" for n in range(20))
        Path("wine.csv").write_text("acid,quality\n" + rows)
        print(table("wine.csv", "quality").parts(transfer=10, validation=5, test=5))
    """
    numerals = Numerals(decimal, thousands)
    roles = Roles(
        Target.of(label, target), kinds or {}, names_of(drop, "drop"), names_of(missing, "missing"), numerals, part, group,
        repeats, class_weights, raw,
    )  # fmt: skip
    files = {"train": path, "validation": validation, "test": test}
    read = {
        name: read_table(file, roles, separator=separator, encoding=encoding)
        for name, file in files.items()
        if file is not None
    }
    return make_table(read, Path(path).name, roles)


def make_table(files: Mapping[str, Read], name: str, roles: Roles) -> Table:
    """A table out of the rows of one file, or of one for each part. Raises `ConfigError` for what cannot be learned from."""
    read = _one(files)
    check_columns(roles.kinds, read.names, roles.drop, roles.named)
    cells = {column: found for column, found in read.cells.items() if column not in roles.named}
    given: tuple[str | None, ...] | None = tuple(part for part, file in files.items() for _ in file.ids)
    if len(files) > 1 and roles.part:
        raise ConfigError(
            "part= and files for the parts cannot be combined", got=f"part={roles.part!r}", fix="leave one of them out"
        )
    if len(files) == 1:
        given = _words(read, roles.part, roles.missing) if roles.part else None
    labels = make_labels(
        roles.target, read.cells, read.unfit, where=read.where, missing=roles.missing, numerals=roles.numerals
    )
    unfit = {column: what for column, what in read.unfit.items() if column not in roles.named}
    columns = make_columns(cells, roles.kinds, where=read.where, numerals=roles.numerals, unfit=unfit)
    return Table(printable(name), columns, labels, read.ids, roles, given, _groups(read, roles))


def _one(files: Mapping[str, Read]) -> Read:
    """The rows of all files, one after the other."""
    first = files["train"]
    if len(files) == 1:
        return first
    cells = dict(first.cells)
    for part, file in files.items():
        other = {column for column in cells if column not in file.cells}
        other |= {
            c
            for c in cells
            if c in file.cells and isinstance(file.cells[c], np.ndarray) != isinstance(cells[c], np.ndarray)
        }
        if other:
            raise ConfigError(
                f"the file of {part} has other columns than the first",
                expected=", ".join(printable(column) for column in cells),
                got=f"without, or of another type: {', '.join(sorted(map(printable, other)))}",
            )
    for column, found in cells.items():
        more: list[Any] = [file.cells[column] for file in files.values()]
        cells[column] = (
            np.concatenate(more) if isinstance(found, np.ndarray) else [cell for part in more for cell in part]
        )
    places = [(file, place) for file in files.values() for place in range(len(file.ids))]
    ids = tuple(i if file is first else f"{part}:{i}" for part, file in files.items() for i in file.ids)
    return Read(cells, first.names, ids, lambda place: places[place][0].where(places[place][1]), first.unfit)


def _words(read: Read, column: str, missing: Sequence[str]) -> tuple[str | None, ...]:
    """A column's cells as text; None where they are missing."""
    cells = read.cells[column]
    shown = (
        ["" if math.isnan(v) else plain_number(v) for v in cells.tolist()] if isinstance(cells, np.ndarray) else cells
    )
    return tuple(None if not cell or cell in missing else cell for cell in shown)


def _groups(read: Read, roles: Roles) -> tuple[str, ...] | None:
    if roles.group is None:
        return None
    words = _words(read, roles.group, roles.missing)
    without = [place for place, word in enumerate(words) if word is None]
    if without:
        raise ConfigError(
            f"{len(without):,} rows have no group: {', '.join(map(read.where, without[:10]))}",
            expected=f"a value of {printable(roles.group)!r} in every row",
        )
    return tuple(map(str, words))


def encoded_table(
    path: Path | str, encoding: TableEncoding, *, separator: str | None = None, text_encoding: str | None = None
) -> Examples | MemorySplit:
    r"""Another file with labels, as the student that the encoding lies with was fed: to score it on new data.

    Args:
        path: A CSV, Parquet or JSON lines file.
        encoding: The one in the student's data.json; the marks in numbers are those of the first table.
        separator: Between cells, as in `read_delimited`.
        text_encoding: Of the text, as in `read_delimited`.

    Returns:
        `Examples`, or a `MemorySplit` where rows have numbers or more than one label as targets.

    Raises:
        MismatchError: naming row and column for what does not fit, and for labels that the student does not know.

    Example:
        from pathlib import Path
        from fractionate.data import encoded_table, table

        rows = "".join(f"{n * 0.37 % 1:.2f},{'high' if n % 2 else 'low'}\n" for n in range(20))
        Path("wine.csv").write_text("acid,quality\n" + rows)
        encoding = table("wine.csv", "quality").parts(transfer=10, validation=5, test=5).encoding
        print(len(encoded_table("wine.csv", encoding)))
    """
    if is_json_lines(path, separator):
        items = dict(json_lines(existing_file(path), printable(str(path), 200), text_encoding))
        names = dict.fromkeys(name for item in items.values() for name in item)
        rows, ids = [dict.fromkeys(names) | item for item in items.values()], tuple(map(str, items))
    elif is_parquet(path, separator, text_encoding):
        rows = read_parquet(path).to_pylist()
        ids = tuple(str(row) for row in range(len(rows)))
    else:
        read = read_delimited(path, separator=separator, encoding=text_encoding)
        rows = [dict(zip(read.cells, cells, strict=True)) for cells in zip(*read.cells.values(), strict=True)]
        ids = tuple(map(str, read.lines))
    name = printable(Path(path).name)
    return encoding.labelled(encoding.encode(rows), encoding.labels_of(rows, name), name, ids)
