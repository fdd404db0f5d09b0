"""Data as the store reads them: batches of a split with a fingerprint of each example, by which rows are known again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from typing import Any

import numpy as np
import torch
import xxhash
from numpy.typing import NDArray
from torch import Tensor

from fractionate.data.batch import Batch, Places, Split
from fractionate.data.items import read_item
from fractionate.data.memory import MemorySplit
from fractionate.data.parts import read_noted
from fractionate.data.splits import as_split
from fractionate.errors import ConfigError, MismatchError, printable
from fractionate.system.hashing import feed_tensor

Keys = NDArray[np.uint8]  # [examples, 16]
READ_AT_ONCE = 256  # examples whose fingerprints are read in one batch


@dataclass(frozen=True, eq=False)
class Keyed:
    """A split whose examples are known by fingerprints of id, inputs and label."""

    split: Split

    @classmethod
    def of(cls, data: Any) -> Keyed:
        """Data of any kind that has a length. Raises `MismatchError` for streams and where two examples share an id."""
        try:
            keyed = cls(as_split(data))
        except ConfigError as error:
            if "a stream has no length" not in error.what and "neither by place" not in error.what:
                raise
            raise MismatchError(
                "data: the number of examples is not known",
                expected="data with a length, read by place",
                got=type(data).__name__,
                fix="read the stream into Examples first",
            ) from error
        keyed.check_ids()
        return keyed

    def __len__(self) -> int:
        return len(self.split)

    @property
    def name(self) -> str:
        """The data's name, safe to print."""
        return printable(self.split.name)

    @property
    def ids_given(self) -> bool:
        """Whether the examples have ids of their own."""
        return not isinstance(self.split.ids, Places)

    @cached_property
    def names_given(self) -> bool:
        """Whether the classes have names of their own, and not just numbers counted from the labels."""
        return any(name != str(number) for number, name in enumerate(self.split.class_names))

    def shown(self, place: int) -> str:
        """An id for a message: safe to print, not long."""
        return printable(self.split.ids[place])

    def check_ids(self) -> None:
        """Raise `MismatchError` where two examples of different content have the same id."""
        if not self.ids_given or len(set(self.split.ids)) == len(self):
            return
        first: dict[str, int] = {}
        for place, name in enumerate(self.split.ids):
            seen = first.setdefault(name, place)
            if seen != place and bytes(self.keys(np.array([seen]))) != bytes(self.keys(np.array([place]))):
                raise MismatchError(
                    f"{self.name}: two examples of different content have the same id {printable(name)!r}",
                    expected="an id of its own for each example",
                    got=f"places {seen} and {place}",
                    fix="leave the ids out (the place is the id then), or use fractionate.store.content_ids(data)",
                )

    @cached_property
    def _known(self) -> Keys | None:
        """All fingerprints, where the data lie in memory."""
        if not isinstance(self.split, MemorySplit):
            return None
        split = self.split.to(torch.device("cpu"))
        return _stacked(key_of(split.ids[place], split[place]) for place in range(len(split)))

    @property
    def fingerprint(self) -> str:
        """sha256 over the fingerprints of all examples in order; empty where the data are read one by one."""
        return sha256(self._known.tobytes()).hexdigest() if self._known is not None and self.ids_given else ""

    @property
    def in_memory(self) -> bool:
        """Whether every example can be compared at no cost."""
        return isinstance(self.split, MemorySplit)

    def batches(self, places: Iterable[NDArray[np.int64]]) -> Iterator[tuple[Batch, Keys]]:
        """Batches of some examples with their fingerprints."""
        plan = ((0, torch.from_numpy(np.ascontiguousarray(some))) for some in places)
        if self._known is not None:
            for batch in self.split.batches(plan, 0):
                yield batch, self._known[batch.index.numpy()]
            return
        for batch, noted in read_noted(self.split, plan, 0, key_of):
            yield batch, _stacked(noted)

    def keys(self, places: NDArray[np.int64]) -> Keys:
        """The fingerprints of some examples."""
        if self._known is not None:
            return self._known[places]
        some = [places[start : start + READ_AT_ONCE] for start in range(0, len(places), READ_AT_ONCE)]
        return np.concatenate([keys for _, keys in self.batches(some)]) if some else np.zeros((0, 16), np.uint8)


def key_of(identifier: str, item: Any) -> bytes:
    """The fingerprint of an example as its data set gives it; one whose label is made later is all input."""
    found = read_item(item, "data", labelled=False)
    return key(identifier, (found.inputs, found.views) if found.views else found.inputs, found.label)


def content_ids(data: Any) -> tuple[str, ...]:
    """An id for each example from its content alone, for data that have none and may be reordered.

    Args:
        data: What `as_split` takes.

    Returns:
        One hexadecimal id an example.

    Example:
        import torch
        from fractionate.store import content_ids

        print(content_ids((torch.randn(2, 8), torch.arange(2))))
    """
    split = as_split(data)
    plan = ((0, index) for index in torch.split(torch.arange(len(split)), READ_AT_ONCE))
    return tuple(noted.hex() for _, notes in read_noted(split, plan, 0, _without_id) for noted in notes)


def _without_id(_identifier: str, item: Any) -> bytes:
    return key_of("", item)


def key(identifier: str, inputs: Any, label: Any) -> bytes:
    """Sixteen bytes that change with an example's id, input or label."""
    state = xxhash.xxh3_128(identifier.encode("utf-8", "surrogatepass"))
    _feed(state, inputs)
    _feed(state, label)
    return state.digest()


def _stacked(found: Iterable[bytes]) -> Keys:
    """Fingerprints as rows; of more than one, an example's and its views', one."""
    each = (one if len(one) == 16 else xxhash.xxh3_128_digest(one) for one in found)
    return np.frombuffer(b"".join(each), np.uint8).reshape(-1, 16)


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
        feed_tensor(state, value)
    else:
        array = np.ascontiguousarray(np.asarray(value))
        if array.dtype == object:
            raise MismatchError(
                "an example cannot be fingerprinted", expected="tensors, arrays, numbers or text", got=str(type(value))
            )
        state.update(f"{array.dtype}{array.shape}".encode())
        state.update(array.reshape(-1).view(np.uint8).data)
