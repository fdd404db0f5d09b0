"""Divergences: how far a student is from a target. Each family is one file."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fractionate.system.lazy import exports

if TYPE_CHECKING:
    from fractionate.losses.divergences.base import divergences as divergences
else:
    __getattr__, __dir__, __all__ = exports(__name__)
