"""The teacher's pass: run once, interrupted or not, by one process or many; what is there is never asked for again."""

from __future__ import annotations

import errno
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import xxhash
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from fractionate.data.batch import Batch
from fractionate.data.labels import check_labels
from fractionate.data.lengths import lengths_of
from fractionate.errors import ConfigError, MismatchError
from fractionate.models.function import FunctionTeacher
from fractionate.models.output_kinds import Outputs
from fractionate.models.outputs import check_not_probabilities
from fractionate.store.checks import broken_rows, check_data, check_finite, check_logits
from fractionate.store.features import check_alike, check_features, feature_columns
from fractionate.store.folds import out_of_fold
from fractionate.store.forms import Form, FormKind, StoredDtype, row_hashes
from fractionate.store.identity import (
    Identity,
    teacher_config,
    teacher_weights,
    tokenizer_fingerprint,
    vocabulary_size,
)
from fractionate.store.keys import Keyed, Keys
from fractionate.store.layout import HEAD, HEAD_COPY, RELATION, SEGMENTS, SHARDS, Head, write_shard
from fractionate.store.ranges import joined, rows_of, stored_of, without
from fractionate.store.reading import Store
from fractionate.store.relation import find_relation, write_relation
from fractionate.store.remote import require_folder
from fractionate.store.teachers import VIEW, Asker, ByPlace, Precision, Tokens, kind_of, outputs_of, token_rows
from fractionate.store.views import Replay
from fractionate.system.atomic import TEMPORARY, make_directory, refused, sweep
from fractionate.system.fingerprints import callable_fingerprint
from fractionate.system.paths import as_path
from fractionate.system.progress import Progress
from fractionate.tasks.task import Task

Array = NDArray[Any]
MERGED_BYTES = 4 << 20  # columns of batches are joined up to here: the allocator takes larger arrays from the system
OURS = (HEAD, HEAD_COPY, SHARDS, SEGMENTS, RELATION)


def collect(
    teacher: Any,
    data: Any,
    out: Path | str,
    *,
    batch_size: int = 256,
    by_length: bool = False,
    device: str = "cpu",
    device_map: str | Mapping[str, Any] | None = None,
    form: FormKind = "dense",
    k: int = 0,
    dtype: StoredDtype = "float32",
    temperatures: tuple[float, ...] = (1.0,),
    outputs: Outputs = "auto",
    precision: Precision = "float32",
    tokens: Tokens = "",
    tokenizer: Any = None,
    template: str = "",
    vocabulary: Literal["whole", "trim"] = "whole",
    non_finite: Literal["refuse", "skip"] = "refuse",
    class_relation: Float[Tensor, "classes classes"] | Literal["auto"] | None = "auto",
    named: str = "",
    folds: int = 0,
    features: Sequence[str] = (),
    reuse: Store | None = None,
    part: tuple[int, int] = (0, 1),
    shard_bytes: int = 64 << 20,
    commit_seconds: float = 60.0,
) -> Store:
    """Run the teacher once over the data and keep what it says, in the order of the data.

    Modules run in evaluation mode without a graph and are put back as they were. The same call again goes on where it stopped, or
    returns at once.

    Args:
        teacher: A torch module, a fitted estimator, the path of an ONNX or skops file, or a function of a batch of inputs.
        data: `Examples`, a pair (inputs, labels), a dataset with a length, a loader over one, a `Task` (its transfer set), or a
            `Replay` of several views.
        by_length: Sequences of about one length are read together, the longest first, without padding that none of them needs.
        device, device_map: Where it computes; "auto", or devices by path of module, spread it by accelerate.
        form: dense; top-k: label, `k` entries, the exact rest at each of `temperatures`; sampled: `k` draws (see `losses`).
        outputs: What a function gives, where that is not to be recognised.
        precision: What it computes in.
        tokens: "next" (logits at a place are about the label of the next) or "aligned", with `tokenizer` and `template` of a
            language model. Labels of -100 are left out, and with `vocabulary="trim"` logits beyond the tokenizer's strings.
        non_finite: "skip" gives examples without finite logits no row (`Store.skipped`).
        named: Who it is, where its content cannot be read.
        folds: An estimator is fitted again on the transfer set without each of so many folds, which it answers.
        features: Paths of layers whose outputs are kept in float16, one an example, for terms that read inside the teacher.
        reuse: Another store, whose rows of unchanged examples are taken over.
        part: (rank, world) gives each of several processes its share.
        shard_bytes, commit_seconds: How often a shard is committed; no more work than that is ever lost.

    Raises `MismatchError` for data and labels that do not fit the teacher and for a store of something else (naming the field),
    `NumericsError` for logits that are not finite (naming the examples), `ResourceError` for a place that cannot be
    written to or is too small. Nothing half-written stays behind.
    """
    kind, head = kind_of(data)
    if isinstance(data, Task):
        tokens = tokens or data.reader.tokens
        data = data.splits.transfer
    if class_relation == "auto" and not kind.output_rows:
        class_relation = None
    outputs = outputs_of(kind, outputs, form)
    require_folder(out, "collect into")
    if vocabulary not in ("whole", "trim") or non_finite not in ("refuse", "skip"):
        raise ConfigError(
            "vocabulary or non_finite is not known",
            expected="whole or trim; refuse or skip",
            got=f"{vocabulary!r}, {non_finite!r}",
        )
    if folds:
        again = out_of_fold(teacher, data, folds)
        teacher, outputs, named = ByPlace(again), again.kind, f"{named}{': ' if named else ''}{again.named}"
    trimmed = vocabulary_size(tokenizer) if vocabulary == "trim" else None
    view = data if isinstance(data, Replay) else None
    source = view.keyed if view else Keyed.of(data)
    names = source.split.class_names if source.names_given else ()
    asker = Asker(
        teacher,
        kind=kind,
        head=head,
        device=device,
        outputs=outputs,
        precision=precision,
        classes=trimmed,
        class_names=names,
        features=features,
        device_map=device_map,
        trim=by_length,
    )
    kept = check_features(
        features, tokens=tokens, non_finite=non_finite, by_place=isinstance(asker.teacher, FunctionTeacher)
    )
    if batch_size < 1 or not 0 <= part[0] < part[1]:
        raise ConfigError("batch_size or part cannot be used", got=f"batch_size={batch_size}, part={part}")
    identity = Identity(
        data=source.fingerprint,
        ids="data" if source.ids_given else "place",
        teacher=teacher_weights(asker.teacher, named),
        teacher_config=named or teacher_config(asker.teacher),
        outputs=asker.outputs,
        precision=precision,
        tokenizer=tokenizer_fingerprint(tokenizer),
        template=template,
        tokens=tokens,
        transform=callable_fingerprint(view.transform) if view else "",
        view_seed=view.seed if view else 0,
        views=view.views if view else 1,
        form=form,
        k=k,
        dtype=dtype,
        temperatures=tuple(map(float, temperatures)),
        vocabulary=vocabulary,
        non_finite=non_finite,
        features=", ".join(kept),
    )
    root = as_path(out)
    existing = _existing(root, identity, source)
    new = not root.exists()
    try:
        make_directory(root)
        sweep(root, deep=True)
        with asker.ready():
            work = _Pass(
                asker,
                source,
                view,
                root,
                identity,
                existing,
                batch_size,
                shard_bytes,
                commit_seconds,
                class_relation,
            )
            if by_length:
                work.order = np.argsort(-np.tile(lengths_of(source.split, VIEW), identity.views), kind="stable")
            if reuse is not None:
                work.take_over(reuse)
            work.run(part)
    except BaseException:
        if new and not (root / HEAD).exists():  # nothing was committed: leave the place as it was
            shutil.rmtree(root, ignore_errors=True)
        raise
    return Store.open(root)


