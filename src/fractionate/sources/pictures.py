"""Pictures in folders, one a class (the layout of ImageNet), read as they are asked for; and the usual augmentations."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from fractionate.errors import ConfigError, DamagedError, MissingExtraError
from fractionate.sources.examples import Examples

MEAN = (0.485, 0.456, 0.406)  # of ImageNet's training pictures
DEVIATION = (0.229, 0.224, 0.225)
ENDINGS = (".jpeg", ".jpg", ".png", ".webp", ".bmp")
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
        names = sorted(p.name for p in folder.iterdir() if p.is_dir()) if folder.is_dir() else []
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
        try:
            from PIL import Image, UnidentifiedImageError
        except ImportError as error:
            raise MissingExtraError(
                "pictures need Pillow", expected="PIL", fix="pip install 'fractionate[pictures]'"
            ) from error
        try:
            with Image.open(self.files[place]) as opened:
                picture = self.view(opened.convert("RGB"), self.side)
        except (UnidentifiedImageError, OSError, Image.DecompressionBombError) as error:
            raise DamagedError(
                f"{self.files[place]} cannot be read as a picture", got=str(error), fix="replace or remove it"
            ) from error
        pixels = torch.from_numpy(np.array(picture, dtype=np.uint8)).permute(2, 0, 1).float() / 255
        mean, deviation = (torch.tensor(v).view(3, 1, 1) for v in (MEAN, DEVIATION))
        return (pixels - mean) / deviation, self.targets[place]

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
