"""Looking after a store: what is in it, whether it is whole, merging its shards."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from fractionate.errors import DamagedError, FractionateError
from fractionate.records.base import Record
from fractionate.store.layout import HEAD, HEAD_COPY, RELATION, SEGMENTS, SHARDS, write_shard
from fractionate.store.reading import Store
from fractionate.store.remote import require_folder
from fractionate.store.shards import Scan, scan
from fractionate.system.atomic import removing
from fractionate.system.hashing import file_hash
from fractionate.system.paths import as_path


@dataclass(frozen=True)
class StoreInfo(Record):
    """What a store holds.

    Args:
        path: Of the store.
        name: Of the data.
        examples: Their number.
        views: Views of each.
        entries_present: (example, view) pairs that are there.
        rows: Rows of logits: one an entry, or one per token.
        classes: Logits of a row.
        form: dense, top-k, sampled, hidden.
        k: Entries of a row.
        dtype: Of the numbers on disk.
        temperatures: At which the mass outside the k entries is kept.
        shards: Number of files with rows.
        bytes: Their size.
        class_relation: Whether one is kept.
        skipped: Entries without rows, as the teacher's outputs were not finite.
        identity: The fields of `Identity`.
    """

    path: str
    name: str
    examples: int
    views: int
    entries_present: int
    rows: int
    classes: int
    form: str
    k: int
    dtype: str
    temperatures: tuple[float, ...]
    shards: int
    bytes: int
    class_relation: bool
    skipped: int = 0
    identity: dict[str, str | int | float | tuple[float, ...]] = field(default_factory=dict)

    @property
    def bytes_a_row(self) -> float:
        """Bytes on the disk for each row."""
        return self.bytes / max(1, self.rows)

    def __str__(self) -> str:
        kept = {
            "dense": "all classes",
            "top-k": f"label, {self.k} largest and the rest",
            "sampled": f"label, {self.k} draws",
            "hidden": f"hidden states of width {self.k}",
        }
        lines = [
            f"{self.path}: {self.name}",
            f"  {self.entries_present:,} of {self.examples * self.views:,} there"
            + (f" ({self.examples:,} examples × {self.views} views)" if self.views > 1 else "")
            + (f", {self.rows:,} rows by token" if self.rows != self.entries_present else ""),
            f"  {self.classes:,} classes, {kept[self.form]}, {self.dtype}"
            + (
                f", rest at temperatures {', '.join(f'{t:g}' for t in self.temperatures)}"
                if self.form == "top-k"
                else ""
            ),
            f"  {self.bytes:,} bytes in {self.shards} shard(s), {self.bytes_a_row:.1f} a row",
            f"  class relation {'stored' if self.class_relation else 'not stored'}",
        ]
        lines += [f"  {self.skipped:,} examples skipped: the teacher's words were not finite"] if self.skipped else []
        lines += [f"  {name:<15} {value}" for name, value in self.identity.items() if value not in ("", (), [])]
        return "\n".join(lines)


@dataclass(frozen=True)
class Verification(Record):
    """Whether every byte is what was written.

    Args:
        path: Of the store.
        files: How many were read.
        bytes: How many bytes.
        seconds: How long that took.
        complete: Whether every example is there in every view.
        damages: What differs; none: the store is whole.
        leftovers: Files that do not count: of killed writers, or foreign.
    """

    path: str
    files: int
    bytes: int
    seconds: float
    complete: bool
    damages: tuple[str, ...] = ()
    leftovers: tuple[str, ...] = ()

    @property
    def whole(self) -> bool:
        """True where nothing is damaged."""
        return not self.damages

    def __str__(self) -> str:
        speed = self.bytes / max(self.seconds, 1e-9) / 1e9
        head = f"{self.path}: {self.files} files, {self.bytes:,} bytes in {self.seconds:.2f} s ({speed:.1f} GB/s): "
        head += "whole" if self.whole else f"{len(self.damages)} damaged"
        head += "" if self.complete else ", not complete (run collect again)"
        return "\n".join([head, *self.damages, *(f"left over: {name}" for name in self.leftovers)])


def info(path: Path | str) -> StoreInfo:
    """What a store holds.

    Args:
        path: Of the store.

    Returns:
        A `StoreInfo`.

    Raises:
        ConfigError: where there is no store.
        DamagedError: for a damaged one.

    Example:
        import torch
        from torch import nn
        from fractionate import collect
        from fractionate.store import info

        collect(nn.Linear(8, 4), (torch.randn(40, 8), torch.arange(40) % 4), "store")
        print(info("store"))
    """
    store = Store.open(path)
    head = store.head
    return StoreInfo(
        path=str(path),
        name=head.name,
        examples=head.examples,
        views=head.views,
        entries_present=int(store.present().sum()),
        rows=sum(shard.segment.rows for shard in store.shards),
        classes=head.classes,
        form=head.form,
        k=head.k,
        dtype=head.dtype,
        temperatures=head.temperatures,
        shards=len(store.shards),
        bytes=sum(shard.segment.bytes for shard in store.shards),
        class_relation=bool(head.relation_xxh3),
        skipped=len(store.skipped()),
        identity={key: tuple(value) if isinstance(value, list) else value for key, value in head.identity.items()},
    )


def verify(path: Path | str) -> Verification:
    """Read every byte of a store and compare it with what was written. Damage is reported, not raised.

    Args:
        path: Of the store.

    Returns:
        A `Verification`.

    Raises:
        ConfigError: where there is no store.
        DamagedError: where its head cannot be read.

    Example:
        import torch
        from torch import nn
        from fractionate import collect
        from fractionate.store import verify

        collect(nn.Linear(8, 4), (torch.randn(40, 8), torch.arange(40) % 4), "store")
        print(verify("store").whole)
    """
    require_folder(path, "verify")
    root, started = as_path(path), time.monotonic()
    scanned = scan(root)
    damages = [str(error) for error in scanned.damages]
    seen = 0
    for shard in scanned.shards:
        seen += shard.path.stat().st_size
        if file_hash(shard.path) != shard.segment.xxh3:
            try:
                shard.rows(np.arange(shard.segment.entries))
                damages.append(f"a shard was changed: {shard.path}")
            except FractionateError as error:
                damages.append(str(error))
    copy = root / HEAD_COPY
    if copy.is_symlink() or (copy.exists() and copy.read_bytes() != (root / HEAD).read_bytes()):
        damages.append(
            f"the copy of the head was changed: {copy}"
        )  # one that is missing is written by the next collect
    store = Store(root, scanned)
    try:
        _ = store.class_relation
    except DamagedError as error:
        damages.append(str(error))
    return Verification(
        path=str(path),
        files=len(scanned.shards) + len(scanned.segments) + 1 + bool(scanned.head.relation_xxh3),
        bytes=seen,
        seconds=time.monotonic() - started,
        complete=store.complete,
        damages=tuple(damages),
        leftovers=tuple(str(left.relative_to(root)) for left in leftovers(root, scanned)),
    )


def leftovers(root: Path, scanned: Scan) -> list[Path]:
    """Files that do not count: of killed writers, of shards that were merged, or foreign."""
    live = {segment.name for segment in scanned.segments} | {segment.shard for segment in scanned.segments}
    live |= {HEAD, HEAD_COPY, RELATION, SHARDS, SEGMENTS}
    found = [path for folder in (root, root / SHARDS, root / SEGMENTS) for path in sorted(folder.glob("*"))]
    return [path for path in found if path.name not in live]


def compact(path: Path | str, *, shard_bytes: int = 256 << 20) -> tuple[int, int]:
    """Merge many shards into few, rows in the order of the data.

    Safe to be killed at any moment: the old shards stop counting only when all new ones are there.

    Args:
        path: Of the store.
        shard_bytes: Size of a merged shard, about.

    Returns:
        The number of shards before and after.

    Raises:
        DamagedError: for a damaged store.

    Example:
        import torch
        from torch import nn
        from fractionate import collect
        from fractionate.store import compact

        collect(nn.Linear(8, 4), (torch.randn(40, 8), torch.arange(40) % 4), "store")
        print(compact("store"))
    """
    require_folder(path, "compact")
    root = as_path(path)
    store = Store.open(root)
    before = len(store.shards)
    total = sum(shard.segment.bytes for shard in store.shards)
    if before <= max(1, -(-total // shard_bytes)):
        return before, before
    old = [shard.segment for shard in store.shards]
    slots = np.flatnonzero(store.present())
    groups = np.array_split(slots, max(1, -(-total // shard_bytes)))
    for number, group in enumerate(groups):
        last = number == len(groups) - 1
        write_shard(
            root,
            store.read_stored(group),
            head=store.head.sha256,
            bfloat16=store.form.bfloat16,
            replaces=[segment.name for segment in old] if last else [],
        )
    for segment in old:
        with removing(root):
            (root / SEGMENTS / segment.name).unlink()
    live = {shard.segment.shard for shard in scan(root).shards}  # a merged shard may be the same as an old one
    for name in {segment.shard for segment in old} - live:
        with removing(root):
            (root / SHARDS / name).unlink()
    return before, len(groups)
