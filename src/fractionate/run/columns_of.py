"""What the columns of a file hold, for a first run file: texts, categories, numbers, lists, ids."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

from fractionate.data.columns import MISSING
from fractionate.data.delimited import read_delimited
from fractionate.data.dividing import PARTS
from fractionate.data.saved_folder import is_saved, open_saved
from fractionate.data.table_file import PARQUET, read_parquet
from fractionate.data.text_columns import read_columns
from fractionate.data.text_file import JSON_LINES, json_lines
from fractionate.errors import printable
from fractionate.system.files import existing_file
from fractionate.system.paths import as_path

Kind = Literal["text", "category", "number", "list", "id", "part", "empty"]
FEW_NUMBERS = 20  # different whole numbers of a category at most
WORDS_OF_A_TEXT = 3.0


@dataclass(frozen=True)
class ColumnProfile:
    """One column: what it holds.

    Args:
        kind: By its cells.
        different: Number of different cells.
        missing: Cells that stand for nothing.
        words: Words of a cell, on average.
    """

    name: str
    kind: Kind
    different: int
    missing: int
    words: float


def cells_of(path: Path | str) -> dict[str, Sequence[Any]]:
    """The columns of a table, of JSON lines or of a saved folder, None for empty cells. Raises what their readers raise."""
    if is_saved(as_path(path)):
        saved = {str(name): str(name) for name in open_saved(path)["train"].column_names}
        return dict(read_columns(path, saved).cells)
    file = existing_file(path)
    if file.suffix.lower() in PARQUET:
        table = read_parquet(file)
        return {str(name): table[name].to_pylist() for name in table.column_names}
    if file.suffix.lower() in JSON_LINES:
        items = [_flat(item) for _, item in json_lines(file, printable(str(file), 200), None)]
        names = dict.fromkeys(name for item in items for name in item)
        return {name: [item.get(name) for item in items] for name in names}
    cells = read_delimited(file).cells
    return {name: [None if cell in MISSING else cell for cell in column] for name, column in cells.items()}


def _flat(item: Mapping[str, Any]) -> dict[str, Any]:
    """An object of JSON, entries within entries under `outer.inner`."""
    found: dict[str, Any] = {}
    for name, value in item.items():
        if isinstance(value, dict):
            found |= {f"{name}.{inner}": entry for inner, entry in value.items()}
        else:
            found[name] = value
    return found


def profile(name: str, cells: Sequence[Any]) -> ColumnProfile:
    """What a column holds."""
    there = [cell for cell in cells if cell is not None and cell != ""]
    missing = len(cells) - len(there)
    if not there:
        return ColumnProfile(name, "empty", 0, missing, 0.0)
    if all(isinstance(cell, list) for cell in there):
        return ColumnProfile(name, "list", len({str(cell) for cell in there}), missing, 0.0)
    counts = Counter(map(str, there))
    words = fmean(len(text.split()) for text in map(str, there))
    return ColumnProfile(name, _kind(there, counts, words), len(counts), missing, words)


def _kind(there: Sequence[Any], counts: Mapping[str, int], words: float) -> Kind:
    repeated = 2 * len(counts) <= len(there)
    if {text.strip().lower() for text in counts} <= PARTS.keys():
        return "part"
    numbers = [_number(text) for text in counts]
    if all(number is not None for number in numbers):
        whole = all(number is not None and number.is_integer() for number in numbers)
        if whole and repeated and len(counts) <= FEW_NUMBERS:
            return "category"
        counts_up = whole and len(counts) == len(there) and sorted(numbers) == numbers  # type: ignore[type-var]
        return "id" if counts_up and len(there) >= FEW_NUMBERS else "number"
    if words >= WORDS_OF_A_TEXT:
        return "text"
    if repeated:
        return "category"
    return "text" if words > 1.5 else "id"


def _number(text: str) -> float | None:
    try:
        found = float(text)
    except ValueError:
        return None
    return found if math.isfinite(found) else None
