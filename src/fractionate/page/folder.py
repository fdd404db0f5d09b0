"""The folder of a run as records: what `report FOLDER` shows and what the card of a command is made of."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal
from urllib.parse import quote

from fractionate.errors import ConfigError
from fractionate.page.card import decide
from fractionate.page.carried import read_page
from fractionate.page.decisions import Card
from fractionate.page.document import write_page
from fractionate.page.page_settings import PageSettings
from fractionate.records import Diagnosis, Explanations, NotableExamples, Run, Study
from fractionate.records.base import Record

RUN_FILE = "run.yaml"
NAMED = (Diagnosis, Study, Explanations, NotableExamples)  # records with the name of their run


def is_run_folder(path: Path) -> bool:
    """Whether a folder is that of a run."""
    return (path / RUN_FILE).is_file()


def run_records(folder: Path | str) -> tuple[Record, ...]:
    """Diagnosis, study, exported student, explanations and examples of a run's folder, as far as they are made.

    Raises `DamagedError`, naming the file, where one of them is not what was saved.
    """
    folder = Path(folder)
    found = (
        Diagnosis.load_kept(folder / "diagnosis.json"),
        Study.load_kept(folder / "study.json"),
        Run.load_kept(folder / "student" / "run.json"),
        Explanations.load_kept(folder / "explanations.json"),
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


def run_folders(folder: Path | str) -> tuple[Path, ...]:
    """The run folders in a folder, itself among them, by path; at most three levels down."""
    root = Path(folder)
    found = [root] if is_run_folder(root) else []
    for pattern in ("*", "*/*", "*/*/*"):
        found += [path.parent for path in root.glob(f"{pattern}/{RUN_FILE}")]
    return tuple(sorted(dict.fromkeys(found)))


@dataclass(frozen=True)
class Folders:
    """The runs of folders that were given: records with names of their own, their run files, and where their pages are."""

    root: Path
    records: tuple[Record, ...]
    run_files: dict[str, tuple[str, ...]]
    links: dict[str, str]
    kind: Literal["report", "compare", "index"]


def read_folders(folders: Sequence[Path | str]) -> Folders:
    """One folder of a run, two to compare, or one that holds more.

    Names that two runs share are distinguished by their folders.

    Raises:
        ConfigError: A folder holds no run, or more than two folders are given.
    """
    given = [Path(folder) for folder in folders]
    runs = [run for folder in given for run in run_folders(folder)]
    empty = [str(folder) for folder in given if not run_folders(folder)]
    if empty or len(given) > 2 or (len(given) == 2 and len(runs) != 2):
        raise ConfigError(
            "these folders cannot be reported",
            expected="one folder of one run or more, or two folders of one run each",
            got=f"no run in {', '.join(empty)}" if empty else f"{len(given)} folders, {len(runs)} runs",
            fix="give fractionate report the folders that a run file's out names",
        )
    root = given[0] if len(given) == 1 else Path(os.path.commonpath([str(folder.absolute()) for folder in given]))
    made = {run: run_records(run) for run in runs}
    names = [next(iter(_names(found)), "") for found in made.values()]
    records: list[Record] = []
    run_files: dict[str, tuple[str, ...]] = {}
    links: dict[str, str] = {}
    for run, found in made.items():
        place = os.path.relpath(run.absolute(), root.absolute())
        doubled = any(names.count(name) > 1 for name in _names(found))
        renamed = tuple(_named(record, place) for record in found) if doubled else found
        records += renamed
        run_files |= run_file_words(run, renamed)
        page = run / "report.html"
        link = Path(os.path.relpath(page.absolute(), root.absolute())).as_posix() if page.is_file() else ""
        links |= {name: quote(link) for name in _names(renamed)}
    if not records:
        raise ConfigError(
            "these runs have made nothing yet", got=", ".join(map(str, runs)), fix="run diagnose or dissect first"
        )
    kind: Literal["report", "compare", "index"] = (
        "report" if len(runs) == 1 else "compare" if len(given) == 2 else "index"
    )
    return Folders(root, tuple(records), run_files, links, kind)


def report_folders(folders: Sequence[Path | str], *, form: str = "html", command: str = "") -> Path:
    """A page of run folders, read and never made: one run as it is, two side by side, a folder of runs as an index.

    The page (`form` "html"; Markdown "md"; figures "png", "svg") is written into the folder that is given, or into the one that
    holds both. A page in place of folders is made anew, of the records that it carries.

    Raises:
        ConfigError: As `read_folders`.
    """
    if len(folders) == 1 and Path(folders[0]).suffix == ".html":
        records, kept = read_page(folders[0])
        return write_page(records, Path(folders[0]).with_suffix(f".{form}"), kept)
    found = read_folders(folders)
    links = found.links if found.kind == "index" else None
    title = f"Runs in {found.root}" if found.kind == "index" else ""
    settings = PageSettings(title, command, found.run_files, found.kind == "compare", links)
    return write_page(found.records, found.root / f"{found.kind}.{form}", settings)


def folders_card(folders: Sequence[Path | str]) -> Card:
    """The decisions of all runs in folders, or of the records that a page carries. Raises `ConfigError` as `read_folders`."""
    if len(folders) == 1 and Path(folders[0]).suffix == ".html":
        records, kept = read_page(folders[0])
        return decide(records, kept.run_files)
    found = read_folders(folders)
    return decide(found.records, found.run_files)


def _names(records: Sequence[Record]) -> list[str]:
    return [record.name for record in records if isinstance(record, NAMED)]


def _named(record: Record, place: str) -> Record:
    if isinstance(record, NAMED):
        return replace(record, name=f"{record.name} ({place})")
    return record
