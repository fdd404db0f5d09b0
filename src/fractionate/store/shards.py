"""The shards of a store as they lie on disk: what is there, what is damaged, and columns by memory map."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from fractionate.errors import ConfigError, DamagedError, ResourceError
from fractionate.store.forms import row_hashes
from fractionate.store.layout import (
    DTYPES,
    HEAD,
    HEADER_LIMIT,
    SEGMENTS,
    SHARDS,
    Column,
    Head,
    Segment,
    damaged,
    index_hash,
    read_header,
)
from fractionate.store.layout import INDEX_COLUMNS as INDEX
from fractionate.store.ranges import ENTRY, ITEM, rows_of, stored_of

Array = NDArray[Any]


class Shard:
    """One shard by memory map. Opening it proves its size, header and index columns against its segment."""

    def __init__(self, root: Path, segment: Segment) -> None:
        self.path, self.segment = root / SHARDS / segment.shard, segment
        if self.path.is_symlink() or not self.path.is_file():
            raise damaged("a shard is missing", self.path)
        size = self.path.stat().st_size
        if size != segment.bytes:
            raise damaged(
                "a shard has another size than was written", self.path, got=f"{size:,} of {segment.bytes:,} bytes"
            )
        try:
            with self.path.open("rb") as file:
                length = int.from_bytes(file.read(8), "little")
                if length > HEADER_LIMIT:
                    raise damaged("the header of this shard does not fit the file", self.path, where="bytes 0-8")
                file.seek(0)
                raw = file.read(8 + length)
            if xxhash.xxh3_128_hexdigest(raw) != segment.header_xxh3:
                raise damaged("the header of this shard was changed", self.path, where=f"bytes 0-{8 + length}")
            self.columns = read_header(raw, size, self.path)
            self.bytes: Array = np.memmap(self.path, np.uint8, "r")
        except OSError as error:
            raise unreadable(self.path, error) from error
        self.index = self._read_index([name for name in INDEX if name in self.columns])
        if index_hash(self.index) != segment.index_xxh3:
            stop = max(self.columns[name].stop for name in self.index)
            raise damaged("the index of this shard was changed", self.path, where=f"bytes {8 + length}-{stop}")
        if not columns_fit(self.contents()):
            raise damaged("the columns of this shard do not fit each other", self.path)

    def _read_index(self, names: list[str]) -> dict[str, Array]:
        return {name: np.asarray(self.column(name)) for name in names}

    def column(self, name: str) -> Array:
        """A column, not copied."""
        return columns_in(self.bytes, {name: self.columns[name]})[name]

    def contents(self) -> dict[str, Array]:
        """The columns of the rows, not copied."""
        try:
            size = self.path.stat().st_size
        except FileNotFoundError:  # merged away by another process: the map keeps the bytes
            size = self.segment.bytes
        if size < self.segment.bytes:  # reading beyond the end of a mapped file ends the process
            raise damaged("this shard was cut while it was open", self.path)
        return columns_in(self.bytes, self.columns)

    def sizes(self, entries: NDArray[np.int64]) -> NDArray[np.int64]:
        """How many rows each of some entries has."""
        if "row_offsets" not in self.index:
            return np.ones(len(entries), np.int64)
        offsets: NDArray[np.int64] = self.index["row_offsets"].astype(np.int64)
        return offsets[entries + 1] - offsets[entries]

    def rows(self, entries: NDArray[np.int64]) -> dict[str, Array]:
        """The rows of some entries, proved by their hashes. Raises `DamagedError` naming file, place and bytes."""
        found, wrong = self.proved(entries)
        if len(wrong):
            at = self.columns["values" if "values" in self.columns else "indices"]
            raise damaged(
                f"{len(wrong)} of {len(found['labels'])} rows are not what was written (first: example at place "
                f"{int(found['places'][wrong[0]])})",
                self.path,
                where=f"bytes {at.start}-{at.stop} (entry {int(entries[0])} and on)",
            )
        return found

    def proved(self, entries: NDArray[np.int64]) -> tuple[dict[str, Array], NDArray[np.int64]]:
        """The rows of some entries and which of them are not what was written."""
        try:
            found = rows_of(self.contents(), entries)
        except OSError as error:
            raise unreadable(self.path, error) from error
        return found, np.flatnonzero(row_hashes(found) != found["hashes"])

    def stored(self, entries: NDArray[np.int64]) -> dict[str, Array]:
        """Some entries as the shard keeps them, proved."""
        self.rows(entries)
        return stored_of(self.contents(), entries)


def columns_in(content: Array, columns: Mapping[str, Column]) -> dict[str, Array]:
    """Columns of a shard's bytes, not copied.

    Args:
        content: The bytes of the file, as an array.
        columns: What `read_header` found.

    Returns:
        Arrays by name.

    Example:
        import numpy as np
        import torch
        from safetensors.torch import save
        from fractionate.store import read_header
        from fractionate.store import columns_in

        content = save({"labels": torch.arange(4)})
        print(columns_in(np.frombuffer(content, np.uint8), read_header(content, len(content), "shard"))["labels"])
    """
    return {name: content[at.start : at.stop].view(DTYPES[at.dtype]).reshape(at.shape) for name, at in columns.items()}


def columns_fit(columns: Mapping[str, Array]) -> bool:
    """Whether columns have a place for every row and every entry, whole numbers where numbers count, and offsets that rise."""
    try:
        entries, rows = len(columns["places"]), len(columns["hashes"])
        whole = ("places", "views", "hashes", "labels", "counts", "indices", "row_offsets", "item_offsets")
        fits = (
            all(columns[name].dtype.kind in "iu" for name in whole if name in columns)
            and columns["keys"].dtype == np.uint8
            and columns["keys"].shape == (entries, 16)
            and len(columns["labels"]) == rows
            and ("row_offsets" in columns or rows == entries)
        )
        items = len(columns["counts"]) if "item_offsets" in columns else rows
        for name, column in columns.items():
            if name in ("row_offsets", "item_offsets"):
                count, total = (entries, rows) if name == "row_offsets" else (rows, items)
                offsets = column.astype(np.int64)
                fits &= len(offsets) == count + 1 and offsets[0] == 0 and offsets[-1] == total
                fits &= not (np.diff(offsets) < 0).any()
            else:
                fits &= len(column) == (entries if name in ENTRY else items if name in ITEM else rows)
    except (KeyError, TypeError, IndexError):
        return False
    return bool(fits)


def unreadable(path: Path, error: OSError) -> ResourceError:
    """The error for a disk or a file system that does not give the bytes."""
    return ResourceError(
        f"cannot read {path}: {error.strerror or error}", fix="check the disk and its rights, then try again"
    )


@dataclass(frozen=True)
class Scan:
    """All that a store's folder holds: what can be used and what cannot."""

    head: Head
    shards: tuple[Shard, ...]
    damages: tuple[DamagedError, ...]
    segments: tuple[Segment, ...]


def scan(root: Path) -> Scan:
    """Read head, segments and shard indexes; damage is collected, so that a repair can continue. The head must be whole."""
    if not (root / HEAD).exists():
        raise ConfigError(
            f"there is no signal store at {root}", expected=f"a folder with {HEAD}", fix="run collect first"
        )
    try:
        head = Head.read(root / HEAD)
        names = sorted(p.name for p in (root / SEGMENTS).glob("*.json")) if (root / SEGMENTS).is_dir() else []
    except OSError as error:
        raise unreadable(root, error) from error
    segments: list[Segment] = []
    shards: list[Shard] = []
    damages: list[DamagedError] = []
    for name in names:
        try:
            segment = Segment.read(root / SEGMENTS / name)
            if segment.head != head.sha256:
                raise damaged("this segment belongs to another store", root / SEGMENTS / name)
            segments.append(segment)
        except DamagedError as error:
            damages.append(error)
    merged = {name for segment in segments for name in segment.replaces}
    live = [segment for segment in segments if segment.name not in merged]
    for segment in live:
        try:
            shards.append(Shard(root, segment))
        except DamagedError as error:
            damages.append(error)
    return Scan(head, tuple(shards), tuple(damages), tuple(live))
