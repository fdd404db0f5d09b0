"""`report`: records as one HTML page that opens offline, on a phone, in the dark and on paper."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fractionate.errors import MissingExtraError, ResourceError
from fractionate.page.reading import Source, read_record, read_records

__all__ = ["read_record", "read_records", "report"]


def report(records: Source | Sequence[Source], out: Path | str, *, title: str = "", command: str = "") -> Path:
    """Write one self-contained HTML page about records and give its path.

    `records`: one or more `Diagnosis`, `Study` or `Run`, also as JSON text or the path of a JSON file or of a folder of them.
    `out`: the file to write; for a folder, `report.html` in it. `title` heads the page; `command` is the command that makes
    all of it again (otherwise taken from the records' settings).

    A chapter whose record is not given is left out. The file is replaced only when the new one is whole. Raises `ConfigError` for
    records that cannot be read, `MissingExtraError` without jinja2, and `ResourceError`, before any work is done, where the page
    cannot be written.
    """
    found = read_records(records)
    path = Path(out)
    path = path / "report.html" if path.is_dir() else path
    with _Replacement(path) as replacement:
        replacement.write(render(found, title=title, command=command))
    return path


def render(records: Sequence[Any], *, title: str = "", command: str = "") -> str:
    """The page as text."""
    try:
        from fractionate.page.template import fill
    except ImportError as error:
        if (error.name or "").split(".")[0] not in ("jinja2", "markupsafe"):
            raise
        raise MissingExtraError(
            "the report needs jinja2", got="it is not installed", fix='pip install "fractionate[report]"'
        ) from None
    return fill(records, title=title, command=command)


class _Replacement:
    """A new file beside the old one, put in its place when whole; opened at once, so that a bad path shows early."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> _Replacement:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(prefix=f".{self.path.name[:40]}.", suffix=".part", dir=self.path.parent)
        except (OSError, ValueError) as error:
            raise self._refused(error) from None
        self.handle, self.part = handle, Path(name)
        return self

    def write(self, text: str) -> None:
        try:
            with os.fdopen(self.handle, "w", encoding="utf-8") as file:
                self.handle = -1
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            mask = os.umask(0)
            os.umask(mask)
            self.part.chmod(0o666 & ~mask)
            self.part.replace(self.path)
        except OSError as error:
            raise self._refused(error) from None

    def __exit__(self, *_: object) -> None:
        if self.handle >= 0:
            os.close(self.handle)
        self.part.unlink(missing_ok=True)

    def _refused(self, error: Exception) -> ResourceError:
        return ResourceError(
            f"the report cannot be written to {self.path}", got=str(error), fix="choose a folder you may write to"
        )
