"""The command line: thin commands over the five verbs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fractionate.system.lazy import exports

if TYPE_CHECKING:
    from fractionate.cli.commands import main as main
else:
    __getattr__, __dir__, __all__ = exports(__name__)
