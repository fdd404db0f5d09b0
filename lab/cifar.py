"""CIFAR-100 from a folder (Krizhevsky 2009): the binary version, or what `datasets` saved. Never the pickles of the Python one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fractionate.data.examples import Examples
from fractionate.data.own_saved import picture_of
from fractionate.data.picture_files import shown_picture
from fractionate.data.saved_folder import check_saved
from fractionate.errors import ConfigError, DamagedError, extra
from fractionate.system.paths import as_path

SIDE = 32
RECORD = 2 + 3 * SIDE * SIDE  # coarse label, fine label, planes of red, green and blue
MEAN = (0.5071, 0.4867, 0.4408)  # of the training pictures
DEVIATION = (0.2675, 0.2565, 0.2761)
FILES = ("train.bin", "test.bin", "fine_label_names.txt", "coarse_label_names.txt")


@dataclass(frozen=True, eq=False)
class Cifar:
    """Training and test pictures, normalised, [3, 32, 32], and the superclass of each class."""

    train: Examples
    test: Examples
    superclasses: tuple[int, ...]
    superclass_names: tuple[str, ...]


def cifar100(folder: Path | str) -> Cifar:
    """CIFAR-100 from a folder with the binary version (cifar-100-binary), or with a data set that `datasets` saved.

    Args:
        folder: Where train.bin, test.bin and the two files of names lie, or what `save_to_disk` wrote.

    Returns:
        `Cifar`: training and test examples, fine labels, and the superclass of each class.

    Raises:
        ConfigError: where neither is there.
        DamagedError: for files that are cut off, hold labels without a name, or classes of more than one superclass.
    """
    folder = as_path(folder)
    if (folder / "dataset_dict.json").is_file():
        return _from_datasets(folder)
    missing = [name for name in FILES if not (folder / name).is_file()]
    if missing:
        python = (folder / "meta").exists() or (folder / "train").is_file()
        raise ConfigError(
            f"{folder} does not hold CIFAR-100",
            expected=f"{', '.join(FILES)}, or a folder of datasets' save_to_disk",
            got=f"without {', '.join(missing)}",
            fix="this is the Python version, which is pickles that could run code: take cifar-100-binary.tar.gz"
            if python
            else "unpack cifar-100-binary.tar.gz there",
        )
    fine, coarse = (tuple((folder / name).read_text(encoding="utf-8").split()) for name in FILES[2:])
    splits = [_records(folder / name, len(fine), len(coarse)) for name in FILES[:2]]
    return _assembled(str(folder), splits, fine, coarse)


def _records(file: Path, fine: int, coarse: int) -> tuple[Tensor, Tensor, Tensor]:
    """Pictures as bytes, fine and coarse labels."""
    size = file.stat().st_size
    if size == 0 or size % RECORD:
        raise DamagedError(
            f"{file} is cut off", expected=f"a multiple of {RECORD} bytes", got=f"{size} bytes", fix="unpack it again"
        )
    rows = torch.from_numpy(np.fromfile(file, np.uint8).reshape(-1, RECORD))
    groups, labels = rows[:, 0].long(), rows[:, 1].long()
    if int(labels.max()) >= fine or int(groups.max()) >= coarse:
        raise DamagedError(
            f"{file} holds labels without a name",
            expected=f"coarse labels below {coarse}, fine labels below {fine}",
            got=f"{int(groups.max())} and {int(labels.max())}",
            fix="unpack it again",
        )
    return rows[:, 2:].reshape(-1, 3, SIDE, SIDE), labels, groups


def _assembled(
    where: str, splits: list[tuple[Tensor, Tensor, Tensor]], fine: tuple[str, ...], coarse: tuple[str, ...]
) -> Cifar:
    labels = torch.cat([split[1] for split in splits])
    groups = torch.cat([split[2] for split in splits])
    superclasses = torch.zeros(len(fine), dtype=torch.long)
    superclasses[labels] = groups
    if not torch.equal(superclasses[labels], groups):
        raise DamagedError(
            f"{where}: a class belongs to more than one superclass", fix="take the files from their source"
        )
    mean, deviation = (torch.tensor(v).view(1, 3, 1, 1) for v in (MEAN, DEVIATION))
    train, test = (
        Examples((pictures.float() / 255 - mean) / deviation, own, fine, f"cifar-100 {name}")
        for name, (pictures, own, _) in zip(("train", "test"), splits, strict=True)
    )
    return Cifar(train, test, tuple(superclasses.tolist()), coarse)


def _from_datasets(folder: Path) -> Cifar:
    with extra("hf", "this folder was saved by datasets"):
        from datasets import Image, load_from_disk
    check_saved(folder)
    saved: Any = load_from_disk(str(folder))
    features = saved["train"].features
    splits = []
    for name in ("train", "test"):
        rows = saved[name]
        raw = rows.select_columns(["img"]).cast_column("img", Image(decode=False))["img"][:]
        found = (shown_picture(picture_of(row, place), name=f"row {place}") for place, row in enumerate(raw))
        pictures = np.stack([np.asarray(picture) for picture in found])
        splits.append(
            (
                torch.from_numpy(pictures).permute(0, 3, 1, 2),
                torch.tensor(rows["fine_label"]),
                torch.tensor(rows["coarse_label"]),
            )
        )
    return _assembled(str(folder), splits, tuple(features["fine_label"].names), tuple(features["coarse_label"].names))
