"""What Hugging Face's `datasets` saved with `save_to_disk`, from a folder on this machine: tables, pictures, arrays."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fractionate.data.bundled import Divided, data_sets, joined
from fractionate.data.columns import MISSING, class_names, names_of
from fractionate.data.examples import Examples
from fractionate.data.own_table import Table, make_table
from fractionate.data.picture_files import PictureEncoding
from fractionate.data.rows import kind_of, label_of
from fractionate.data.saved_folder import open_saved
from fractionate.data.table_file import Roles, read_arrow
from fractionate.data.targets import Target
from fractionate.errors import ConfigError, MismatchError, printable
from fractionate.system.memory import require_bytes
from fractionate.system.paths import as_path

WHOLE = re.compile(r"-?\d{1,100}", re.ASCII)
SMALLER = "select fewer rows before saving"


@data_sets.register("saved")
def saved(
    folder: Path | str,
    *,
    label: str | None = None,
    column: str | None = None,
    side: int = 64,
    missing: Sequence[str] | None = None,
    repeats: bool | None = None,
    class_weights: bool = False,
) -> Table | Divided:
    """A folder written by `save_to_disk` of `datasets`: pictures, arrays or a table. For texts use `texts`.

    Splits train, validation and test become the parts. Only local folders: nothing is downloaded, and no script of a data set runs.

    Raises `ConfigError` for a folder that is none and columns that cannot be learned from, `DamagedError` for one that names files
    outside of it, `ResourceError` for data that would not fit into memory, `MissingExtraError` without the library.

    Args:
        folder: What `save_to_disk` wrote.
        label: The column of classes; one named label, labels or target where it is left out.
        column: The one to learn from where there is more than one; single numbers and words alone are a table, as in `table`.
        side: Pixels of a picture's side.
        missing: The cells of a table that stand for nothing.
        repeats: Keep examples of validation and test that are in an earlier part as well; left out, of tables and arrays alone.
        class_weights: Weigh the examples that are learned from so that each class counts the same.

    Returns:
        `Table` for numbers and words, else `Divided`: the examples with their parts and encoding.

    Example:
        from datasets import Dataset
        from fractionate.data import saved

        Dataset.from_dict({"size": [1.5, 0.2] * 5, "label": [1, 0] * 5}).save_to_disk("sizes")
        found = saved("sizes")
    """
    named = open_saved(folder)
    root = as_path(folder)
    features = named["train"].features
    label = label or label_of(list(features), root.name)
    absent = [name for name in (label, column) if name is not None and name not in features]
    if absent:
        raise ConfigError(f"there is no column {absent[0]!r}", expected=f"one of {', '.join(features)}")
    chosen = [column] if column else [name for name in features if name != label]
    kinds = {name: kind_of(features[name]) for name in chosen}
    shown = printable(root.resolve().name)
    if len(chosen) == 1 and kinds[chosen[0]] == "text":
        raise ConfigError(
            f"{chosen[0]!r} is text",
            expected="a column of pictures or arrays, or a table",
            fix=f"texts({str(folder)!r}, text={chosen[0]!r}, label={label!r})",
        )
    if (len(chosen) == 1 and kinds[chosen[0]] == "a picture") or all(_is_array(features[name]) for name in chosen):
        if missing is not None:
            raise ConfigError(
                "missing is a setting of tables", got=f"{chosen[0]!r} is {kinds[chosen[0]]}", fix="leave it out"
            )
        made, made_by = _one_column(named, chosen, label, shown, side if "a picture" in kinds.values() else None)
        kept = kinds[chosen[0]] == "numbers" if repeats is None else repeats
        return joined(made, repeats=kept, encoding=made_by, class_weights=class_weights)
    others = {name: kind for name, kind in kinds.items() if kind != "numbers" and kind != "text"}
    if others or len(named) > 1 or any(_is_array(features[name]) for name in chosen):
        raise ConfigError(
            "it is not clear which column to learn from",
            expected="one column of pictures or arrays; or numbers and words alone, in one split",
            got=", ".join(f"{printable(name)!r} ({kind})" for name, kind in kinds.items()),
            fix=f"column={chosen[0]!r}",
        )
    return _as_table(
        named["train"].select_columns([*chosen, label]),
        label,
        shown,
        Roles(
            Target.of(label, None),
            missing=names_of(MISSING if missing is None else missing, "missing"),
            repeats=repeats is not False,
            class_weights=class_weights,
        ),
    )


def _is_array(feature: Any) -> bool:
    return type(feature).__name__ in ("Sequence", "List", "LargeList", "Array2D", "Array3D", "Array4D", "Array5D")


def _as_table(rows: Any, label: str, name: str, roles: Roles) -> Table:
    arrow = rows.with_format("arrow")[:]
    if hasattr(rows.features[label], "names"):  # class numbers: their names stand in a table
        import pyarrow

        names = list(rows.features[label].names)
        words = [None if number is None or number < 0 else names[number] for number in rows[label][:]]
        arrow = arrow.drop_columns([label]).append_column(label, pyarrow.array(words, pyarrow.string()))
    return make_table({"train": read_arrow(arrow, name, roles)}, name, roles)


def _one_column(
    splits: dict[str, Any], chosen: list[str], label: str, name: str, side: int | None
) -> tuple[dict[str, Examples], PictureEncoding | None]:
    """The examples of each split: pictures of a side, or arrays where it is None."""
    if len(chosen) != 1:
        raise ConfigError(
            "there is more than one column of arrays",
            expected="one",
            got=", ".join(chosen),
            fix=f"column={chosen[0]!r}",
        )
    (column,) = chosen
    entries = {part: _labels(rows, label) for part, rows in splits.items()}
    own = getattr(splits["train"].features[label], "names", None)
    names = (
        tuple(own) if own else tuple(sorted({value for values in entries.values() for value in values}, key=_in_order))
    )
    numbers = {value: place for place, value in enumerate(names)}
    shown_names = class_names(names)
    encoding = None if side is None else PictureEncoding.of(shown_names, side)
    made = {}
    for part, rows in splits.items():
        labels = torch.tensor([numbers[value] for value in entries[part]])
        plain = rows.select_columns([column])
        if encoding is None:
            inputs = _arrays(plain.with_format("numpy")[column][:])
        else:
            from datasets import Image

            require_bytes(12 * len(rows) * encoding.side**2, f"{part}: {len(rows):,} rows", fix=SMALLER)
            inputs = _pictures(plain.cast_column(column, Image(decode=False))[column][:], encoding)
        made[part] = Examples(inputs, labels, shown_names, name)
    return made, encoding


def _in_order(value: str) -> tuple[int, int, str]:
    return (0, int(value), "") if WHOLE.fullmatch(value) else (1, 0, value)


def _labels(rows: Any, label: str) -> list[str]:
    names = getattr(rows.features[label], "names", None)
    values = rows[label][:]
    wrong = [
        place for place, value in enumerate(values) if not isinstance(value, (int, str)) or (value == -1 and names)
    ]
    if wrong:
        raise MismatchError(
            f"row {wrong[0]} has no class in {printable(label)!r}", got=printable(repr(values[wrong[0]]), 40)
        )
    return [names[value] if names else str(value) for value in values]


def _arrays(rows: Any) -> torch.Tensor:
    arrays = [np.asarray(row) for row in rows]
    if len({array.shape for array in arrays}) > 1 or arrays[0].dtype == object:
        raise MismatchError(
            "the arrays are of different shapes", expected="one shape", fix="pad or cut them before saving"
        )
    made = torch.from_numpy(np.stack(arrays))
    return made.float() if made.is_floating_point() else made


def _pictures(rows: list[Any], encoding: PictureEncoding) -> torch.Tensor:
    made = torch.empty(len(rows), 3, encoding.side, encoding.side)
    for place, row in enumerate(rows):
        made[place] = encoding.read(picture_of(row, place), name=f"row {place}")
    return made


def picture_of(row: Any, place: int) -> io.BytesIO:
    """The picture in a row of `Image(decode=False)`: its bytes. A path in it is never opened, whatever it points to."""
    content = row.get("bytes") if isinstance(row, dict) else None
    if not content:
        raise MismatchError(
            f"row {place} has no picture in it", expected="the bytes of one", got="a path" if row else "nothing",
            fix="save_to_disk puts the bytes in, where the pictures were read from files",
        )  # fmt: skip
    return io.BytesIO(content)
