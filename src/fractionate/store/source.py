"""The examples a teacher is asked about: in memory or read one by one, each with an id and a fingerprint of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from typing import Any

import numpy as np
import torch
import xxhash
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, default_collate

from fractionate.data.examples import Examples
from fractionate.data.items import LABELS
from fractionate.data.rows import as_rows
from fractionate.data.splits import as_examples
from fractionate.errors import MismatchError, printable


@dataclass(frozen=True, eq=False)
class Batch:
    """Some examples: inputs for the teacher, labels, places in the data, fingerprints."""

    inputs: Any
    labels: Tensor
    places: NDArray[np.int64]
    keys: NDArray[np.uint8]  # [batch, 16]


class Source:
    """One way to read all data: examples in memory, pairs of tensors, or a dataset of (input, label) or of mappings.

    A loader lends its dataset and its collate function. Raises `MismatchError` for no data and for data without a length.
    """

    def __init__(self, data: Any, name: str = "data") -> None:
        self._collate: Callable[[list[Any]], Any] = default_collate
        if isinstance(data, DataLoader):
            self._collate, data = data.collate_fn or default_collate, data.dataset
        if isinstance(data, (tuple, list)) and len(data) == 2 and all(hasattr(part, "__array__") for part in data):
            data = as_examples(data, name)
        data = as_rows(data, name)
        self.examples = data if isinstance(data, Examples) else None
        self.dataset = data
        named = getattr(data, "name", name)
        self.title: str = named if isinstance(named, str) else name
        self.name = printable(self.title)  # in messages
        try:
            count = len(data)
            assert self.examples is not None or hasattr(data, "__getitem__")
        except (TypeError, AssertionError) as error:
            raise MismatchError(
                f"{name}: the number of examples is not known",
                expected="data with a length, read by place",
                got=type(data).__name__,
                fix="read the stream into Examples first",
            ) from error
        if count == 0:
            raise MismatchError(f"{name}: there is no data", expected="at least one example", got="0")
        self.count = count
        ids = data.ids if isinstance(data, Examples) else getattr(data, "ids", None)
        self.ids: Sequence[str] | None = None if ids is None else tuple(str(i) for i in ids)
        if self.ids is not None and len(self.ids) != count:
            raise MismatchError(f"{self.name}: {len(self.ids)} ids for {count} examples")
        if self.ids is not None and len(set(self.ids)) != count:
            self._refuse_duplicates()

    def _refuse_duplicates(self) -> None:
        assert self.ids is not None
        seen: dict[str, int] = {}
        for place, name in enumerate(self.ids):
            first = seen.setdefault(name, place)
            if first != place and key(name, *self.item(first)) != key(name, *self.item(place)):
                raise MismatchError(
                    f"{self.name}: two examples of different content have the same id {printable(name)!r}",
                    expected="an id of its own for each example",
                    got=f"places {first} and {place}",
                    fix="leave the ids out (the place is the id then), or use fractionate.store.content_ids(data)",
                )

    def __len__(self) -> int:
        return self.count

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of the classes, where the data has them."""
        return tuple(map(str, self.dataset.class_names)) if hasattr(self.dataset, "class_names") else ()

    @property
    def names_given(self) -> bool:
        """Whether the classes have names of their own, and not just numbers counted from the labels."""
        return any(name != str(number) for number, name in enumerate(self.class_names))

    @cached_property
    def _keys(self) -> NDArray[np.uint8]:
        assert self.examples is not None
        inputs, labels = self.examples.inputs.cpu(), self.examples.labels.cpu()
        return _keys(key(self.id(place), inputs[place], labels[place]) for place in range(self.count))

    @property
    def fingerprint(self) -> str:
        """sha256 over the fingerprints of all examples in order; empty where the data are read one by one."""
        return "" if self.examples is None else sha256(self._keys.tobytes()).hexdigest()

    def id(self, place: int) -> str:
        """How people know an example; its place where the data has no ids."""
        return str(place) if self.ids is None else self.ids[place]

    def shown(self, place: int) -> str:
        """An id for a message: safe to print, not long."""
        return printable(self.id(place))

    def item(self, place: int) -> tuple[Any, Any]:
        """Input and label of one example."""
        if self.examples is not None:
            return self.examples.inputs[place], self.examples.labels[place]
        return split(self.dataset[place], f"{self.name}: example {self.shown(place)}")

    def collate(self, items: list[tuple[Any, Any]]) -> tuple[Any, Tensor]:
        """Inputs and labels of one batch."""
        if self._collate is default_collate:
            return default_collate([x for x, _ in items]), torch.stack([torch.as_tensor(y) for _, y in items])
        whole = [{**x, "labels": y} if isinstance(x, Mapping) else (x, y) for x, y in items]
        inputs, labels = split(self._collate(whole), f"{self.name}: a collated batch")
        return inputs, torch.as_tensor(labels)

    def batch(self, places: NDArray[np.int64]) -> Batch:
        """Inputs, labels and fingerprints of some examples, as they are (no view)."""
        if self.examples is not None:
            index = torch.from_numpy(np.ascontiguousarray(places))
            return Batch(self.examples.inputs[index], self.examples.labels[index], places, self._keys[places])
        items = [self.item(int(place)) for place in places]
        inputs, labels = self.collate(items)
        return Batch(inputs, labels, places, self.keys(places, items))

    def keys(self, places: NDArray[np.int64], items: Sequence[tuple[Any, Any]] | None = None) -> NDArray[np.uint8]:
        """The fingerprints of some examples; `items` where they have been read already."""
        if self.examples is not None:
            return self._keys[places]
        found = items if items is not None else (self.item(int(place)) for place in places)
        return _keys(key(self.id(int(place)), *item) for place, item in zip(places, found, strict=True))


