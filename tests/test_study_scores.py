"""Scores against torchmetrics, order of batches."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fractionate.errors import ConfigError, MismatchError, NumericsError
from fractionate.order import batches, draw_seed, step_seed
from fractionate.scores import scores


@pytest.mark.parametrize(("examples", "classes", "scale"), [(1, 2, 1.0), (50, 3, 0.1), (400, 10, 5.0), (300, 7, 100.0)])
def test_scores_agree_with_torchmetrics(examples: int, classes: int, scale: float) -> None:
    functional = pytest.importorskip("torchmetrics.functional.classification")
    generator = torch.Generator().manual_seed(examples)
    logits = scale * torch.randn(examples, classes, generator=generator)
    labels = torch.randint(classes, (examples,), generator=generator)
    teacher = torch.randn(examples, classes, generator=generator)
    found = scores(logits, labels, teacher)
    probabilities = logits.softmax(1)
    assert found.accuracy == pytest.approx(
        float(functional.multiclass_accuracy(logits, labels, classes, average="micro"))
    )
    ece = functional.multiclass_calibration_error(probabilities, labels, classes, n_bins=15, norm="l1")
    assert found.ece == pytest.approx(float(ece), abs=1e-5)
    assert found.nll_nats == pytest.approx(float(torch.nn.functional.cross_entropy(logits, labels)), rel=1e-5)
    assert found.agreement == pytest.approx(float((logits.argmax(1) == teacher.argmax(1)).float().mean()))
    assert found.examples == examples


@pytest.mark.wrong_types
def test_scores_refuse_what_cannot_be_scored() -> None:
    labels = torch.tensor([0, 1])
    with pytest.raises(NumericsError, match="1 of 2"):
        scores(torch.tensor([[0.0, 1.0], [float("nan"), 0.0]]), labels)
    with pytest.raises(MismatchError, match="do not fit"):
        scores(torch.zeros(3, 2), labels)
    with pytest.raises(MismatchError, match="different classes"):
        scores(torch.zeros(2, 2), labels, torch.zeros(2, 3))


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
