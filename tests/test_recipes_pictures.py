"""The paper's real pairs: CIFAR-100 and ImageNet, on stand-ins of the same format; networks as torchvision counts them."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lab.cifar import DEVIATION, MEAN, RECORD, cifar100

from fractionate.data.augment import Augment
from fractionate.data.own_pictures import PictureFolder
from fractionate.data.picture_files import centre_view, random_view
from fractionate.errors import ConfigError, DamagedError
from fractionate.models.zoo import models
from fractionate.records import Training
from fractionate.training.schedule import learning_rate

ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def programs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs of lab/ import their neighbours, as when they are run from there."""
    monkeypatch.syspath_prepend(ROOT / "lab")


FINE, COARSE = ("apple", "beaver", "pear", "otter"), ("fruit", "mammals")
GROUPS = (0, 1, 0, 1)


def rows(count: int, seed: int) -> np.ndarray:
    """Records of the binary version: coarse label, fine label, three planes; brighter in one plane by class."""
    draw = np.random.default_rng(seed)
    found = np.zeros((count, RECORD), np.uint8)
    for i in range(count):
        fine = i % len(FINE)
        found[i, :2] = GROUPS[fine], fine
        planes = draw.integers(0, 120, (3, 1024))
        planes[fine % 3] += 30 + 30 * fine
        found[i, 2:] = planes.reshape(-1)
    return found


@pytest.fixture
def cifar(tmp_path: Path) -> Path:
    folder = tmp_path / "cifar-100-binary"
    folder.mkdir()
    rows(80, 0).tofile(folder / "train.bin")
    rows(24, 1).tofile(folder / "test.bin")
    (folder / "fine_label_names.txt").write_text("\n".join(FINE) + "\n")
    (folder / "coarse_label_names.txt").write_text("\n".join(COARSE) + "\n")
    return folder


def test_the_binary_version_is_read(cifar: Path) -> None:
    data = cifar100(cifar)
    assert (len(data.train), len(data.test)) == (80, 24) and data.train.class_names == FINE
    assert data.superclasses == GROUPS and data.superclass_names == COARSE
    assert data.train.inputs.shape == (80, 3, 32, 32) and data.train.labels[:5].tolist() == [0, 1, 2, 3, 0]
    raw = rows(80, 0)[3, 2:].reshape(3, 32, 32)  # plane by plane, row by row
    expected = (raw[2, 5, 7] / 255 - MEAN[2]) / DEVIATION[2]
    assert float(data.train.inputs[3, 2, 5, 7]) == pytest.approx(float(expected), abs=1e-5)


