"""Batches, and the protocol of a split: one named part of the data, read in batches whose order and content follow from a seed.

The order is a function of (seed, epoch) alone and what an example looks like in an epoch (augmentation) a function of
(seed, epoch, example): so a resumed run continues at any step, with any number of workers and processes, and all arms of a seed
see the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

Plan = Iterable[tuple[int, Int[Tensor, "_"]]]  # (epoch, places in the split) of each batch to come
Note = Callable[[str, Any], bytes]  # (id, the example as the data give it): what a reader keeps of each example


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

    Example:
        import torch
        from fractionate.data import Batch
        batch = Batch(torch.randn(2, 4), torch.tensor([0, 1]), index=torch.tensor([7, 3]))
        print(batch.labels, batch.index)
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
        if device.type == "cpu" and self.labels.device.type == "cpu":
            return self
        labels, views, weight, labelled = (
            moved(part, device) for part in (self.labels, self.views, self.weight, self.labelled)
        )
        return Batch(moved(self.inputs, device), labels, self.index, self.complete, views, weight, labelled)

    def view(self, name: str = "") -> Any:
        """The inputs of a view; "" and views the data do not have are the student's inputs."""
        return self.views.get(name, self.inputs)


@runtime_checkable
class Ids(Protocol):
    """The ids of all examples: a tuple of text, or `Places`."""

    def __len__(self) -> int: ...

    def __getitem__(self, place: int, /) -> str: ...

    def __iter__(self) -> Iterator[str]: ...


@dataclass(frozen=True)
class Places:
    """The ids of examples that have none of their own: their places, as text.

    Args:
        count: The number of examples.

    Example:
        from fractionate.data import Places
        print(list(Places(3)))
    """

    count: int

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, place: int, /) -> str:
        return str(range(self.count)[place])

    def __iter__(self) -> Iterator[str]:
        return map(str, range(self.count))


@dataclass(frozen=True, eq=False)
class Repeated:
    """The ids of multiple views of the same examples, one view after the other."""

    ids: Ids
    times: int

    def __len__(self) -> int:
        return len(self.ids) * self.times

    def __getitem__(self, place: int, /) -> str:
        return self.ids[range(len(self))[place] % len(self.ids)]

    def __iter__(self) -> Iterator[str]:
        return (self[place] for place in range(len(self)))


@runtime_checkable
class Split(Protocol):
    """One named part of the data, drawn from in batches."""

    @property
    def name(self) -> str:
        """The data's name."""
        ...

    @property
    def ids(self) -> Ids:
        """A stable id of each example; views of one example share one."""
        ...

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of the classes, where the data have them."""
        ...

    @property
    def labels(self) -> Tensor | None:
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


@runtime_checkable
class NotedSplit(Split, Protocol):
    """A split of examples that can be read one by one, and noted where they are read: in a worker, before anything is joined."""

    def __getitem__(self, place: int, /) -> Any:
        """One example as the data give it."""
        ...

    def read(self, plan: Plan, seed: int, note: Note | None = None) -> Iterator[tuple[Batch, list[bytes]]]:
        """The planned batches, each with what `note` says of its examples (nothing without one)."""
        ...


@runtime_checkable
class MakesSplit(Protocol):
    """Data that know how they are read in batches, such as views of other data."""

    def as_split(self) -> Split:
        """The data as a split."""
        ...


def moved(inputs: Any, device: torch.device) -> Any:
    """Tensors, and tensors within mappings, tuples and lists, on a device."""
    if isinstance(inputs, Tensor):
        return inputs.to(device, non_blocking=True)
    return mapped(inputs, lambda part: part.to(device, non_blocking=True))


def mapped(tree: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """The same mappings, tuples and lists with each tensor changed; what is no tensor stays."""
    if isinstance(tree, Tensor):
        return change(tree)
    if isinstance(tree, Mapping):
        return {name: mapped(part, change) for name, part in tree.items()}
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):  # a named tuple takes its parts one by one
        return type(tree)(*(mapped(part, change) for part in tree))
    if isinstance(tree, (tuple, list)):
        return type(tree)(mapped(part, change) for part in tree)
    return tree


def leaves(tree: Any) -> Iterator[tuple[str, Any]]:
    """What mappings, tuples and lists hold in the end, each with its path such as `input_ids` or `0.mask`."""
    if isinstance(tree, Mapping):
        parts: Iterable[tuple[Any, Any]] = tree.items()
    elif isinstance(tree, (tuple, list)):
        parts = enumerate(tree)
    else:
        yield "", tree
        return
    for name, part in parts:
        for path, leaf in leaves(part):
            yield f"{name}.{path}" if path else str(name), leaf
