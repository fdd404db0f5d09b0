"""metrics.jsonl, the truth about a run: one JSON object a line, cut back to the checkpoint when a run goes on."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from fractionate.durable import refused
from fractionate.errors import DamagedError

Row = dict[str, Any]


class Ledger:
    """The rows of a run, in memory and, with a path, in a file that is appended to."""

    def __init__(self, path: Path | None, *, keep_bytes: int = 0) -> None:
        """Open at `keep_bytes`: what was written after it is cut off. Raises `DamagedError` where less is there."""
        self.rows: list[Row] = []
        self._path = path
        self._file = None
        if path is None:
            return
        try:
            self._file = path.open("r+b" if path.exists() else "w+b")
            kept = self._file.read(keep_bytes)
            if len(kept) < keep_bytes:
                raise DamagedError(f"{path} is shorter than its checkpoint says", expected=f"{keep_bytes} bytes")
            self._file.truncate(keep_bytes)
            self._file.seek(keep_bytes)
            self.rows = [json.loads(line) for line in kept.splitlines()]
        except OSError as error:
            raise refused(path, error) from error
        except ValueError as error:
            raise DamagedError(
                f"{path} holds a line that is not JSON", fix="remove the folder and start again"
            ) from error

    def write(self, row: Row) -> None:
        """Append a row."""
        self.rows.append(row)
        if self._file is not None:
            self._file.write(json.dumps(row).encode() + b"\n")

    def note(self, text: str) -> None:
        """Append a remark for people."""
        self.write({"note": text})

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