def test_what_datasets_saved_is_the_same(cifar: Path, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets", reason="needs the extra hf")
    image = pytest.importorskip("PIL.Image", reason="needs the extra pictures")
    features = datasets.Features(
        img=datasets.Image(), fine_label=datasets.ClassLabel(names=list(FINE)),
        coarse_label=datasets.ClassLabel(names=list(COARSE)),
    )  # fmt: skip

    def saved(count: int, seed: int) -> Any:
        found = rows(count, seed)
        pictures = [image.fromarray(r[2:].reshape(3, 32, 32).transpose(1, 2, 0)) for r in found]
        columns = {"img": pictures, "fine_label": found[:, 1].tolist(), "coarse_label": found[:, 0].tolist()}
        return datasets.Dataset.from_dict(columns, features=features)

    datasets.DatasetDict(train=saved(80, 0), test=saved(24, 1)).save_to_disk(str(tmp_path / "saved"))
    one, other = cifar100(cifar), cifar100(tmp_path / "saved")
    assert torch.equal(one.train.inputs, other.train.inputs) and torch.equal(one.test.labels, other.test.labels)
    assert one.superclasses == other.superclasses and one.train.class_names == other.train.class_names


def test_damaged_and_missing_cifar(cifar: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="unpack cifar-100-binary"):
        cifar100(tmp_path / "nothing")
    python = tmp_path / "cifar-100-python"
    python.mkdir()
    for name in ("train", "test", "meta"):
        (python / name).write_bytes(b"\x80\x04.")
    with pytest.raises(ConfigError, match="pickles that could run code"):
        cifar100(python)
    whole = (cifar / "test.bin").read_bytes()
    (cifar / "test.bin").write_bytes(whole[:-1])
    with pytest.raises(DamagedError, match=f"expected: a multiple of {RECORD} bytes"):
        cifar100(cifar)
    (cifar / "test.bin").write_bytes(whole[:1] + b"\x63" + whole[2:])
    with pytest.raises(DamagedError, match="labels without a name"):
        cifar100(cifar)
    (cifar / "test.bin").write_bytes(b"\x01" + whole[1:])  # an apple among the mammals
    with pytest.raises(DamagedError, match="more than one superclass"):
        cifar100(cifar)


def test_networks_for_small_pictures() -> None:
    depths = {d: models[f"resnet_cifar({d})"]((3, 32, 32), 100) for d in (8, 20, 56)}
    for depth, model in depths.items():
        convolutions = [m for n, m in model.named_modules() if isinstance(m, torch.nn.Conv2d) and "downsample" not in n]
        assert len(convolutions) + 1 == depth  # and the linear layer
    assert depths[8](torch.zeros(2, 3, 32, 32)).shape == (2, 100)
    assert sum(p.numel() for p in depths[20].parameters()) == 278_324  # 464 + 14,016 + 51,648 + 205,696 + 6,500
    names = {"conv1.weight", "bn1.running_mean", "layer1.0.conv1.weight", "layer2.0.downsample.1.bias", "fc.bias"}
    assert names <= set(depths[8].state_dict())
    for wrong in ("resnet_cifar(10)", "resnet_cifar(2)"):
        with pytest.raises(ConfigError, match="there is no resnet"):
            models[wrong]


def test_tenths() -> None:
    training = Training(epochs=240, learning_rate=0.05, schedule="tenths")
    rates = {epoch: learning_rate(training, epoch, 240) for epoch in (0, 149, 150, 179, 180, 210, 239)}
    assert rates == pytest.approx({0: 0.05, 149: 0.05, 150: 5e-3, 179: 5e-3, 180: 5e-4, 210: 5e-5, 239: 5e-5})
    thirds = Training(epochs=90, learning_rate=0.1, schedule="thirds")
    rates = {epoch: learning_rate(thirds, epoch, 90) for epoch in (0, 29, 30, 59, 60, 89)}
    assert rates == pytest.approx({0: 0.1, 29: 0.1, 30: 1e-2, 59: 1e-2, 60: 1e-3, 89: 1e-3})


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    image = pytest.importorskip("PIL.Image", reason="needs the extra pictures")
    draw = np.random.default_rng(0)
    for part, count in (("train", 8), ("val", 4)):
        for number, name in enumerate(("n01", "n02", "n03")):
            (tmp_path / part / name).mkdir(parents=True)
            for i in range(count):
                pixels = draw.integers(0, 100, (50 + i, 70, 3), dtype=np.uint8)
                pixels[..., number] += 100
                image.fromarray(pixels).save(tmp_path / part / name / f"{i}.JPEG")
    return tmp_path


def test_pictures_in_folders(pictures: Path) -> None:
    data = PictureFolder(pictures / "train", 32)
    assert len(data) == 24 and data.classes == ("n01", "n02", "n03") and data.targets[8] == 1
    picture, label = data[17]
    assert picture.shape == (3, 32, 32) and label == 2 and int(picture.mean(dim=(1, 2)).argmax()) == 2
    assert len(PictureFolder(pictures / "train", 32, most=2)) == 6
    assert PictureFolder(pictures / "val", 32).examples().labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    torch.manual_seed(0)
    first = PictureFolder(pictures / "train", 32, random_view)[0][0]
    again = PictureFolder(pictures / "train", 32, random_view)[0][0]
    torch.manual_seed(0)
    assert not torch.equal(first, again)
    assert torch.equal(first, PictureFolder(pictures / "train", 32, random_view)[0][0])
    (pictures / "val" / "n01" / "0.JPEG").write_bytes(b"no picture")
    with pytest.raises(DamagedError, match="cannot be read as a picture"):
        PictureFolder(pictures / "val", 32)[0]
    with pytest.raises(ConfigError, match="there is no folder"):
        PictureFolder(pictures / "test")
    (pictures / "empty" / "n01").mkdir(parents=True)
    with pytest.raises(ConfigError, match="1 folders"):
        PictureFolder(pictures / "empty")


def test_views_keep_the_side() -> None:
    image = pytest.importorskip("PIL.Image", reason="needs the extra pictures")
    for size in ((70, 50), (50, 70), (31, 200), (8, 8)):
        for view in (centre_view, random_view):
            assert view(image.new("RGB", size), 32).size == (32, 32)


def run(program: str, *arguments: str) -> None:
    runpy.run_path(str(ROOT / program))["main"](list(arguments))


@pytest.mark.slow
def test_the_cifar_study_runs_and_reads_back_what_is_done(cifar: Path, tmp_path: Path) -> None:
    small = [
        "--models",
        "resnet_cifar(8)",
        "resnet_cifar(8)",
        "--epochs",
        "1",
        "--seeds",
        "2",
        "--only",
        "hard",
        "kd-pt",
        "kd",
    ]
    out = tmp_path / "out"
    run("lab/tang_cifar100.py", str(cifar), *small, "--out", str(out))
    table = (out / "tang_cifar100.md").read_text(encoding="utf-8")
    assert "| kd | hard |" in table and "| kd-pt | hard |" in table and (out / "tang_cifar100.html").exists()
    weights = (out / "kd-1" / "student.safetensors").stat().st_mtime_ns
    run("lab/tang_cifar100.py", str(cifar), *small, "--out", str(out))
    assert (out / "tang_cifar100.md").read_text(encoding="utf-8") == table
    assert (out / "kd-1" / "student.safetensors").stat().st_mtime_ns == weights


def test_the_cifar_study_is_the_cited_protocol() -> None:
    program = runpy.run_path(str(ROOT / "lab/tang_cifar100.py"))
    training = program["protocol"]()
    assert training.steps_for(50_000) == 240 * 782
    said = (training.epochs, training.batch_size, training.learning_rate, training.optimizer, training.weight_decay)
    assert said == (240, 64, 0.05, "momentum", 5e-4) and training.keep == "last"
    objective = program["recipe"]("kd", 0, training).objective
    assert (objective.temperature, objective.teacher_weight, objective.scale_by_temperature_squared) == (4.0, 0.9, True)
    border = Augment(crop=4, flip=True, border=program["BLACK"])
    assert repr(border) == repr(program["recipe"]("hard", 0, training).data[0])


@pytest.mark.slow
def test_the_imagenet_recipe_runs(pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from safetensors.torch import save_file

    save_file(models["resnet_cifar(8)"]((3, 32, 32), 3).state_dict(), tmp_path / "teacher.safetensors")
    run(
        "recipes/imagenet.py", str(pictures), "--teacher", str(tmp_path / "teacher.safetensors"),
        "--models", "resnet_cifar(8)", "resnet_cifar(8)", "--side", "32", "--epochs", "1", "--batch", "8", "--readers", "0",
        "--pictures", "2", "--seeds", "2", "--entries", "1", "--cells", "kd", "--out", str(tmp_path / "out"),
    )  # fmt: skip
    output = capsys.readouterr().out
    assert "accuracy against no teacher" in output and "nats an example" in output
    assert (tmp_path / "out" / "report.html").exists()
