"""The signal store: run the teacher once, trust what it said for ever."""

from __future__ import annotations

from fractionate.compact import CompactSignal
from fractionate.store.checks import check_teacher
from fractionate.store.collect import collect
from fractionate.store.exchange import export, import_arrays
from fractionate.store.forms import Form
from fractionate.store.keys import content_ids
from fractionate.store.losses import FormLoss, estimate, losses, table
from fractionate.store.mending import Repaired, repair
from fractionate.store.reading import Store
from fractionate.store.remote import upload
from fractionate.store.upkeep import StoreInfo, Verification, compact, info, verify
from fractionate.store.views import Crop, Flip, MixUp, Replay, Sequence

__all__ = [
    "CompactSignal",
    "Crop",
    "Flip",
    "Form",
    "FormLoss",
    "MixUp",
    "Repaired",
    "Replay",
    "Sequence",
    "Store",
    "StoreInfo",
    "Verification",
    "check_teacher",
    "collect",
    "compact",
    "content_ids",
    "estimate",
    "export",
    "import_arrays",
    "info",
    "losses",
    "repair",
    "table",
    "upload",
    "verify",
]
