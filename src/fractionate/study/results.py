"""The runs of a study on disk, so that a killed study resumes where it was, and its progress on the screen."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path

from fractionate.errors import DamagedError, MismatchError
from fractionate.records import Run
from fractionate.system.atomic import make_directory, sweep, write_file

# settings of a run whose student is kept: its digest, and names of shared tensors
STUDENT, ALIAS = "student_xxh3_128", "alias "


def slug(text: str) -> str:
    """The text as part of a file's name, with a few digits of its hash."""
    return re.sub(r"[^\w.=+-]+", "_", text).strip("_") + "-" + hashlib.blake2b(text.encode(), digest_size=3).hexdigest()


class Folder:
    """The runs of a study on disk, one JSON a run, written whole or not at all; `keep`: and the weights of its student."""

    def __init__(self, out: Path | str | None, *, keep: bool = False) -> None:
        self.path = None if out is None else make_directory(out)
        self.keep = keep
        if self.path is not None:
            for part in ("runs", "students")[: 1 + keep]:
                make_directory(self.path / part)
            sweep(self.path, deep=True)

    def _file(self, arm: str, seed: int) -> Path:
        assert self.path is not None
        return self.path / "runs" / f"{slug(arm)}--seed-{seed}.json"

    def weights(self, arm: str, seed: int) -> Path:
        """Where the weights of a student are."""
        assert self.path is not None
        return self.path / "students" / f"{slug(arm)}--seed-{seed}.safetensors"

    def read(self, arm: str, seed: int) -> Run | None:
        """The run of an arm and a seed; None where it is not there. Raises `DamagedError` for a file that is not this run."""
        file = self._file(arm, seed)
        try:
            run = Run.load_kept(file)
        except DamagedError as error:
            raise DamagedError(
                f"{file} is not a run",
                expected=error.expected,
                got=error.what,
                fix="delete this file; its run is redone",
            ) from error
        if run is not None and (run.arm, run.seed) != (arm, seed):
            raise DamagedError(
                f"{file} holds another run", expected=f"{arm}, seed {seed}", got=f"{run.arm}, seed {run.seed}",
                fix="delete this file; its run is redone",
            )  # fmt: skip
        return run

    def load(self, arm: str, seed: int, settings: Mapping[str, object]) -> Run | None:
        """The run of an arm with these settings; None where it, or its weights where they are kept, are not there yet."""
        run = None if self.path is None else self.read(arm, seed)
        if run is None:
            return None
        differing = [
            f"{name} {run.settings.get(name)!r}, now {value!r}"
            for name, value in settings.items()
            if run.settings.get(name) != value
        ]
        if differing:
            raise MismatchError(
                f"{self.path} holds runs of another study",
                expected="the same data, teacher, student, training and factors",
                got="; ".join(differing),
                fix="choose another folder, or delete this one",
            )
        whole = not self.keep or run.status != "completed" or STUDENT in run.settings
        return run if whole and (STUDENT not in run.settings or self.weights(arm, seed).exists()) else None

    def save(self, run: Run, weights: bytes | None = None) -> None:
        """Keep a run that has ended, its weights first; one that was given up is tried again by the next call."""
        if self.path is None or run.status == "stopped":
            return
        if weights is not None:
            write_file(self.weights(run.arm, run.seed), weights)
        run.save(self._file(run.arm, run.seed))
