"""Mending a store: every row that still proves itself is kept, only what is lost is collected again."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from fractionate.errors import DamagedError, MismatchError
from fractionate.records.base import Record
from fractionate.store.collection import collect
from fractionate.store.forms import row_hashes
from fractionate.store.hidden import find_relation, hidden_watch, tables_of
from fractionate.store.layout import (
    HEAD,
    HEAD_COPY,
    HEADER_LIMIT,
    RELATION,
    SEGMENTS,
    SHARDS,
    Head,
    read_header,
    write_shard,
)
from fractionate.store.ranges import rows_of, stored_of
from fractionate.store.reading import Store
from fractionate.store.remote import require_folder
from fractionate.store.shards import Scan, columns_fit, columns_in, scan
from fractionate.system.atomic import TEMPORARY, make_directory, removing, sweep, write_file
from fractionate.system.hashing import file_hash
from fractionate.system.paths import as_path

Array = NDArray[Any]


@dataclass(frozen=True)
class Repaired(Record):
    """What a repair did.

    Args:
        path: Of the store.
        damages: What was damaged.
        kept: Entries saved out of damaged shards.
        lost: Entries that had to go.
        missing: Entries still to be collected.
        removed: Files that were removed.
    """

    path: str
    damages: tuple[str, ...]
    kept: int
    lost: int
    missing: int
    removed: tuple[str, ...] = ()

    def __str__(self) -> str:
        rest = f"; {self.missing:,} rows are missing: run collect again" if self.missing else ""
        return f"{self.path}: {len(self.damages)} damages, {self.kept:,} rows of damaged shards kept, {self.lost:,} lost{rest}"


def repair(path: Path | str, *, teacher: Any = None, data: Any = None, **options: Any) -> Repaired:
    """Take out what is damaged, and keep every row whose own hash holds.

    Of a damaged shard the rows whose hash holds are written anew; files of killed writers are removed, so no other process may be
    writing.

    Args:
        path: Of the store.
        teacher: With `data`: run for the rows that are missing then.
        data: What the store was collected on.
        options: As the store was collected: batch_size, device, named, tokenizer.

    Returns:
        What was done.

    Raises:
        DamagedError: where head and copy are both damaged.

    Example:
        import torch
        from torch import nn
        from fractionate import collect
        from fractionate.store import repair

        collect(nn.Linear(8, 4), (torch.randn(40, 8), torch.arange(40) % 4), "store")
        print(repair("store"))
    """
    require_folder(path, "repair")
    root = as_path(path)
    head = _head(root)
    for name in (SHARDS, SEGMENTS):
        make_directory(root / name)
    scanned = scan(root)
    damages = [str(error) for error in scanned.damages]
    whole = []
    for shard in scanned.shards:
        if file_hash(shard.path) == shard.segment.xxh3:
            whole.append(shard)
        else:
            damages.append(f"a shard was changed: {shard.path}")
    good = {shard.segment.shard for shard in whole} | {shard.segment.name for shard in whole}
    there = Store(root, Scan(head, tuple(whole), (), scanned.segments)).present()
    kept = lost = 0
    removed = []
    for bad in sorted((root / SHARDS).glob("*")) if (root / SHARDS).is_dir() else []:
        if bad.name in good or bad.name.startswith(TEMPORARY):
            continue
        message = next((segment.entries for segment in scanned.segments if segment.shard == bad.name), 0)
        columns = salvage(bad, head, there)
        saved = 0 if columns is None else len(columns["places"])
        if columns is not None and saved:
            kind = Store(root, scanned).form
            write_shard(root, columns, head=head.sha256, bfloat16=kind.bfloat16)
        kept, lost = kept + saved, lost + max(0, message - saved)
        removed.append(bad)
    # the rows that could be saved are on the disk now: what is damaged may go, unless it is what was saved
    live = {segment.shard for segment in scan(root).segments if segment.name not in {s.name for s in scanned.segments}}
    removed = [bad for bad in removed if bad.name not in live]
    for segment in sorted((root / SEGMENTS).glob("*")) if (root / SEGMENTS).is_dir() else []:
        fresh = segment.name in {s.name for s in scan(root).segments}
        stale = segment.name in {s.name for s in scanned.segments} and segment.name not in good
        if stale or not fresh:
            removed.append(segment)
    relation = root / RELATION
    if head.relation_xxh3 and (not relation.is_file() or file_hash(relation) != head.relation_xxh3):
        damages.append(f"the class relation was changed: {relation}")
        if teacher is not None:
            _mend_relation(root, head, teacher)
    for gone in removed:
        with removing(gone):
            gone.unlink()
    for folder in (root, root / SHARDS, root / SEGMENTS):
        sweep(folder)
    if teacher is not None and data is not None:
        _collect_again(root, head, teacher, data, options)
    store = Store.open(root)
    return Repaired(
        path=str(path),
        damages=tuple(damages),
        kept=kept,
        lost=lost,
        missing=len(store) - int(store.present().sum()),
        removed=tuple(str(gone.relative_to(root)) for gone in removed),
    )


def _collect_again(root: Path, head: Head, teacher: Any, data: Any, options: dict[str, Any]) -> None:
    identity = head.identity
    settings = {name: identity[name] for name in ("outputs", "precision", "tokens", "template", "form", "k", "dtype")}
    settings |= {name: identity[name] for name in ("vocabulary", "non_finite") if name in identity}
    settings |= {"temperatures": tuple(identity["temperatures"]), "batch_size": head.batch_size}
    collect(teacher, data, root, **(settings | options))


def _head(root: Path) -> Head:
    """The head; out of its copy where it is damaged."""
    try:
        head = Head.read(root / HEAD)
        write_file(root / HEAD_COPY, (root / HEAD).read_bytes())
    except DamagedError:
        head = Head.read(root / HEAD_COPY)
        write_file(root / HEAD, (root / HEAD_COPY).read_bytes())
    return head


def _mend_relation(root: Path, head: Head, teacher: Any) -> None:
    layer = None
    if head.form == "hidden":
        with hidden_watch(teacher) as watch:
            layer = watch.plain(head.classes)
    raw = tables_of(find_relation(teacher, head.classes), layer, head.classes)
    if xxhash.xxh3_128_hexdigest(raw) != head.relation_xxh3:
        raise MismatchError(
            "this teacher does not have the class relation that was stored", fix="give the teacher it came from"
        )
    write_file(root / RELATION, raw)


def salvage(path: Path, head: Head, there: NDArray[np.bool_]) -> dict[str, Array] | None:
    """The entries of a damaged or forgotten shard that are not `there` already and whose rows all prove themselves; None where
    nothing can be believed."""
    if path.is_symlink() or not path.is_file():
        return None
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    if length > min(HEADER_LIMIT, len(content)):
        return None
    try:
        table = json.loads(content[8 : 8 + length])
        if table["__metadata__"]["head"] != head.sha256:
            return None  # a shard of another store
        size = (
            8 + length + max(int(entry["data_offsets"][1]) for name, entry in table.items() if name != "__metadata__")
        )
        if size > 2 * len(content) + (1 << 20):  # a cut shard is padded below; not without limit
            size = len(content)
        content = content[:size].ljust(size, b"\0")
        places = read_header(content[: 8 + length], size, path)
        columns = columns_in(np.frombuffer(content, np.uint8), places)
        if not columns_fit(columns):
            return None
    except (DamagedError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    entries = len(columns["places"])
    found = rows_of(columns, np.arange(entries))
    wrong = row_hashes(found) != found["hashes"]
    owner = np.arange(entries)
    if "row_offsets" in columns:
        offsets: NDArray[np.int64] = columns["row_offsets"].astype(np.int64)
        owner = np.repeat(owner, offsets[1:] - offsets[:-1])
    good = np.isin(np.arange(entries), owner)  # entries without rows cannot prove themselves
    good[owner[wrong]] = False
    place, view = columns["places"].astype(np.int64), columns.get("views", np.zeros(entries)).astype(np.int64)
    good &= (place >= 0) & (place < head.examples) & (view < head.views)
    good[good] = ~there[(view * head.examples + place)[good]]
    return stored_of(columns, np.flatnonzero(good))
