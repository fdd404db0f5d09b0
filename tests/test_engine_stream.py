"""Streams: data without places, read in their own order, as much of them as the steps take."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset

from fractionate.data.sampling import draw_seed
from fractionate.errors import ConfigError, MismatchError, StoppedError
from fractionate.losses.objective import Objective
from fractionate.records import Training
from fractionate.training import distill

STEPS = Training(steps=6, batch_size=8, learning_rate=1e-2)


def example(place: int) -> tuple[torch.Tensor, int]:
    draw = torch.Generator().manual_seed(draw_seed("stream", place))
    return torch.randn(5, generator=draw), place % 3


class Endless(IterableDataset):
    def __iter__(self):
        return map(example, itertools.count())


class Short:
    def __iter__(self):
        return map(example, range(20))


class AsRead(Dataset):
    """The same examples by place; read in order by a training of one batch an epoch and steps of its own."""

    def __len__(self):
        return 48

    def __getitem__(self, place):
        return example(place)


def student() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 16), nn.ReLU(), nn.Linear(16, 3))


def by_hand(model: nn.Module) -> nn.Module:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True)
    for step in range(6):
        inputs = torch.stack([example(place)[0] for place in range(8 * step, 8 * step + 8)])
        labels = torch.tensor([place % 3 for place in range(8 * step, 8 * step + 8)])
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs), labels).backward()
        optimizer.step()
    return model


@pytest.mark.parametrize("data", [Endless(), DataLoader(Endless(), batch_size=3)], ids=["dataset", "loader"])
def test_a_stream_is_read_in_its_order(data):
    plain = Training(steps=6, batch_size=8, learning_rate=0.1, optimizer="sgd", schedule="constant")
    trained, run = distill(student(), data, training=plain, show="nothing")
    for a, b in zip(trained.parameters(), by_hand(student()).parameters(), strict=True):
        torch.testing.assert_close(a, b)
    assert run.settings["examples_seen"] == 48


def test_a_living_teacher_teaches_from_a_stream():
    teacher = student()
    distill(student(), Endless(), teacher, objective=Objective(), training=STEPS, show="nothing")


def test_a_stopped_run_goes_on_at_the_same_example(tmp_path):
    whole, _ = distill(student(), Endless(), training=STEPS, out=tmp_path / "whole", show="nothing")

    class Stops(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.calls = student(), 0

        def forward(self, inputs):
            self.calls += 1
            if self.calls == 4:
                import os
                import signal

                os.kill(os.getpid(), signal.SIGTERM)
            return self.inner(inputs)

    # the same run twice, under one name of its parts
    class Plain(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = student()

        def forward(self, inputs):
            return self.inner(inputs)

    with pytest.raises(StoppedError):
        distill(Stops(), Endless(), training=STEPS, out=tmp_path / "run", show="nothing")
    again, run = distill(Plain(), Endless(), training=STEPS, out=tmp_path / "run", show="nothing")
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), again.parameters(), strict=True))
    assert run.steps == 6


def test_a_stream_needs_steps():
    with pytest.raises(ConfigError, match=r"a stream has no length") as error:
        distill(student(), Endless(), training=Training(epochs=2), show="nothing")
    assert error.value.fix == "set Training(steps=…)"


def test_a_stream_that_ends_early_says_where():
    with pytest.raises(MismatchError, match="the stream ended early") as error:
        distill(student(), Short(), training=STEPS, show="nothing")
    assert error.value.got == "an end before example 20"


def test_what_can_be_read_once_only_is_refused():
    with pytest.raises(ConfigError, match="neither by place nor again"):
        distill(student(), map(example, range(48)), training=STEPS, show="nothing")


def test_validation_data_have_places():
    with pytest.raises(ConfigError, match="validation data: a stream has no length"):
        distill(student(), AsRead(), training=STEPS, validation=Endless(), show="nothing")
