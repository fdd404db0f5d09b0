"""The order of batches: a function of seed and epoch alone."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fractionate.data.sampling import batches, draw_seed, step_seed
from fractionate.errors import ConfigError


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 200), st.integers(1, 64), st.integers(0, 2**40), st.integers(0, 1000))
def test_batches_are_a_partition_and_a_function_of_seed_and_epoch(
    examples: int, batch_size: int, seed: int, epoch: int
) -> None:
    first = batches(examples, batch_size, seed, epoch)
    assert sorted(torch.cat(first).tolist()) == list(range(examples))
    assert [len(batch) for batch in first[:-1]] == [batch_size] * (len(first) - 1)
    torch.randperm(3)  # the global generator plays no part
    assert all(torch.equal(a, b) for a, b in zip(first, batches(examples, batch_size, seed, epoch), strict=True))


def test_orders_differ_between_epochs_and_seeds() -> None:
    orders = {tuple(torch.cat(batches(50, 8, seed, epoch)).tolist()) for seed in range(10) for epoch in range(10)}
    assert len(orders) == 100
    assert len({step_seed(seed, step) for seed in range(100) for step in range(100)}) > 9_990
    assert draw_seed(1, 23) != draw_seed(12, 3)


def test_no_batch_from_nothing() -> None:
    with pytest.raises(ConfigError, match="no batch"):
        batches(0, 4, 0, 0)
    with pytest.raises(ConfigError, match="no batch"):
        batches(4, 0, 0, 0)
