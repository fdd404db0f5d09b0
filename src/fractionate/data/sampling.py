"""The order in which a training sees its examples: a function of seed and epoch alone, so that any step can be redone.

Nothing here keeps state. A run that is killed goes on at the same batch; arms of a study that share a seed share every batch;
a student in a fleet sees what it would see alone.
"""

from __future__ import annotations

import hashlib

import torch
from jaxtyping import Int
from torch import Tensor

from fractionate.errors import ConfigError


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
        from fractionate.data.sampling import batches

        print([len(places) for places in batches(10, batch_size=4, seed=0, epoch=0)])
    """
    if batch_size < 1 or examples < 1:
        raise ConfigError(
            "there is no batch to make",
            expected="at least one example and a batch size of at least 1",
            got=f"{examples} examples, batch size {batch_size}",
        )
    return torch.split(permutation(examples, seed, epoch), batch_size)
