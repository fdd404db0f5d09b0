"""`fractionate config` and `fractionate schema`: run files written, checked and explained; the JSON Schema of what is printed."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fractionate.cli.terminal import give
from fractionate.errors import ConfigError, UnknownNameError, printable

if TYPE_CHECKING:
    from fractionate.run.schema import RunFile

config_app = typer.Typer(help="Write, check and explain run files.", no_args_is_help=True, rich_markup_mode=None)

Trust = Annotated[
    list[str] | None,
    typer.Option("--trust", metavar="MODULE", help="let the run file use code of this module", show_default=False),
]
AsJson = Annotated[bool, typer.Option("--json", help="print the record as JSON on stdout")]

_KEY = re.compile(r"\s*[A-Za-z_]\w*(\.\w+)*\s*=")  # what begins key.sub=value; a file may have = in its name elsewhere

SCHEMAS = {  # what --json prints, and the commands that print it
    "RunFile": "config example, config print",
    "Settings": "config explain",
    "Differences": "config diff",
    "StoreInfo": "collect, store info",
    "Verification": "store verify",
    "Repaired": "store repair",
    "Compaction": "store compact",
    "Written": "store export, report, demo, init",
    "Diagnosis": "diagnose",
    "Study": "dissect",
    "Run": "distill",
    "Estimate": "collect, diagnose, dissect, distill, report with --dry-run",
    "Examination": "conformance",
}


WITH_CARD = ("Diagnosis", "Study", "Run", "Written")  # printed with the decision they lead to, as the field `card`


def split_arguments(arguments: list[str] | None) -> tuple[str | None, tuple[str, ...]]:
    """The run file among the arguments of a command, and the settings that override it."""
    given = arguments or []
    files = [argument for argument in given if not _KEY.match(argument)]
    if len(files) > 1:
        raise ConfigError("one run file at a time", got=", ".join(files), fix="settings are written key=value")
    return (files[0] if files else None), tuple(argument for argument in given if _KEY.match(argument))


def print_schema(
    name: Annotated[
        str | None, typer.Argument(metavar="[RECORD]", help="which; none: a list", show_default=False)
    ] = None,
) -> None:
    """Print the JSON Schema of what --json prints.

    Example: fractionate schema Run
    """
    if name is None:
        print("\n".join(f"{record:<13} {commands}" for record, commands in SCHEMAS.items()))
    else:
        print(json.dumps(schema(name), indent=2))


def schema(name: str) -> dict[str, Any]:
    """The JSON Schema of a record that a command prints. Raises `UnknownNameError` for other names."""
    from fractionate.system.registry import nearest

    if name not in SCHEMAS:
        near = nearest(name, list(SCHEMAS))
        raise UnknownNameError(
            f"no command prints a {printable(name)!r}", expected=f"one of {', '.join(SCHEMAS)}",
            fix=f"did you mean {near!r}?" if near else "see: fractionate schema",
        )  # fmt: skip
    if name == "RunFile":  # an editor asks for it: no torch
        from fractionate.run.schema import RunFile

        return RunFile.model_json_schema()
    from fractionate import records
    from fractionate.plugins.conformance.suite import Examination
    from fractionate.run.estimate import Estimate
    from fractionate.store import mending, upkeep

    known: tuple[Any, ...] = (
        Examination,
        Estimate,
        mending.Repaired,
        upkeep.StoreInfo,
        upkeep.Verification,
        *records.RECORDS,
    )
    found: dict[str, Any] = next(record for record in known if record.__name__ == name).json_schema()
    if name in WITH_CARD:
        from fractionate.page.decisions import Card

        card = Card.json_schema()
        found["$defs"] = found.get("$defs", {}) | card.pop("$defs", {})
        found["properties"]["card"] = {key: value for key, value in card.items() if key != "$schema"}
    return found


@config_app.command("example")
def config_example(as_json: AsJson = False) -> None:
    """Print a run file with every setting at its default. Example: fractionate config example > run.yaml"""
    from fractionate.run.schema import RunFile
    from fractionate.run.sections import ObjectiveSection

    _give(RunFile(), as_json)
    if not as_json:
        print("# left out, the recipe of diagnose is taken; a planned one is checked with it:")
        print(f"# objective: {ObjectiveSection().model_dump_json()}")


@config_app.command("print")
def config_print(
    arguments: Annotated[
        list[str] | None, typer.Argument(metavar="[RUN.yaml] [key=value]...", show_default=False)
    ] = None,
    trust: Trust = None,
    as_json: AsJson = False,
) -> None:
    """Print the run file as it is understood. Example: fractionate config print run.yaml study.seeds=8"""
    from fractionate.run.runfile import load_run

    file, overrides = split_arguments(arguments)
    _give(load_run(file, overrides, trust=tuple(trust or ())), as_json)


def _give(run: RunFile, as_json: bool) -> None:
    from fractionate.records.base import escaped
    from fractionate.run.runfile import dump_run

    print(escaped(run.model_dump_json(indent=2)) + "\n" if as_json else dump_run(run), end="")


@config_app.command("diff")
def config_diff(first: Path, second: Path, trust: Trust = None, as_json: AsJson = False) -> None:
    """Print the settings in which two run files differ. Example: fractionate config diff runs/a/run.yaml runs/b/run.yaml"""
    from fractionate.run.runfile import differences, load_run

    found = differences(*(load_run(path, trust=tuple(trust or ())) for path in (first, second)))
    give(found, as_json)


@config_app.command("schema")
def config_schema() -> None:
    """Print the JSON Schema of run files, for editors. Example: fractionate config schema > run.schema.json"""
    print_schema("RunFile")


@config_app.command("explain")
def config_explain(
    key: Annotated[
        str | None, typer.Argument(help="a key such as data.transfer, a section, or a name such as lr; none: all")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Explain a setting and print its default. Example: fractionate config explain study.margin"""
    from fractionate.run.runfile import explain

    found = explain(key)
    give(found, as_json)
