"""The teacher's pass: run once, interrupted or not, by one process or many; what is there is never asked for again."""

from __future__ import annotations

import contextlib
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from fractionate.durable import make_directory, refused, write_file
from fractionate.errors import ConfigError, MismatchError, NumericsError
from fractionate.store.forms import Form, FormKind, StoredDtype, row_hashes
from fractionate.store.identity import Identity, teacher_config, teacher_weights
from fractionate.store.layout import HEAD, RELATION, SEGMENTS, SHARDS, Head, write_shard
from fractionate.store.reading import Store
from fractionate.store.source import Source
from fractionate.store.teachers import Asker, Outputs, Precision, find_relation, inert

Array = NDArray[Any]
SPOT_CHECK = 64  # a store with 10 % wrong rows passes a check of 64 with probability 0.9^64 = 0.12 %


def collect(
    teacher: Any,
    data: Any,
    out: Path | str,
    *,
    batch_size: int = 256,
    device: str = "cpu",
    form: FormKind = "dense",
    k: int = 0,
    dtype: StoredDtype = "float32",
    outputs: Outputs = "logits",
    precision: Precision = "float32",
    class_relation: Float[Tensor, "classes classes"] | Literal["auto"] | None = "auto",
    named: str = "",
    part: tuple[int, int] = (0, 1),
    shard_bytes: int = 64 << 20,
    commit_seconds: float = 60.0,
) -> Store:
    """Run the teacher once over the data and keep what it says, in the order of the data.

    `teacher` is a torch module, a Hugging Face model, the path of an ONNX file, or any function of a batch of inputs that
    returns [batch, classes]; with `outputs="probabilities"` it may be a black box. `data` is `Examples`, a pair
    (inputs, labels), or a dataset with a length. Modules run in evaluation mode without a graph and are put back as
    they were. The same call again goes on where it stopped, or returns at once.

    `form`, `k` and `dtype` say how rows are kept; `precision` is what the teacher computes in; `named` names a teacher
    whose weights cannot be read; `part=(rank, world)` gives each of several processes its share. A shard is committed
    every `shard_bytes` or `commit_seconds`, so that at most that much work is ever lost.

    Raises `MismatchError` for data and labels that do not fit the teacher and for a store of something else (naming the field),
    `NumericsError` for logits that are not finite (naming the examples), `ResourceError` for a place that cannot be
    written to or is too small. Nothing half-written stays behind.
    """
    asker = Asker(teacher, device=device, outputs=outputs, precision=precision)
    source = Source(data)
    if batch_size < 1 or not 0 <= part[0] < part[1]:
        raise ConfigError("batch_size or part cannot be used", got=f"batch_size={batch_size}, part={part}")
    identity = Identity(
        data=source.fingerprint,
        ids="place" if source.ids is None else "data",
        teacher=teacher_weights(asker.teacher, named),
        teacher_config=named or teacher_config(asker.teacher),
        outputs=outputs,
        precision=precision,
        form=form,
        k=k,
        dtype=dtype,
    )
    root = Path(out)
    existing = _existing(root, identity, source)
    new = not root.exists()
    make_directory(root)
    try:
        with inert(asker.teacher, device):
            pass_ = _Pass(
                asker, source, root, identity, existing, batch_size, shard_bytes, commit_seconds, class_relation
            )
            pass_.run(part)
    except BaseException:
        if new and not (root / HEAD).exists():  # nothing was committed: leave the place as it was
            shutil.rmtree(root, ignore_errors=True)
        raise
    return Store.open(root)


def _existing(root: Path, identity: Identity, source: Source) -> Store | None:
    if not (root / HEAD).exists():
        if root.exists() and (
            not root.is_dir() or any(p for p in root.iterdir() if p.name not in (SHARDS, SEGMENTS, RELATION))
        ):
            raise ConfigError(
                f"{root} holds something else", expected="a signal store, or a new folder", fix="give another out="
            )
        return None
    store = Store.open(root)
    check_data(store, source)
    identity.require(store.head.identity, root)
    return store


