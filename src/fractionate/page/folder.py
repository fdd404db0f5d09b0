"""The folder of a run as records: what `report FOLDER` shows and what the card of a command is made of."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fractionate.page.card import decide
from fractionate.page.decisions import Card
from fractionate.records import Diagnosis, NotableExamples, Run, Study
from fractionate.records.base import Record

RUN_FILE = "run.yaml"


def is_run_folder(path: Path) -> bool:
    """Whether a folder is that of a run."""
    return (path / RUN_FILE).is_file()


def run_records(folder: Path | str) -> tuple[Record, ...]:
    """Diagnosis, study, exported student and examples of a run's folder, as far as they are made.

    Raises `DamagedError`, naming the file, where one of them is not what was saved.
    """
    folder = Path(folder)
    found = (
        Diagnosis.load_kept(folder / "diagnosis.json"),
        Study.load_kept(folder / "study.json"),
        Run.load_kept(folder / "student" / "run.json"),
        NotableExamples.load_kept(folder / "examples.json"),
    )
    return tuple(record for record in found if record is not None)


def run_file_words(
    folder: Path | str, records: Sequence[Record], more: Sequence[str] = ()
) -> dict[str, tuple[str, ...]]:
    """The run file of the records of a folder, as words of a command line; `more`: `--trust module` where it names code."""
    words = (str(Path(folder) / RUN_FILE), *more)
    return {record.name: words for record in records if isinstance(record, (Diagnosis, Study))}


def run_card(folder: Path | str, more: Sequence[str] = ()) -> Card:
    """The decision card of a run's folder."""
    records = run_records(folder)
    return decide(records, run_file_words(folder, records, more))
