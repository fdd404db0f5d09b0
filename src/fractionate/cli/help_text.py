"""The help of the commands: their order, and each example on a line of its own."""

from __future__ import annotations

from typing import Any

import typer
from typer.core import TyperCommand

# first what a newcomer types, then the five verbs in their order
ORDER = (
    "init", "examples", "demo", "report", "collect", "diagnose", "dissect", "distill", "explain", "conformance", "schema",
)  # fmt: skip


class ExampleLines(TyperCommand):
    """A command whose help keeps the lines of its examples, which would run together otherwise."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        text = settings.get("help") or ""
        # click leaves a paragraph that begins with \b as it is
        settings["help"] = text.replace("\n\nExample:", "\n\n\b\nExample:")
        super().__init__(*arguments, **settings)


def arrange(app: typer.Typer) -> None:
    """Put the commands in their order, with the lines of their examples."""
    app.registered_commands.sort(key=lambda one: ORDER.index(one.name or getattr(one.callback, "__name__", "")))
    for command in app.registered_commands:
        command.cls = ExampleLines
