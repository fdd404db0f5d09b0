"""The signal store: run the teacher once, trust what it said for ever."""

from __future__ import annotations

from fractionate.compact import CompactSignal
from fractionate.store.checks import check_teacher
from fractionate.store.collect import collect
from fractionate.store.reading import Store
from fractionate.store.source import content_ids
from fractionate.store.views import Crop, Flip, MixUp, Replay, Sequence

__all__ = [
    "CompactSignal",
    "Crop",
    "Flip",
    "MixUp",
    "Replay",
    "Sequence",
    "Store",
    "check_teacher",
    "collect",
    "content_ids",
]
