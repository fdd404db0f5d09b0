"""Pictures as people train them: size, normalisation, the teacher's view, groups, weights, reading one by one, augmentation."""

from __future__ import annotations

import math
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from PIL import Image

from fractionate import Objective, distill
from fractionate.data import PictureEncoding, as_split, data_sets, pictures
from fractionate.data.augment import Augment
from fractionate.data.bundled import split_parts
from fractionate.data.examples import Examples
from fractionate.data.memory import MemorySplit
from fractionate.data.parts import first_batch
from fractionate.data.picture_files import NORMALISATIONS
from fractionate.data.transforms import transforms
from fractionate.errors import ConfigError, MismatchError, MissingExtraError
from fractionate.records import Training
from test_own_folders import digits_to


@pytest.fixture
def photos(tmp_path):
    digits_to(tmp_path / "photos", 0, 120)
    return tmp_path / "photos"


def test_side_mean_std_and_crop_make_the_input(photos):
    file = photos / "3" / "0003.png"
    grey = torch.from_numpy(np.array(Image.open(file))).float() / 255
    plain = PictureEncoding.of((), 8, mean="none", crop=1.0).read(file)
    assert torch.equal(plain, grey.expand(3, 8, 8))
    for name, (mean, deviation) in NORMALISATIONS.items():
        found = pictures(photos, 8, mean=name, crop=1).examples.inputs[photos_place(photos, file)]
        expected = (plain - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(deviation).view(3, 1, 1)
        assert torch.allclose(found, expected)
    assert torch.allclose(PictureEncoding.of((), 8, 0.5, [0.25] * 3, 1.0).read(file), (plain - 0.5) / 0.25)
    assert not torch.equal(PictureEncoding.of((), 8, "none", crop=0.5).read(file), plain)


def photos_place(photos, file):
    return sorted(path for path in photos.rglob("*.png")).index(file)


@pytest.mark.parametrize(
    ("settings", "match"),
    [({"mean": "imagnet"}, "unknown normalisation"), ({"mean": 0.5}, "invalid std"), ({"mean": "clip", "std": 1}, "invalid mean"),
     ({"mean": 0.5, "std": 0}, "invalid std"), ({"mean": [0.5, 0.5], "std": 1}, "invalid mean"), ({"crop": 0}, "crop is a share"),
     ({"crop": 1.5}, "crop is a share"), ({"side": 0}, "side is a number"), ({"teacher": {"size": 9}}, "invalid value for teacher"),
     ({"teacher": {}}, "invalid value for teacher"), ({"teacher": {"side": -1}}, "side is a number"),
     ({"workers": 2}, "in_memory=False"), ({"group": "("}, "regular expression"), ({"group": "nowhere"}, "have no group")],
)  # fmt: skip
def test_what_does_not_fit_is_refused(photos, settings, match):
    with pytest.raises(ConfigError, match=match):
        pictures(photos, **{"side": 8, **settings})


def test_the_teacher_sees_the_same_pictures_in_its_own_size_and_normalisation(photos):
    source = f"pictures({str(photos)!r}, 8, mean='none', teacher={{'side': 12, 'mean': 'imagenet'}})"
    parts = data_sets[source].parts(transfer=40, validation=20, test=20, seed=1)
    assert parts.transfer.inputs.shape == (40, 3, 8, 8) and parts.transfer.views["teacher"].shape == (40, 3, 12, 12)
    alone = pictures(photos, 12).parts(transfer=40, validation=20, test=20, seed=1)
    assert alone.transfer.ids == parts.transfer.ids and torch.equal(alone.test.inputs, parts.test.views["teacher"])
    assert parts.encoding.side == 8 and parts.encoding.mean == (0, 0, 0)
    shapes = set()

    class Teacher(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.head = torch.nn.Linear(3 * 12 * 12, 10)

        def forward(self, inputs):
            shapes.add(tuple(inputs.shape[1:]))
            return self.head(inputs.flatten(1))

    student = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 8 * 8, 10))
    distill(
        student,
        parts.transfer,
        Teacher(),
        objective=Objective(),
        training=Training(steps=3),
        validation=parts.validation,
    )
    assert shapes == {(3, 12, 12)}


