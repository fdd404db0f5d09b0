"""The signal store: run the teacher once and keep its logits, top-k or hidden states on disk."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fractionate.system.lazy import exports

if TYPE_CHECKING:
    from fractionate.store.checks import check_teacher as check_teacher
    from fractionate.store.collection import collect as collect
    from fractionate.store.exchange import export as export
    from fractionate.store.exchange import import_arrays as import_arrays
    from fractionate.store.exchange import read_array as read_array
    from fractionate.store.form_losses import FormLoss as FormLoss
    from fractionate.store.form_losses import estimate as estimate
    from fractionate.store.form_losses import losses as losses
    from fractionate.store.form_losses import table as table
    from fractionate.store.forms import Form as Form
    from fractionate.store.forms import row_hashes as row_hashes
    from fractionate.store.identity import Identity as Identity
    from fractionate.store.keys import content_ids as content_ids
    from fractionate.store.layout import HEAD as HEAD
    from fractionate.store.layout import SEGMENTS as SEGMENTS
    from fractionate.store.layout import SHARDS as SHARDS
    from fractionate.store.layout import Head as Head
    from fractionate.store.layout import canonical as canonical
    from fractionate.store.layout import index_hash as index_hash
    from fractionate.store.layout import read_header as read_header
    from fractionate.store.layout import write_shard as write_shard
    from fractionate.store.logprobs import import_logprobs as import_logprobs
    from fractionate.store.mending import Repaired as Repaired
    from fractionate.store.mending import repair as repair
    from fractionate.store.ranges import rows_of as rows_of
    from fractionate.store.ranges import stored_of as stored_of
    from fractionate.store.reading import Store as Store
    from fractionate.store.remote import upload as upload
    from fractionate.store.shards import columns_in as columns_in
    from fractionate.store.teachers import ByPlace as ByPlace
    from fractionate.store.upkeep import StoreInfo as StoreInfo
    from fractionate.store.upkeep import Verification as Verification
    from fractionate.store.upkeep import compact as compact
    from fractionate.store.upkeep import info as info
    from fractionate.store.upkeep import verify as verify
    from fractionate.store.views import MixUp as MixUp
    from fractionate.store.views import Replay as Replay
else:
    __getattr__, __dir__, __all__ = exports(__name__)
