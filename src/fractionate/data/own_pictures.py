"""Pictures in folders, one a class (the layout of ImageNet): held in memory, or read as they are asked for."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import xxhash
from torch import Tensor
from torch.nn import functional

from fractionate.data.batch import Split
from fractionate.data.bundled import Divided, data_sets
from fractionate.data.columns import class_names
from fractionate.data.dataset import DatasetSplit
from fractionate.data.examples import Examples
from fractionate.data.folders import class_folders, division, files_of_classes, folders_in
from fractionate.data.memory import MemorySplit
from fractionate.data.parts import with_views
from fractionate.data.picture_files import CROP, ENDINGS, PictureEncoding, View, centre_view
from fractionate.errors import ConfigError, printable
from fractionate.system.memory import require_bytes
from fractionate.system.paths import as_path


@dataclass(frozen=True, eq=False)
class PictureFolder:
    """A map-style data set of `folder/CLASS/picture.jpeg`: item i is (normalised picture [3, side, side], class number).

    Classes are the folders in the order of their names, files in the order of theirs; folders within a class are walked. `most`
    takes so many pictures of a class. What is not read is counted and named in one warning: other endings, hidden files, pipes,
    and links that lead out of the folder, which `links` follows. Raises `ConfigError` for a folder without classes or pictures and
    for a class without any, unless `allow_empty`; `DamagedError` for a picture that cannot be read.
    """

    folder: Path
    side: int = 224
    view: View = centre_view
    most: int | None = None
    links: bool = False
    allow_empty: bool = False
    classes: tuple[str, ...] = field(init=False)
    files: tuple[Path, ...] = field(init=False)
    targets: tuple[int, ...] = field(init=False)

    def __post_init__(self) -> None:
        if self.most is not None and not (isinstance(self.most, int) and self.most >= 1):
            raise ConfigError("most is a number of pictures a class", expected="1 or more", got=repr(self.most))
        folder = as_path(self.folder, "the folder of pictures")
        names = tuple(sorted(class_names(path.name for path in folders_in(folder, links=self.links))))
        found = files_of_classes(
            folder, names, ENDINGS, what="pictures", links=self.links, allow_empty=self.allow_empty
        )
        if self.most is not None:
            taken = Counter[int]()
            kept = []
            for file, number in found:
                kept += [(file, number)] * (taken[number] < self.most)
                taken[number] += 1
            found = tuple(kept)
        object.__setattr__(self, "classes", names)
        object.__setattr__(self, "files", tuple(file for file, _ in found))
        object.__setattr__(self, "targets", tuple(number for _, number in found))

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, place: int) -> tuple[Tensor, int]:
        return PictureEncoding((), self.side).read(self.files[place], view=self.view), self.targets[place]

    def examples(self) -> Examples:
        """All pictures in memory: for a study on a part of the data."""
        items = [self[place] for place in range(len(self))]
        return Examples(
            torch.stack([picture for picture, _ in items]),
            torch.tensor([label for _, label in items]),
            self.classes,
            self.folder.name if isinstance(self.folder, Path) else str(self.folder),
        )


@dataclass(frozen=True, eq=False)
class Shifted:
    """Small pictures in memory, moved by up to `padding` pixels over a border of zeros and mirrored half of the time."""

    data: Examples
    padding: int = 4

    @property
    def targets(self) -> tuple[int, ...]:
        """All labels, in order."""
        return tuple(self.data.labels.tolist())

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, place: int) -> tuple[Tensor, int]:
        picture = self.data.inputs[place]
        padded = functional.pad(picture, (self.padding,) * 4)
        top, left = torch.randint(0, 2 * self.padding + 1, (2,)).tolist()
        cut = padded[:, top : top + picture.shape[1], left : left + picture.shape[2]]
        return (cut.flip(2) if float(torch.rand(())) < 0.5 else cut), int(self.data.labels[place])


@dataclass(frozen=True, eq=False)
class PictureFiles:
    """A map-style data set of picture files: item i is (picture [3, side, side], class number)."""

    files: Sequence[Path]
    labels: Tensor
    encoding: PictureEncoding

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, place: int) -> tuple[Tensor, Tensor]:
        return self.encoding.read(self.files[place]), self.labels[place]

    def inputs(self) -> Tensor:
        """All pictures. Raises `ResourceError` where memory is too small for them, before the first is read."""
        side, count = self.encoding.side, len(self)
        require_bytes(
            count * 3 * side * side * 4,
            f"{count:,} pictures of 3 × {side} × {side}",
            fix="set in_memory=False, which reads them as they are asked for, or a smaller side= or most=",
        )
        read = torch.empty(count, 3, side, side)
        for place, file in enumerate(self.files):
            read[place] = self.encoding.read(file)
        return read


@data_sets.register("pictures")
def pictures(
    folder: Path | str,
    side: int = 64,
    *,
    mean: str | float | Sequence[float] = "imagenet",
    std: float | Sequence[float] | None = None,
    crop: float = CROP,
    teacher: Mapping[str, Any] | None = None,
    most: int | None = None,
    links: bool = False,
    group: str | None = None,
    repeats: bool = False,
    class_weights: bool = False,
    in_memory: bool = True,
    workers: int = 0,
) -> Divided:
    """Pictures of yours, a folder a class: `pictures('photos', side=64)`; with folders train, val and test above where they are.

    Args:
        folder: The folder of the classes, or of the parts.
        side: Pixels of an input's side.
        mean: Of the channels, from 0 to 1: "imagenet", "inception", "clip", "none", a number or three; `std` their deviation.
        crop: The share of the shorter side that is kept in the middle.
        teacher: Another side, mean, std or crop for the teacher, which then reads a view of the same pictures.
        most: At most so many pictures of a class.
        links: Follow links that lead out of the folder.
        group: A regular expression: files in whose path it matches the same text are in one part.
        repeats: Keep pictures in validation and test whose file is in an earlier part as well, in the same class.
        class_weights: Weigh the pictures that are learned from so that each class counts the same.
        in_memory: Hold all pictures, 12 · side² bytes each; else they are read as they are asked for, by `workers` processes.

    Raises:
        ConfigError: where there are no pictures or a class of the training part has none.
        DamagedError: naming a picture that cannot be read.
        ResourceError: saying how many bytes are needed, before the first is read.
        MissingExtraError: without Pillow.
    """
    own: dict[str, Any] = {"side": side, "mean": mean, "std": std, "crop": crop}
    theirs = None if teacher is None else _of_teacher(teacher, own)
    parts = division(as_path(folder, "the folder of pictures"), links=links)
    names = class_folders(parts, links=links)
    encoding = PictureEncoding.of(names, **own)
    found = {
        part: PictureFolder(path, side, most=most, links=links, allow_empty=part != "train")
        for part, path in parts.items()
    }
    numbers = {name: number for number, name in enumerate(names)}
    files = [file for pictured in found.values() for file in pictured.files]
    labels = torch.tensor([numbers[part.classes[target]] for part in found.values() for target in part.targets])
    ids = tuple(
        printable(file.relative_to(parts[part]).as_posix(), 1000) for part in found for file in found[part].files
    )
    groups = None if group is None else _groups(group, ids)
    shown = printable(Path(folder).resolve().name)
    ours = PictureFiles(files, labels, encoding)
    views = {} if theirs is None else {"teacher": PictureFiles(files, labels, PictureEncoding.of(names, **theirs))}
    whole: Examples | Split
    if not in_memory:
        split, *others = (
            DatasetSplit(pictured, shown, workers=workers, labels=labels, ids=ids, class_names=names)
            for pictured in (ours, *views.values())
        )
        whole = with_views(split, dict(zip(views, others, strict=True)))
    elif workers:
        raise ConfigError(
            "workers read pictures that are not in memory", got=f"workers={workers!r}", fix="in_memory=False"
        )
    elif views:
        made = {name: pictured.inputs() for name, pictured in views.items()}
        whole = MemorySplit(ours.inputs(), labels, shown, ids, names, made)
    else:
        whole = Examples(ours.inputs(), labels, names, shown, ids)
    return Divided(
        whole,
        [part for part in found for _ in found[part].files],
        groups=groups,
        keys=None if repeats else [(_hash(file), label) for file, label in zip(files, labels.tolist(), strict=True)],
        encoding=encoding,
        class_weights=class_weights,
    )


def _of_teacher(given: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of the teacher's pictures: those that are given, else the student's."""
    unknown = sorted(set(given) - set(own)) if isinstance(given, Mapping) else [repr(given)]
    if unknown or not given:
        raise ConfigError(
            "invalid value for teacher", expected=f"some of {', '.join(own)}: teacher={{'side': 224}}",
            got=", ".join(map(str, unknown)) or "nothing",
        )  # fmt: skip
    return {**own, **({"std": None} if "mean" in given else {}), **given}


def _groups(pattern: str, ids: Sequence[str]) -> list[str]:
    """What a pattern matches in the path of each file: its first group, or all of it."""
    try:
        found = [re.search(pattern, name) for name in ids]
    except (re.error, TypeError) as error:
        raise ConfigError("group is a regular expression", got=printable(str(error), 200)) from error
    without = [name for name, match in zip(ids, found, strict=True) if match is None]
    if without:
        raise ConfigError(
            f"{len(without):,} pictures have no group", expected=f"{pattern} in every path", got=", ".join(without[:5])
        )
    return [match[match.re.groups and 1] or "" for match in found if match is not None]


def _hash(file: Path) -> str:
    return xxhash.xxh3_128_hexdigest(file.read_bytes())
