"""Tables as text, CSV and its kin: every record with the line it begins on, and every fault with its file and line."""

from __future__ import annotations

import contextlib
import csv
import re
from collections import Counter
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path

from fractionate.data.text_file import open_text, refuse_json, refuse_other_kind
from fractionate.errors import ConfigError, DamagedError, ResourceError, printable
from fractionate.system.files import existing_file
from fractionate.system.memory import require_bytes

SEPARATORS = (",", ";", "\t", "|")
MOST_COLUMNS = 100_000
KEPT_ONCE = 100_000
BYTES_A_BYTE = 16  # what a byte of the file takes in memory; 7 to 9 measured (bench/engine_parts.py)
SMALLER = "take fewer rows or columns, or give a Parquet file"


@dataclass(frozen=True, eq=False)
class Delimited:
    """The cells of a file, column by column, without the spaces around them, and the line that each row begins on."""

    file: str
    cells: dict[str, list[str]]
    lines: tuple[int, ...]


def read_delimited(path: Path | str, *, separator: str | None = None, encoding: str | None = None) -> Delimited:
    r"""Read a table with a header line; quoted cells may hold separators and line ends, and be of any length.

    Empty lines are left out.

    Args:
        path: The file.
        separator: Between cells. None: the one a first line `sep=;` names, else the most frequent in the header of comma,
            semicolon, tab and bar.
        encoding: Of the text, where no byte-order mark says it. None: UTF-8.

    Returns:
        `Delimited`: cells by column, and the line of each row.

    Raises:
        DamagedError: naming file and line, for a row longer or shorter than the header, quotes that do not close and bytes of
            another encoding.
        ConfigError: for a file without rows and for a name that two columns share.
        ResourceError: before reading, where the table would not fit into memory.

    Example:
        from pathlib import Path
        from fractionate.data import read_delimited

        Path("wine.csv").write_text("acid;quality\n7.4;5\n6.3;6\n")
        print(read_delimited("wine.csv").cells)
    """
    path = existing_file(path)
    file = printable(str(path), 200)
    if separator is not None and (len(separator) != 1 or separator in '"\r\n'):
        raise ConfigError("a separator is one character", expected=", ; | or a tab", got=repr(separator))
    refuse_json(path, ".json", ".jsonl", ".ndjson")
    refuse_other_kind(path)
    require_bytes(BYTES_A_BYTE * path.stat().st_size, file, fix=SMALLER)
    records = _records(path, file, separator, encoding)
    with contextlib.closing(records):
        return _table(file, records)


def _table(file: str, records: Iterator[tuple[int, list[str]]]) -> Delimited:
    """The records by column, the first one being the names."""
    first = next(records, None)
    if first is None:
        raise ConfigError(f"{file} is empty", expected="a line of column names, then rows")
    header = [name.strip() for name in first[1]]
    if len(header) > MOST_COLUMNS:
        raise ResourceError(f"{file} has {len(header):,} columns", expected=f"at most {MOST_COLUMNS:,}", fix=SMALLER)
    twice = sorted(name for name, count in Counter(header).items() if count > 1)
    if twice:
        raise ConfigError(
            f"{file}:{first[0]} columns share a name",
            expected="a name of its own for each column, in the first line",
            got=", ".join(repr(printable(name)) for name in twice[:10]),
            fix="rename one, or put a line of names first",
        )
    columns: list[list[str]] = [[] for _ in header]
    lines: list[int] = []
    once: dict[str, str] = {}  # cells that come again are kept once
    for line, record in records:
        if len(record) != len(header):
            raise DamagedError(
                f"{file}:{line} this row does not fit the header",
                expected=f"{len(header)} cells",
                got=f"{len(record)} cells",
                fix="quote the cells that hold separators; or say separator=" if len(header) == 1 else "mend this row",
            )
        lines.append(line)
        for column, cell in zip(columns, record, strict=True):
            text = cell.strip()
            column.append(once.setdefault(text, text) if len(once) < KEPT_ONCE else once.get(text, text))
    if not lines:
        raise ConfigError(f"{file} has a header and no rows", expected="at least one example")
    return Delimited(file, dict(zip(header, columns, strict=True)), tuple(lines))


def _records(path: Path, file: str, separator: str | None, encoding: str | None) -> Generator[tuple[int, list[str]]]:
    """Every record that is not an empty line, with the line it begins on."""
    with open_text(path, encoding) as text:
        head = text.readline()
        if "\0" in head:
            raise DamagedError(
                f"{file}:1 there are NUL characters in the names of the columns",
                got="no text, or UTF-16 without a byte-order mark",
                fix="encoding='utf-16-le', or 'utf-16-be', where it is that",
            )
        line = 1
        declared = re.fullmatch(r"sep=(.)\s*", head)  # Excel's own first line, which names the separator
        if declared:
            separator, line = separator or declared[1], 2
        else:
            text.seek(0)
        separator = separator or max(SEPARATORS, key=head.count)  # the first of them where there are none
        reader = csv.reader(text, delimiter=separator, strict=True)
        before = line
        longest = csv.field_size_limit(min(path.stat().st_size + 1, 2**31 - 1))  # of this process: put back below
        try:
            for record in reader:
                if record:
                    yield line, record
                line = reader.line_num + before
        except csv.Error as error:
            raise DamagedError(
                f"{file}:{line} this record cannot be read",
                expected='cells in quotes end with a quote, and quotes within are doubled: "a ""word"""',
                got=str(error),
                fix="mend the quotes of this record",
            ) from error
        finally:
            csv.field_size_limit(longest)
