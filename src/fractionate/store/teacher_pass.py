"""One process's share of the teacher's pass: what is missing is collected, checked, encoded and committed shard by shard."""

from __future__ import annotations

import errno
import shutil
import time
from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray
from torch import Tensor

from fractionate.data.batch import Batch
from fractionate.data.labels import check_labels
from fractionate.errors import MismatchError
from fractionate.models.outputs import check_not_probabilities
from fractionate.store.checks import broken_rows, check_finite, check_logits
from fractionate.store.features import check_alike, feature_columns
from fractionate.store.forms import Form, row_hashes
from fractionate.store.hidden import find_relation, tables_of, write_tables
from fractionate.store.identity import Identity
from fractionate.store.keys import Keyed, Keys
from fractionate.store.layout import HEAD, SEGMENTS, SHARDS, Head, write_shard
from fractionate.store.ranges import joined, rows_of, stored_of, without
from fractionate.store.reading import Store
from fractionate.store.teachers import Asker, token_rows
from fractionate.store.views import Replay
from fractionate.system.atomic import make_directory, refused
from fractionate.system.progress import Progress
from fractionate.tasks.kind import check_not_copied

Array = NDArray[Any]
MERGED_BYTES = 4 << 20  # columns of batches are joined up to here: the allocator takes larger arrays from the system


