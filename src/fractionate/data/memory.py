"""Data in memory: one indexing a batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from fractionate.data.batch import Batch, Ids, Note, Places, Plan, leaves, mapped, moved
from fractionate.data.dense import check_dense, dense_array, tensor_of
from fractionate.data.examples import Examples
from fractionate.data.items import VIEWS, check_text
from fractionate.data.labels import IGNORED, as_labels, as_numbers, check_values
from fractionate.data.sampling import batches as shuffled
from fractionate.errors import MismatchError, printable
from fractionate.system.hashing import content_hash


@dataclass(frozen=True, eq=False)
class MemorySplit:
    """Examples in memory.

    Args:
        inputs: A tensor [examples, ...], or a tuple or mapping of them where the model takes multiple inputs.
        labels: [examples] class numbers, or [examples, tokens].
        views: Inputs of other readers by name, made as `inputs` are.
        weight: [examples] counts them for more or less.
        labelled: [examples] False where the label is a guess of the teacher.
        name: The data's name in messages and records.
        ids: The id of each example; left out, its place.
        class_names: The names of the classes, where known.

    Example:
        import torch
        from fractionate.data import MemorySplit
        split = MemorySplit(torch.randn(3, 4), torch.tensor([0, 1, 0]), weight=torch.tensor([1.0, 2.0, 1.0]))
        print(len(split), split.weight)
    """

    inputs: Any
    labels: Tensor
    name: str = "data"
    ids: Ids = ()
    class_names: tuple[str, ...] = ()
    views: Mapping[str, Any] = field(default_factory=dict)
    weight: Float[Tensor, "examples"] | None = None
    labelled: Bool[Tensor, "examples"] | None = None

    def __post_init__(self) -> None:
        if not len(self.ids):
            object.__setattr__(self, "ids", Places(len(self.labels)))

    @classmethod
    def of(cls, examples: Examples) -> MemorySplit:
        """Labelled examples as a split."""
        return cls(examples.inputs, examples.labels, examples.name, examples.ids, examples.class_names)

    @cached_property
    def complete(self) -> bool:
        """No label is `IGNORED`."""
        return not bool((self.labels == IGNORED).any())

    def __len__(self) -> int:
        return len(self.labels)

    def order(self, batch_size: int, seed: int, epoch: int) -> tuple[Int[Tensor, "batch"], ...]:
        """Shuffled anew in each epoch."""
        return shuffled(len(self), batch_size, seed, epoch)

    def batches(self, plan: Plan, seed: int) -> Iterator[Batch]:
        """The planned batches, in their order."""
        inputs, labels = self.inputs, self.labels
        alike = isinstance(inputs, Tensor) and inputs.device == labels.device
        for _, index in plan:
            there = index.to(labels.device)
            # copies whole rows: two to five times as fast as inputs[index], which gathers number by number
            some = inputs.index_select(0, there) if alike else selected(inputs, there)
            yield Batch(
                some,
                labels.index_select(0, there),
                index,
                self.complete,
                *(selected(part, there) for part in (self.views, self.weight, self.labelled)),
            )

    def read(self, plan: Plan, seed: int, note: Note | None = None) -> Iterator[tuple[Batch, list[bytes]]]:
        """The planned batches, each with what is noted of its examples."""
        for epoch, index in plan:
            noted = [] if note is None else [note(self.ids[place], self[place]) for place in index.tolist()]
            yield next(self.batches([(epoch, index)], seed)), noted

    def __getitem__(self, place: int) -> Any:
        """One example: (input, label), or a mapping where it has views as well."""
        inputs, label = mapped(self.inputs, lambda part: part[place]), self.labels[place]
        if not self.views:
            return inputs, label
        named = inputs if isinstance(inputs, dict) else {"inputs": inputs}
        return {**named, "labels": label, VIEWS: mapped(dict(self.views), lambda part: part[place])}

    def take(self, places: Int[Tensor, "some"]) -> MemorySplit:
        """Some of the examples, under their ids."""
        there = places.to(self.labels.device)
        ids = tuple(self.ids[place] for place in places.tolist())
        return replace(self._each(lambda part: selected(part, there)), ids=ids)

    def to(self, device: torch.device) -> MemorySplit:
        """The same examples on a device."""
        return self._each(lambda part: moved(part, device))

    def _each(self, change: Callable[[Any], Any]) -> MemorySplit:
        """The same examples with every tensor changed."""
        names = ("inputs", "labels", "views", "weight", "labelled")
        return replace(self, **{name: change(getattr(self, name)) for name in names})

    def fingerprint(self) -> str:
        """A hash of every input and label."""
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        found = [leaf for _, leaf in leaves(self.inputs)] + [self.labels]
        found += [leaf for _, leaf in leaves(dict(self.views))]
        found += [more for more in (self.weight, self.labelled) if more is not None]
        return content_hash(*found)


def selected(tree: Any, index: Int[Tensor, "batch"]) -> Any:
    """Some rows of every tensor."""
    return mapped(tree, lambda part: part.index_select(0, index.to(part.device)))


def is_array(value: Any) -> bool:
    """Tensors, arrays, frames and series: what can be read as an array, and holds its examples along the first axis."""
    return hasattr(value, "__array__")


def is_columns(value: Any) -> bool:
    """A tensor or array of inputs, or a tuple or mapping of them."""
    if isinstance(value, Mapping):
        return bool(value) and all(is_array(part) or is_rows(part) for part in value.values())
    return is_array(value) or (isinstance(value, tuple) and bool(value) and all(is_array(part) for part in value))


def is_rows(value: Any) -> bool:
    """A list with one row of numbers for each example: arrays, or lists of numbers."""
    return isinstance(value, list) and bool(value) and all(is_array(row) or isinstance(row, list) for row in value)


def as_inputs(value: Any, name: str) -> Any:
    """Tensors of arrays, frames and series, and of mappings and tuples of them. Raises `MismatchError` for text and objects."""
    check_dense(value, name)
    if isinstance(value, Tensor):
        return value
    if isinstance(value, Mapping):
        return {str(key): as_inputs(part, f"{name}: {key!r}") for key, part in value.items()}
    if isinstance(value, tuple):
        return tuple(as_inputs(part, name) for part in value)
    if is_rows(value):
        shapes = {tuple(row.shape) if is_array(row) else (len(row),) for row in value}
        if len(shapes) > 1:
            raise MismatchError(
                f"{name}: rows differ in length",
                expected="rows of one shape",
                got=", ".join(map(str, [list(shape) for shape in sorted(shapes)][:4])),
                fix="pad them: tokenizer(..., padding=True), or give a data set and a DataLoader with a collate function that pads",
            )
        if all(isinstance(row, Tensor) for row in value):
            return torch.stack(value)
        if all(isinstance(row, list) for row in value):
            with suppress(TypeError, ValueError):  # what is no number is refused below
                return torch.tensor(value)
    array = dense_array(value, name)
    if array.dtype.kind in "UST":
        check_text([str(array.flat[0])] if array.size else "", name)
    if array.dtype.kind not in "biufc":
        kinds = dict(value.dtypes) if hasattr(value, "dtypes") else {}  # of a frame's columns
        columns = [str(column) for column, kind in kinds.items() if getattr(kind, "kind", "O") not in "biufc"]
        raise MismatchError(
            f"{name}: a model takes numbers",
            expected="arrays of numbers",
            got=f"{array.dtype}" + (f" in {', '.join(printable(c, 20) for c in columns[:5])}" if columns else ""),
            fix="make numbers of the columns that hold text or objects, or read the file with table(…), which does",
        )
    return tensor_of(array)


def in_memory(inputs: Any, labels: Any, name: str, *, classes: bool = True) -> MemorySplit:
    """Arrays of inputs with their labels, checked. Raises `MismatchError` for lengths that differ and labels that are none."""
    made, given = (
        as_inputs(inputs, name),
        as_labels(labels, name, classes=False) if classes else as_numbers(labels, name),
    )
    parts = dict(leaves(made)) | {"labels": given}
    sizes = {path: len(part) if part.ndim else 0 for path, part in parts.items()}
    if len(set(sizes.values())) > 1 or not sizes["labels"]:
        raise MismatchError(
            f"{name}: inputs and labels do not fit",
            expected="as many inputs as labels, at least one",
            got=", ".join(f"{size} {path or 'inputs'}" for path, size in sizes.items()),
        )
    given = as_labels(given, name, classes=classes)
    if not classes:
        return MemorySplit(made, given, name, Places(len(given)))
    check_values(given, name)
    if isinstance(made, Tensor) and given.ndim == 1 and not given.is_floating_point() and int(given.min()) >= 0:
        return MemorySplit.of(Examples(made, given, name=name))
    return MemorySplit(made, given, name, Places(len(given)))
