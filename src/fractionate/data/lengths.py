"""Lengths of sequences, and batches without the padding that nobody in them needs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fractionate.data.batch import Batch, NotedSplit, Split
from fractionate.data.items import VIEWS, read_item
from fractionate.data.labels import IGNORED
from fractionate.data.memory import MemorySplit
from fractionate.errors import ConfigError

MASK, TOKENS = "attention_mask", "input_ids"


def lengths_of(split: Split, view: str = "") -> NDArray[np.int64]:
    """The number of tokens of each example, without padding. Raises `ConfigError` for data that are no sequences of tokens."""
    if isinstance(split, MemorySplit):
        inputs = split.views.get(view, split.inputs)
        if isinstance(inputs, Mapping) and isinstance(inputs.get(MASK), Tensor):
            return np.asarray(inputs[MASK].sum(dim=1).cpu(), np.int64)
    elif isinstance(split, NotedSplit):
        return np.array(
            [_length(read_item(split[place], split.name, labelled=False), view) for place in range(len(split))]
        )
    raise _no_lengths(split.name)


def _length(item: Any, view: str) -> int:
    inputs = item.views.get(view, item.inputs)
    inputs = {name: part for name, part in inputs.items() if name != VIEWS} if isinstance(inputs, Mapping) else {}
    if MASK in inputs:
        return int(torch.as_tensor(inputs[MASK]).sum())
    if TOKENS in inputs:
        return len(inputs[TOKENS])
    raise _no_lengths("data")


def _no_lengths(name: str) -> ConfigError:
    return ConfigError(
        f"{name}: examples have no length to sort by",
        expected=f"inputs with {MASK}, or {TOKENS}",
        fix="leave by_length out",
    )


def trimmed(batch: Batch, view: str = "") -> Batch:
    """The batch without trailing columns that are padding for all of its examples; labels that count are never cut."""
    inputs = batch.view(view)
    mask = inputs.get(MASK) if isinstance(inputs, Mapping) else None
    if not isinstance(mask, Tensor) or mask.ndim != 2:
        return batch
    wide = mask.shape[1]
    used = mask.bool().any(dim=0)
    own = view not in batch.views and batch.labels.ndim == 2 and batch.labels.shape[1] == wide
    if own:
        used = used | (batch.labels != IGNORED).any(dim=0)
    longest = int(used.nonzero().max()) + 1 if bool(used.any()) else wide
    if longest == wide:
        return batch

    def cut(part: Any) -> Any:
        return part[:, :longest] if isinstance(part, Tensor) and part.shape == mask.shape else part

    kept = {name: cut(part) for name, part in inputs.items()}
    if view in batch.views:
        return replace(batch, views={**batch.views, view: kept})
    return replace(batch, inputs=kept, labels=cut(batch.labels) if own else batch.labels)