class TeacherPass:
    """One process's share of the pass."""

    def __init__(
        self,
        asker: Asker,
        source: Keyed,
        view: Replay | None,
        root: Path,
        identity: Identity,
        existing: Store | None,
        batch_size: int,
        shard_bytes: int,
        commit_seconds: float,
        class_relation: Tensor | str | None,
    ) -> None:
        self.asker, self.source, self.root, self.identity = asker, source, root, identity
        self.items = Keyed(view.as_split()) if view else source  # what is read: every view of every example
        self.head = existing.head if existing else None
        if existing is not None:
            self._expect(existing)
        self.form = existing.form if existing else None
        self.done = existing.present() if existing else np.zeros(len(source) * identity.views, bool)
        self.order = np.arange(len(self.done))  # in which examples are read
        self.batch_size, self.shard_bytes, self.commit_seconds = batch_size, shard_bytes, commit_seconds
        self.class_relation = class_relation
        self.masks = identity.outputs != "numbers"  # -inf masks a class; no number may be infinite
        some = existing.kept()[:1] if existing and identity.features else ()
        self.first = existing.read(some) if existing and len(some) else {}  # what features look like
        self.layer = existing.form.output_layer if existing else None  # of hidden states
        self.waiting: list[dict[str, Array]] = []
        self.waiting_bytes = 0
        self.committed_at = time.monotonic()

    def run(self, part: tuple[int, int]) -> None:
        """Ask for every batch of this share in which a row is missing. Batches lie on a fixed grid, so that a row never
        depends on where a pass was interrupted."""
        size = self.batch_size
        grid = range(0, len(self.done), size)
        share = grid[len(grid) * part[0] // part[1] : len(grid) * (part[0] + 1) // part[1]]
        missing = [start for start in share if not self.done[self.order[start : start + size]].all()]
        with Progress(f"teacher on {self.source.name}", len(missing) * size, wait=2.0) as progress:
            wanted = (self.order[start : start + size] for start in missing)
            for batch, keys in self.items.batches(wanted):
                self._ask(batch, keys)
                progress.advance(size)
                late = time.monotonic() - self.committed_at > self.commit_seconds
                if self.waiting_bytes >= self.shard_bytes or late:
                    self._commit()
        self._commit()

    def _expect(self, store: Store) -> None:
        """A function that has not answered yet is held to what it gave when a store was collected."""
        self.asker.expect(store.head.identity["outputs"])
        self.identity = self.identity.of_outputs(store.head.identity["outputs"])

    def take_over(self, old: Store) -> None:
        """Copy the rows of examples that are the same as in another store of the same teacher, form and views."""
        self._expect(old)
        wrong = [name for name in self.identity.differences(old.head.identity) if name not in ("data", "ids")]
        if wrong:
            raise MismatchError(f"rows cannot be taken over from {old.path}: {', '.join(wrong)} differ")
        there = np.flatnonzero(old.present())
        if not len(there):
            return
        known = {(old.keys(there[i : i + 1])[0].tobytes(), int(s) // old.examples): int(s) for i, s in enumerate(there)}
        slots = np.flatnonzero(~self.done)
        keys = self.source.keys(slots % len(self.source))
        pairs = [
            (slot, known[key.tobytes(), slot // len(self.source)])
            for slot, key in zip(slots.tolist(), keys, strict=True)
            if (key.tobytes(), slot // len(self.source)) in known
        ]
        self.form = old.form
        self.class_relation, self.layer = old.class_relation, old.form.output_layer
        for start in range(0, len(pairs), self.batch_size):
            some = pairs[start : start + self.batch_size]
            columns = old.read_stored(np.array([taken for _, taken in some]))
            self._keep(np.array([slot for slot, _ in some]), columns)
        self._commit()

    def _ask(self, batch: Batch, keys: Keys) -> None:
        slots = batch.index.numpy()
        each = slots % len(self.source)  # the place of each item's example
        check_not_copied(self.asker.teacher, batch, self.identity.tokens)
        values, given = self.asker(batch)
        logits, labels, sizes = token_rows(values, given, self.identity.tokens, self.source, each)
        hidden = None
        if self.asker.watch is not None:
            hidden = token_rows(self.asker.watch.rows(), given, self.identity.tokens, self.source, each)[0]
        places = each if sizes is None else np.repeat(each, sizes)
        check_logits(logits, places, self.source, self.form.classes if self.form else None)
        if self.identity.non_finite == "skip":
            sizes = np.ones(len(slots), np.int64) if sizes is None else sizes
            broken = broken_rows(logits, masks=self.masks)
            hidden = None if hidden is None else without(hidden, labels, sizes, broken)[0]
            logits, labels, sizes = without(logits, labels, sizes, broken)
            places = np.repeat(each, sizes)
        check_finite(logits, places, self.source, self.identity.outputs, masks=self.masks)
        shown = partial(_shown, self.source, places)
        labels = check_labels(labels, logits.shape[-1], name=self.source.name, shown=shown).cpu()
        if self.form is None:
            self.identity = self.identity.of_outputs(self.asker.outputs)
            if self.identity.outputs == "logits":
                check_not_probabilities(logits, 'outputs="probabilities"')
            identity = self.identity
            k = identity.k if hidden is None else hidden.shape[-1]
            self.form = Form(identity.form, logits.shape[-1], identity.dtype, k, identity.temperatures)
            self._check_room(len(labels) / len(slots))
        drawn = (xxhash.xxh3_64_intdigest(key, 1 + slot) for key, slot in zip(keys, slots.tolist(), strict=True))
        seeds: NDArray[np.uint64] = np.fromiter(drawn, np.uint64, len(slots))
        if sizes is not None:
            within = np.arange(len(labels), dtype=np.uint64) - np.repeat(np.cumsum(sizes) - sizes, sizes).astype(
                np.uint64
            )
            seeds = np.repeat(seeds, sizes) + within * np.uint64(0x9E3779B97F4A7C15)
        columns: dict[str, Array] = {"keys": keys}
        if sizes is not None:
            columns["row_offsets"] = np.concatenate([[0], np.cumsum(sizes)]).astype("<u8")
        if hidden is not None and self.layer is None and len(hidden):
            assert self.asker.watch is not None
            self.layer = self.asker.watch.output_layer(hidden, logits, self.identity.precision)
        columns |= self.form.encode(logits if hidden is None else hidden, labels, seeds)
        if self.identity.features:
            columns |= feature_columns(self.asker.features, self.identity.features.split(", "), len(slots))
        wanted = np.flatnonzero(~self.done[slots])
        self._keep(slots[wanted], columns if len(wanted) == len(slots) else stored_of(columns, wanted))

    def _keep(self, slots: NDArray[np.int64], columns: dict[str, Array]) -> None:
        count = len(self.source)
        columns["places"] = slots % count
        if self.identity.views > 1:
            columns["views"] = (slots // count).astype("<u2")
        columns.pop("hashes", None)
        columns["hashes"] = row_hashes(rows_of(columns, np.arange(len(slots))))
        check_alike(columns, self.first)
        self.first = self.first or columns
        self.done[slots] = True
        self.waiting.append(columns)
        self.waiting_bytes += _bytes(columns)
        # small arrays kept between large ones that are freed leave holes in the heap: 6 kB a row of 1,000 classes
        while len(self.waiting) > 1 and _bytes(self.waiting[-2]) <= min(_bytes(self.waiting[-1]), MERGED_BYTES):
            self.waiting[-2:] = [joined(self.waiting[-2:])]

    def _check_room(self, rows_an_example: float) -> None:
        assert self.form is not None
        feature_bytes = sum(value[0].numel() * 2 for value in self.asker.features.values())  # float16
        needed = int(
            (self.form.row_bytes(self.identity.views) * rows_an_example + feature_bytes) * int((~self.done).sum())
        )
        free = shutil.disk_usage(self.root).free
        if needed > free:
            raise refused(self.root, OSError(errno.ENOSPC, "no space left for the whole pass"), needed)

    def _commit(self) -> None:
        if not self.waiting:
            return
        assert self.form is not None
        if self.head is None:
            self.head = self._write_head(self.form)
        write_shard(self.root, joined(self.waiting), head=self.head.sha256, bfloat16=self.form.bfloat16)
        self.waiting, self.waiting_bytes, self.committed_at = [], 0, time.monotonic()

    def _write_head(self, form: Form) -> Head:
        relation = self.class_relation
        if isinstance(relation, str):
            relation = find_relation(self.asker.teacher, form.classes)
        digest = write_tables(self.root, tables_of(relation, self.layer, form.classes))
        names = self.source.split.class_names
        head = Head(
            identity=asdict(self.identity),
            examples=len(self.source),
            views=self.identity.views,
            classes=form.classes,
            form=form.kind,
            k=form.k,
            dtype=form.dtype,
            temperatures=form.temperatures,
            batch_size=self.batch_size,
            name=self.source.split.name,
            class_names=names if len(names) == form.classes else (),
            relation_xxh3=digest,
            tokens=self.identity.tokens,
        )
        for folder in (SHARDS, SEGMENTS):
            make_directory(self.root / folder)
        if not head.write(self.root):  # another writer was first: it must be writing the same
            head = Head.read(self.root / HEAD)
            self.identity.require(head.identity, self.root)
        return head


def _bytes(columns: Mapping[str, Array]) -> int:
    return sum(column.nbytes for column in columns.values())


def _shown(source: Keyed, places: NDArray[np.int64], row: int) -> str:
    return source.shown(int(places[row]))