def test_pictures_read_one_by_one_are_those_in_memory(photos):
    settings = {"mean": "none", "teacher": {"side": 10}, "class_weights": True}
    held = pictures(photos, 8, **settings).parts(transfer=40, validation=20, test=20)
    read = pictures(photos, 8, **settings, in_memory=False).parts(transfer=40, validation=20, test=20)
    for part in ("transfer", "validation", "test", "teaching"):
        ours, theirs = (first_batch(getattr(parts, part), 40, 0) for parts in (held, read))
        assert torch.equal(ours.inputs, theirs.inputs) and torch.equal(ours.labels, theirs.labels)
        assert torch.equal(ours.views["teacher"], theirs.views["teacher"])
        assert (ours.weight is None) == (theirs.weight is None) == (part in ("validation", "test"))
        assert tuple(getattr(held, part).ids) == tuple(getattr(read, part).ids)
    assert torch.equal(first_batch(held.transfer, 40, 0).weight, first_batch(read.transfer, 40, 0).weight)
    by_workers = pictures(photos, 8, mean="none", in_memory=False, workers=1).parts(transfer=40)
    batch = next(iter(by_workers.transfer.batches([(0, torch.arange(5))], 0)))
    assert torch.equal(batch.inputs, first_batch(held.transfer, 5, 0).inputs)


def test_a_picture_in_two_parts_is_left_out_of_the_later_one(photos):
    for name in ("0", "1", "2"):
        for file in list((photos / name).iterdir())[:4]:
            (photos / name / f"copy-{file.name}").write_bytes(file.read_bytes())
    with pytest.warns(UserWarning, match=r"photos: \d+ of validation and \d+ of test are left out"):
        parts = pictures(photos, 8).parts(transfer=0.5, validation=0.2, test=0.2)
    names = {name.rpartition("/")[2].removeprefix("copy-") for name in parts.test.ids}
    assert not names & {name.rpartition("/")[2].removeprefix("copy-") for name in parts.transfer.ids}
    assert len(pictures(photos, 8, repeats=True).parts(test=0.2).test) == 26


def test_pictures_of_one_group_are_in_one_part(photos):
    parts = pictures(photos, 8, group=r"/0(\d\d)\d").parts(transfer=0.4, validation=0.2, test=0.2)
    tens = [
        {name.rpartition("/")[2][1:3] for name in part.ids} for part in (parts.transfer, parts.validation, parts.test)
    ]
    assert not tens[0] & tens[1] and not tens[0] & tens[2] and not tens[1] & tens[2]


def test_weights_need_one_class_an_example():
    data = MemorySplit(torch.rand(20, 2), torch.rand(20))
    with pytest.raises(ConfigError, match="class_weights needs classes"):
        split_parts(data, class_weights=True)


# -- augmentation -------------------------------------------------------------------------------------------------------------


def read(data, **settings):
    split = Augment(**settings).bind(as_split(data), None, None, 0)
    return next(iter(split.batches([(0, torch.arange(len(split)))], 0)))


def test_windows_are_parts_of_the_picture_scaled_to_its_size():
    ramp = torch.arange(16.0).expand(16, 16)
    data = Examples(torch.stack([ramp, ramp.T]).expand(200, 2, 16, 16), torch.arange(200) % 2)
    changed = read(data, scale=0.25).inputs
    assert changed.shape == data.inputs.shape
    across, down = changed[:, 0].mean(1), changed[:, 1].mean(2)
    assert bool((across.diff(dim=1) > -1e-4).all()) and bool((down.diff(dim=1) > -1e-4).all()), (
        "not turned, not mirrored"
    )
    spans = torch.stack([across[:, -1] - across[:, 0], down[:, -1] - down[:, 0]])
    area = ((spans + 1) / 16).prod(0)
    assert 0.1 < float(area.min()) < 0.4 and 0.8 < float(area.max()) <= 1.05
    assert torch.allclose(read(data, scale=1.0).inputs[:, 0].mean(), ramp.mean(), atol=0.5)


def test_erased_rectangles_are_zero_and_nothing_else_changes():
    data = Examples(torch.ones(300, 3, 10, 10), torch.arange(300) % 2)
    changed = read(data, erase=0.5).inputs
    share = 1 - changed.mean((1, 2, 3))
    assert 100 < int((share > 0).sum()) < 200 and float(share.max()) <= 0.5
    assert set(changed.unique().tolist()) == {0.0, 1.0} and bool((changed[:, 0] == changed[:, 1]).all())


