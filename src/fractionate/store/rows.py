"""The rows of a store by place, every row proved by its hash before its value is used."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import xxhash
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from fractionate.errors import ConfigError, MismatchError
from fractionate.store.forms import Form
from fractionate.store.hidden import OutputLayer
from fractionate.store.layout import RELATION, damaged
from fractionate.store.ranges import joined, rows_of, spans, stored_of
from fractionate.store.shards import Array, Scan, Shard

Slots = Sequence[int] | NDArray[np.int64] | Tensor


class StoredRows:
    """The columns of a store's rows, by slot: `slot = view * examples + place`.

    Args:
        path: Of the store.
        scanned: Its head, shards and segments, as `scan` finds them.
    """

    def __init__(self, path: Path, scanned: Scan) -> None:
        self.path, self.head, self.shards = path, scanned.head, scanned.shards
        self._slots, self._shard, self._row = self._build_index()

    def _build_index(self) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.int64]]:
        slots, shard, row = [np.empty(0, np.int64)], [np.empty(0, np.int32)], [np.empty(0, np.int64)]
        for number, part in sorted(enumerate(self.shards), key=lambda item: item[1].segment.shard):
            places = part.index["places"].astype(np.int64)
            views = part.index.get("views", np.zeros(len(places), np.int64)).astype(np.int64)
            if len(places) and (places.min() < 0 or places.max() >= self.examples or views.max() >= self.head.views):
                raise damaged("a row belongs to no example of the data", part.path)
            slots.append(views * self.examples + places)
            shard.append(np.full(len(places), number, np.int32))
            row.append(np.arange(len(places), dtype=np.int64))
        all_slots, first = np.unique(
            np.concatenate(slots), return_index=True
        )  # racing writers: the first shard by name
        return all_slots, np.concatenate(shard)[first], np.concatenate(row)[first]

    @cached_property
    def form(self) -> Form:
        """How rows are kept. Raises `DamagedError` where the output layer of hidden states is not what was written."""
        return Form(
            kind=self.head.form,  # type: ignore[arg-type]
            classes=self.head.classes,
            dtype=self.head.dtype,  # type: ignore[arg-type]
            k=self.head.k,
            temperatures=self.head.temperatures,
            output_layer=self._output_layer(),
        )

    @property
    def examples(self) -> int:
        """The number of examples of the data."""
        return self.head.examples

    def __len__(self) -> int:
        """The number of requested rows: examples × views (× tokens: one entry each), present or not yet."""
        return self.head.examples * self.head.views

    @property
    def numbers(self) -> bool:
        """Whether these are numbers of a task without classes, and no logits."""
        return bool(self.head.identity.get("outputs") == "numbers")

    def __repr__(self) -> str:
        h = self.head
        return (
            f"Store({self.path}: {h.name}, {len(self._slots):,} of {len(self):,} rows, "
            f"{h.classes} {'numbers' if self.numbers else 'classes'}, "
            f"{h.form}{f' {h.k}' if h.k else ''} {h.dtype})"
        )

    @property
    def complete(self) -> bool:
        """True where every example is there in every view."""
        return len(self._slots) == len(self)

    def present(self) -> NDArray[np.bool_]:
        """Which (view, example) are there, view after view."""
        found = np.zeros(len(self), bool)
        found[self._slots] = True
        return found

    def _located(self, slots: NDArray[np.int64]) -> Iterator[tuple[NDArray[np.int64], Shard, NDArray[np.int64]]]:
        """For each shard: which of the slots it has, and where. Raises `MismatchError` for slots that are not there."""
        at = np.searchsorted(self._slots, slots).clip(max=max(0, len(self._slots) - 1))
        missing = self._slots[at] != slots if len(self._slots) else np.ones(len(slots), bool)
        if bool(missing.any()):
            raise MismatchError(
                f"{int(missing.sum()):,} of {len(slots):,} rows are not in the store {self.path}",
                expected=f"{self.examples:,} examples in {self.head.views} view(s)",
                got=f"{len(self._slots):,} of {len(self):,} rows",
                fix="run collect again: it resumes where it stopped",
            )
        shard, row = self._shard[at], self._row[at]
        for number in np.unique(shard).tolist():
            where = np.flatnonzero(shard == number)
            yield where, self.shards[number], row[where]

    def read(self, slots: Slots) -> dict[str, Array]:
        """The proved columns of some rows, in the requested order; `slot = view * examples + place`.

        Raises `MismatchError` for rows that are not there, `DamagedError` for rows that are not what was written.
        """
        wanted = np.asarray(slots, np.int64)
        if not len(wanted):
            raise ConfigError("no rows were requested", fix="ask for at least one")
        parts = [(where, part.rows(rows), part.sizes(rows)) for where, part, rows in self._located(wanted)]
        if len(parts) == 1:
            return parts[0][1]
        back = np.argsort(np.concatenate([where for where, _, _ in parts]), kind="stable")
        sizes = np.concatenate([size for _, _, size in parts])
        found = joined([columns for _, columns, _ in parts])
        del parts
        if bool((back[1:] > back[:-1]).all()):  # in order already: one copy less of all rows
            return found
        return rows_of(found, spans((np.cumsum(sizes) - sizes)[back], sizes[back]))

    def read_stored(self, slots: Slots) -> dict[str, Array]:
        """The proved columns of some rows as shards keep them: to be written again."""
        wanted = np.asarray(slots, np.int64)
        parts = [(where, part.stored(rows)) for where, part, rows in self._located(wanted)]
        back = np.argsort(np.concatenate([where for where, _ in parts]), kind="stable")
        return stored_of(joined([columns for _, columns in parts]), back)

    def keys(self, slots: Slots) -> NDArray[np.uint8]:
        """The fingerprints of the examples some rows belong to, in any view that is there."""
        wanted = np.asarray(slots, np.int64)
        for view in range(1, self.head.views):
            gone = ~self.present()[wanted]
            wanted = np.where(gone, wanted % self.examples + view * self.examples, wanted)
        found = np.empty((len(wanted), 16), np.uint8)
        for where, part, rows in self._located(wanted) if len(wanted) else ():
            found[where] = part.index["keys"][rows]
        return found

    def slots(self, view: int | None = None) -> NDArray[np.int64]:
        """All slots, or those of a view."""
        if view is None:
            return np.arange(len(self))
        if not 0 <= view < self.head.views:
            raise ConfigError(f"there is no view {view}", expected=f"0 to {self.head.views - 1}")
        return np.arange(view * self.examples, (view + 1) * self.examples)

    def skipped(self, view: int | None = None) -> NDArray[np.int64]:
        """The slots that are there without rows: the teacher's outputs are not finite there (`non_finite="skip"`)."""
        return np.setdiff1d(self.slots(view)[self.present()[self.slots(view)]], self.kept(view))

    def kept(self, view: int | None = None) -> NDArray[np.int64]:
        """The slots that are there with rows; `data.take(torch.from_numpy(store.kept(0)))` are the examples of `signal(0)`."""
        found = self.slots(view)[self.present()[self.slots(view)]]
        has = np.zeros(len(found), bool)
        for where, part, rows in self._located(found) if len(found) else ():
            has[where] = part.sizes(rows) > 0
        return found[has]

    @cached_property
    def class_relation(self) -> Float[Tensor, "classes classes"] | None:
        """Similarities of the classes, stored with the teacher's rows; None where the teacher showed none."""
        return self._tables.get("class_relation")

    def _output_layer(self) -> OutputLayer | None:
        if self.head.form != "hidden":
            return None
        tables = self._tables
        weight, constant = tables.get("weight"), tables.get("constant")
        width = (self.head.classes, self.head.k)
        if weight is None or constant is None or weight.shape != width or constant.shape != width[:1]:
            raise damaged("the output layer of hidden states is missing", self.path / RELATION)
        return OutputLayer(weight, constant)

    @cached_property
    def _tables(self) -> dict[str, Tensor]:
        if not self.head.relation_xxh3:
            return {}
        path = self.path / RELATION
        if path.is_symlink() or not path.is_file():
            raise damaged("the class relation is missing", path)
        raw = path.read_bytes()
        if xxhash.xxh3_128_hexdigest(raw) != self.head.relation_xxh3:
            raise damaged("the class relation was changed", path)
        from safetensors.torch import load

        return load(raw)