def check_data(store: Store, source: Source, sample: int | None = None) -> None:
    """Raise `MismatchError` naming field and examples unless the rows that are there belong to these examples.

    All rows are checked where the data lie in memory, else `sample` (64) of them, drawn at random.
    """
    if len(source) != store.head.examples:
        raise MismatchError(
            f"the store {store.path} belongs to other data: the number of examples differs (field data)",
            expected=f"{store.head.examples:,} examples",
            got=f"{len(source):,}",
        )
    places = np.flatnonzero(store.present())
    if source.examples is None:
        sample = SPOT_CHECK if sample is None else sample
    if sample is not None and sample < len(places):
        places = np.sort(np.random.default_rng().choice(places, sample, replace=False))
    stored = store.keys(places)
    given = source.keys(places)
    wrong = np.flatnonzero((stored != given).any(axis=1))
    if len(wrong):
        same = {bytes(k) for k in stored} == {bytes(k) for k in given}
        first = int(places[wrong[0]])
        raise MismatchError(
            f"the store {store.path} belongs to other data: {len(wrong):,} of {len(places):,} examples looked at differ "
            f"(field data, first: id {source.id(first)})",
            expected="the same ids, inputs and labels, in the same order",
            got="the same examples in another order" if same else f"other content at place {first}",
            fix="restore the data; or collect(..., reuse=this store) into a new folder: unchanged examples are taken over",
        )


