"""Where the engine's batches come from: examples in memory, map-style datasets, loaders, streams.

The order is a function of (seed, epoch) alone and what an example looks like in an epoch (augmentation) a function of
(seed, epoch, example): so a run can go on at any step, with any number of workers and processes, and all arms of a seed
see the same.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
import xxhash
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, default_collate

from fractionate.checkpoint import content_hash
from fractionate.data.examples import Examples
from fractionate.data.rows import as_rows
from fractionate.errors import ConfigError, MismatchError
from fractionate.order import batches as shuffled
from fractionate.records import Training

Plan = Iterable[tuple[int, Int[Tensor, "batch"]]]  # (epoch, places in the data) of each batch to come


@dataclass(frozen=True, eq=False)
class Batch:
    """Inputs as the model takes them, their labels, and their places in the split.

    Args:
        inputs: What the student is called with: a tensor, a tuple of positional arguments, or a mapping of named ones.
        labels: [batch, *tokens], integer or float: the task knows.
        index: [batch] place of each example in its split; on the CPU.
        complete: No label is `IGNORED`.
        views: Inputs of other readers of the same examples by name, such as "teacher".
        weight: [batch] counts examples for more or less; None: all alike.
        labelled: [batch] False where the label is a guess of the teacher: there the teacher alone is learned from.
    """

    inputs: Any
    labels: Tensor
    index: Int[Tensor, "batch"]
    complete: bool = False
    views: Mapping[str, Any] = field(default_factory=dict)
    weight: Float[Tensor, "batch"] | None = None
    labelled: Bool[Tensor, "batch"] | None = None

    def to(self, device: torch.device) -> Batch:
        """The same batch on a device."""
        if device.type == "cpu":
            return self
        weight = None if self.weight is None else self.weight.to(device, non_blocking=True)
        labelled = None if self.labelled is None else self.labelled.to(device, non_blocking=True)
        return Batch(
            moved(self.inputs, device),
            self.labels.to(device, non_blocking=True),
            self.index,
            self.complete,
            {name: moved(view, device) for name, view in self.views.items()},
            weight,
            labelled,
        )

    def view(self, name: str = "") -> Any:
        """The inputs of a view; "" and views the data do not have are the student's inputs."""
        return self.views.get(name, self.inputs)


@runtime_checkable
class Split(Protocol):
    """Data the engine can draw batches from."""

    @property
    def name(self) -> str:
        """The data's name."""
        ...

    @property
    def labels(self) -> Int[Tensor, "examples"] | None:
        """All labels, where known without reading the data."""
        ...

    def __len__(self) -> int: ...

    def order(self, batch_size: int, seed: int, epoch: int) -> tuple[Int[Tensor, "batch"], ...]:
        """The places of the batches of an epoch."""
        ...

    def batches(self, plan: Plan, seed: int) -> Iterator[Batch]:
        """The planned batches, in their order."""
        ...

    def fingerprint(self) -> str:
        """What tells this data from other data."""
        ...


def moved(inputs: Any, device: torch.device) -> Any:
    """Tensors, and tensors within mappings, tuples and lists, on a device."""
    if isinstance(inputs, Tensor):
        return inputs.to(device, non_blocking=True)
    if isinstance(inputs, Mapping):
        return {name: moved(part, device) for name, part in inputs.items()}
    if isinstance(inputs, (tuple, list)):
        return type(inputs)(moved(part, device) for part in inputs)
    return inputs


@dataclass(frozen=True, eq=False)
class MemorySplit:
    """Examples in memory: a batch is one indexing."""

    examples: Examples

    @property
    def name(self) -> str:
        """The data's name."""
        return self.examples.name

    @property
    def labels(self) -> Int[Tensor, "examples"]:
        """All labels."""
        return self.examples.labels

    def __len__(self) -> int:
        return len(self.examples)

    def order(self, batch_size: int, seed: int, epoch: int) -> tuple[Int[Tensor, "batch"], ...]:
        """Shuffled anew in each epoch."""
        return shuffled(len(self), batch_size, seed, epoch)

    def batches(self, plan: Plan, seed: int) -> Iterator[Batch]:
        """The planned batches, in their order."""
        inputs, labels = self.examples.inputs, self.examples.labels
        for _, index in plan:
            there = index.to(inputs.device)
            # copies whole rows: two to five times as fast as inputs[index], which gathers number by number
            yield Batch(inputs.index_select(0, there), labels.index_select(0, there), index, complete=True)

    def fingerprint(self) -> str:
        """A hash of every input and label."""
        return content_hash(self.examples.inputs, self.examples.labels)


