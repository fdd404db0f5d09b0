"""The examples a teacher is asked about: in memory or read one by one, each with an id and a fingerprint of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from typing import Any

import numpy as np
import torch
import xxhash
from numpy.typing import NDArray
from torch import Tensor

from fractionate.errors import MismatchError
from fractionate.sources.examples import Examples, as_examples

LABELS = ("labels", "label", "targets", "target", "y")


@dataclass(frozen=True, eq=False)
class Batch:
    """Some examples: inputs for the teacher, labels, places in the data, fingerprints."""

    inputs: Any
    labels: Tensor
    places: NDArray[np.int64]
    keys: NDArray[np.uint8]  # [batch, 16]


class Source:
    """One way to read all data: examples in memory, pairs of tensors, or a dataset of (input, label) or of mappings."""

    def __init__(self, data: Any, name: str = "data") -> None:
        pair = isinstance(data, (tuple, list)) and len(data) == 2 and all(hasattr(part, "__array__") for part in data)
        if pair or isinstance(data, torch.utils.data.DataLoader):
            data = as_examples(data, name)
        self.examples = data if isinstance(data, Examples) else None
        self.dataset = data
        self.name = data.name if isinstance(data, Examples) else name
        try:
            count = len(data)
        except TypeError as error:
            raise MismatchError(
                f"{name}: the number of examples is not known",
                expected="data with a length, read by number",
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

    def __len__(self) -> int:
        return self.count

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of the classes, where the data has them."""
        return tuple(self.dataset.class_names) if hasattr(self.dataset, "class_names") else ()

    @property
    def names_given(self) -> bool:
        """Whether the classes have names of their own, and not just numbers counted from the labels."""
        return any(name != str(number) for number, name in enumerate(self.class_names))

    @cached_property
    def _keys(self) -> NDArray[np.uint8]:
        assert self.examples is not None
        inputs, labels = self.examples.inputs.cpu(), self.examples.labels.cpu()
        found = [key(self.id(place), inputs[place], labels[place]) for place in range(self.count)]
        return np.frombuffer(b"".join(found), np.uint8).reshape(-1, 16)

    @property
    def fingerprint(self) -> str:
        """sha256 over the fingerprints of all examples in order; empty where the data are read one by one."""
        return "" if self.examples is None else sha256(self._keys.tobytes()).hexdigest()

    def id(self, place: int) -> str:
        """How people know an example; its place where the data has no ids."""
        return str(place) if self.ids is None else self.ids[place]

    def item(self, place: int) -> tuple[Any, Any]:
        """Input and label of one example."""
        if self.examples is not None:
            return self.examples.inputs[place], self.examples.labels[place]
        item = self.dataset[place]
        if isinstance(item, Mapping):
            label = next((item[name] for name in LABELS if name in item), None)
            if label is not None:
                return {name: value for name, value in item.items() if name not in LABELS}, label
        elif isinstance(item, (tuple, list)) and len(item) >= 2:
            return item[0], item[1]
        raise MismatchError(
            f"{self.name}: example {self.id(place)} is not (input, label)",
            expected="a pair, or a mapping with 'labels'",
            got=type(item).__name__,
        )

    def batch(self, places: NDArray[np.int64]) -> Batch:
        """Inputs, labels and fingerprints of some examples, as they are (no view)."""
        if self.examples is not None:
            index = torch.from_numpy(np.ascontiguousarray(places))
            inputs, labels = self.examples.inputs[index], self.examples.labels[index]
            return Batch(inputs, labels, places, self._keys[places])
        items = [self.item(int(place)) for place in places]
        keys = [key(self.id(int(place)), *item) for place, item in zip(places, items, strict=True)]
        labels = torch.stack([torch.as_tensor(label) for _, label in items])
        return Batch(
            collate([x for x, _ in items]), labels, places, np.frombuffer(b"".join(keys), np.uint8).reshape(-1, 16)
        )

    def keys(self, places: NDArray[np.int64]) -> NDArray[np.uint8]:
        """The fingerprints of some examples."""
        if self.examples is not None:
            return self._keys[places]
        found = [key(self.id(int(place)), *self.item(int(place))) for place in places]
        return np.frombuffer(b"".join(found), np.uint8).reshape(-1, 16)


def collate(inputs: list[Any]) -> Any:
    """One batch of inputs: tensors stacked, mappings name by name."""
    return torch.utils.data.default_collate(inputs)


def key(identifier: str, inputs: Any, label: Any) -> bytes:
    """Sixteen bytes that change with an example's id, input or label."""
    state = xxhash.xxh3_128(identifier.encode("utf-8", "surrogatepass"))
    _feed(state, inputs)
    _feed(state, label)
    return state.digest()


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
                "an example cannot be fingerprinted", expected="tensors, arrays, numbers, text", got=str(type(value))
            )
        state.update(f"{array.dtype}{array.shape}".encode())
        state.update(array.reshape(-1).view(np.uint8).data)