class _Pass:
    """One process's share of the pass."""

    def __init__(
        self,
        asker: Asker,
        source: Source,
        root: Path,
        identity: Identity,
        existing: Store | None,
        batch_size: int,
        shard_bytes: int,
        commit_seconds: float,
        class_relation: Tensor | str | None,
    ) -> None:
        self.asker, self.source, self.root, self.identity = asker, source, root, identity
        self.head = existing.head if existing else None
        self.form = existing.form if existing else None
        self.done = existing.present() if existing else np.zeros(len(source), bool)
        self.batch_size, self.shard_bytes, self.commit_seconds = batch_size, shard_bytes, commit_seconds
        self.class_relation = class_relation
        self.waiting: list[dict[str, Array]] = []
        self.waiting_bytes = 0
        self.committed_at = time.monotonic()

    def run(self, part: tuple[int, int]) -> None:
        """Ask for every batch of this share in which a row is missing. Batches lie on a fixed grid, so that a row never
        depends on where a pass was interrupted."""
        count, size = len(self.source), self.batch_size
        grid = range(0, count, size)
        share = grid[len(grid) * part[0] // part[1] : len(grid) * (part[0] + 1) // part[1]]
        missing = [start for start in share if not self.done[start : start + size].all()]
        with progress(len(missing) * size, f"teacher on {self.source.name}") as advance:
            for start in missing:
                self._ask(np.arange(start, min(start + size, count)))
                advance(size)
                late = time.monotonic() - self.committed_at > self.commit_seconds
                if self.waiting_bytes >= self.shard_bytes or late:
                    self._commit()
        self._commit()

    def _ask(self, places: NDArray[np.int64]) -> None:
        batch = self.source.batch(places)
        labels = check_labels(batch.labels, places, self.source)
        logits = self.asker(batch.inputs)
        self._check(logits, labels, places)
        if self.form is None:
            identity = self.identity
            self.form = Form(identity.form, logits.shape[-1], identity.dtype, identity.k, identity.temperatures)  # type: ignore[arg-type]
            self._check_room()
        wanted = np.flatnonzero(~self.done[places])
        columns = self.form.encode(logits[wanted], labels[wanted])
        columns |= {"places": places[wanted].astype(np.int64), "keys": np.ascontiguousarray(batch.keys[wanted])}
        columns["hashes"] = row_hashes(columns)
        self.waiting.append(columns)
        self.waiting_bytes += sum(column.nbytes for column in columns.values())

    def _check(self, logits: Tensor, labels: Tensor, places: NDArray[np.int64]) -> None:
        if len(logits) != len(places):
            raise MismatchError(
                "the teacher does not give one row an example",
                expected=f"[{len(places)}, classes]",
                got=str(list(logits.shape)),
            )
        classes = self.form.classes if self.form else logits.shape[-1]
        named = self.source.class_names
        if logits.shape[-1] != classes or (self.source.names_given and len(named) != classes):
            raise MismatchError(
                "teacher and data differ in the number of classes",
                expected=f"{len(named) if self.form is None else classes} classes",
                got=f"{logits.shape[-1]} logits a row",
                fix="use a teacher of these classes, or map its outputs to them",
            )
        bad = (torch.isnan(logits) | torch.isposinf(logits)).any(dim=1) | torch.isneginf(logits).all(dim=1)
        if bool(bad.any()):
            ids = [self.source.id(int(places[row])) for row in bad.nonzero().flatten().tolist()]
            raise NumericsError(
                f"the teacher's logits are not finite for {len(ids)} example(s) of a batch: {', '.join(ids[:8])}",
                expected="finite numbers, -inf only to mask some of the classes",
                got=str(logits[bad][0].flatten()[:6].tolist()) + (" …" if classes > 6 else ""),
                fix="look at these inputs; a half-precision teacher may overflow: run it in float32 or bfloat16",
            )
        wrong = labels >= classes
        if bool(wrong.any()):
            ids = [self.source.id(int(places[row])) for row in wrong.nonzero().flatten().tolist()]
            raise MismatchError(
                f"labels do not fit the teacher's classes (examples {', '.join(ids[:8])})",
                expected=f"labels in 0..{classes - 1}",
                got=str(int(labels.max())),
                fix="check the label map; labels that start at 1 need 1 subtracted",
            )

    def _check_room(self) -> None:
        assert self.form is not None
        needed = int(self.form.row_bytes * len(self.source))
        free = shutil.disk_usage(self.root).free
        if needed > free:
            raise refused(self.root, OSError(28, "no space left for the whole pass"), needed)

    def _commit(self) -> None:
        if not self.waiting:
            return
        assert self.form is not None
        if self.head is None:
            self.head = self._write_head(self.form)
        columns = {name: np.concatenate([part[name] for part in self.waiting]) for name in self.waiting[0]}
        write_shard(self.root, columns, head=self.head.sha256, bfloat16=self.form.bfloat16)
        self.waiting, self.waiting_bytes, self.committed_at = [], 0, time.monotonic()

    def _write_head(self, form: Form) -> Head:
        relation = self.class_relation
        if isinstance(relation, str):
            relation = find_relation(self.asker.teacher, form.classes)
        digest = "" if relation is None else _write_relation(self.root, relation, form.classes)
        head = Head(
            identity=asdict(self.identity),
            examples=len(self.source),
            views=1,
            classes=form.classes,
            form=form.kind,
            k=form.k,
            dtype=form.dtype,
            temperatures=form.temperatures,
            batch_size=self.batch_size,
            name=self.source.name,
            class_names=self.source.class_names,
            relation_xxh3=digest,
        )
        for folder in (SHARDS, SEGMENTS):
            make_directory(self.root / folder)
        if not head.write(self.root):  # another writer was first: it must be writing the same
            head = Head.read(self.root / HEAD)
            self.identity.require(head.identity, self.root)
        return head


def _write_relation(root: Path, relation: Tensor, classes: int) -> str:
    if relation.shape != (classes, classes) or not bool(torch.isfinite(relation).all()):
        raise MismatchError(
            "class_relation does not fit the logits",
            expected=f"finite [{classes}, {classes}]",
            got=str(list(relation.shape)),
        )
    import xxhash
    from safetensors.torch import save

    raw = save({"class_relation": relation.detach().cpu().contiguous()})
    write_file(root / RELATION, raw)
    return str(xxhash.xxh3_128_hexdigest(raw))


def check_labels(labels: Tensor, places: NDArray[np.int64], source: Source) -> Int[Tensor, "batch"]:
    """Labels as whole numbers from 0, one an example. Raises `MismatchError` naming the first example that is not."""
    if labels.ndim != 1 or labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise MismatchError(
            f"{source.name}: labels are not class numbers",
            expected=f"integers [{len(places)}]",
            got=f"{labels.dtype} {list(labels.shape)}",
            fix="pass labels.long(), one class an example",
        )
    if int(labels.min()) < 0:
        first = int(places[int((labels < 0).nonzero()[0])])
        raise MismatchError(
            f"{source.name}: example {source.id(first)} has no label",
            expected="labels from 0",
            got=str(int(labels.min())),
            fix="drop examples without a label before the pass",
        )
    return labels.long().cpu()


@contextlib.contextmanager
def progress(total: int, title: str) -> Iterator[Callable[[int], None]]:
    """A bar with the time left, on standard error, for a pass of more than two seconds that somebody watches."""
    started, bar, task, seen = time.monotonic(), None, None, 0

    def advance(count: int) -> None:
        nonlocal bar, task, seen
        seen += count
        if bar is None and sys.stderr.isatty() and time.monotonic() - started > 2:
            from rich.console import Console
            from rich.markup import escape
            from rich.progress import Progress

            bar = Progress(console=Console(stderr=True), transient=True)
            bar.start()
            task = bar.add_task(escape(title), total=total)
        if bar is not None and task is not None:
            bar.update(task, completed=min(seen, total))

    try:
        yield advance
    finally:
        if bar is not None:
            bar.stop()