class Seeded(Dataset[Any]):
    """A dataset whose randomness is a function of (seed, epoch, example), whoever reads it and when."""

    def __init__(self, dataset: Any, seed: int) -> None:
        self.dataset, self.seed = dataset, seed

    def __getitem__(self, key: tuple[int, int]) -> tuple[int, Any]:
        epoch, place = key
        drawn = xxhash.xxh64_intdigest(f"{self.seed}:{epoch}:{place}".encode())
        torch.default_generator.manual_seed(drawn & 0x7FFF_FFFF_FFFF_FFFF)
        random.seed(drawn)
        np.random.seed(drawn & 0xFFFF_FFFF)
        return place, self.dataset[place]


@dataclass(frozen=True, eq=False)
class DatasetSplit:
    """A map-style dataset of (input, label) pairs, or of mappings with the label under `label` or `labels`."""

    dataset: Any
    name: str = "data"
    collate: Callable[[list[Any]], Any] = default_collate
    workers: int = 0
    labels: Int[Tensor, "examples"] | None = None

    def __len__(self) -> int:
        return len(self.dataset)

    def order(self, batch_size: int, seed: int, epoch: int) -> tuple[Int[Tensor, "batch"], ...]:
        """Shuffled anew in each epoch."""
        return shuffled(len(self), batch_size, seed, epoch)

    def batches(self, plan: Plan, seed: int) -> Iterator[Batch]:
        """The planned batches, in their order."""
        keys = ([(epoch, place) for place in index.tolist()] for epoch, index in plan)
        loader = DataLoader(
            Seeded(self.dataset, seed),
            batch_sampler=_Keys(keys),
            collate_fn=_Collate(self.collate),
            num_workers=self.workers,
        )
        for index, item in loader:
            inputs, labels = split_item(item, self.name)
            yield Batch(inputs, labels, index)

    def fingerprint(self) -> str:
        """The number of examples and a hash of up to 64 of them, evenly spaced, without augmentation draws."""
        chosen = torch.linspace(0, len(self) - 1, min(64, len(self))).long().tolist()
        seeded = Seeded(self.dataset, 0)
        return fingerprint_of(len(self), (seeded[0, place][1] for place in dict.fromkeys(chosen)))


def fingerprint_of(examples: int, items: Iterable[Any]) -> str:
    """A hash of a number of examples and of some of them."""
    digest = xxhash.xxh3_128(str(examples).encode())
    for item in items:
        for leaf in _leaves(item):
            dense = isinstance(leaf, (Tensor, np.ndarray))
            digest.update((content_hash(torch.as_tensor(leaf)) if dense else repr(leaf)).encode())
    return digest.hexdigest()


class _Keys:
    """The batch sampler that torch's loader asks for; read once."""

    def __init__(self, keys: Iterable[list[tuple[int, int]]]) -> None:
        self.keys = keys

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        return iter(self.keys)


class _Collate:
    def __init__(self, collate: Callable[[list[Any]], Any]) -> None:
        self.collate = collate

    def __call__(self, items: list[tuple[int, Any]]) -> tuple[Tensor, Any]:
        return torch.tensor([place for place, _ in items]), self.collate([item for _, item in items])


def _leaves(item: Any) -> Iterator[Any]:
    if isinstance(item, Mapping):
        for name in item:
            yield name
            yield from _leaves(item[name])
    elif isinstance(item, (tuple, list)):
        for part in item:
            yield from _leaves(part)
    else:
        yield item


def split_item(item: Any, name: str = "data") -> tuple[Any, Tensor]:
    """A collated batch as (inputs, labels). Raises `MismatchError` for anything but a pair or a mapping with labels."""
    if isinstance(item, Mapping):
        key = next((key for key in ("labels", "label") if key in item), None)
        if key is not None:
            return {k: v for k, v in item.items() if k != key}, torch.as_tensor(item[key])
    elif isinstance(item, (tuple, list)) and len(item) == 2:
        return item[0], torch.as_tensor(item[1])
    got = sorted(map(str, item)) if isinstance(item, Mapping) else type(item).__name__
    size = f" of {len(item)}" if isinstance(item, (tuple, list)) else ""
    raise MismatchError(
        f"{name}: items are not (input, label)",
        expected="pairs, or mappings with the label under 'labels' or 'label'",
        got=f"{got}{size}",
        fix="wrap the dataset, or give a DataLoader whose collate_fn returns such a pair",
    )


