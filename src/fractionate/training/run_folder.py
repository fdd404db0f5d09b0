"""The folder of a run: what is kept in it, whose run it is, and how it is read back.

`metrics.jsonl` grows, `checkpoints/` holds the newest two while the run lasts, `student.safetensors` and then `run.json` are
written at the end: a folder with `run.json` is a finished run. Where the best weights became the student, the last are in
`last.safetensors`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import xxhash
from torch import Tensor, nn

from fractionate.errors import DamagedError, MismatchError, ResourceError
from fractionate.models.weights import from_bytes, load_weights, to_bytes
from fractionate.records import Run
from fractionate.system.atomic import TEMPORARY, make_directory, read_file, remove_folder, sweep, write_file
from fractionate.system.files import irregular
from fractionate.system.hashing import file_hash

STUDENT, RUN, METRICS, CHECKPOINTS = "student.safetensors", "run.json", "metrics.jsonl", "checkpoints"
LAST = "last.safetensors"
FILE = "file "  # how the settings of an exported student name the digests of its files
Settings = dict[str, str | float | int | bool | None]


CARD = "README.md"  # of a student: the one file of its folder that a person may edit


def file_digests(folder: Path) -> Settings:
    """The digest of every file of a student's folder but its card and its record, as settings of that record."""
    names = sorted(path.name for path in folder.iterdir() if path.is_file() and path.name not in (CARD, RUN))
    return {f"{FILE}{name}": _digest(folder / name, "") for name in names if not name.startswith(TEMPORARY)}


def check_files(folder: Path, run: Run) -> None:
    """Raise `DamagedError`, naming it, for a file of a student's folder that is not the one that was written."""
    again = f"remove {folder / RUN} and run the same command again"
    for key, expected in run.settings.items():
        name = key.removeprefix(FILE)
        if name == key or Path(name).name != name:
            continue
        found = _digest(folder / name, again)
        if found != expected:
            raise DamagedError(f"{folder / name} is damaged", expected=str(expected), got=found, fix=again)


def _digest(path: Path, fix: str) -> str:
    """xxh3-128 of a file. Raises `DamagedError` for what is none, `ResourceError` for what cannot be read."""
    kind = irregular(path)
    if kind is not None:
        raise DamagedError(f"{path} is no file", got=kind, fix=fix)
    try:
        return file_hash(path)
    except OSError as error:
        raise ResourceError(
            f"cannot read {path}: {error.strerror}", fix="check its permissions and the disk"
        ) from error


@dataclass(frozen=True)
class Folder:
    """A run's folder. Raises `ResourceError` where it cannot be written to."""

    path: Path

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", make_directory(self.path))
        sweep(self.path)

    @property
    def checkpoints(self) -> Path:
        """Where the checkpoints are."""
        return self.path / CHECKPOINTS

    @property
    def metrics(self) -> Path:
        """The file of measurements."""
        return self.path / METRICS

    def finished(self, settings: Settings) -> Run | None:
        """The run that was finished here, or None. Raises `MismatchError` where it is not this one."""
        run = Run.load_kept(self.path / RUN)
        if run is None:
            return None
        self.check(settings, run.settings)
        remove_folder(self.checkpoints)  # of a run that was killed when all was done
        return run

    def read_into(self, student: nn.Module, run: Run) -> None:
        """Put the weights of a finished run into a student. Raises `DamagedError` where they are not those of the record."""
        aliases = {
            name.removeprefix("alias "): str(of) for name, of in run.settings.items() if name.startswith("alias ")
        }
        weights = self.path / STUDENT
        again = f"remove {self.path / RUN} and run the same command again"
        content = read_file(weights, fix=again)
        digest = xxhash.xxh3_128_hexdigest(content)
        if digest != run.settings.get("student_xxh3_128"):
            raise DamagedError(
                f"{weights} is damaged", expected=str(run.settings.get("student_xxh3_128")), got=digest, fix=again
            )
        load_weights(student, from_bytes(content, aliases), str(weights))

    def keep_last(self, weights: Mapping[str, Tensor]) -> None:
        """Write the last weights where the student is made of earlier, better ones."""
        write_file(self.path / LAST, to_bytes(weights)[0])

    def finish(self, run: Run, weights: Mapping[str, Tensor]) -> Run:
        """Write the student, then the record; drop the checkpoints. Gives the record as it was written."""
        content, aliases = to_bytes(weights)
        write_file(self.path / STUDENT, content)
        written: Settings = {"student_xxh3_128": xxhash.xxh3_128_hexdigest(content)}
        written |= {f"alias {name}": of for name, of in aliases.items()}
        run = replace(run, settings=run.settings | written)
        run.save(self.path / RUN)  # last: its presence says that the run is finished
        remove_folder(self.checkpoints)
        return run

    def check(self, settings: Settings, found: dict[str, Any]) -> None:
        """Raise `MismatchError` naming every setting in which the run in this folder differs from the one requested."""
        differing = [name for name in settings if found.get(name) != settings[name]]
        if differing:
            name = differing[0]
            raise MismatchError(
                f"{self.path} holds another run: {', '.join(differing)} differ",
                expected=f"{name} = {settings[name]}",
                got=f"{name} = {found.get(name)}",
                fix="build the student under a fixed seed (torch.manual_seed), or let a Task make it; else choose another folder"
                if name == "initial_weights"
                else "choose another output folder, or ask for the same run again to resume it",
            )
