"""Streams: data without places, read in their own order, as much of them as the steps take."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor
from torch.utils.data import DataLoader, default_collate

from fractionate.data.batch import Batch, Ids, Places, Plan
from fractionate.data.dataset import as_batch, describe, digest_of
from fractionate.data.items import Collate, join
from fractionate.errors import ConfigError, MismatchError
from fractionate.records import Training

FINGERPRINTED = 16  # examples of which a fingerprint is made


@dataclass(frozen=True, eq=False)
class StreamSplit:
    """The first examples of a stream, in its own order: for data too large to have places.

    A place is the number of an example in the stream. A resumed run reads what it has used once more and leaves it out, so the
    stream has to give the same examples each time it is started.

    Args:
        stream: Gives the examples each time it is iterated over.
        examples: How many are read.
        name: The data's name in messages and records.
        collate: Makes a batch of a list of examples.
        workers: Processes that read.
        class_names: The names of the classes, where known.
        loading: Further arguments of torch's `DataLoader`.
        classes: Labels are class numbers.

    Example:
        import torch
        from fractionate.data import StreamSplit
        split = StreamSplit([(torch.randn(4), place % 2) for place in range(9)], examples=8)
        print(len(split))
    """

    stream: Iterable[Any]
    examples: int
    name: str = "data"
    collate: Collate = default_collate
    workers: int = 0
    class_names: tuple[str, ...] = ()
    loading: Mapping[str, Any] = field(default_factory=dict)
    classes: bool = True

    @property
    def labels(self) -> None:
        """Not known before they are read."""
        return None

    @property
    def ids(self) -> Ids:
        """The number of each example in the stream."""
        return Places(self.examples)

    def __len__(self) -> int:
        return self.examples

    def order(self, batch_size: int, seed: int, epoch: int) -> tuple[Int[Tensor, "batch"], ...]:
        """As they come."""
        return torch.split(torch.arange(len(self)), batch_size)

    def items(self) -> Iterator[Any]:
        """The examples, from the first."""
        return stream_items(self.stream, self.workers, self.loading)

    def batches(self, plan: Plan, seed: int) -> Iterator[Batch]:
        """The planned batches, in their order. Raises `MismatchError` where the stream ends early."""
        numbered = enumerate(self.items())
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
            yield as_batch(join(items, self.collate, self.name), index, self.name, classes=self.classes)

    def fingerprint(self) -> str:
        """The number of examples and a hash of the first 16."""
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        return digest_of(self.examples, map(describe, islice(self.items(), FINGERPRINTED)))


def stream_items(stream: Iterable[Any], workers: int, loading: Mapping[str, Any]) -> Iterator[Any]:
    """The examples of a stream, one by one; of multiple workers in turn, as torch's loader reads them."""
    if not workers:
        return iter(stream)
    loader: DataLoader[Any] = DataLoader(
        stream,  # type: ignore[arg-type]
        batch_size=None,
        collate_fn=_as_it_is,
        num_workers=workers,
        **loading,
    )
    return iter(loader)


def _as_it_is(item: Any) -> Any:
    return item


def as_stream(
    data: Any,
    name: str,
    training: Training | None,
    collate: Collate,
    workers: int = 0,
    loading: Mapping[str, Any] | None = None,
    *,
    classes: bool = True,
) -> StreamSplit:
    """As much of a stream as a training takes. Raises `ConfigError` where that is not known, or it cannot be started again."""
    if not hasattr(data, "__iter__") or iter(data) is data:
        raise ConfigError(
            f"{name}: this data can be read neither by place nor again from its start",
            expected="examples, a pair of tensors, a map-style dataset with len() and [i], or an iterable that starts anew",
            got=type(data).__name__,
            fix="give the object that makes the iterator, as a resumed run has to read it again",
        )
    if training is None or training.steps is None:
        raise ConfigError(
            f"{name}: a stream has no length",
            expected="a number of steps" if training is not None else "data that can be read by place",
            got=type(data).__name__,
            fix="set Training(steps=…)" if training is not None else "read it into memory once",
        )
    examples = training.steps * training.batch_size
    return StreamSplit(data, examples, name, collate, workers, loading=loading or {}, classes=classes)
