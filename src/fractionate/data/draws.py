"""Random draws of the data (augmentation) as a function of (seed, epoch, example), whoever reads them and when."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import xxhash

from fractionate.data.batch import Ids, Note
from fractionate.errors import FractionateError, MismatchError, printable


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
