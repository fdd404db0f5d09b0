"""Columns of texts, words and labels out of CSV, TSV, Parquet and JSON lines: as they stand in the file, rows with their place."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fractionate.data.bundled import Divided
from fractionate.data.delimited import read_delimited
from fractionate.data.raw import RawSplit
from fractionate.data.saved_folder import is_saved, open_saved
from fractionate.data.table_file import PARQUET, read_parquet
from fractionate.data.text_file import JSON_LINES, check_encoding, json_lines, refuse_json
from fractionate.errors import ConfigError, DamagedError, printable
from fractionate.system.files import existing_file
from fractionate.system.memory import require_bytes
from fractionate.system.paths import as_path
from fractionate.system.registry import nearest

FEWER = "take fewer texts"


@dataclass(frozen=True)
class Reading:
    """How files of texts are read and divided.

    Args:
        group: The column whose equal entries stay in one part, such as a customer.
        part: The column that names the part of each row: train, validation or test.
        validation: A file of its own for validation.
        test: A file of its own for test.
        repeats: Keep examples of validation and test that an earlier part has as well.
        separator: Of .csv and .tsv files; None: as their header shows.
        encoding: Of text files; None: as a byte-order mark says, else UTF-8.
    """

    group: str | None = None
    part: str | None = None
    validation: Any = None
    test: Any = None
    repeats: bool = False
    separator: str | None = None
    encoding: str | None = None

    @property
    def roles(self) -> dict[str, str]:
        """The columns that divide the data."""
        return {role: name for role in ("group", "part") if (name := getattr(self, role)) is not None}


@dataclass(frozen=True, eq=False)
class Columns:
    """Some columns of a file by their role, such as "text" and "label"; None where a row has no such entry.

    Args:
        name: Of the data.
        cells: The entries of each role.
        names: The column of each role.
        ids: The line of each row.
        files: The file of each row.
        given: The part that the data themselves name for each row.
    """

    name: str
    cells: Mapping[str, Sequence[Any]]
    names: Mapping[str, str]
    ids: tuple[str, ...]
    files: tuple[str, ...]
    given: tuple[str | None, ...] | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def where(self, place: int) -> str:
        """A row, for a message: its file and line."""
        return f"{self.files[place]}:{self.ids[place].rpartition(':')[2]}"

    def take(self, places: Sequence[int]) -> Columns:
        """Some of the rows."""
        cells = {role: [column[place] for place in places] for role, column in self.cells.items()}
        ids, files = (tuple(column[place] for place in places) for column in (self.ids, self.files))
        return replace(self, cells=cells, ids=ids, files=files)

    def texts(self, role: str) -> tuple[str, ...]:
        """A column of texts. Raises `DamagedError` naming the row that has none."""
        for place, value in enumerate(self.cells[role]):
            if not isinstance(value, str):
                got = "nothing" if value is None else type(value).__name__
                raise DamagedError(
                    f"{self.where(place)} there is no text {printable(self.names[role])!r}",
                    expected="text in every row",
                    got=got,
                )
        return tuple(self.cells[role])

    def words(self, role: str, *, fractions: bool = False) -> list[str | None]:
        """A column of names, such as classes and groups: whole numbers and truth values become text; None where there is none.

        `fractions`: a column of numbers to predict, of which any are taken.

        Raises `DamagedError` naming the row that holds something else.
        """
        found: list[str | None] = []
        for place, value in enumerate(self.cells[role]):
            if isinstance(value, float) and value.is_integer():
                value = int(value)  # how a Parquet file keeps whole numbers of which some are missing
            taken = (str, int, float) if fractions else (str, int)
            if value is not None and not isinstance(value, taken) and value == value:  # not NaN
                raise DamagedError(
                    f"{self.where(place)} {printable(self.names[role])!r} is no {'class' if role.startswith('label') else role}",
                    expected="text or a whole number",
                    got=type(value).__name__,
                )
            absent = value is None or value != value
            found.append(None if absent else str(value).lower() if isinstance(value, bool) else str(value).strip())
        return found

    def lists(self, role: str) -> tuple[tuple[Any, ...], ...]:
        """A column of lists. Raises `DamagedError` naming the row that has none."""
        for place, value in enumerate(self.cells[role]):
            if not isinstance(value, list) or not value:
                raise DamagedError(
                    f"{self.where(place)} {printable(self.names[role])!r} is no list",
                    expected="a list with an entry per word",
                    got="an empty list" if value == [] else "nothing" if value is None else type(value).__name__,
                )
        return tuple(map(tuple, self.cells[role]))


def read_columns(
    path: Path | str, roles: Mapping[str, str], *, separator: str | None = None, encoding: str | None = None
) -> Columns:
    """Columns of a .csv, .tsv, .parquet or .jsonl file, or of a folder that `datasets` saved.

    Args:
        path: The file or folder.
        roles: The name of the column of each role; in JSON lines `translation.en` reads an entry within an entry.
        separator: As `read_delimited` takes it.
        encoding: Of text files.

    Raises:
        ConfigError: for a file without rows, a column that is not there (with the nearest name), settings of another kind of file.
        DamagedError: naming file and line for what cannot be read.
        ResourceError: before reading what would not fit into memory.
    """
    check_encoding(encoding)
    path = as_path(path, "the path of the texts")
    if is_saved(path):
        refuse_settings(path, "a folder that datasets saved", separator=separator, encoding=encoding)
        return _of_saved(path, roles)
    file = existing_file(path)
    kind, shown = file.suffix.lower(), printable(str(file), 200)
    refuse_json(file, ".json")
    if kind in PARQUET:
        refuse_settings(shown, "Parquet", separator=separator, encoding=encoding)
        table = read_parquet(file)
        _check_there(shown, roles, [str(name) for name in table.column_names])
        cells = {role: table[name].to_pylist() for role, name in roles.items()}
        return _columns(file, cells, roles, [f"row {row}" for row in range(table.num_rows)])
    if kind in JSON_LINES:
        refuse_settings(shown, "a file of JSON lines", separator=separator)
        return _of_json_lines(file, shown, roles, encoding)
    read = read_delimited(file, separator=separator, encoding=encoding)
    _check_there(shown, roles, list(read.cells))
    return _columns(file, {role: read.cells[name] for role, name in roles.items()}, roles, read.lines)


def _columns(file: Path, cells: Mapping[str, Sequence[Any]], roles: Mapping[str, str], lines: Iterable[Any]) -> Columns:
    ids = tuple(map(str, lines))
    return Columns(printable(file.name), cells, roles, ids, (printable(str(file), 200),) * len(ids))


def read_parts(
    path: Any, roles: Mapping[str, str], reading: Reading, read: Callable[..., Columns] = read_columns
) -> tuple[Columns, list[str | None] | None]:
    """The columns of a file, and of the files of validation and test after it; and the part of each row, where one is named.

    `read` opens one of them, as `read_columns` does. Raises `ConfigError` for parts that are named in two ways.
    """
    settings = {"separator": reading.separator, "encoding": reading.encoding}
    first = read(path, {**roles, **reading.roles}, **settings)
    others = {name: getattr(reading, name) for name in ("validation", "test") if getattr(reading, name) is not None}
    if not others and reading.part is None:
        return first, None if first.given is None else list(first.given)
    if not others and first.given is None:
        return first, first.words("part")
    if reading.part is not None or first.given is not None:
        raise ConfigError(
            "parts are named in two ways",
            expected="part=, or files of their own",
            got=f"part={reading.part!r}, {', '.join(others)}="
            if first.given is None
            else "splits that were saved, and a setting",
        )
    found = [first, *(read(other, {**roles, **reading.roles}, **settings) for other in others.values())]
    cells = {role: [value for some in found for value in some.cells[role]] for role in first.cells}
    ids = (*first.ids, *(f"{name}:{one}" for name, some in zip(others, found[1:], strict=True) for one in some.ids))
    given = [name for name, some in zip(("train", *others), found, strict=True) for _ in some.ids]
    files = tuple(file for some in found for file in some.files)
    return Columns(first.name, cells, first.names, ids, files), list(given)


def raw_table(
    columns: Columns,
    made: Mapping[str, Sequence[Any]],
    reading: Reading,
    given: Sequence[str | None] | None,
    *,
    keys: Sequence[str] = (),
    class_names: tuple[str, ...] = (),
) -> Divided:
    """Rows of a source as raw data; the entries of the roles `keys` make two examples the same."""
    groups = columns.words("group") if reading.group is not None else None
    missing = None if groups is None else next((place for place, group in enumerate(groups) if group is None), None)
    if missing is not None:
        raise DamagedError(f"{columns.where(missing)} there is no group", expected=f"{reading.group!r} in every row")
    same = None if reading.repeats else list(zip(*(made[role] for role in keys), strict=True))
    whole = RawSplit(made, columns.ids, columns.name, class_names)
    return Divided(whole, given, groups, same)


def refuse_settings(path: Path | str, what: str, **settings: object) -> None:
    """Raise `ConfigError` for settings that mean nothing for a kind of file."""
    given = [name for name, value in settings.items() if value not in (None, False)]
    if given:
        raise ConfigError(
            f"{', '.join(given)} cannot be set for {what}", got=printable(str(path), 200), fix="leave it out"
        )


def _check_there(file: str, roles: Mapping[str, str], names: Sequence[str]) -> None:
    absent = {name: role.split()[0] for role, name in roles.items() if name not in names}
    if absent:
        fixes = [f"{role}={near!r}" for name, role in absent.items() if (near := nearest(name, list(names), 0.6))]
        settings = ", ".join(f"{role}=…" for role in dict.fromkeys(absent.values()))
        raise ConfigError(
            f"{file} has no column {', '.join(repr(printable(name)) for name in absent)}",
            expected=f"one of {', '.join(printable(name) for name in names[:50])}",
            fix=f"did you mean {', '.join(fixes)}?" if fixes else f"name them: {settings}",
        )


def _of_json_lines(file: Path, shown: str, roles: Mapping[str, str], encoding: str | None) -> Columns:
    require_bytes(8 * file.stat().st_size, shown, fix=FEWER)
    items = dict(json_lines(file, shown, encoding))
    if not items:
        raise ConfigError(f"{shown} is empty", expected="a JSON object in each line")
    names = list(dict.fromkeys(name for item in items.values() for name in _paths(item)))
    _check_there(shown, roles, names)
    cells = {role: [_entry(item, name) for item in items.values()] for role, name in roles.items()}
    return _columns(file, cells, roles, items)


def _of_saved(folder: Path, roles: Mapping[str, str]) -> Columns:
    """The columns of a data set that `datasets` saved; class numbers become the names of their classes."""
    parts = open_saved(folder)
    shown = printable(folder.resolve().name)
    cells: dict[str, list[Any]] = {role: [] for role in roles}
    ids: list[str] = []
    for part, rows in parts.items():
        require_bytes(int(rows.data.nbytes) * 4, shown, fix=FEWER)
        _check_there(shown, roles, list(rows.column_names))
        for role, name in roles.items():
            names = getattr(getattr(rows.features[name], "feature", rows.features[name]), "names", None)
            cells[role] += [_class_name(value, names) for value in rows[name][:]]
        ids += [str(row) if len(parts) == 1 else f"{part}:{row}" for row in range(len(rows))]
    given = None if len(parts) == 1 else tuple(part for part, rows in parts.items() for _ in range(len(rows)))
    return Columns(shown, cells, roles, tuple(ids), (shown,) * len(ids), given)


def _class_name(value: Any, names: Sequence[str] | None) -> Any:
    if names is None or value is None:
        return value
    if isinstance(value, list):
        return [_class_name(one, names) for one in value]
    return names[value] if value >= 0 else None


def _paths(item: Mapping[str, Any]) -> Iterator[str]:
    for name, value in item.items():
        yield name
        if isinstance(value, dict):
            yield from (f"{name}.{inner}" for inner in value)


def _entry(item: Mapping[str, Any], name: str) -> Any:
    if name in item:
        return item[name]
    outer, _, inner = name.partition(".")
    within = item.get(outer)
    return within.get(inner) if isinstance(within, dict) else None
