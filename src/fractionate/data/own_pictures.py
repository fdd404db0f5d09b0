"""Pictures in folders, one a class (the layout of ImageNet), read as they are asked for; and the usual augmentations."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from fractionate.data.bundled import Divided, data_sets, joined
from fractionate.data.columns import class_names
from fractionate.data.examples import Examples
from fractionate.data.folders import class_folders, division, files_of_classes, folders_in
from fractionate.errors import ConfigError, DamagedError, MissingExtraError, printable
from fractionate.records.base import Record
from fractionate.system.files import existing_file
from fractionate.system.memory import require_bytes
from fractionate.system.paths import as_path

MEAN = (0.485, 0.456, 0.406)  # of ImageNet's training pictures
DEVIATION = (0.229, 0.224, 0.225)
ENDINGS = (".jpeg", ".jpg", ".png", ".webp", ".bmp", ".tiff", ".tif", ".gif")
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")
LONGEST = 8  # a strip is at most so many times as long as it is wide where it is enlarged: the middle alone is wanted
View = Callable[[Any, int], Any]  # a PIL picture and the side wanted → the picture of that side


def _draw(low: float, high: float) -> float:
    return low + (high - low) * float(torch.rand(()))


def centre_view(picture: Any, side: int) -> Any:
    """The middle: the shorter side becomes 8/7 of what is wanted (256 for 224), and the middle is cut out."""
    if max(picture.size) > LONGEST * min(picture.size):
        across, down = (min(size, LONGEST * min(picture.size)) for size in picture.size)
        left, top = (picture.width - across) // 2, (picture.height - down) // 2
        picture = picture.crop((left, top, left + across, top + down))
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
    """A picture file, viewed and normalised. Raises what `shown_picture` raises."""
    picture = view(shown_picture(file, name=name), side)
    pixels = torch.from_numpy(np.array(picture, dtype=np.uint8)).permute(2, 0, 1).float() / 255
    mean, deviation = (torch.tensor(v).view(3, 1, 1) for v in (MEAN, DEVIATION))
    return (pixels - mean) / deviation


def shown_picture(file: Path | BinaryIO, *, name: str | None = None) -> Any:
    """A picture file as a viewer shows it, a PIL picture in RGB: on white where it is transparent.

    Turned and mirrored as its EXIF says; 16 bits of grey become 8. Only the formats of `ENDINGS` are read, whatever the name says:
    Pillow would start other programs for some of the others. Colour profiles are not applied. Raises `DamagedError` where it cannot
    be read, has several frames, floating-point pixels, or more pixels than `PIL.Image.MAX_IMAGE_PIXELS`; `ConfigError` for a path
    that is no regular file; `MissingExtraError` without Pillow.
    """
    try:
        import PIL  # noqa: F401
    except ImportError as error:
        raise MissingExtraError(
            "pictures need Pillow", expected="PIL", fix="pip install 'fractionate[pictures]'"
        ) from error
    if isinstance(file, Path):
        existing_file(file, what="picture")
    try:
        return _decoded(file)
    except MemoryError:
        raise
    except Exception as error:  # decoders have errors of their own for bytes that are not what their beginning says
        raise DamagedError(
            f"{printable(name or str(file), 200)} cannot be read as a picture",
            got=printable(str(error), 200),
            fix="replace or remove it",
        ) from error


def _decoded(file: Path | BinaryIO) -> Any:
    """The pixels that a viewer shows, as RGB. A picture may be large: there are never more than two copies of it."""
    from PIL import Image, ImageOps

    picture: Any
    with Image.open(file, formats=FORMATS) as picture:
        width, height = picture.size
        if width * height > (Image.MAX_IMAGE_PIXELS or math.inf):  # Pillow warns from here on, and refuses the double
            raise ValueError(f"{width:,} × {height:,} pixels could be a decompression bomb")
        # a JPEG with several pictures (MPO) is a photo with a preview behind it
        if picture.format != "MPO" and getattr(picture, "is_animated", False):
            raise ValueError("it has several frames or pages: save one of them as a picture")
        deep = picture.format == "PNG" and picture.mode == "I"  # 16 bits, as older versions of Pillow hold them
        ImageOps.exif_transpose(picture, in_place=True)
    if deep or picture.mode.startswith("I;16"):
        picture = _eight_bits(picture)
    if picture.mode in ("I", "F"):
        raise ValueError(
            f"its pixels are numbers of 32 bits (mode {picture.mode}): save it with 8 or 16 bits a channel"
        )
    if picture.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in picture.info:
        clear = picture if picture.mode == "RGBA" else picture.convert("RGBA")
        picture = Image.new("RGB", clear.size, "white")
        picture.paste(clear, mask=clear)
    return picture if picture.mode == "RGB" else picture.convert("RGB")


def _eight_bits(picture: Any) -> Any:
    """16 bits of grey as 8 by the high byte, as Pillow reads 16 bits a colour; one grey may stand for transparent."""
    from PIL import Image

    deep = np.asarray(picture)
    flat = Image.fromarray((deep >> 8).astype(np.uint8))
    if "transparency" in picture.info:
        flat.putalpha(Image.fromarray(np.where(deep == picture.info["transparency"], 0, 255).astype(np.uint8)))
    return flat


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
def pictures(folder: Path | str, side: int = 64, *, most: int | None = None, links: bool = False) -> Divided:
    """Pictures of yours, a folder a class: `pictures('photos', side=64)`; with folders train, val and test above where they are.

    All are held in memory, [3, side, side] floating-point numbers each; `most` takes so many of a class, `links` follows links
    that lead out of the folder. Warns of what is not read, as `PictureFolder` does. Raises `ConfigError` where there are no
    pictures or a class of the training part has none, `DamagedError` naming one that cannot be read, `ResourceError` saying how
    many bytes are needed before the first is read, `MissingExtraError` without Pillow.
    """
    if not isinstance(side, int) or side < 1:
        raise ConfigError("side is a number of pixels", expected="1 or more", got=repr(side))
    parts = division(as_path(folder, "the folder of pictures"), links=links)
    names = class_folders(parts, links=links)
    found = {
        part: PictureFolder(path, side, most=most, links=links, allow_empty=part != "train")
        for part, path in parts.items()
    }
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
        made[part] = Examples(read, labels, names, shown, ids)
    encoding = PictureEncoding(names, side)
    return joined(made, encoding=encoding)
