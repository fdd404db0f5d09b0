"""`fractionate explain CODE`: what the code of an error means, from the page of the documentation that ships with the package."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from fractionate.errors import ConfigError, ResourceError, printable

PACKAGE = Path(__file__).parents[1]
PAGES = (
    PACKAGE / "errors.md",
    PACKAGE.parents[1] / "docs" / "reference" / "errors.md",
)  # of a wheel, and of a checkout
ROW = re.compile(r"^\| (FR\d+) \| `(\w+)` \| ([^|]+?) \| ([^|]+?) \| ([^|]+?) \|$", re.MULTILINE)


def meanings() -> dict[str, str]:
    """What each code means, in a few lines. Raises `ResourceError` where the page is not there."""
    page = next((page for page in PAGES if page.is_file()), None)
    if page is None:
        raise ResourceError("the page of errors is missing", expected=str(PAGES[0]), fix="install fractionate again")
    return {
        code: f"{code}  {name}, exit code {number}\n  meaning:  {meaning}\n  try:      {first}".replace("`", "")
        for code, name, number, meaning, first in ROW.findall(page.read_text(encoding="utf-8"))
    }


def explain(
    code: Annotated[
        str | None, typer.Argument(metavar="[CODE]", help="as an error names it; none: all", show_default=False)
    ] = None,
) -> None:
    """Explain the code of an error and what to try first.

    Example: fractionate explain FR300
    """
    known = meanings()
    if code is None:
        print("\n".join(known.values()))
        return
    if code.upper() not in known:
        raise ConfigError(f"there is no code {printable(code)!r}", expected=f"one of {', '.join(known)}")
    print(known[code.upper()])
