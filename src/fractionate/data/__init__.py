"""Data in batches: splits of examples with stable ids, read the same way by every verb."""

from __future__ import annotations

from fractionate.data.batch import Batch, Places, Split
from fractionate.data.dataset import DatasetSplit
from fractionate.data.examples import Examples
from fractionate.data.memory import MemorySplit
from fractionate.data.parts import subset, weighted, with_views
from fractionate.data.splits import as_examples, as_split
from fractionate.data.stream import StreamSplit

__all__ = [
    "Batch",
    "DatasetSplit",
    "Examples",
    "MemorySplit",
    "Places",
    "Split",
    "StreamSplit",
    "as_examples",
    "as_split",
    "subset",
    "weighted",
    "with_views",
]
