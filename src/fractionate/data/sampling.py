"""Order and random draws of the data: functions of the seed, the epoch and the example alone, so that any step can be redone.

Nothing here keeps state. A run that is killed resumes at the same batch; arms of a study that share a seed share every batch;
a student in a fleet sees what it would see alone.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import xxhash
from jaxtyping import Int
from torch import Tensor

from fractionate.data.batch import Ids, Note
from fractionate.errors import ConfigError, FractionateError, MismatchError, printable


def draw_seed(*key: int | str) -> int:
    """A seed for torch's generators, mixed from any key: 32 bits, as the CPU generator reads no more."""
    text = "\x1f".join(map(str, key)).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=4).digest(), "little")


def step_seed(seed: int, step: int) -> int:
    """The seed of everything that a step draws in the model (dropout): `torch.manual_seed` of it before the forward pass."""
    return draw_seed("step", seed, step)


def permutation(examples: int, seed: int, epoch: int) -> Int[Tensor, "examples"]:
    """The order of all examples in an epoch."""
    generator = torch.Generator().manual_seed(draw_seed("epoch", seed, epoch))
    return torch.randperm(examples, generator=generator)


def batches(examples: int, batch_size: int, seed: int, epoch: int) -> tuple[Int[Tensor, "batch"], ...]:
    """The batches of an epoch: places of examples, each exactly once; the last batch may be smaller.

    Args:
        examples: The number of examples.
        batch_size: Examples in a batch.
        seed: With `epoch` it decides the order.
        epoch: The number of the epoch, from 0.

    Returns:
        [batch] places of each batch.

    Raises:
        ConfigError: for a batch size below 1 and for no examples.

    Example:
        from fractionate.data import batches

        print([len(places) for places in batches(10, batch_size=4, seed=0, epoch=0)])
    """
    if batch_size < 1 or examples < 1:
        raise ConfigError(
            "there is no batch to make",
            expected="at least one example and a batch size of at least 1",
            got=f"{examples} examples, batch size {batch_size}",
        )
    return torch.split(permutation(examples, seed, epoch), batch_size)


@contextmanager
def isolated() -> Iterator[None]:
    """Python's, NumPy's and torch's (CPU) random streams are put back as they were."""
    python, numpy, tensor = random.getstate(), np.random.get_state(), torch.default_generator.get_state()
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        torch.default_generator.set_state(tensor)


def seed_streams(seed: int) -> None:
    """Let all three streams follow from a seed."""
    torch.default_generator.manual_seed(seed & 0x7FFF_FFFF_FFFF_FFFF)
    np.random.seed(seed & 0xFFFF_FFFF)
    random.seed(seed)


def example(dataset: Any, place: int, known_as: str) -> Any:
    """One example of a data set, or the error that its reading ended in: raised in a worker, it would become text."""
    try:
        return dataset[place]
    except FractionateError as error:
        return error
    except Exception as error:  # the data set's own
        unread = MismatchError(
            f"example {known_as} cannot be read",
            expected="data[i] for every i below len(data)",
            got=f"{type(error).__name__}: {printable(str(error), 200)}",
            fix=f"call data[{place}] to see where; leave the example out, or give torch.utils.data.Subset(data, places)",
        )
        unread.__cause__ = error
        return unread


class Seeded:
    """A data set whose randomness is a function of (seed, epoch, example); items are (place, example, what is noted of it).

    In a worker it stands for the data set: what `worker_init_fn` sets on `get_worker_info().dataset` is set on that.
    Leaves the random streams changed: read within `isolated()`.
    """

    def __init__(self, dataset: Any, seed: int, ids: Ids, note: Note | None = None, canonical: Any = None) -> None:
        object.__setattr__(self, "_own", (dataset, seed, ids, note, canonical))

    def __getitem__(self, key: tuple[int, int]) -> tuple[int, Any, bytes]:
        dataset, seed, ids, note, canonical = self._own
        epoch, place = key
        seed_streams(xxhash.xxh64_intdigest(f"{seed}:{epoch}:{place}".encode()))
        item = example(dataset, place, ids[place])
        if isinstance(item, FractionateError):
            return place, item, b""
        noted = b"" if note is None else note(ids[place], item if canonical is None else canonical[place])
        return place, item, noted

    def __len__(self) -> int:
        return len(self._own[0])

    def __getattr__(self, name: str) -> Any:
        if name == "_own" or name.startswith("__"):  # not there before unpickling has set it
            raise AttributeError(name)
        return getattr(self._own[0], name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._own[0], name, value)
