"""Data that may come divided into training, validation and test, as folders and `datasets` do: made into parts by one rule."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from fractionate.data.examples import Examples
from fractionate.errors import ConfigError, printable
from fractionate.record import Record
from fractionate.sources.bundled import Parts, split_parts

PARTS = {"train": "train", "training": "train", "val": "validation", "valid": "validation", "validation": "validation",
         "test": "test"}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Divided:
    """Examples, and where the data say which, those for validation and test; `encoding` is how raw data became inputs."""

    examples: Examples
    validation: Examples | None = None
    test: Examples | None = None
    encoding: Record | None = None

    def parts(
        self,
        *,
        transfer: int | None = None,
        validation: int | None = None,
        test: int | None = None,
        seed: int = 0,
    ) -> Parts:
        """The parts. Those that came are kept as they came (or so many of them as asked for); others are split off the rest.

        Data in one piece give a fifth to each part that has no size, as `split_parts` does. Data with parts of their own give
        all that is left for training to the transfer part, unless a size says that some is left to teach a teacher.
        Raises `ConfigError` where there are fewer examples than asked for.
        """
        if self.validation is None and self.test is None:
            made = split_parts(self.examples, transfer=transfer, validation=validation, test=test, seed=seed)
            return replace(made, encoding=self.encoding)
        rest: Examples | None = self.examples
        found: list[Examples] = []
        for name, given, size in (("validation", self.validation, validation), ("test", self.test, test)):
            if given is None:
                part, rest = _cut(rest, len(self.examples) // 5 if size is None else size, name, seed)
            else:
                part, _ = _cut(given, len(given) if size is None else size, name, seed)
            found.append(part)
        taught, left = _cut(rest, len(rest or ()) if transfer is None else transfer, "transfer", seed)
        return Parts(taught, found[0], found[1], left, self.encoding)


def _cut(data: Examples | None, size: int, name: str, seed: int) -> tuple[Examples, Examples | None]:
    """So many examples, the classes in proportion, and the rest."""
    left = 0 if data is None else len(data)
    if data is None or not 1 <= size <= left:
        raise ConfigError(
            f"{name} cannot be of this size", expected=f"1 to the {left:,} examples there are", got=f"{size:,}"
        )
    if size == left:
        return data, None
    made = data.split(size, left - size, seed=seed)
    return made[0], made[1]


def division(folder: Path) -> dict[str, Path]:
    """The folders of the parts, where a folder has them (`train`, and `val` or `test`); else the folder itself as the only part.

    Raises `ConfigError` where two folders are the same part, or folders of classes lie beside them.
    """
    if not folder.is_dir():
        raise ConfigError(
            f"there is no folder {printable(str(folder), 200)}",
            got="a file" if folder.exists() else f"nothing of that name in {Path.cwd()}",
            fix="a path is read from the folder the command runs in",
        )
    inside = [path for path in sorted(folder.iterdir()) if path.is_dir() and not path.name.startswith(".")]
    named = [path for path in inside if path.name.lower() in PARTS]
    if not any(PARTS[path.name.lower()] == "train" for path in named) or len(named) < 2:
        return {"train": folder}
    parts = {PARTS[path.name.lower()]: path for path in named}
    if len(parts) < len(named) or len(named) < len(inside):
        raise ConfigError(
            f"{printable(str(folder), 200)} is divided in no clear way",
            expected="folders train, val and test alone, or a folder for each class",
            got=", ".join(printable(path.name) for path in inside[:10]),
        )
    return parts


def class_folders(parts: dict[str, Path]) -> tuple[str, ...]:
    """The classes: the folders in the training part, in the order of their names. Raises `ConfigError` for one elsewhere alone."""
    found = {
        part: {path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")}
        for part, folder in parts.items()
    }
    for part, names in found.items():
        if names - found["train"]:
            raise ConfigError(
                f"{part} has classes that are not in train: {', '.join(sorted(map(printable, names - found['train']))[:10])}",
                fix="move some of their examples to train",
            )
    if len(found["train"]) < 2:
        raise ConfigError(
            f"{printable(str(parts['train']), 200)} does not hold classes",
            expected="a folder for each class, two at least",
            got=", ".join(sorted(map(printable, found["train"]))) or "no folders",
        )
    return tuple(sorted(found["train"]))
