"""Views: the student sees what the teacher saw, whoever looks, and whenever."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader

from fractionate.data import Augment
from fractionate.data.examples import Examples
from fractionate.errors import ConfigError, MismatchError
from fractionate.records import Training
from fractionate.store import MixUp, Replay, Store, collect
from fractionate.system.fingerprints import callable_fingerprint
from fractionate.training import distill


@pytest.fixture(scope="module")
def digits():
    from sklearn.datasets import load_digits

    found = load_digits()
    return Examples(torch.tensor(found.images, dtype=torch.float32)[:640, None] / 16, torch.tensor(found.target)[:640])


def any_stream(picture):
    """Draws from all three streams."""
    return picture * random.random() + np.random.rand() + torch.rand(picture.shape)


CROP_AND_FLIP = Augment(crop=1, flip=True)
TRANSFORMS = {"any": any_stream, "crop and flip": CROP_AND_FLIP, "mixup": MixUp(0.4, before=CROP_AND_FLIP)}


@pytest.mark.parametrize("name", TRANSFORMS)
def test_a_view_is_a_function_of_seed_example_and_view(digits, name):
    replay = Replay(digits, TRANSFORMS[name], views=3, seed=7)
    first = replay[640 + 5][0]
    torch.rand(3), random.random(), np.random.rand()
    again = Replay(digits, TRANSFORMS[name], views=3, seed=7)
    _ = again[17]
    assert torch.equal(again[640 + 5][0], first)
    assert torch.equal(again.batch([2, 645, 9]).inputs[1], first)
    assert torch.equal(replay.examples(1).inputs[5], first)
    others = [replay[5][0], replay[640 + 6][0], Replay(digits, TRANSFORMS[name], views=3, seed=8)[640 + 5][0]]
    if name != "crop and flip":  # which has few different views
        assert not any(torch.equal(other, first) for other in others)
    with pytest.raises(IndexError):
        replay[3 * 640]


@pytest.mark.wrong_types  # under --shapes the checker itself draws from `random`
def test_the_streams_of_the_caller_are_left_alone(digits):
    torch.manual_seed(1), random.seed(1), np.random.seed(1)
    expected = torch.rand(2), random.random(), np.random.rand()
    torch.manual_seed(1), random.seed(1), np.random.seed(1)
    replay = Replay(digits, any_stream, seed=3)
    replay[0], replay.batch([1, 2]), replay.examples()
    assert torch.equal(torch.rand(2), expected[0]) and (random.random(), np.random.rand()) == expected[1:]


def test_a_transform_with_a_stream_of_its_own_is_refused(digits):
    stream = np.random.default_rng()
    with pytest.raises(ConfigError, match="another view each time"):
        Replay(digits, lambda picture: picture + stream.normal())


def test_mixup_keeps_the_own_input_the_stronger(digits):
    data = Examples(torch.eye(16), torch.arange(16))
    mixed = Replay(data, MixUp(0.8), views=4).examples(2).inputs
    assert bool((mixed.diagonal() >= 0.5).all()) and torch.allclose(mixed.sum(1), torch.ones(16))
    assert len(set(mixed.diagonal().tolist())) > 8


def small_cnn():
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(128, 10)
    )


@pytest.mark.parametrize("name", TRANSFORMS)
def test_training_from_the_store_is_training_with_the_living_teacher_bit_for_bit(digits, tmp_path, name):
    torch.manual_seed(0)
    teacher = small_cnn()
    teacher(digits.inputs)  # running statistics that differ from the start's
    teacher.eval()
    replay = Replay(digits, TRANSFORMS[name], views=2, seed=5)
    collect(teacher, replay, tmp_path / "s", batch_size=64)
    signal = Store.open(tmp_path / "s").signal()

    def train(logits_of):
        torch.manual_seed(1)
        student = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
        optimizer = torch.optim.SGD(student.parameters(), 0.1)
        losses = []
        for view in range(2):
            for places in torch.randperm(640, generator=torch.Generator().manual_seed(view)).split(64):
                slots = view * 640 + places
                batch = replay.batch(slots)
                trained_teacher = logits_of(batch, slots)
                target = torch.softmax(trained_teacher / 2, dim=1)
                loss = functional.cross_entropy(student(batch.inputs) / 2, target)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                losses.append(loss.item())
        return losses, student.state_dict()

    def live(batch, slots):
        with torch.inference_mode():
            return teacher(batch.inputs).clone()

    cached_losses, cached = train(lambda batch, slots: signal.logits[slots])
    live_losses, living = train(live)
    assert cached_losses == live_losses and len(set(live_losses)) > 10
    assert all(torch.equal(cached[key], living[key]) for key in cached)


def test_the_engine_trains_on_a_replay_with_the_store_of_it(digits, tmp_path):
    torch.manual_seed(0)
    replay = Replay(digits, CROP_AND_FLIP, views=2, seed=5)
    store = collect(small_cnn(), replay, tmp_path / "s")
    assert len(store) == len(replay) == 1280 and store.head.views == 2
    _, run = distill(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), replay, store, training=Training(steps=8))
    assert run.status == "completed" and run.steps == 8
    view = store.signal(1)
    assert torch.equal(view.logits, store.signal().logits[640:])
    assert torch.equal(view.labels, digits.labels)
    with pytest.raises(ConfigError, match="no view 2"):
        store.signal(2)


def test_workers_see_the_same_views(digits):
    replay = Replay(digits, any_stream, views=1, seed=5)
    with_workers = torch.cat([x for x, _ in DataLoader(replay, 160, num_workers=2)])
    assert torch.equal(with_workers, replay.examples().inputs)


def test_a_pass_over_views_goes_on_where_it_stopped(digits, tmp_path):
    torch.manual_seed(0)
    teacher, calls = small_cnn().eval(), []

    def stops(inputs):
        calls.append(len(inputs))
        if len(calls) == 4:
            raise KeyboardInterrupt
        return teacher(inputs)

    replay = Replay(digits, CROP_AND_FLIP, views=2, seed=5)
    with pytest.raises(KeyboardInterrupt):
        collect(stops, replay, tmp_path / "s", named="t", shard_bytes=1)
    store = collect(stops, replay, tmp_path / "s", named="t", shard_bytes=1)
    assert calls == [256] * 4 + [256] * 2
    assert torch.equal(store.signal().logits, collect(teacher, replay, tmp_path / "whole").signal().logits)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (lambda d: Replay(d, CROP_AND_FLIP, views=2, seed=6), "view_seed differs"),
        (lambda d: Replay(d, Augment(crop=2, flip=True), views=2, seed=5), "transform differs"),
        (lambda d: Replay(d, CROP_AND_FLIP, views=3, seed=5), "views differs"),
        (lambda d: d, "transform, view_seed, views differ"),
    ],
)
def test_another_view_is_refused_by_name(digits, tmp_path, change, field):
    torch.manual_seed(0)
    teacher = small_cnn()
    collect(teacher, Replay(digits, CROP_AND_FLIP, views=2, seed=5), tmp_path / "s")
    with pytest.raises(MismatchError, match=field):
        collect(teacher, change(digits), tmp_path / "s")


def test_the_fingerprint_of_a_transform_follows_its_code_settings_and_surroundings():
    def outer(strength):
        def inner(picture):
            return picture * strength

        return inner

    assert callable_fingerprint(outer(1)) == callable_fingerprint(outer(1))
    different = [outer(1), outer(2), Augment(crop=1), Augment(crop=2)]
    different += [lambda x: x + 1, lambda x: x + 2, lambda x: x - 1, MixUp(1.0, outer(1)), MixUp(1.0, outer(2))]
    assert len({callable_fingerprint(transform) for transform in different}) == len(different)