def split(item: Any, what: str) -> tuple[Any, Any]:
    """(input, label) of a pair, or of a mapping with a label in it."""
    if isinstance(item, Mapping):
        name = next((name for name in LABELS if name in item), None)
        if name is not None:
            return {other: value for other, value in item.items() if other != name}, item[name]
    elif isinstance(item, (tuple, list)) and len(item) >= 2:
        return item[0], item[1]
    raise MismatchError(
        f"{what} is not (input, label)", expected="a pair, or a mapping with 'labels'", got=type(item).__name__
    )


def content_ids(data: Any) -> tuple[str, ...]:
    """An id for each example from its content alone, for data that have none and may be reordered."""
    source = Source(data)
    return tuple(key("", *source.item(place)).hex() for place in range(len(source)))


def key(identifier: str, inputs: Any, label: Any) -> bytes:
    """Sixteen bytes that change with an example's id, input or label."""
    state = xxhash.xxh3_128(identifier.encode("utf-8", "surrogatepass"))
    _feed(state, inputs)
    _feed(state, label)
    return state.digest()


def _keys(found: Any) -> NDArray[np.uint8]:
    return np.frombuffer(b"".join(found), np.uint8).reshape(-1, 16)


def _feed(state: Any, value: Any) -> None:
    if isinstance(value, Mapping):
        for name in sorted(value):
            state.update(f"{name}:".encode())
            _feed(state, value[name])
    elif isinstance(value, (tuple, list)):
        state.update(f"[{len(value)}".encode())
        for part in value:
            _feed(state, part)
    elif isinstance(value, (str, bytes, int, float, bool)) or value is None:
        state.update(f"{type(value).__name__}{value!r}".encode("utf-8", "surrogatepass"))
    elif isinstance(value, Tensor):
        part = value.detach().cpu().contiguous()
        state.update(f"{part.dtype}{tuple(part.shape)}".encode())
        state.update(part.reshape(-1).view(torch.uint8).numpy().data)
    else:
        array = np.ascontiguousarray(np.asarray(value))
        if array.dtype == object:
            raise MismatchError(
                "an example cannot be fingerprinted", expected="tensors, arrays, numbers or text", got=str(type(value))
            )
        state.update(f"{array.dtype}{array.shape}".encode())
        state.update(array.reshape(-1).view(np.uint8).data)
