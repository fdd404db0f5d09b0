"""The records that a page carries: packed into a download link, so that a later renderer can make the page anew.

Matrices of runs that the page does not draw are left out, and numbers that no decision rests on have six significant digits.
"""

from __future__ import annotations

import base64
import binascii
import gzip
import json
import re
import zlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from fractionate.errors import ConfigError, DamagedError
from fractionate.page.cases import cases
from fractionate.page.chosen import shown_run
from fractionate.page.page_settings import PageSettings
from fractionate.page.reading import read_record
from fractionate.records import Run, Study
from fractionate.records.base import Record
from fractionate.system.files import existing_file

MOST_CHARACTERS = 450_000  # of a page; a page of more carries none
MOST_UNPACKED = 1 << 28
DIGITS = 6
WHOLE = frozenset({"test", "teacher", "effects", "shares", "cost"})  # what the decision rests on keeps every digit
LINK = re.compile(r'href="data:application/gzip;base64,([A-Za-z0-9+/=]+)"')


def packed(records: Sequence[Record], settings: PageSettings) -> str:
    """Records and settings of a page as base64 of gzip of JSON; empty where they are too large, or no Unicode."""
    try:
        drawn = [run for case in cases(records) if (run := shown_run(case)) is not None]
        parts = [_rounded(json.loads(_lean(record, drawn).to_json(indent=None))) for record in records]
    except ConfigError:
        return ""
    fields = {
        "title": settings.title,
        "command": settings.command,
        "run_files": {name: list(words) for name, words in settings.run_files.items()},
        "compare": settings.compare,
        "links": None if settings.links is None else dict(settings.links),
        "records": parts,
    }
    raw = json.dumps(fields, separators=(",", ":"), ensure_ascii=True).encode()
    text = base64.b64encode(gzip.compress(raw, 9, mtime=0)).decode()
    return text if len(text) <= MOST_CHARACTERS else ""


def read_page(path: Path | str) -> tuple[tuple[Record, ...], PageSettings]:
    """The records that a page carries, and what it was given next to them.

    Args:
        path: An HTML page that `report` wrote.

    Returns:
        The records, and the settings of the page.

    Raises:
        ConfigError: The page carries no records.
        DamagedError: What it carries is not what was written.

    Example:
        import torch
        from fractionate import TeacherSignal, diagnose, report
        from fractionate.page import read_page

        report(diagnose(TeacherSignal(torch.randn(40, 4), torch.arange(40) % 4)), "page.html")
        records, settings = read_page("page.html")
    """
    file = existing_file(path)
    found = LINK.search(file.read_text(encoding="utf-8", errors="replace"))
    if found is None:
        raise ConfigError(
            f"{path} carries no records", expected="a page that report wrote", fix="report the records it was made of"
        )
    try:
        unpacker = zlib.decompressobj(wbits=31)
        raw = unpacker.decompress(base64.b64decode(found[1], validate=True), MOST_UNPACKED)
        if unpacker.unconsumed_tail or not unpacker.eof:
            raise ValueError("too long, or cut")
        fields: dict[str, Any] = json.loads(raw)
        records = tuple(read_record(json.dumps(record)) for record in fields["records"])
        settings = PageSettings(
            str(fields["title"]),
            str(fields["command"]),
            {str(name): tuple(map(str, words)) for name, words in fields["run_files"].items()},
            bool(fields["compare"]),
            fields["links"],
        )
    except (ValueError, KeyError, TypeError, AttributeError, zlib.error, binascii.Error) as error:
        raise DamagedError(f"the records in {path} are damaged", got=str(error), fix="make the page again") from None
    return records, settings


def _lean(record: Record, drawn: Sequence[Run]) -> Record:
    """Without the matrices of runs that are not drawn."""
    if not isinstance(record, Study):
        return record
    runs = (run if any(run is one for one in drawn) else replace(run, student_relation=()) for run in record.runs)
    return replace(record, runs=tuple(runs))


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}")
    if isinstance(value, dict):
        return {key: part if key in WHOLE else _rounded(part) for key, part in value.items()}
    return [_rounded(part) for part in value] if isinstance(value, list) else value
