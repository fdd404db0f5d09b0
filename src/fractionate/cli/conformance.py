"""`fractionate conformance`: what a divergence computes and promises."""

from __future__ import annotations

from typing import Annotated

import typer

from fractionate.cli.terminal import give

AsJson = Annotated[bool, typer.Option("--json", help="print the record as JSON on stdout")]


def conformance(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[DIVERGENCE]...", help="which; none: all", show_default=False)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Check what a loss computes and what it promises.

    Finite differences, factor T², zero at equality, padding, splitting, precision. Your own loss: fractionate.plugins.conformance.

    Example: fractionate conformance forward-kl "jsd(0.5)"
    """
    from fractionate.plugins.conformance.suite import examine

    found = examine(names or ())
    give(found, as_json)
    if not found.conform:
        raise typer.Exit(1)
