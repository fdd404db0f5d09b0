"""What a torch `DataLoader` lends: its data set, collate function and workers. What cannot be honoured is refused by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

import torch
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
    default_collate,
    default_convert,
)
from torch.utils.data.distributed import DistributedSampler

from fractionate.data.items import Collate
from fractionate.errors import ConfigError

HONOURED = ("worker_init_fn", "pin_memory", "timeout", "multiprocessing_context", "prefetch_factor")
FIXES = {
    WeightedRandomSampler: "count examples for more or less instead: weights=",
    DistributedSampler: "leave it out: under torchrun each process gets its part of every batch by itself",
    RandomSampler: "leave num_samples and replacement out: an epoch has each example once, and Training(steps=…) sets its length",
}
A_PART = "give the part that is meant: torch.utils.data.Subset(data, places)"


@dataclass(frozen=True, eq=False)
class Loaded:
    """A loader taken apart. `places` are those of a sampler that names some of the examples."""

    dataset: Any
    collate: Collate = default_collate
    workers: int = 0
    loading: Mapping[str, Any] = field(default_factory=dict)
    places: Tensor | None = None


def taken_apart(loader: DataLoader[Any], name: str) -> Loaded:
    """What a loader lends to a split: order and batch size are the training's, and follow from its seed.

    Raises `ConfigError` naming what cannot be honoured: samplers and batch samplers of one's own, generators, drop_last, and
    loaders that make their batches in a way of their own.
    """
    if type(loader).__iter__ is not DataLoader.__iter__:
        _refuse(name, f"{type(loader).__name__}.__iter__", "give the DataLoader it was made of, or its data set")
    collate = loader.collate_fn or default_collate
    collate = default_collate if collate is default_convert else collate
    given = {key: getattr(loader, key) for key in HONOURED}
    loading = {key: value for key, value in given.items() if value}
    if isinstance(loader.dataset, IterableDataset):
        loading |= {} if loader.generator is None else {"generator": loader.generator}
        return Loaded(loader.dataset, collate, loader.num_workers, loading)
    places = _places(loader, name)
    if loader.num_workers == 0:
        loading.pop("worker_init_fn", None)  # torch does not call it either
    return Loaded(loader.dataset, collate, loader.num_workers, loading, places)


def _places(loader: DataLoader[Any], name: str) -> Tensor | None:
    """The places a sampler names; None for all."""
    sampler: Any = loader.sampler
    batches = loader.batch_sampler
    if batches is not None:
        if type(batches) is not BatchSampler:
            _refuse(name, f"batch_sampler ({type(batches).__name__})", f"set Training(batch_size=…); {A_PART}")
        sampler = batches.sampler
        if batches.drop_last:
            _refuse(name, "drop_last", "leave it out: every example is read, and batches are the training's")
    generator = getattr(sampler, "generator", None) if loader.generator is None else loader.generator
    if generator is not None:
        _refuse(name, "generator", "leave it out: the order follows from seed=")
    whole: Any = loader.dataset
    if type(sampler) in (SequentialSampler, RandomSampler):
        if len(sampler) != len(whole) or getattr(sampler, "replacement", False):
            _refuse(name, f"sampler ({type(sampler).__name__} of {len(sampler)})", FIXES.get(type(sampler), A_PART))
        return None
    if type(sampler) is SubsetRandomSampler:
        return torch.as_tensor(list(sampler.indices), dtype=torch.long)
    if isinstance(sampler, Sequence) and all(isinstance(place, int) for place in sampler):
        return torch.tensor(list(sampler), dtype=torch.long)
    _refuse(
        name,
        f"sampler ({type(sampler).__name__})",
        FIXES.get(type(sampler), f"{A_PART}; weights= counts examples for more"),
    )


def _refuse(name: str, what: str, fix: str) -> NoReturn:
    raise ConfigError(
        f"{name}: the loader's {what} is not taken over",
        expected="a loader over all of its data, or over the places of a SubsetRandomSampler; the order follows from seed=",
        got=what,
        fix=fix,
    )
