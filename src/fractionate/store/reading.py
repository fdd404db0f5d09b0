"""Reading a store: what its rows mean, as signals, features, labels."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xxhash
from jaxtyping import Float, Int
from torch import Tensor

from fractionate.errors import ConfigError
from fractionate.store.checks import check_teacher, check_tokenizer
from fractionate.store.features import read_features
from fractionate.store.forms import to_torch
from fractionate.store.remote import scan_remote
from fractionate.store.rows import Slots, StoredRows
from fractionate.store.shards import Array, scan
from fractionate.system.memory import require_bytes
from fractionate.system.paths import as_path
from fractionate.theory.number_signal import NumberSignal
from fractionate.theory.teacher_signal import TeacherSignal
from fractionate.theory.topk_signal import CompactSignal


class Store(StoredRows):
    """A teacher's outputs on some data, on disk. Rows are checked by their hashes as they are read.

    Open one with `Store.open(path)`; make one with `collect`.

    Args:
        path: Of the store.
        scanned: Its head, shards and segments, as `scan` finds them.

    Example:
        import torch
        from fractionate import collect
        from fractionate.store import Store
        data = torch.randn(20, 4), torch.arange(20) % 3
        collect(torch.nn.Linear(4, 3), data, "runs/store")
        print(Store.open("runs/store").signal().logits.shape)
    """

    @classmethod
    def open(
        cls,
        path: Path | str,
        *,
        cache: Path | str | None = None,
        teacher: Any = None,
        data: Any = None,
        tokenizer: Any = None,
        device: str = "cpu",
    ) -> Store:
        """Open a store: a folder, or any fsspec address (`s3://…`, `https://…`), read by ranges into a verified local `cache`.

        With `teacher` and `data` the teacher is run again (on `device`) on 64 random rows, as `check_teacher` does: a
        store of which a tenth is wrong passes with probability 0.9^64 = 0.12 %. A `tokenizer` must be the one it was collected
        with.

        Raises `ConfigError` where there is none, `DamagedError` for the first damage found and `MismatchError` where the
        teacher says something else now or the tokenizer has other strings.
        """
        if (teacher is None) != (data is None):
            raise ConfigError(
                "the teacher cannot be run again",
                expected="teacher and data, or neither",
                got="teacher alone" if data is None else "data alone",
            )
        if "://" in str(path):
            opened = cls(*scan_remote(str(path), cache))
        else:
            scanned = scan(as_path(path))
            if scanned.damages:
                raise scanned.damages[0]
            opened = cls(as_path(path), scanned)
        if tokenizer is not None:
            check_tokenizer(opened, tokenizer)
        if teacher is not None:
            check_teacher(opened, teacher, data, device=device)
        return opened

    def logits(self, slots: Slots) -> Float[Tensor, "some classes"]:
        """The logits of some rows."""
        return self.form.decode(self.read(slots))

    @property
    def feature_paths(self) -> tuple[str, ...]:
        """The layers of the teacher whose features are kept."""
        return tuple(filter(None, str(self.head.identity.get("features", "")).split(", ")))

    def features(self, slots: Slots | None = None) -> dict[str, Tensor]:
        """Features [examples, …] of the teacher's layers by path, in float16, of some rows or all."""
        return read_features(self.read(np.arange(len(self)) if slots is None else slots))

    def states(self) -> Float[Tensor, "rows width"]:
        """What entered the teacher's output layer, of all rows of a store of form "hidden"."""
        return to_torch(self.read(np.arange(len(self)))["values"], self.head.dtype)

    def labels(self) -> Int[Tensor, "rows"]:
        """The labels of all rows."""
        return _labels(self.read(np.arange(len(self))))

    def signal(self, view: int | None = None, *, temperature: float | None = None) -> Any:
        """All rows in the order of the data, view after view (or one view), with the class relation where there is one.

        Examples that were skipped have no row: the data to go with it are those of `kept`. Compact rows become dense, the
        mass left out spread evenly as it is at `temperature`; of hidden states the logits are made. Numbers of a task
        without classes are a `NumberSignal`. Raises `ResourceError` where that is more than the memory holds; `compact_signal` and
        `batches` stay small.
        """
        if self.form.kind != "dense":
            rows = sum(part.segment.rows for part in self.shards)
            require_bytes(
                rows * self.head.classes * 4,
                "the signal with all its classes",
                fix="read compact_signal(), or batches()",
            )
        columns = self.read(self.slots(view))
        if self.numbers:
            return NumberSignal(self.form.decode(columns))
        found = TeacherSignal(self.form.decode(columns, temperature), _labels(columns), self.class_relation)
        return found if temperature is None else found.at(temperature)

    def compact_signal(self, view: int | None = None) -> CompactSignal:
        """All rows in the order of the data as label, entries and tail mass. Raises `ConfigError` for dense stores."""
        return self.form.compact(self.read(self.slots(view)), self.class_relation)

    def batches(self, size: int) -> Iterator[TeacherSignal]:
        """The signal in chunks, in the order of the data, for signals larger than the memory. Statistics are a chunk's own."""
        for start in range(0, len(self), size):
            columns = self.read(np.arange(start, min(start + size, len(self))))
            yield TeacherSignal(self.form.decode(columns), _labels(columns), self.class_relation)

    def content(self) -> str:
        """A hash of all that is stored, in order: equal for stores that hold the same, however they were written."""
        state = xxhash.xxh3_128()
        hashes = self.read(np.arange(len(self)))["hashes"]
        state.update(np.ascontiguousarray(hashes).view(np.uint8).data)
        return str(state.hexdigest())


def _labels(columns: dict[str, Array]) -> Int[Tensor, "rows"]:
    return torch.from_numpy(columns["labels"].astype(np.int64))
