"""Reading a store: rows by place, every row proved by its hash before its value is used."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
import xxhash
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from fractionate.errors import ConfigError, DamagedError, MismatchError, ResourceError
from fractionate.store.forms import Form, row_hashes
from fractionate.store.layout import (
    DTYPES,
    HEAD,
    HEADER_LIMIT,
    RELATION,
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
from fractionate.teacher import TeacherSignal

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
        self.index = {name: np.asarray(self.column(name)) for name in INDEX if name in self.columns}
        if index_hash(self.index) != segment.index_xxh3:
            stop = max(self.columns[name].stop for name in self.index)
            raise damaged("the index of this shard was changed", self.path, where=f"bytes {8 + length}-{stop}")

    def column(self, name: str) -> Array:
        """A column, not copied."""
        at: Column = self.columns[name]
        return self.bytes[at.start : at.stop].view(DTYPES[at.dtype]).reshape(at.shape)

    def rows(self, rows: NDArray[np.int64]) -> dict[str, Array]:
        """Some rows, proved by their hashes. Raises `DamagedError` naming file, place and bytes."""
        try:
            found = {name: np.ascontiguousarray(self.column(name)[rows]) for name in self.columns}
        except OSError as error:
            raise unreadable(self.path, error) from error
        wrong = np.flatnonzero(row_hashes(found) != found["hashes"])
        if len(wrong):
            row = int(rows[wrong[0]])
            at = self.columns["values"]
            width = (at.stop - at.start) // max(1, at.shape[0])
            raise damaged(
                f"{len(wrong)} of {len(rows)} rows are not what was written (first: example at place "
                f"{int(found['places'][wrong[0]])})",
                self.path,
                where=f"bytes {at.start + row * width}-{at.start + (row + 1) * width} and the row's other columns",
            )
        return found


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
    """Read head, segments and shard indexes; damage is collected, so that a repair can go on. The head must be whole."""
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


class Store:
    """What a teacher said about some data, on disk. Rows are proved by their hashes as they are read.

    Open one with `Store.open(path)`; make one with `collect`.
    """

    def __init__(self, path: Path, scanned: Scan) -> None:
        self.path, self.head, self.shards = path, scanned.head, scanned.shards
        self.form = Form(
            kind=self.head.form,  # type: ignore[arg-type]
            classes=self.head.classes,
            dtype=self.head.dtype,  # type: ignore[arg-type]
            k=self.head.k,
            temperatures=self.head.temperatures,
        )
        self._slots, self._shard, self._row = self._build_index()

    @classmethod
    def open(cls, path: Path | str) -> Self:
        """Open a store. Raises `ConfigError` where there is none and `DamagedError` for the first damage found."""
        scanned = scan(Path(path))
        if scanned.damages:
            raise scanned.damages[0]
        return cls(Path(path), scanned)

    def _build_index(self) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.int64]]:
        slots, shard, row = [np.empty(0, np.int64)], [np.empty(0, np.int32)], [np.empty(0, np.int64)]
        for number, part in sorted(enumerate(self.shards), key=lambda item: item[1].segment.shard):
            places = part.index["places"].astype(np.int64)
            views = part.index.get("views", np.zeros(len(places), np.int64)).astype(np.int64)
            if len(places) and (
                places.min() < 0 or places.max() >= self.head.examples or views.max(initial=0) >= self.head.views
            ):
                raise damaged("a row belongs to no example of the data", part.path)
            slots.append(views * self.head.examples + places)
            shard.append(np.full(len(places), number, np.int32))
            row.append(np.arange(len(places), dtype=np.int64))
        all_slots, first = np.unique(
            np.concatenate(slots), return_index=True
        )  # racing writers: the first shard by name
        return all_slots, np.concatenate(shard)[first], np.concatenate(row)[first]

    def __len__(self) -> int:
        """The number of examples of the data, present or not yet."""
        return self.head.examples

    def __repr__(self) -> str:
        h = self.head
        return (
            f"Store({self.path}: {h.name}, {len(self._slots):,} of {h.examples * h.views:,} rows, {h.classes} classes, "
            f"{h.form}{f' {h.k}' if h.k else ''} {h.dtype})"
        )

    @property
    def complete(self) -> bool:
        """True where every example is there in every view."""
        return len(self._slots) == self.head.examples * self.head.views

    def present(self, view: int = 0) -> NDArray[np.bool_]:
        """Which examples are there."""
        found = np.zeros(self.head.examples, bool)
        low, high = np.searchsorted(self._slots, [view * self.head.examples, (view + 1) * self.head.examples])
        found[self._slots[low:high] - view * self.head.examples] = True
        return found

    def read(self, places: Sequence[int] | NDArray[np.int64] | Tensor, view: int = 0) -> dict[str, Array]:
        """The stored columns of some examples, in the order asked for. Raises `MismatchError` for rows not there."""
        wanted = np.asarray(places, np.int64)
        slots = view * self.head.examples + wanted
        at = np.searchsorted(self._slots, slots).clip(max=max(0, len(self._slots) - 1))
        missing = self._slots[at] != slots if len(self._slots) else np.ones(len(slots), bool)
        if not 0 <= view < self.head.views or bool(missing.any()):
            raise MismatchError(
                f"{int(missing.sum()):,} of {len(wanted):,} examples are not in the store {self.path}",
                expected=f"{self.head.examples:,} examples in {self.head.views} view(s)",
                got=f"{len(self._slots):,} rows, view {view} asked for",
                fix="run collect again: it goes on where it stopped",
            )
        shard, row = self._shard[at], self._row[at]
        numbers = np.unique(shard)
        if len(numbers) == 1:
            return self.shards[int(numbers[0])].rows(row)
        parts = [(np.flatnonzero(shard == number), self.shards[number]) for number in numbers]
        found = [(where, part.rows(row[where])) for where, part in parts]
        back = np.argsort(np.concatenate([where for where, _ in found]), kind="stable")
        merged: dict[str, Array] = {
            name: np.concatenate([columns[name] for _, columns in found])[back] for name in found[0][1]
        }
        return merged

    def keys(self, places: NDArray[np.int64]) -> NDArray[np.uint8]:
        """The fingerprints of the examples some rows belong to."""
        return self.read(places)["keys"] if len(places) else np.empty((0, 16), np.uint8)

    def logits(
        self, places: Sequence[int] | NDArray[np.int64] | Tensor, view: int = 0
    ) -> Float[Tensor, "some classes"]:
        """The logits of some examples."""
        return self.form.decode(self.read(places, view))

    def labels(self, view: int = 0) -> Int[Tensor, "examples"]:
        """The labels of all examples."""
        return torch.from_numpy(self.read(np.arange(len(self)), view)["labels"].astype(np.int64))

    def signal(self, view: int = 0) -> TeacherSignal:
        """All rows of a view, dense, in the order of the data, with the class relation where the store has one."""
        columns = self.read(np.arange(len(self)), view)
        labels = torch.from_numpy(columns["labels"].astype(np.int64))
        return TeacherSignal(self.form.decode(columns), labels, self.class_relation)

    @cached_property
    def class_relation(self) -> Float[Tensor, "classes classes"] | None:
        """Similarities of the classes, stored with the teacher's rows; None where the teacher showed none."""
        if not self.head.relation_xxh3:
            return None
        path = self.path / RELATION
        if path.is_symlink() or not path.is_file():
            raise damaged("the class relation is missing", path)
        raw = path.read_bytes()
        if xxhash.xxh3_128_hexdigest(raw) != self.head.relation_xxh3:
            raise damaged("the class relation was changed", path)
        from safetensors.torch import load

        return load(raw)["class_relation"]

    def batches(self, size: int, view: int = 0) -> Iterable[TeacherSignal]:
        """The signal in pieces, in the order of the data, for signals larger than the memory. Statistics are a piece's own."""
        for start in range(0, len(self), size):
            places = np.arange(start, min(start + size, len(self)))
            columns = self.read(places, view)
            labels = torch.from_numpy(columns["labels"].astype(np.int64))
            yield TeacherSignal(self.form.decode(columns), labels, self.class_relation)
