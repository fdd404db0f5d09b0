"""Rows of columns of unequal length: examples of multiple rows (tokens), rows of multiple entries (sampled classes)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[Any]
ENTRY = ("places", "views", "keys")  # one value an (example, view)
ITEM = ("counts", "indices")  # one value a drawn class, where item_offsets are kept


def spans(starts: NDArray[np.int64], sizes: NDArray[np.int64]) -> NDArray[np.int64]:
    """start, start + 1, … of each span, one after the other."""
    ends = np.cumsum(sizes)
    total = int(ends[-1]) if len(ends) else 0
    return np.repeat(starts - (ends - sizes), sizes) + np.arange(total)


def rows_of(columns: Mapping[str, Array], entries: NDArray[np.int64]) -> dict[str, Array]:
    """The columns of some entries, one row each or one per token; entry columns are repeated for each row.

    Args:
        columns: Arrays of a shard by name; `row_offsets` where an entry has more than one row.
        entries: Places of entries in the shard.

    Returns:
        Arrays by name; `tokens` numbers the rows of an entry.

    Example:
        import numpy as np
        from fractionate.store import rows_of

        columns = {"places": np.arange(2), "labels": np.array([5, 6, 7]), "row_offsets": np.array([0, 2, 3])}
        print(rows_of(columns, np.array([0]))["labels"])
    """
    rows, found = entries, {}
    if "row_offsets" in columns:
        offsets = np.asarray(columns["row_offsets"]).astype(np.int64)
        sizes = offsets[entries + 1] - offsets[entries]
        rows = spans(offsets[entries], sizes)
        found["tokens"] = spans(np.zeros_like(sizes), sizes)
        entries = np.repeat(entries, sizes)
    ragged: Sequence[str] = ITEM if "item_offsets" in columns else ()
    for name, column in columns.items():
        if name not in ("row_offsets", "item_offsets", *ragged):
            found[name] = np.ascontiguousarray(column[entries if name in ENTRY else rows])
    if ragged:
        offsets = np.asarray(columns["item_offsets"]).astype(np.int64)
        sizes = offsets[rows + 1] - offsets[rows]
        items = spans(offsets[rows], sizes)
        found |= {name: np.ascontiguousarray(columns[name][items]) for name in ragged}
        found["item_offsets"] = np.concatenate([[0], np.cumsum(sizes)]).astype("<u8")
    return found


def stored_of(columns: Mapping[str, Array], entries: NDArray[np.int64]) -> dict[str, Array]:
    """The columns of some entries as a shard keeps them: entry columns once, offsets counted anew.

    Args:
        columns: Arrays of a shard by name.
        entries: Places of entries in the shard.

    Returns:
        Arrays by name, in the order of `entries`.

    Example:
        import numpy as np
        from fractionate.store import stored_of

        columns = {"places": np.arange(2), "labels": np.array([5, 6, 7]), "row_offsets": np.array([0, 2, 3])}
        print(stored_of(columns, np.array([1]))["row_offsets"])
    """
    found = rows_of(columns, entries)
    found.pop("tokens", None)
    for name in ENTRY:
        if name in columns:
            found[name] = np.ascontiguousarray(columns[name][entries])
    if "row_offsets" in columns:
        sizes = np.diff(np.asarray(columns["row_offsets"]).astype(np.int64))[entries]
        found["row_offsets"] = np.concatenate([[0], np.cumsum(sizes)]).astype("<u8")
    return found


def without(
    logits: Float[Tensor, "rows classes"],
    labels: Int[Tensor, "rows"],
    sizes: NDArray[np.int64],
    broken: Bool[Tensor, "rows"],
) -> tuple[Tensor, Tensor, NDArray[np.int64]]:
    """Rows and the number of rows of each entry, without all rows of the entries that have a broken one."""
    owner = np.repeat(np.arange(len(sizes)), sizes)
    gone = np.unique(owner[broken.numpy()])
    stays = torch.from_numpy(~np.isin(owner, gone))
    return logits[stays], labels[stays], np.where(np.isin(np.arange(len(sizes)), gone), 0, sizes)


def joined(parts: Sequence[Mapping[str, Array]]) -> dict[str, Array]:
    """Columns of multiple parts, one after the other."""
    if len(parts) == 1:
        return dict(parts[0])
    whole = {name: np.concatenate([p[name] for p in parts]) for name in parts[0] if not name.endswith("_offsets")}
    for name in parts[0]:
        if name.endswith("_offsets"):
            sizes = np.concatenate([np.diff(p[name].astype(np.int64)) for p in parts])
            whole[name] = np.concatenate([[0], np.cumsum(sizes)]).astype("<u8")
    return whole
