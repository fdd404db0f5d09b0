"""Labelled examples held in memory: inputs, labels, names."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Int, Integer, Shaped
from torch import Tensor

from fractionate.data.rows import as_rows
from fractionate.errors import ConfigError, MismatchError


@dataclass(frozen=True, eq=False, repr=False)
class Examples:
    """Inputs [examples, ...] with labels [examples], and the names to show them by.

    Raises `MismatchError` for no examples, for lengths that differ and for labels that are not whole numbers from 0.
    """

    inputs: Shaped[Tensor, "examples *features"]
    labels: Integer[Tensor, "examples"]
    class_names: tuple[str, ...] = ()
    name: str = "data"
    ids: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not (isinstance(self.inputs, Tensor) and isinstance(self.labels, Tensor)):
            raise MismatchError(
                f"{self.name}: inputs and labels are not tensors",
                expected="two torch.Tensors",
                got=f"{type(self.inputs).__name__} and {type(self.labels).__name__}",
                fix="as_examples((inputs, labels)) makes tensors of arrays",
            )
        sizes = [len(part) if part.ndim else 0 for part in (self.inputs, self.labels)]
        if not sizes[0] == sizes[1] > 0:
            raise MismatchError(
                f"{self.name}: inputs and labels do not fit",
                expected="as many inputs as labels, at least one",
                got=f"{sizes[0]} inputs, {sizes[1]} labels",
            )
        whole = not (self.labels.is_floating_point() or self.labels.is_complex() or self.labels.dtype == torch.bool)
        if self.labels.ndim != 1 or not whole or int(self.labels.min()) < 0:
            least = f", least {self.labels.min().item()}" if whole else ""
            raise MismatchError(
                f"{self.name}: labels are not class numbers",
                expected="whole numbers from 0, one an example",
                got=f"{self.labels.dtype} {list(self.labels.shape)}{least}",
                fix="one-hot labels: labels.argmax(1)" if self.labels.ndim == 2 else None,
            )
        if self.ids and len(self.ids) != len(self.labels):
            raise MismatchError(f"{self.name}: ids do not fit", expected=f"{len(self)} ids", got=str(len(self.ids)))
        object.__setattr__(self, "labels", self.labels.long())
        names = self.class_names or tuple(str(c) for c in range(int(self.labels.max()) + 1))
        if int(self.labels.max()) >= len(names):
            raise MismatchError(
                f"{self.name}: a label has no class name",
                expected=f"labels in 0..{len(names) - 1}",
                got=str(int(self.labels.max())),
            )
        object.__setattr__(self, "class_names", names)
        object.__setattr__(self, "ids", self.ids or tuple(str(i) for i in range(len(self.labels))))

    @property
    def classes(self) -> int:
        """The number of classes."""
        return len(self.class_names)

    def take(self, index: Int[Tensor, "some"]) -> Examples:
        """Some of the examples."""
        ids = tuple(self.ids[i] for i in index.tolist())
        return replace(self, inputs=self.inputs[index], labels=self.labels[index], ids=ids)

    def split(self, *sizes: int, seed: int = 0) -> tuple[Examples, ...]:
        """Disjoint random parts of the given sizes, each with the classes in the same proportion."""
        if any(size < 0 for size in sizes):
            raise ConfigError("a part cannot be of negative size", expected="sizes of 0 or more", got=str(sizes))
        if sum(sizes) > len(self):
            raise ConfigError(
                "the parts are larger than the data", expected=f"at most {len(self)}", got=str(sum(sizes))
            )
        generator = torch.Generator().manual_seed(seed)
        order = torch.randperm(len(self), generator=generator)
        # spread every class evenly over the order, so that any stretch of it is stratified
        labels = self.labels[order]
        within = torch.zeros(len(self), dtype=torch.float64)
        for label in range(self.classes):
            places = (labels == label).nonzero().flatten()
            offset = torch.rand(1, generator=generator, dtype=torch.float64)
            within[places] = (torch.arange(len(places), dtype=torch.float64) + offset) / len(places)
        order = order[torch.argsort(within, stable=True)]
        parts, start = [], 0
        for size in sizes:
            parts.append(self.take(order[start : start + size]))
            start += size
        return tuple(parts)

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        return f"Examples({self.name}: {len(self):,} × {list(self.inputs.shape[1:])}, {self.classes} classes)"


def as_examples(data: Any, name: str = "data") -> Examples:
    """Examples as they are, from a pair of tensors, or from a dataset or loader that fits in memory.

    Raises `MismatchError` where there are none, where items are not (input, label) and where they differ in shape.
    """
    data = as_rows(data, name)
    if isinstance(data, Examples):
        return data
    if isinstance(data, (tuple, list)) and len(data) == 2 and all(hasattr(part, "__array__") for part in data):
        return Examples(torch.as_tensor(data[0]), torch.as_tensor(data[1]), name=name)
    batched = isinstance(data, torch.utils.data.DataLoader) and data.batch_sampler is not None
    inputs: list[Tensor] = []
    labels: list[Tensor] = []
    try:
        for item in _items(data, name):
            if not (isinstance(item, (tuple, list)) and len(item) >= 2):
                raise MismatchError(
                    f"{name}: items are not (input, label)",
                    expected="pairs",
                    got=type(item).__name__,
                    fix="wrap the dataset so that data[i] gives (input, label)",
                )
            inputs.append(torch.as_tensor(item[0]))
            labels.append(torch.as_tensor(item[1]))
        if not inputs:
            raise MismatchError(f"{name}: there is no data", expected="at least one example", got="none")
        join = torch.cat if batched else torch.stack
        return Examples(join(inputs), join(labels), tuple(getattr(data, "class_names", ())), name)
    except (TypeError, RuntimeError) as error:
        raise MismatchError(
            f"{name}: items do not fit into one tensor",
            expected="tensors or arrays of one shape",
            got=str(error),
            fix="convert and resize them in the dataset's transform",
        ) from error


def _items(data: Any, name: str) -> Iterator[Any]:
    """The items one after another: of a loader, of anything with places, of anything that can be walked."""
    if not isinstance(data, torch.utils.data.DataLoader) and hasattr(data, "__len__") and hasattr(data, "__getitem__"):
        return (data[i] for i in range(len(data)))
    if isinstance(data, Iterable):
        return iter(data)
    raise MismatchError(
        f"{name}: this is not data",
        expected="Examples, a pair of tensors, a dataset or a loader",
        got=type(data).__name__,
    )
