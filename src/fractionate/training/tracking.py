"""metrics.jsonl, the truth about a run: one JSON object per line, cut back to the checkpoint when a run resumes.

Trackers (TensorBoard, W&B, trackio, MLflow) receive the same rows; one that fails is left out and never stops a training.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from torch import nn

from fractionate.errors import DamagedError
from fractionate.records import Point, Run
from fractionate.system.atomic import refused

Row = dict[str, Any]


class Tracker(Protocol):
    """Who receives a run: its name and settings, then rows, then the record."""

    def start(self, name: str, settings: dict[str, Any]) -> None: ...

    def row(self, row: Row) -> None: ...

    def finish(self, run: Run) -> None: ...


class Ledger:
    """The rows of a run, in memory and, with a path, in a file that is appended to."""

    def __init__(self, path: Path | None, *, keep_bytes: int = 0, trackers: Sequence[Tracker] = ()) -> None:
        """Open at `keep_bytes`: what was written after it is cut off. Raises `DamagedError` where less is there."""
        self.rows: list[Row] = []
        self.trackers = list(trackers)
        self._path = path
        self._file = None
        if path is None:
            return
        try:
            self._file = path.open("r+b" if path.exists() else "w+b")
            try:
                self.rows = self._cut(path, keep_bytes)
            except BaseException:
                self._file.close()
                raise
        except OSError as error:
            raise refused(path, error) from error

    def _cut(self, path: Path, keep_bytes: int) -> list[Row]:
        assert self._file is not None
        kept = self._file.read(keep_bytes)
        again = f"remove {path.parent} and start again"
        if len(kept) < keep_bytes:
            raise DamagedError(f"{path} is shorter than its checkpoint says", expected=f"{keep_bytes} bytes", fix=again)
        self._file.truncate(keep_bytes)
        self._file.seek(keep_bytes)
        try:
            return [json.loads(line) for line in kept.splitlines()]
        except ValueError as error:
            raise DamagedError(f"{path} holds a line that is not JSON", fix=again) from error

    def start(self, name: str, settings: dict[str, Any]) -> None:
        """Tell the trackers that a run starts or resumes."""
        self._notify("start", name, settings)

    def write(self, row: Row) -> None:
        """Append a row. Raises `ResourceError` where the disk refuses."""
        self.rows.append(row)
        if self._file is not None:
            assert self._path is not None
            try:
                self._file.write(json.dumps(row).encode() + b"\n")
            except OSError as error:
                raise refused(self._path, error) from error
        self._notify("row", row)

    def finish(self, run: Run) -> None:
        """Tell the trackers that the run is finished."""
        self._notify("finish", run)

    def _notify(self, what: str, *about: Any) -> None:
        for tracker in list(self.trackers):
            try:
                getattr(tracker, what)(*about)
            except Exception as error:  # whatever it is, a training of days must not end for it
                self.trackers.remove(tracker)
                warnings.warn(f"the tracker {type(tracker).__name__} failed and is left out: {error!r}", stacklevel=2)

    def sync(self) -> int:
        """Wait until all rows are on the disk; gives their length in bytes. Raises `ResourceError` where it refuses."""
        if self._file is None:
            return 0
        assert self._path is not None
        try:
            self._file.flush()
            os.fsync(self._file.fileno())
            return self._file.tell()
        except OSError as error:
            raise refused(self._path, error) from error

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()


class Observer(Protocol):
    """Measures a student along its training: called after each step whose number is in `steps`, in evaluation mode."""

    @property
    def steps(self) -> frozenset[int]:
        """Steps, counted from 1, after which the student is measured."""
        ...

    @property
    def fitted(self) -> bool:
        """Whether it is known that data, models and metrics fit together: a study finds out once for all of its students."""
        ...

    def stepped(self) -> None:
        """Called after each step."""
        ...

    def measure(self, step: int, loss: float, student: nn.Module) -> Point:
        """A point of the run's history. Raises `StopIteration` where the training has diverged."""
        ...
