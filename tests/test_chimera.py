"""Chimeric sets: blocks keep their place and their columns, labels are the teacher's alone, nothing is kept in memory."""

from __future__ import annotations

import tracemalloc

import pytest
import torch
from torch import nn

from fractionate.data.examples import Examples
from fractionate.data.sampling import batches
from fractionate.errors import ConfigError, MismatchError
from fractionate.losses.terms import ked
from fractionate.models.additive import explanations_of
from fractionate.models.columns import given
from fractionate.records import Training
from fractionate.teachers.chimeras import Chimeras, Once
from fractionate.training import distill
from fractionate.training.recipe import Recipe
from test_explanation import FOUND, data, model

PLACES = torch.arange(40)


def test_each_block_is_one_examples_own():
    marked = Examples(torch.arange(24.0)[:, None] + torch.arange(6) / 10, torch.arange(24) % 3)  # row + column / 10
    chimeras = Chimeras(marked, FOUND, model(), size=50)
    made, sources = chimeras.inputs(PLACES), chimeras.sources(PLACES)
    for m, group in enumerate(FOUND.groups):
        for column in group:
            torch.testing.assert_close(made[:, column], sources[:, m] + column / 10)
    assert len({tuple(row) for row in sources.tolist()}) > 35, "recombined, not copied"


def test_a_chimera_is_a_function_of_its_place_and_all_examples_are_drawn():
    chimeras = Chimeras(data(), FOUND, model(), size=10**6)
    late = torch.tensor([999_999, 3])
    assert torch.equal(chimeras.inputs(PLACES)[3], chimeras.inputs(late)[1])
    drawn = chimeras.sources(torch.arange(24_000))
    for m in range(3):
        counts = drawn[:, m].bincount(minlength=24).double()
        assert float(((counts - 1000) ** 2 / 1000).sum()) < 60  # chi-squared of 23 degrees: 0.99997 below
    assert abs(float(torch.corrcoef(drawn.T.double())[0, 1])) < 0.03
    other = Chimeras(data(), FOUND, model(), size=10**6, seed=1)
    assert not torch.equal(other.sources(PLACES), chimeras.sources(PLACES))
    assert other.fingerprint() != chimeras.fingerprint() == Chimeras(data(), FOUND, model(), size=10**6).fingerprint()


def test_labels_come_from_the_teacher_and_its_explanations_are_those_of_the_sources():
    teacher = model().eval()
    chimeras = Chimeras(data(), FOUND, teacher, size=40)
    (batch,) = chimeras.batches([(0, PLACES)], seed=0)
    assert torch.equal(batch.labels, teacher(batch.inputs)["logits"].argmax(1))
    real, mixed = explanations_of(teacher(data().inputs)), explanations_of(teacher(batch.inputs))
    sources = chimeras.sources(PLACES)
    for m in range(3):
        torch.testing.assert_close(mixed[:, m], real[sources[:, m], m])


def test_a_million_are_streamed():
    chimeras = Chimeras(data(), FOUND, model(), size=10**6)
    order = batches(10**6, 100, 0, 0)[:50]
    stream = chimeras.batches([(0, index) for index in order], seed=0)
    next(stream)
    tracemalloc.start()
    for batch in stream:
        assert len(batch.labels) == 100
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()


def test_training_goes_on_with_chimeras():
    """KED on chimeras through the one loop: the teacher runs once a batch, for labels, prediction and explanations together."""
    teacher = model(2)
    requested = []
    teacher.register_forward_hook(lambda *_: requested.append(1))
    chimeras = Chimeras(data(), FOUND, teacher, size=600)
    student = model(1)
    before = [p.clone() for p in student.parameters()]
    requested.clear()
    recipe = Recipe(**ked(share=0.7), training=Training(epochs=3, batch_size=100))
    _, run = distill(student, chimeras, chimeras.teacher, recipe=recipe, show="nothing")
    assert run.steps == 18
    assert len(requested) < 2 * run.steps, "not once for each of labels, prediction and explanations"
    assert any(not torch.equal(a, b) for a, b in zip(before, student.parameters(), strict=True))


def test_once_is_not_fooled():
    layer = nn.Linear(2, 2)
    once, x = Once(layer), torch.randn(3, 2)
    with torch.no_grad():
        first = once(x)
        assert once(x) is first
        assert once(x.clone()) is not first
        x.add_(1)
        torch.testing.assert_close(once(x), layer(x))
    assert once(x).requires_grad, "with a graph it is asked anew"


def test_refusals():
    with pytest.raises(ConfigError, match="at least 1"):
        Chimeras(data(), FOUND, model(), size=0)
    with pytest.raises(MismatchError, match="of other inputs"):
        Chimeras(data(), given([[0], [1]], features=2), model())
    with pytest.raises(MismatchError, match="different classes"):
        Chimeras(data(), FOUND, nn.Linear(6, 5))
