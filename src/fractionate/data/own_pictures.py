"""Pictures in folders, one per class (the layout of ImageNet): held in memory, or read on demand."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import xxhash
from torch import Tensor

from fractionate.data.batch import Split
from fractionate.data.bundled import Divided, data_sets
from fractionate.data.columns import class_names
from fractionate.data.dataset import DatasetSplit
from fractionate.data.examples import Examples
from fractionate.data.folders import class_folders, division, files_of_classes, folders_in
from fractionate.data.parts import with_views
from fractionate.data.picture_files import CROP, ENDINGS, PictureEncoding, View
from fractionate.data.splits import as_split
from fractionate.errors import ConfigError, printable
from fractionate.system.memory import require_bytes
from fractionate.system.paths import as_path


@dataclass(frozen=True, eq=False)
class PictureFiles:
    """A map-style data set of picture files: item i is (picture [3, side, side], class number), of the `view` or the middle."""

    files: Sequence[Path]
    targets: Sequence[int]
    encoding: PictureEncoding
    name: str = "pictures"
    ids: tuple[str, ...] = ()
    view: View | None = None

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes."""
        return self.encoding.class_names

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, place: int) -> tuple[Tensor, int]:
        return self.encoding.read(self.files[place], view=self.view), self.targets[place]

    def examples(self) -> Examples:
        """All pictures in memory. Raises `ResourceError` before the first is read, where there is not enough of it."""
        side, count = self.encoding.side, len(self)
        require_bytes(
            count * 3 * side * side * 4,
            f"{count:,} pictures of 3 × {side} × {side}",
            fix="set in_memory=False, which reads them on demand, or a smaller side= or most=",
        )
        read = torch.empty(count, 3, side, side)
        for place in range(count):
            read[place] = self[place][0]
        return Examples(read, torch.tensor(self.targets), self.classes, self.name, self.ids)

    def split(self, workers: int) -> Split:
        """The pictures on demand, read by so many processes."""
        return DatasetSplit(
            self, self.name, workers=workers, labels=torch.tensor(self.targets), ids=self.ids, class_names=self.classes
        )


def PictureFolder(  # noqa: N802 (what it makes is a data set, as torchvision's ImageFolder is)
    folder: Path | str,
    side: int = 224,
    view: View | None = None,
    most: int | None = None,
    *,
    links: bool = False,
    allow_empty: bool = False,
    encoding: PictureEncoding | None = None,
) -> PictureFiles:
    """The pictures of `folder/CLASS/picture.jpeg`, read when they are needed.

    Classes are the folders in the order of their names, files in the order of theirs; folders within a class are walked. What is
    not read is counted and named in one warning: other endings, hidden files, pipes, and links that lead out of the folder.

    Args:
        folder: The folder of the classes.
        side: Pixels of an input's side.
        view: Called with a picture and the side in place of taking the middle, such as `random_view`.
        most: At most so many pictures of a class.
        links: Follow links that lead out of the folder.
        allow_empty: Take a class without pictures.
        encoding: How pictures become inputs, in place of `side`; its classes are those of the data.

    Returns:
        A map-style data set of (input [3, side, side], class number).

    Raises:
        ConfigError: for a folder without classes or pictures and for a class without any.
        DamagedError: for a picture that cannot be read.

    Example:
        from pathlib import Path
        from PIL import Image
        from fractionate.data import PictureFolder

        for number, kind in enumerate(("cat", "dog")):
            Path("photos", kind).mkdir(parents=True)
            Image.new("RGB", (40, 30), (90 * number, 0, 0)).save(f"photos/{kind}/1.png")
        picture, label = PictureFolder("photos", side=16)[1]
    """
    if most is not None and not (isinstance(most, int) and most >= 1):
        raise ConfigError("most is a number of pictures a class", expected="1 or more", got=repr(most))
    folder = as_path(folder, "the folder of pictures")
    names = tuple(sorted(class_names(path.name for path in folders_in(folder, links=links))))
    found = files_of_classes(folder, names, ENDINGS, what="pictures", links=links, allow_empty=allow_empty)
    by_class = [[file for file, number in found if number == each][:most] for each in range(len(names))]
    files = [file for some in by_class for file in some]
    encoding = encoding or PictureEncoding.of(names, side)
    targets = [encoding.class_names.index(name) for name, some in zip(names, by_class, strict=True) for _ in some]
    ids = tuple(printable(file.relative_to(folder).as_posix(), 1000) for file in files)
    return PictureFiles(files, targets, encoding, printable(folder.name), ids, view)


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
    """Your pictures, one folder per class: `pictures('photos', side=64)`; folders train, val and test above them are the parts.

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
        in_memory: Hold all pictures, 12 · side² bytes each; else they are read on demand, by `workers` processes.

    Returns:
        `Divided`: the examples, their part and group, and the encoding; a run file's `data.name`, or `find_parts`, divides them.

    Raises:
        ConfigError: where there are no pictures or a class of the training part has none.
        DamagedError: naming a picture that cannot be read.
        ResourceError: saying how many bytes are needed, before the first is read.
        MissingExtraError: without Pillow.

    Example:
        from pathlib import Path
        from PIL import Image
        from fractionate.data import pictures

        for number, kind in enumerate(("cat", "dog")):
            Path("photos", kind).mkdir(parents=True)
            for each in range(5):
                Image.new("RGB", (40, 30), (90 * number, each, 0)).save(f"photos/{kind}/{each}.png")
        found = pictures("photos", side=16)
    """
    own: dict[str, Any] = {"side": side, "mean": mean, "std": std, "crop": crop}
    theirs = None if teacher is None else _of_teacher(teacher, own)
    parts = division(as_path(folder, "the folder of pictures"), links=links)
    names = class_folders(parts, links=links)
    encoding = PictureEncoding.of(names, **own)
    found = {
        part: PictureFolder(path, most=most, links=links, allow_empty=part != "train", encoding=encoding)
        for part, path in parts.items()
    }
    files = [file for pictured in found.values() for file in pictured.files]
    targets = [target for pictured in found.values() for target in pictured.targets]
    ids = tuple(name for pictured in found.values() for name in pictured.ids)
    groups = None if group is None else _groups(group, ids)
    ours = PictureFiles(files, targets, encoding, printable(Path(folder).resolve().name), ids)
    seen = None if theirs is None else replace(ours, encoding=PictureEncoding.of(names, **theirs))
    if in_memory and workers:
        raise ConfigError(
            "workers read pictures that are not in memory", got=f"workers={workers!r}", fix="in_memory=False"
        )
    whole: Examples | Split = ours.examples() if in_memory else ours.split(workers)
    if seen is not None:
        view = seen.examples() if in_memory else seen.split(workers)
        whole = with_views(as_split(whole), {"teacher": as_split(view)})
    return Divided(
        whole,
        [part for part in found for _ in found[part].files],
        groups=groups,
        keys=None if repeats else [(_hash(file), target) for file, target in zip(files, targets, strict=True)],
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
