"""`fractionate store`: inspect, verify, repair, compact and export a signal store. Thin calls of `fractionate.store`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fractionate.cli.terminal import give

store_app = typer.Typer(
    help="Inspect, verify, repair, compact and export a signal store.", no_args_is_help=True, rich_markup_mode=None
)

Place = Annotated[str, typer.Argument(metavar="STORE", help="the folder (or URL) of a store", show_default=False)]
AsJson = Annotated[bool, typer.Option("--json", help="print the record as JSON on stdout")]


@store_app.command("info")
def store_info(path: Place, as_json: AsJson = False) -> None:
    """Print what a store holds. Example: fractionate store info runs/run/store"""
    from fractionate.store.upkeep import info

    found = info(path)
    give(found, as_json)


@store_app.command("verify")
def store_verify(path: Place, as_json: AsJson = False) -> None:
    """Read every byte and check it; exit code 3 if something is damaged. Example: fractionate store verify runs/run/store"""
    from fractionate.store.upkeep import verify

    found = verify(path)
    give(found, as_json)
    if not found.whole:
        raise typer.Exit(3)


@store_app.command("repair")
def store_repair(path: Place, as_json: AsJson = False) -> None:
    """Remove what is damaged and keep every valid row. Example: fractionate store repair runs/run/store"""
    from fractionate.store.mending import repair

    done = repair(path)
    give(done, as_json)


@store_app.command("compact")
def store_compact(path: Place, as_json: AsJson = False) -> None:
    """Merge shards. Example: fractionate store compact runs/run/store"""
    from fractionate.records.commands import Compaction
    from fractionate.store.upkeep import compact

    done = Compaction(str(path), *compact(path))
    give(done, as_json)


@store_app.command("export")
def store_export(
    path: Place,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="the file or folder to write", show_default=False)],
    to: Annotated[str, typer.Option(help="parquet or npy")] = "parquet",
    as_json: AsJson = False,
) -> None:
    """Write the rows of a store to another format. Example: fractionate store export runs/run/store signal.parquet --to parquet"""
    from fractionate.records.commands import Written
    from fractionate.store.exchange import export

    done = Written.at(export(path, to, out))  # type: ignore[arg-type]  # an unknown one is refused by name
    give(done, as_json)
