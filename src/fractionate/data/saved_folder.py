"""Folders that Hugging Face's `datasets` wrote with `save_to_disk`: opened once what they name is known to be their own."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from fractionate.data.dividing import PARTS
from fractionate.errors import ConfigError, DamagedError, FractionateError, extra, printable
from fractionate.system.files import existing_file
from fractionate.system.memory import require_bytes
from fractionate.system.paths import as_path

MARKS = ("dataset_dict.json", "state.json")


def is_saved(folder: Path) -> bool:
    """Whether `datasets` saved this folder, as far as its files tell."""
    return any((folder / mark).is_file() for mark in MARKS)


def open_saved(folder: Path | str) -> dict[str, Any]:
    """The data sets of a folder that `datasets` saved, by the part they are for; "train" alone where there is one.

    Args:
        folder: What `save_to_disk` wrote.

    Returns:
        Data sets of `datasets` by train, validation and test.

    Raises:
        ConfigError: for a folder that is none, and for splits that are no parts.
        DamagedError: for a folder that names files outside of it.
        MissingExtraError: without the library.

    Example:
        import datasets

        from fractionate.data import open_saved

        datasets.Dataset.from_dict({"size": [1.0, 2.0], "label": [0, 1]}).save_to_disk("saved")
        print(open_saved("saved")["train"])
    """
    root = as_path(folder, "the folder that was saved")
    if not is_saved(root):
        raise ConfigError(
            f"{printable(str(folder), 200)} is no folder that `datasets` saved",
            expected=f"a folder with {' or '.join(MARKS)}",
            got="a folder without" if root.is_dir() else "no such folder; nothing is ever downloaded from a name",
            fix="in Python: datasets.load_dataset('…').save_to_disk('FOLDER')",
        )
    with extra("hf", "this folder was saved by datasets"):
        import datasets
    check_saved(root)
    try:
        found: Any = datasets.load_from_disk(str(root))
    except Exception as error:  # `datasets` has no errors of its own for files that lie
        raise DamagedError(f"{printable(str(folder), 200)} cannot be read", got=printable(str(error), 200)) from error
    splits = dict(found) if isinstance(found, dict) else {"train": found}
    named = {PARTS[name.lower()]: split for name, split in splits.items() if name.lower() in PARTS}
    if "train" not in named or len(named) < len(splits):
        raise ConfigError(
            "the splits of this data set are not known", expected=", ".join(PARTS), got=", ".join(map(str, splits)),
            fix="rename them before saving",
        )  # fmt: skip
    return named


def check_saved(root: Path) -> None:
    """Raise `DamagedError` where a saved folder names files that are not its own: `datasets` opens what these JSON files say.

    Raises `ConfigError` for pipes, devices and sockets among them.
    """
    parts = [root]
    if (root / "dataset_dict.json").exists():
        named = _json_of(root / "dataset_dict.json").get("splits", [])
        parts = [_own(root, root, name) for name in (named if isinstance(named, list) else [named])]
    for part in parts:
        state = _json_of(_own(root, part, "state.json"))
        _json_of(_own(root, part, "dataset_info.json"))
        for key in ("_data_files", "_indices_data_files"):
            for entry in state.get(key) or ():
                name = entry.get("filename") if isinstance(entry, dict) else entry
                existing_file(_own(root, part, name), fix="save the data set again")


def _json_of(path: Path) -> dict[str, Any]:
    try:
        file = existing_file(path, fix="save the data set again")
        require_bytes(file.stat().st_size, printable(str(path), 200), fix="save the data set again")
        found = json.loads(file.read_bytes())
    except FractionateError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        raise DamagedError(f"{printable(str(path), 200)} cannot be read", got=printable(str(error), 200)) from error
    if not isinstance(found, dict):
        raise DamagedError(
            f"{printable(str(path), 200)} cannot be read", expected="an object", got=type(found).__name__
        )
    return found


def _own(root: Path, folder: Path, name: Any) -> Path:
    """A file or folder by its name in a folder, wherever links lead still within the root."""
    if isinstance(name, str) and Path(name).name == name and "\0" not in name:
        path = folder / name
        if Path(os.path.realpath(path)).is_relative_to(os.path.realpath(root)):
            return path
    raise DamagedError(
        f"{printable(str(folder), 200)} names a file outside of it",
        expected="files of its own",
        got=printable(repr(name), 200),
        fix="save the data set again",
    )
