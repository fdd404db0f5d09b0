"""Pictures in folders, one a class (the layout of ImageNet), read as they are asked for; and the usual augmentations."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from fractionate.budget import require_bytes
from fractionate.data.examples import Examples
from fractionate.errors import ConfigError, DamagedError, MissingExtraError, printable
from fractionate.record import Record
from fractionate.sources.bundled import data_sets
from fractionate.sources.divided import Divided, class_folders, division

MEAN = (0.485, 0.456, 0.406)  # of ImageNet's training pictures
DEVIATION = (0.229, 0.224, 0.225)
ENDINGS = (".jpeg", ".jpg", ".png", ".webp", ".bmp")
FORMATS = ("JPEG", "PNG", "WEBP", "BMP")
View = Callable[[Any, int], Any]  # a PIL picture and the side wanted → the picture of that side


def _draw(low: float, high: float) -> float:
    return low + (high - low) * float(torch.rand(()))


def centre_view(picture: Any, side: int) -> Any:
    """The middle: the shorter side becomes 8/7 of what is wanted (256 for 224), and the middle is cut out."""
    scale = round(side * 8 / 7) / min(picture.size)
    width, height = (max(side, round(size * scale)) for size in picture.size)
    left, top = (width - side) // 2, (height - side) // 2
    return picture.resize((width, height), 2).crop((left, top, left + side, top + side))


def random_view(picture: Any, side: int) -> Any:
    """A random part of 8 to 100 % of the area, sides 3:4 to 4:3, scaled, mirrored half of the time (Szegedy et al. 2014)."""
    width, height = picture.size
    for _ in range(10):
        area, ratio = width * height * _draw(0.08, 1.0), math.exp(_draw(math.log(3 / 4), math.log(4 / 3)))
        across, down = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < across <= width and 0 < down <= height:
            left, top = int(_draw(0, width - across + 1)), int(_draw(0, height - down + 1))
            part = picture.resize((side, side), 2, (left, top, left + across, top + down))
            return part.transpose(0) if _draw(0, 1) < 0.5 else part
    return centre_view(picture, side)


def read_picture(
    file: Path | BinaryIO, view: View, side: int, *, name: str | None = None
) -> Float[Tensor, "3 side side"]:
    """A picture file, viewed and normalised. Raises `DamagedError` where it cannot be read, `MissingExtraError` without Pillow.

    Only the formats of `ENDINGS` are read, whatever the name says: Pillow would start other programs for some of the others.
    """
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError as error:
        raise MissingExtraError(
            "pictures need Pillow", expected="PIL", fix="pip install 'fractionate[pictures]'"
        ) from error
    try:
        with Image.open(file, formats=FORMATS) as opened:
            picture = view(opened.convert("RGB"), side)
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DamagedError(
            f"{printable(name or str(file), 200)} cannot be read as a picture",
            got=printable(str(error), 200),
            fix="replace or remove it",
        ) from error
    pixels = torch.from_numpy(np.array(picture, dtype=np.uint8)).permute(2, 0, 1).float() / 255
    mean, deviation = (torch.tensor(v).view(3, 1, 1) for v in (MEAN, DEVIATION))
    return (pixels - mean) / deviation


@dataclass(frozen=True, eq=False)
class PictureFolder:
    """A map-style data set of `folder/CLASS/picture.jpeg`: item i is (normalised picture [3, side, side], class number).

    Classes are the folders in the order of their names, files in the order of theirs. `most` takes so many pictures of a class.
    Raises `ConfigError` for a folder without classes or pictures, and `DamagedError` for a picture that cannot be read.
    """

    folder: Path
    side: int = 224
    view: View = centre_view
    most: int | None = None
    classes: tuple[str, ...] = field(init=False)
    files: tuple[Path, ...] = field(init=False)
    targets: tuple[int, ...] = field(init=False)

    def __post_init__(self) -> None:
        folder = Path(self.folder)
        names = (
            sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
            if folder.is_dir()
            else []
        )
        found = [
            (file, number)
            for number, name in enumerate(names)
            for file in sorted(f for f in (folder / name).iterdir() if f.suffix.lower() in ENDINGS)[: self.most]
        ]
        if not found:
            raise ConfigError(
                f"there are no pictures in {folder}",
                expected=f"a folder for each class with files of {', '.join(ENDINGS)}",
                got=f"{len(names)} folders" if folder.is_dir() else "no such folder",
            )
        object.__setattr__(self, "classes", tuple(names))
        object.__setattr__(self, "files", tuple(file for file, _ in found))
        object.__setattr__(self, "targets", tuple(number for _, number in found))

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, place: int) -> tuple[Tensor, int]:
        return read_picture(self.files[place], self.view, self.side), self.targets[place]

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


@dataclass(frozen=True)
class PictureEncoding(Record):
    """How pictures become inputs: the middle, `side` pixels square, each channel less `mean` over `deviation`.

    Kept as data.json beside a student.
    """

    class_names: tuple[str, ...]
    side: int
    mean: tuple[float, ...] = MEAN
    deviation: tuple[float, ...] = DEVIATION

    def encode(self, files: Sequence[Path | str]) -> Float[Tensor, "pictures 3 side side"]:
        """Picture files as inputs. Raises `DamagedError` for one that cannot be read."""
        return torch.stack([read_picture(Path(file), centre_view, self.side) for file in files])


@data_sets.register("pictures")
def pictures(folder: Path | str, side: int = 64, *, most: int | None = None) -> Divided:
    """Pictures of yours, a folder a class: `pictures('photos', side=64)`; with folders train, val and test above where they are.

    All are held in memory, [3, side, side] floating-point numbers each; `most` takes so many of a class. Raises `ConfigError`
    where there are no pictures, `DamagedError` naming one that cannot be read, `ResourceError` saying how many bytes are needed
    before the first is read, `MissingExtraError` without Pillow.
    """
    if not isinstance(side, int) or side < 1:
        raise ConfigError("side is a number of pixels", expected="1 or more", got=repr(side))
    parts = division(Path(folder))
    names = class_folders(parts)
    found = {part: PictureFolder(path, side, most=most) for part, path in parts.items()}
    count = sum(len(part) for part in found.values())
    require_bytes(
        count * 3 * side * side * 4,
        f"{count:,} pictures of 3 × {side} × {side}",
        fix="set a smaller side= or most=; or in Python give PictureFolder, which reads them as they are asked for",
    )
    numbers = {name: number for number, name in enumerate(names)}
    made = {}
    for part, pictured in found.items():
        labels = torch.tensor([numbers[pictured.classes[target]] for target in pictured.targets])
        ids = tuple(printable(file.relative_to(parts[part]).as_posix(), 1000) for file in pictured.files)
        shown = printable(Path(folder).resolve().name)
        read = torch.empty(len(pictured), 3, side, side)
        for place in range(len(pictured)):
            read[place] = pictured[place][0]
        made[part] = Examples(read, labels, tuple(map(printable, names)), shown, ids)
    encoding = PictureEncoding(tuple(map(printable, names)), side)
    return Divided(made["train"], made.get("validation"), made.get("test"), encoding)
