"""`report`: records as one HTML page that opens offline, on a phone, in the dark and on paper; as Markdown; or as figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from fractionate.page.markdown import markdown
from fractionate.page.page_settings import PageSettings
from fractionate.page.reading import Source, read_records
from fractionate.records.base import Record
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
    """Write one self-contained HTML page about records and return its path.

    Markdown where `out` ends in .md; where it ends in .png or .svg, a folder of figures without that ending.

    Args:
        records: One or more `Diagnosis`, `Study` or `Run`, also as JSON text or the path of a JSON file or of a folder of them.
        out: The file to write; for a folder, `report.html` in it.
        title, command, run_files: As in `PageSettings`.

    Chapters without a record are left out. The file is replaced only when the new one is complete.

    Returns:
        The path of what was written.

    Raises:
        ConfigError: Records that cannot be read.
        MissingExtraError: matplotlib is not installed, and figures are wanted.
        ResourceError: The page cannot be written; found out before any work is done.

    Example:
        import torch
        from fractionate import TeacherSignal, diagnose, report

        report(diagnose(TeacherSignal(torch.randn(40, 4), torch.arange(40) % 4)), "report.html")
    """
    return write_page(read_records(records), out, PageSettings(title, command, run_files or {}))


def write_page(records: Sequence[Record], out: Path | str, settings: PageSettings) -> Path:
    """Write the page of records that have been read."""
    path = as_path(out)
    path = path / "report.html" if path.is_dir() else path
    make_directory(path.parent)
    form = path.suffix.lower().removeprefix(".")
    if form in ("png", "svg"):
        from fractionate.page.paper import save_figures

        return save_figures(records, path.with_suffix(""), form)
    if form == "md":
        text = markdown(
            records, title=settings.title, run_files=settings.run_files, compare=settings.compare, links=settings.links
        )
    else:
        from fractionate.page.template import fill  # a command that writes no page does not load jinja2

        text = fill(records, settings)
    return write_file(path, text.encode("utf-8", "replace"))