def test_the_teacher_s_view_changes_as_the_student_s_inputs_do_where_that_is_wanted():
    small = torch.rand(60, 3, 8, 8)
    large = small.repeat_interleave(2, 2).repeat_interleave(2, 3)
    data = as_split((small, torch.arange(60) % 2), views={"teacher": large})
    batch = read(data, crop=2, flip=True, erase=0.3, views=True)
    assert torch.equal(batch.views["teacher"], batch.inputs.repeat_interleave(2, 2).repeat_interleave(2, 3)) or (
        (batch.views["teacher"][..., ::2, ::2] - batch.inputs).abs().gt(0).float().mean() < 0.1
    )
    batch = read(data, crop=2, flip=True, views=True)
    assert torch.equal(batch.views["teacher"], batch.inputs.repeat_interleave(2, 2).repeat_interleave(2, 3))
    window = read(data, scale=0.3, views=True)
    middle = [
        torch.nn.functional.avg_pool2d(part, size) for part, size in ((window.inputs, 4), (window.views["teacher"], 8))
    ]
    assert float(torch.corrcoef(torch.stack([part.flatten() for part in middle]))[0, 1]) > 0.9
    assert torch.equal(read(data, scale=0.3).views["teacher"], large)
    odd = as_split((torch.rand(40, 3, 8, 8), torch.arange(40) % 2), views={"teacher": torch.rand(40, 3, 20, 20)})
    assert read(odd, crop=1, views=True).views["teacher"].shape == (40, 3, 20, 20)


@pytest.mark.parametrize("wrong", ["augment(scale=1.5)", "augment(erase=-0.1)", "augment(views=True)"])
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(ConfigError, match="invalid value for augment"):
        transforms[wrong]


# -- by torchvision and timm --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["torchvision('RandAugment()')", "timm('rand-m9-mstd0.5-inc1')"])
def test_without_the_library_the_extra_is_named(name):
    if find_spec("torchvision"):
        pytest.skip("torchvision is here")
    made = transforms[name]
    with pytest.raises(MissingExtraError, match=r"fractionate\[vision\]"):
        made.bind(as_split((torch.rand(4, 3, 8, 8), torch.arange(4) % 2)), None, None, 0)


def test_library_settings_are_checked_without_the_library():
    for wrong in ("torchvision('')", "torchvision([])", "timm('rand-m9', mean='imagnet')", "timm(3)"):
        with pytest.raises(ConfigError):
            transforms[wrong]


@pytest.mark.parametrize(
    "name",
    [
        "torchvision(['RandAugment(num_ops=2)', 'RandomErasing(p=0.3)'], mean='none')",
        "timm('rand-m9-mstd0.5-inc1', 'none')",
    ],
)
def test_library_augmentations_follow_from_seed_epoch_and_id(name):
    pytest.importorskip("torchvision", exc_type=ImportError)
    pytest.importorskip("timm", exc_type=ImportError)
    data = Examples((torch.rand(12, 3, 16, 16) * 255).round() / 255, torch.arange(12) % 2)
    split = transforms[name].bind(as_split(data), None, None, 0)

    def some(places, epoch=0, seed=0):
        return next(iter(split.batches([(epoch, torch.tensor(places))], seed))).inputs

    before = torch.random.get_rng_state()
    whole = some(list(range(12)))
    assert torch.equal(before, torch.random.get_rng_state()) and whole.shape == data.inputs.shape
    assert torch.equal(whole[[5]], some([5])) and not torch.equal(whole, some(list(range(12)), epoch=1))
    assert float((whole != data.inputs).float().mean()) > 0.2 and math.isfinite(float(whole.sum()))
    loud = transforms[name].bind(as_split((10 * data.inputs, data.labels)), None, None, 0)
    with pytest.raises(MismatchError, match="not pictures normalised"):
        next(iter(loud.batches([(0, torch.arange(2))], 0)))
    for unknown in ("torchvision('RandAugmant()')", "torchvision('RandAugment(depth=3)')", "timm('no such policy')"):
        with pytest.raises(ConfigError):
            transforms[unknown].bind(as_split(data), None, None, 0)
