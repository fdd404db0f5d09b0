"""A person's own table, CSV or Parquet: divided first, made into numbers then, by what the transfer part says alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fractionate.data.bundled import Parts, data_sets, split_parts
from fractionate.data.columns import (
    MISSING,
    Cells,
    Column,
    Kind,
    Labels,
    Where,
    make_columns,
    make_labels,
    names_of,
    told_kind,
)
from fractionate.data.delimited import MOST_COLUMNS, SMALLER, read_delimited
from fractionate.data.dividing import Size
from fractionate.data.encoding import TableEncoding
from fractionate.data.examples import Examples
from fractionate.data.numerals import PLAIN, Numerals
from fractionate.errors import (
    ConfigError,
    DamagedError,
    FractionateError,
    MismatchError,
    MissingExtraError,
    ResourceError,
    printable,
)
from fractionate.system.files import existing_file
from fractionate.system.memory import require_bytes

PARQUET = (".parquet", ".pq")
UNFOLDS = 1000  # a table with something in it unfolds to less, in multiples of its file; 5 values in long runs: 1,800
UNFOLDS_BYTES = 256 << 20  # a table that unfolds to less than this is no bomb


@dataclass(frozen=True, eq=False, repr=False)
class Table:
    """Columns and labels as they were read, not yet numbers for a student.

    `parts` divides them and encodes every part with what the transfer part says.
    """

    name: str
    label: str
    columns: tuple[Column, ...]
    labels: Labels
    ids: tuple[str, ...]
    missing: tuple[str, ...] = MISSING
    numerals: Numerals = PLAIN

    def __len__(self) -> int:
        return len(self.ids)

    def __repr__(self) -> str:
        return f"Table({self.name}: {len(self):,} × {len(self.columns)} columns, {len(self.labels.names)} classes)"

    def _rows(self) -> Examples:
        """Places of rows in the place of inputs."""
        numbers = torch.from_numpy(self.labels.numbers)
        return Examples(torch.arange(len(self)), numbers, self.labels.names, self.name, self.ids)

    def parts(
        self,
        *,
        transfer: Size = None,
        validation: Size = None,
        test: Size = None,
        seed: int = 0,
    ) -> Parts:
        """The parts, encoded: means, deviations and categories are those of the transfer part. `Parts.encoding` is the record.

        Sizes as in `split_parts`. Raises `ConfigError` where the parts are larger than the table.
        """
        rows = split_parts(self._rows(), transfer=transfer, validation=validation, test=test, seed=seed)
        learned = rows.transfer.inputs.numpy()
        encoding = TableEncoding.fit(self.columns, learned, self.label, self.labels.names, self.missing, self.numerals)

        def encoded(part: Examples) -> Examples:
            return replace(part, inputs=encoding.encode_columns(self.columns, part.inputs.numpy()))

        taught = None if rows.teaching is None else encoded(rows.teaching)
        return Parts(encoded(rows.transfer), encoded(rows.validation), encoded(rows.test), taught, encoding)


@data_sets.register("table")
def table(
    path: Path | str,
    label: str,
    *,
    kinds: Mapping[str, Kind] | None = None,
    drop: Sequence[str] = (),
    missing: Sequence[str] = MISSING,
    separator: str | None = None,
    encoding: str | None = None,
    decimal: str = ".",
    thousands: str = "",
) -> Table:
    """A CSV or Parquet file of yours: `table('wine.csv', label='quality')`. Numbers standardised, categories one-hot.

    `label` names the column of classes, `drop` columns to leave out, `kinds` what a column holds ("number" or "category") where
    the rule of `make_columns` would not tell it, `missing` the cells that stand for nothing, `decimal` and `thousands` the marks in
    its numbers, `separator` and `encoding` what `read_delimited` takes. Row ids are the lines of the file.

    Raises `ConfigError` for columns that cannot be learned from and labels that are no classes, `DamagedError` naming file and line
    for a file that is no table, `ResourceError` for one that would not fit into memory, `MissingExtraError` for Parquet
    without pyarrow.
    """
    drop, missing, numerals = names_of(drop, "drop"), names_of(missing, "missing"), Numerals(decimal, thousands)
    name = Path(path).name
    if _is_parquet(path, separator, encoding):
        return arrow_table(read_parquet(path), name, label, kinds=kinds, drop=drop, missing=missing, numerals=numerals)
    read = read_delimited(path, separator=separator, encoding=encoding)
    names, gone = tuple(read.cells), frozenset(missing)

    def where(place: int) -> str:
        return f"{read.file}:{read.lines[place]}"

    cells: dict[str, Cells] = {}
    for column in names:
        found = read.cells.pop(column)
        if column not in drop:
            cells[column] = found if column == label else [None if cell in gone else cell for cell in found]
    ids = tuple(str(line) for line in read.lines)
    return _made(
        cells, names, name, label, ids, kinds=kinds, drop=drop, missing=missing, where=where, numerals=numerals
    )


def _is_parquet(path: Path | str, separator: str | None, encoding: str | None) -> bool:
    if Path(path).suffix.lower() not in PARQUET:
        return False
    if separator is not None or encoding is not None:
        raise ConfigError("separator and encoding are settings of text files", got=printable(str(path), 200))
    return True


def encoded_table(
    path: Path | str, encoding: TableEncoding, *, separator: str | None = None, text_encoding: str | None = None
) -> Examples:
    """Another file with labels, as the student that the encoding lies beside was fed: to score it on new data.

    `separator` and `text_encoding` are what `read_delimited` takes; the marks in numbers are those of the first table. Raises
    `MismatchError` naming row and column for what does not fit, and for labels that the student does not know.
    """
    if _is_parquet(path, separator, text_encoding):
        rows = read_parquet(path).to_pylist()
        ids = tuple(str(row) for row in range(len(rows)))
    else:
        read = read_delimited(path, separator=separator, encoding=text_encoding)
        rows = [dict(zip(read.cells, cells, strict=True)) for cells in zip(*read.cells.values(), strict=True)]
        ids = tuple(map(str, read.lines))
    numbers = {name: number for number, name in enumerate(encoding.class_names)}
    labels = [encoding.class_of(row) for row in rows]
    unknown = sorted({name for name in labels if name not in numbers})
    if unknown:
        raise MismatchError(
            f"{printable(Path(path).name)} has classes the student does not know",
            expected=f"in {printable(encoding.label)!r}: {', '.join(encoding.class_names[:20])}",
            got=", ".join(unknown[:20]),
        )
    told = torch.tensor([numbers[name] for name in labels])
    return Examples(encoding.encode(rows), told, encoding.class_names, printable(Path(path).name), ids)


def _made(
    cells: dict[str, Cells],
    names: Sequence[str],
    name: str,
    label: str,
    ids: tuple[str, ...],
    *,
    kinds: Mapping[str, Kind] | None,
    drop: tuple[str, ...],
    missing: tuple[str, ...],
    where: Where,
    numerals: Numerals = PLAIN,
    unfit: Mapping[str, str] | None = None,
) -> Table:
    told_kind(kinds or {}, names, drop, label)
    if label in (unfit or {}):
        raise ConfigError(f"the label {printable(label)!r} is no class", got=(unfit or {})[label])
    labels = make_labels(label, cells.pop(label), where=where, missing=missing, numerals=numerals)
    columns = make_columns(cells, kinds or {}, where=where, numerals=numerals, unfit=unfit)
    return Table(printable(name), label, columns, labels, ids, missing, numerals)


def read_parquet(path: Path | str) -> Any:
    """A Parquet file as an Arrow table. Raises `DamagedError` for what is none and `ResourceError` before reading too much."""
    path = existing_file(path)
    file = printable(str(path), 200)
    try:
        from pyarrow import ArrowException, parquet
    except ImportError as error:
        raise MissingExtraError("reading Parquet needs pyarrow", fix='pip install "fractionate[parquet]"') from error
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


def arrow_table(
    found: Any,
    name: str,
    label: str,
    *,
    kinds: Mapping[str, Kind] | None = None,
    drop: tuple[str, ...] = (),
    missing: tuple[str, ...] = MISSING,
    numerals: Numerals = PLAIN,
) -> Table:
    """A `Table` out of an Arrow table: numbers are numbers, text and booleans categories; other types have to be dropped.

    Whole numbers that floating-point numbers would not keep apart, and those of the label, are read as text.
    """
    from pyarrow import types

    names = [str(column) for column in found.column_names]
    if len(set(names)) < len(names):
        raise ConfigError(
            f"{name}: columns share a name", got=", ".join(sorted({n for n in names if names.count(n) > 1}))
        )
    gone = frozenset(missing)
    cells: dict[str, Cells] = {}
    unfit: dict[str, str] = {}
    for column in names:
        if column in drop:
            continue
        values = found[column]
        if types.is_dictionary(values.type):
            values = values.cast(values.type.value_type)
        if types.is_floating(values.type):
            cells[column] = _as_numbers(values)
        elif types.is_integer(values.type) or types.is_decimal(values.type):
            exact = column == label or _many_digits(values)
            cells[column] = _as_text(values) if exact else _as_numbers(values)
        elif types.is_boolean(values.type):
            cells[column] = [None if cell is None else str(cell).lower() for cell in values.to_pylist()]
        elif types.is_string(values.type) or types.is_large_string(values.type):
            text = _as_text(values)
            cells[column] = text if column == label else [None if cell in gone else cell for cell in text]
        else:
            unfit[column] = printable(str(values.type))
    if not found.num_rows:
        raise ConfigError(f"{name} has no rows", expected="at least one example")
    ids = tuple(str(row) for row in range(found.num_rows))
    return _made(
        cells,
        names,
        name,
        label,
        ids,
        kinds=kinds,
        drop=drop,
        missing=missing,
        where=lambda place: f"row {place}",
        numerals=numerals,
        unfit=unfit,
    )


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
