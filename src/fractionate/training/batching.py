"""What each process has to do in each step: its part of the step's batch, cut into pieces that fit into memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from fractionate.data.batch import Split
from fractionate.records import Training
from fractionate.training.distributed import World


@dataclass(frozen=True, eq=False)
class MicroBatches:
    """One process's part of a step: the whole batch's places, and its own pieces; one without examples is `None`."""

    epoch: int
    index: Int[Tensor, "batch"]
    micro_batches: tuple[Int[Tensor, "_"] | None, ...]  # of different lengths


def micro_batches(
    feed: Split, training: Training, world: World, *, seed: int, first: int, steps: int
) -> Iterator[MicroBatches]:
    """The portions of steps `first` to `steps` - 1. The batches are those of one process alone, whatever the number of them."""
    size = training.batch_size
    epoch_steps = -(-len(feed) // size)
    for epoch in range(first // epoch_steps, -(-steps // epoch_steps)):
        for number, index in enumerate(feed.order(size, seed, epoch), epoch * epoch_steps):
            if first <= number < steps:
                # every process gets as many pieces, as each may have to wait for the others in each
                most = -(-len(index) // world.size)
                count = -(-most // (training.micro_batch_size or most))
                mine = index if world.size == 1 else index[world.rank :: world.size]
                cut = torch.tensor_split(mine, count) if count > 1 else (mine,)
                yield MicroBatches(
                    epoch, index, tuple(micro_batch if len(micro_batch) else None for micro_batch in cut)
                )
