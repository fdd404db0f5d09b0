"""`fractionate examples`: run files that ship with the package."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fractionate.cli.terminal import tell
from fractionate.errors import ConfigError, printable
from fractionate.system.paths import example_folder


def example_files() -> dict[str, Path]:
    """The run files by name."""
    return {path.stem: path for path in sorted(example_folder().glob("*.yaml"))}


def examples(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="which; none: a list", show_default=False)
    ] = None,
) -> None:
    """List run files that ship with the package, or print one.

    Example: fractionate examples
    Example: fractionate examples text-classifier > run.yaml
    """
    from fractionate.system.registry import nearest

    found = example_files()
    if name is None:
        width = max(map(len, found), default=0)
        for each, path in found.items():
            print(f"{each:<{width}}  {path.read_text(encoding='utf-8').splitlines()[0].removeprefix('# ')}")
        tell("next: fractionate examples NAME > run.yaml")
        return
    if name not in found:
        near = nearest(name, list(found))
        raise ConfigError(
            f"there is no example {printable(name)!r}",
            expected=f"one of {', '.join(found)}",
            fix=f"did you mean {near!r}?" if near else None,
        )
    print(found[name].read_text(encoding="utf-8"), end="")