@dataclass(frozen=True, eq=False)
class StreamSplit:
    """The first examples of a stream, in its own order: for data too large to have places.

    A place is the number of an example in the stream. A run that goes on reads what it has used once more and leaves it out, so the
    stream has to give the same examples each time it is started.
    """

    stream: Iterable[Any]
    examples: int
    name: str = "data"
    collate: Callable[[list[Any]], Any] = default_collate
    labels: Int[Tensor, "examples"] | None = None

    def __len__(self) -> int:
        return self.examples

    def order(self, batch_size: int, seed: int, epoch: int) -> tuple[Int[Tensor, "batch"], ...]:
        """As they come."""
        return torch.split(torch.arange(len(self)), batch_size)

    def batches(self, plan: Plan, seed: int) -> Iterator[Batch]:
        """The planned batches, in their order. Raises `MismatchError` where the stream ends early."""
        numbered = enumerate(self.stream)
        for _, index in plan:
            wanted = index.tolist()
            items: list[Any] = []
            while len(items) < len(wanted):
                place, item = next(numbered, (-1, None))
                if place < 0:
                    raise MismatchError(
                        f"{self.name}: the stream ended early",
                        expected=f"{self.examples} examples: steps × batch_size",
                        got=f"an end before example {wanted[len(items)]}",
                        fix="set fewer steps, or let the stream start again by itself",
                    )
                if place == wanted[len(items)]:
                    items.append(item)
            inputs, labels = split_item(self.collate(items), self.name)
            yield Batch(inputs, labels, index)

    def fingerprint(self) -> str:
        """The number of examples and a hash of the first 16."""
        return fingerprint_of(self.examples, (item for item, _ in zip(self.stream, range(16), strict=False)))


def as_stream(data: Any, name: str, training: Training | None, collate: Callable[[list[Any]], Any]) -> StreamSplit:
    """As much of a stream as a training takes. Raises `ConfigError` where that is not known, or it cannot be started again."""
    if not hasattr(data, "__iter__") or iter(data) is data:
        raise ConfigError(
            f"{name}: this data can be read neither by place nor again from its start",
            expected="examples, a pair of tensors, a map-style dataset with len() and [i], or an iterable that starts anew",
            got=type(data).__name__,
            fix="give the object that makes the iterator, as a run that goes on has to read it again",
        )
    if training is None or training.steps is None:
        raise ConfigError(
            f"{name}: a stream has no length",
            expected="a number of steps" if training is not None else "data that can be read by place",
            got=type(data).__name__,
            fix="set Training(steps=…)" if training is not None else "read it into memory once",
        )
    return StreamSplit(data, training.steps * training.batch_size, name, collate)


def as_split(data: Any, name: str = "data", *, training: Training | None = None) -> Split:
    """A feed of examples, of a pair of tensors, of a map-style dataset, of a loader over one, or of a stream.

    A loader lends its dataset, its collate function and its workers; order and batch size are the training's. A stream (an
    iterable without places) is read in its own order, as many examples as the training's steps take. Raises `MismatchError`
    where there is no data and `ConfigError` for streams of unknown length and for those that cannot be started again.
    """
    if isinstance(data, (MemorySplit, DatasetSplit, StreamSplit)):
        return data
    if isinstance(data, Examples):
        return MemorySplit(data)
    if isinstance(data, Split):
        return data
    if isinstance(data, (tuple, list)) and len(data) == 2 and all(hasattr(part, "__array__") for part in data):
        return MemorySplit(Examples(torch.as_tensor(data[0]), torch.as_tensor(data[1]), name=name))
    collate: Callable[[list[Any]], Any] = default_collate
    workers = 0
    if isinstance(data, DataLoader):
        collate, workers, data = data.collate_fn or default_collate, data.num_workers, data.dataset
    data = as_rows(data, name)
    if isinstance(data, IterableDataset) or not (hasattr(data, "__getitem__") and hasattr(data, "__len__")):
        return as_stream(data, name, training, collate)
    if len(data) == 0:
        raise MismatchError(f"{name}: there is no data", expected="at least one example", got="none")
    if isinstance(data, torch.utils.data.TensorDataset) and len(data.tensors) == 2 and collate is default_collate:
        return MemorySplit(Examples(*data.tensors, name=name))
    targets = getattr(data, "targets", None)  # torchvision's name for all labels
    known = torch.as_tensor(targets) if isinstance(targets, (list, Tensor, np.ndarray)) else None
    if known is not None and (known.ndim != 1 or known.is_floating_point() or len(known) != len(data)):
        known = None
    return DatasetSplit(data, name=name, collate=collate, workers=workers, labels=known)
