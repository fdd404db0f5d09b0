"""`fractionate init`: a commented run file for your files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fractionate.cli.terminal import give, tell
from fractionate.errors import ConfigError

AsJson = Annotated[bool, typer.Option("--json", help="print the record as JSON on stdout")]


def init(
    arguments: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[TASK] FILE...",
            help="your file or folder; two parallel texts; or files named train, validation and test. The task follows "
            "from the columns unless it is named",
            show_default=False,
        ),
    ] = None,
    teacher: Annotated[
        str | None, typer.Option(metavar="MODEL", help="a model by name: \"hf('models/teacher')\"", show_default=False)
    ] = None,
    student: Annotated[
        str | None, typer.Option(metavar="MODEL", help="a model by name; none: a smaller one", show_default=False)
    ] = None,
    label: Annotated[
        str | None,
        typer.Option(
            metavar="COLUMN",
            help="the column to predict; by default chosen by its name or position",
            show_default=False,
        ),
    ] = None,
    out: Annotated[str, typer.Option(metavar="RUN.yaml", help="the run file; - prints it")] = "run.yaml",
    as_json: AsJson = False,
) -> None:
    """Write a commented run file for your data.

    Example: fractionate init reviews.csv
    Example: fractionate init language-modelling chat.jsonl --teacher "hf('models/teacher')" --out chat.yaml
    """
    from fractionate.records.commands import Written
    from fractionate.run.fitted import fit_run_file, refuse_existing
    from fractionate.system.atomic import write_file
    from fractionate.system.paths import as_path, shell_line

    given = arguments or []
    named = bool(given) and not Path(given[0]).exists() and not Path(given[0]).suffix and "/" not in given[0]
    path = None if out == "-" else as_path(out, "--out")
    if path is None and as_json:
        raise ConfigError("--json prints a record, and --out - the run file", fix="leave one of them out")
    if path is not None:
        refuse_existing(path)
    task, files = (given[0], given[1:]) if named else (None, given)
    fitted = fit_run_file(task, files, teacher=teacher, student=student, label=label)
    for line in (*fitted.inspection.facts, *(f"check: {note}" for note in (*fitted.inspection.odd, *fitted.notes))):
        tell(line)
    if path is None:
        print(fitted.text, end="")
        return
    write_file(path, fitted.text.encode())
    give(Written.at(path), as_json)
    tell(f"next: {shell_line(['fractionate', 'report', str(path)])}")
