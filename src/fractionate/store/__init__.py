"""The signal store: run the teacher once, trust what it said for ever."""

from __future__ import annotations

from fractionate.store.collect import collect
from fractionate.store.reading import Store

__all__ = ["Store", "collect"]
