"""`report`: records as one HTML page that opens offline, on a phone, in the dark and on paper."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fractionate.errors import MissingExtraError
from fractionate.page.reading import Source, read_records
from fractionate.system.atomic import make_directory, write_file
from fractionate.system.paths import as_path


def report(
    records: Source | Sequence[Source],
    out: Path | str,
    *,
    title: str = "",
    command: str = "",
    run_files: Mapping[str, Sequence[str]] | None = None,
) -> Path:
    """Write one self-contained HTML page about records and give its path.

    `records`: one or more `Diagnosis`, `Study` or `Run`, also as JSON text or the path of a JSON file or of a folder of them.
    `out`: the file to write; for a folder, `report.html` in it. `title` heads the page; `command` is the command that makes
    all of it again (otherwise taken from the records' settings). `run_files`: the run file of each diagnosis or study by its name,
    as words of a command line, for the command that the decision advises.

    A chapter whose record is not given is left out. The file is replaced only when the new one is whole. Raises `ConfigError` for
    records that cannot be read, `MissingExtraError` without jinja2, and `ResourceError`, before any work is done, where the page
    cannot be written.
    """
    found = read_records(records)
    path = as_path(out)
    path = path / "report.html" if path.is_dir() else path
    make_directory(path.parent)
    return write_file(path, render(found, title=title, command=command, run_files=run_files).encode("utf-8", "replace"))


def render(
    records: Sequence[Any],
    *,
    title: str = "",
    command: str = "",
    run_files: Mapping[str, Sequence[str]] | None = None,
) -> str:
    """The page as text."""
    try:
        from fractionate.page.template import fill
    except ImportError as error:
        if (error.name or "").split(".")[0] not in ("jinja2", "markupsafe"):
            raise
        raise MissingExtraError(
            "the report needs jinja2", got="it is not installed", fix='pip install "fractionate[report]"'
        ) from None
    return fill(records, title=title, command=command, run_files=run_files)