def _existing(root: Path, identity: Identity, source: Keyed) -> Store | None:
    if not (root / HEAD).exists():
        strange = root.exists() and (
            not root.is_dir() or any(p.name not in OURS and not p.name.startswith(TEMPORARY) for p in root.iterdir())
        )
        if strange:
            raise ConfigError(
                f"{root} holds something else", expected="a signal store, or a new folder", fix="give another out="
            )
        return None
    store = Store.open(root)
    check_data(store, source)
    identity.of_outputs(store.head.identity["outputs"]).require(store.head.identity, root)
    store.head.write_copy(root)  # a writer may have been killed between the two
    return store


class _Pass:
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
        self.class_relation = old.class_relation
        for start in range(0, len(pairs), self.batch_size):
            some = pairs[start : start + self.batch_size]
            columns = old.read_stored(np.array([taken for _, taken in some]))
            self._keep(np.array([slot for slot, _ in some]), columns)
        self._commit()

    def _ask(self, batch: Batch, keys: Keys) -> None:
        slots = batch.index.numpy()
        each = slots % len(self.source)  # the place of each item's example
        logits, labels, sizes = token_rows(*self.asker(batch), self.identity.tokens, self.source, each)
        places = each if sizes is None else np.repeat(each, sizes)
        check_logits(logits, places, self.source, self.form.classes if self.form else None)
        if self.identity.non_finite == "skip":
            sizes = np.ones(len(slots), np.int64) if sizes is None else sizes
            logits, labels, sizes = without(logits, labels, sizes, broken_rows(logits, masks=self.masks))
            places = np.repeat(each, sizes)
        check_finite(logits, places, self.source, self.identity.outputs, masks=self.masks)
        shown = partial(_shown, self.source, places)
        labels = check_labels(labels, logits.shape[-1], name=self.source.name, shown=shown).cpu()
        if self.form is None:
            self.identity = self.identity.of_outputs(self.asker.outputs)
            if self.identity.outputs == "logits":
                check_not_probabilities(logits, 'outputs="probabilities"')
            identity = self.identity
            self.form = Form(identity.form, logits.shape[-1], identity.dtype, identity.k, identity.temperatures)
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
        columns |= self.form.encode(logits, labels, seeds)
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
        beside = sum(value[0].numel() * 2 for value in self.asker.features.values())  # float16
        needed = int((self.form.row_bytes(self.identity.views) * rows_an_example + beside) * int((~self.done).sum()))
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
        digest = "" if relation is None else write_relation(self.root, relation, form.classes)
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
