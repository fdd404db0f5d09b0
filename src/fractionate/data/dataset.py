"""Data read example by example: map-style data sets, with the collate function and the workers of a loader over them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
import xxhash
from jaxtyping import Int
from torch import Tensor
from torch.utils.data import DataLoader, default_collate

from fractionate.data.batch import Batch, Ids, Note, Places, Plan
from fractionate.data.items import Collate, check_text, join, read_item
from fractionate.data.labels import as_labels, check_values
from fractionate.data.sampling import Seeded, isolated
from fractionate.data.sampling import batches as shuffled
from fractionate.errors import FractionateError, MismatchError
from fractionate.system.hashing import content_hash

FINGERPRINTED = 1024  # examples that make a fingerprint: all of small data, and what takes seconds of large
PROBED = 8  # examples that are read before anything is trained


@dataclass(frozen=True, eq=False)
class DatasetSplit:
    """A map-style data set whose items, or whose collated batches, are (input, label) or mappings with a label.

    Args:
        dataset: Has `len()` and `[place]`.
        collate: Makes a batch of a list of items, and the labels where the items have none.
        workers: Processes that read.
        labels: All labels, where known without reading.
        loading: Further arguments of torch's `DataLoader`: worker_init_fn, pin_memory, timeout …
        classes: Labels are class numbers.
        canonical: The same rows as the rest of the package takes them, where `dataset` gives them as a collate function wants them;
            fingerprints are of these.
        name: The data's name in messages and records.
        ids: The id of each example; left out, its place.
        class_names: The names of the classes, where known.

    Example:
        import torch
        from torch.utils.data import TensorDataset
        from fractionate.data import DatasetSplit
        split = DatasetSplit(TensorDataset(torch.randn(6, 4), torch.arange(6) % 2))
        print(len(split), split.labels)
    """

    dataset: Any
    name: str = "data"
    collate: Collate = default_collate
    workers: int = 0
    labels: Tensor | None = None
    ids: Ids = ()
    class_names: tuple[str, ...] = ()
    loading: Mapping[str, Any] = field(default_factory=dict)
    classes: bool = True
    canonical: Any = None

    def __post_init__(self) -> None:
        if not len(self.ids):
            object.__setattr__(self, "ids", Places(len(self.dataset)))

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, place: int, /) -> Any:
        """One example as the data set gives it. Draws of its own change the random streams: read within `isolated()`."""
        return self.dataset[place]

    def order(self, batch_size: int, seed: int, epoch: int) -> tuple[Int[Tensor, "batch"], ...]:
        """Shuffled anew in each epoch."""
        return shuffled(len(self), batch_size, seed, epoch)

    def batches(self, plan: Plan, seed: int) -> Iterator[Batch]:
        """The planned batches, in their order."""
        return (batch for batch, _ in self.read(plan, seed))

    def read(self, plan: Plan, seed: int, note: Note | None = None) -> Iterator[tuple[Batch, list[bytes]]]:
        """The planned batches, each with what is noted of its examples, where they are read."""
        for index, joined, noted in self._joined(plan, seed, _Join(self.collate, self.name), note):
            yield as_batch(joined, index, self.name, classes=self.classes), noted

    def _joined(
        self, plan: Plan, seed: int, collate: Callable[[list[Any]], Any], note: Note | None
    ) -> Iterator[tuple[Tensor, Any, list[bytes]]]:
        # what a worker sets up is there in workers only: then one of them reads, even where none is wanted
        workers = max(self.workers, 1 if self.loading.get("worker_init_fn") else 0)
        pinned = {name: value for name, value in self.loading.items() if workers or name == "pin_memory"}
        loader: DataLoader[Any] = DataLoader(
            Seeded(self.dataset, seed, self.ids, note, self.canonical),  # type: ignore[arg-type]
            batch_sampler=_Keys([(epoch, place) for place in index.tolist()] for epoch, index in plan),
            collate_fn=_Placed(collate),
            num_workers=workers,
            generator=torch.Generator(),  # else the processes' seed is drawn from the caller's stream
            **pinned,
        )
        found = iter(loader)
        while True:
            with nullcontext() if workers else isolated():
                batch = next(found, None)
            if batch is None:
                return
            if isinstance(batch[1], FractionateError):
                raise batch[1]
            yield batch

    def check(self, places: Int[Tensor, "some"] | None = None) -> DatasetSplit:
        """The same split, once a few evenly spaced examples (of some places) were read and found to be examples with labels."""
        few = _spread(len(self) if places is None else len(places), PROBED)
        for batch in self.batches([(0, few if places is None else places[few])], 0):
            check_values(batch.labels, self.name, [self.ids[place] for place in batch.index.tolist()].__getitem__)
        return self

    def fingerprint(self) -> str:
        """The number of examples and a hash of up to 1,024 of them, evenly spaced, without augmentation draws."""
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        some = _spread(len(self), FINGERPRINTED)
        plan = [(0, some[first : first + 64]) for first in range(0, len(some), 64)]
        noted = (part for *_, parts in self._joined(plan, 0, _nothing, _described) for part in parts)
        return digest_of(len(self), noted)


def as_batch(joined: Any, index: Int[Tensor, "batch"], name: str, *, classes: bool = True) -> Batch:
    """A collated batch, taken apart and checked."""
    item = read_item(joined, name)
    check_text(item.inputs, name)
    labels = as_labels(item.label, name, classes=classes)
    if len(index) and labels.ndim == 1 and len(labels) != len(index):
        raise MismatchError(
            f"{name}: a batch holds other examples than it was made of",
            expected=f"{len(index)} labels, one per example",
            got=str(len(labels)),
            fix="let the collate function keep every example; leave out what is not meant by torch.utils.data.Subset(data, places)",
        )
    return Batch(item.inputs, labels, index, views=item.views)


def digest_of(examples: int, described: Iterator[bytes]) -> str:
    """A hash of a number of examples and of descriptions of some of them."""
    digest = xxhash.xxh3_128(str(examples).encode())
    for part in described:
        digest.update(part)
    return digest.hexdigest()


def describe(item: Any) -> bytes:
    """What tells an example from others: the names in it, hashes of tensors and arrays, and everything else as text."""
    if isinstance(item, Mapping):
        return b"".join(str(name).encode() + describe(item[name]) for name in item)
    if isinstance(item, (tuple, list)):
        return b"".join(map(describe, item))
    dense = isinstance(item, (Tensor, np.ndarray))
    return (content_hash(torch.as_tensor(item)) if dense else repr(item)).encode()


def _described(_id: str, item: Any) -> bytes:
    return describe(item)


def _nothing(_items: list[Any]) -> None:
    return None


def _spread(examples: int, most: int) -> Tensor:
    count = min(most, examples)
    return torch.arange(count) * (examples - 1) // max(count - 1, 1)


class _Keys:
    """The batch sampler that torch's loader takes; read once."""

    def __init__(self, keys: Iterator[list[tuple[int, int]]]) -> None:
        self.keys = keys

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        return iter(self.keys)


@dataclass(frozen=True)
class _Placed:
    """Items that know their places as a batch, its places, and what was noted."""

    collate: Callable[[list[Any]], Any]

    def __call__(self, items: list[tuple[int, Any, bytes]]) -> tuple[Tensor, Any, list[bytes]]:
        places, found, noted = zip(*items, strict=True)
        unread = next((item for item in found if isinstance(item, FractionateError)), None)
        return torch.tensor(places), self.collate(list(found)) if unread is None else unread, list(noted)


@dataclass(frozen=True)
class _Join:
    """A collate function that gives its error back: a worker would make text of it."""

    collate: Collate
    name: str

    def __call__(self, items: list[Any]) -> Any:
        try:
            return join(items, self.collate, self.name)
        except FractionateError as error:
            return error
