"""The files of tables, CSV, Parquet and JSON lines, by one reader: the cells of each column, and what the columns are for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fractionate.data.columns import MISSING, Cells, Kind, Where, cell_of
from fractionate.data.delimited import MOST_COLUMNS, SMALLER, read_delimited
from fractionate.data.numerals import Numerals
from fractionate.data.targets import Target
from fractionate.data.text_file import JSON_LINES, json_lines
from fractionate.errors import (
    ConfigError,
    DamagedError,
    FractionateError,
    ResourceError,
    extra,
    printable,
)
from fractionate.system.files import existing_file
from fractionate.system.memory import require_bytes

PARQUET = (".parquet", ".pq")
UNFOLDS = 1000  # a table with something in it unfolds to less, in multiples of its file; 5 values in long runs: 1,800
UNFOLDS_BYTES = 256 << 20  # a table that unfolds to less than this is no bomb


@dataclass(frozen=True)
class Roles:
    """What the columns of a table are for, and how their cells are read.

    Args:
        target: The columns of labels.
        kinds: What a column holds, where its cells do not tell it.
        drop: Columns to leave out.
        missing: Cells that stand for nothing.
        numerals: The marks in numbers.
        part: The column that names the part of a row.
        group: The column that names what is kept in one part.
        repeats: False leaves out of validation and test the rows that are in an earlier part, with the same label.
        class_weights: Each class has the same weight in what is learned from.
        raw: The teacher reads the cells as they stand, by column; None: not given.
    """

    target: Target
    kinds: Mapping[str, Kind] = field(default_factory=dict)
    drop: tuple[str, ...] = ()
    missing: tuple[str, ...] = MISSING
    numerals: Numerals = field(default_factory=Numerals)
    part: str | None = None
    group: str | None = None
    repeats: bool = True
    class_weights: bool = False
    raw: bool | None = None

    @property
    def named(self) -> tuple[str, ...]:
        """The columns that are no inputs."""
        return (*self.target.columns, *(name for name in (self.part, self.group) if name))


@dataclass(frozen=True, eq=False)
class Read:
    """The cells of a file by column, and of those that no input is made of, by type.

    Args:
        cells: Text as it stands, or numbers.
        names: All columns, dropped ones too.
        ids: The row, or its line.
        where: The place of a row, for a message.
    """

    cells: dict[str, Cells]
    names: tuple[str, ...]
    ids: tuple[str, ...]
    where: Where
    unfit: Mapping[str, str] = field(default_factory=dict)


def read_table(path: Path | str, roles: Roles, *, separator: str | None = None, encoding: str | None = None) -> Read:
    """The cells of a CSV, Parquet or JSON lines file. Raises what `table` raises for a file."""
    if is_json_lines(path, separator):
        return _of_json_lines(existing_file(path), roles, encoding)
    if is_parquet(path, separator, encoding):
        return read_arrow(read_parquet(path), Path(path).name, roles)
    read = read_delimited(path, separator=separator, encoding=encoding)
    names, gone = tuple(read.cells), frozenset(roles.missing)
    cells: dict[str, Cells] = {}
    for column in names:
        found = read.cells.pop(column)
        if column not in roles.drop:
            cells[column] = found if column in roles.named else [None if cell in gone else cell for cell in found]
    ids = tuple(str(line) for line in read.lines)
    return Read(cells, names, ids, lambda place: f"{read.file}:{read.lines[place]}")


def _of_json_lines(path: Path, roles: Roles, encoding: str | None) -> Read:
    """The cells of JSON lines, one object per row; a name that an object lacks is missing there."""
    shown, gone = printable(str(path), 200), frozenset(roles.missing)
    items = dict(json_lines(path, shown, encoding))
    if not items:
        raise ConfigError(f"{shown} is empty", expected="a JSON object in each line")
    cells: dict[str, Cells] = {}
    unfit: dict[str, str] = {}
    names = tuple(dict.fromkeys(name for item in items.values() for name in item))
    for column in names:
        values = [item.get(column) for item in items.values()]
        if any(isinstance(value, (list, dict)) for value in values):
            unfit[column] = "lists or objects"
        elif column not in roles.drop:
            text = [cell_of(value) for value in values]
            cells[column] = text if column in roles.named else [None if cell in gone else cell for cell in text]
    lines = tuple(items)
    unfit = {column: what for column, what in unfit.items() if column not in roles.drop}
    return Read(cells, names, tuple(map(str, lines)), lambda place: f"{shown}:{lines[place]}", unfit)


def is_json_lines(path: Path | str, separator: str | None) -> bool:
    """Whether a file is JSON lines by its name. Raises `ConfigError` for a separator with it."""
    if Path(path).suffix.lower() not in JSON_LINES:
        return False
    if separator is not None:
        raise ConfigError("separator is a setting of delimited files", got=printable(str(path), 200))
    return True


def is_parquet(path: Path | str, separator: str | None, encoding: str | None) -> bool:
    """Whether a file is Parquet by its name. Raises `ConfigError` for settings of text files with it."""
    if Path(path).suffix.lower() not in PARQUET:
        return False
    if separator is not None or encoding is not None:
        raise ConfigError("separator and encoding are settings of text files", got=printable(str(path), 200))
    return True


def read_parquet(path: Path | str) -> Any:
    """A Parquet file as an Arrow table. Raises `DamagedError` for what is none and `ResourceError` before reading too much."""
    path = existing_file(path)
    file = printable(str(path), 200)
    with extra("parquet", "reading Parquet needs pyarrow"):
        from pyarrow import ArrowException, parquet
    try:
        with parquet.ParquetFile(path) as opened:
            head = opened.metadata
            if head.num_columns > MOST_COLUMNS:
                raise ResourceError(f"{file} has {head.num_columns:,} columns", expected=f"at most {MOST_COLUMNS:,}")
            unfolded = sum(head.row_group(group).total_byte_size for group in range(head.num_row_groups))
            cells = max(head.num_rows, 0) * head.num_columns
            require_bytes(max(unfolded, 0) + 24 * cells, file, fix=SMALLER)
            if UNFOLDS_BYTES < 8 * cells > UNFOLDS * path.stat().st_size:
                raise DamagedError(
                    f"{file} unfolds to more than a table holds",
                    expected=f"at most {UNFOLDS:,} times its {path.stat().st_size:,} bytes",
                    got=f"{cells:,} cells",
                    fix="take fewer rows, or give a CSV file",
                )
            return opened.read()
    except (ArrowException, OSError, ValueError) as error:
        if isinstance(error, FractionateError):
            raise
        raise DamagedError(f"{file} cannot be read as Parquet", got=printable(str(error), 200)) from error


def read_arrow(found: Any, name: str, roles: Roles) -> Read:
    """The cells of an Arrow table: numbers are numbers, text and booleans text; columns of other types have to be dropped.

    Whole numbers that floating-point numbers would not keep apart, and those of labels, parts and groups, are read as text.
    """
    from pyarrow import types

    names = tuple(str(column) for column in found.column_names)
    if len(set(names)) < len(names):
        raise ConfigError(
            f"{name}: columns share a name", got=", ".join(sorted({n for n in names if names.count(n) > 1}))
        )
    gone = frozenset(roles.missing)
    cells: dict[str, Cells] = {}
    unfit: dict[str, str] = {}
    for column in names:
        if column in roles.drop:
            continue
        values = found[column]
        if types.is_dictionary(values.type):
            values = values.cast(values.type.value_type)
        if types.is_floating(values.type):
            cells[column] = _as_numbers(values)
        elif types.is_integer(values.type) or types.is_decimal(values.type):
            exact = column in roles.named or _many_digits(values)
            cells[column] = _as_text(values) if exact else _as_numbers(values)
        elif types.is_boolean(values.type):
            cells[column] = [None if cell is None else str(cell).lower() for cell in values.to_pylist()]
        elif types.is_string(values.type) or types.is_large_string(values.type) or types.is_string_view(values.type):
            text = _as_text(values)
            cells[column] = text if column in roles.named else [None if cell in gone else cell for cell in text]
        else:
            unfit[column] = printable(str(values.type))
    if not found.num_rows:
        raise ConfigError(f"{name} has no rows", expected="at least one example")
    return Read(cells, names, tuple(map(str, range(found.num_rows))), lambda place: f"row {place}", unfit)


def _as_text(values: Any) -> list[str | None]:
    """Cells as text, each different one kept once."""
    from pyarrow import types

    coded = (values if types.is_dictionary(values.type) else values.dictionary_encode()).combine_chunks()
    words = [None if word is None else str(word).strip() for word in coded.dictionary.to_pylist()]
    return [None if place is None else words[place] for place in coded.indices.to_pylist()]


def _many_digits(values: Any) -> bool:
    """Whether some of these whole or decimal numbers have more digits than a floating-point number keeps."""
    from pyarrow import compute, types

    if types.is_decimal(values.type):
        return bool(values.type.precision > 15)
    ends = compute.min_max(values).as_py()
    return any(end is not None and abs(end) > 2**53 for end in ends.values())


def _as_numbers(values: Any) -> NDArray[np.float64]:
    import pyarrow

    cast = values.cast(pyarrow.float64(), safe=False)
    return np.array(cast.to_numpy(), dtype=np.float64)  # nulls become NaN
