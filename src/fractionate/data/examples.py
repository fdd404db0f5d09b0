"""Labelled examples held in memory: inputs, labels, names."""

from __future__ import annotations

from dataclasses import dataclass, replace

from jaxtyping import Int, Integer, Shaped
from torch import Tensor

from fractionate.data.dividing import stratified_order
from fractionate.data.labels import advice, as_labels, check_values
from fractionate.errors import ConfigError, MismatchError


@dataclass(frozen=True, eq=False, repr=False)
class Examples:
    """Inputs with labels, and the names to show them by.

    Args:
        inputs: [examples, ...].
        labels: [examples] class numbers from 0.
        class_names: One per class; () where they have none.
        name: The data's name in messages and records.
        ids: One per example; () for their places.

    Raises:
        MismatchError: for no examples, for lengths that differ and for labels that are not whole numbers from 0.

    Example:
        import torch
        from fractionate.data import Examples
        data = Examples(torch.randn(3, 4), torch.tensor([0, 1, 0]), class_names=("no", "yes"))
        print(len(data), data.classes)
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
        labels = as_labels(self.labels, self.name)
        if labels.ndim != 1:
            raise MismatchError(
                f"{self.name}: labels are not class numbers",
                expected="whole numbers from 0, one per example",
                got=f"{self.labels.dtype} {list(self.labels.shape)}",
                fix=advice(labels),
            )
        check_values(labels, self.name)
        if int(labels.min()) < 0:
            raise MismatchError(
                f"{self.name}: labels are not class numbers",
                expected="whole numbers from 0, one per example",
                got=f"least {int(labels.min())}",
                fix="leave out the examples that count for nothing",
            )
        if self.ids and len(self.ids) != len(self.labels):
            raise MismatchError(f"{self.name}: ids do not fit", expected=f"{len(self)} ids", got=str(len(self.ids)))
        object.__setattr__(self, "labels", labels)
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
        order = stratified_order(self.labels, seed)
        parts, start = [], 0
        for size in sizes:
            parts.append(self.take(order[start : start + size]))
            start += size
        return tuple(parts)

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        return f"Examples({self.name}: {len(self):,} × {list(self.inputs.shape[1:])}, {self.classes} classes)"
