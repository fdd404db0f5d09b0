"""Picture files as a viewer shows them, cut to a square and normalised: the input of a model."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Self

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from fractionate.errors import ConfigError, DamagedError, extra, printable
from fractionate.records.base import Record
from fractionate.system.files import existing_file

MEAN = (0.485, 0.456, 0.406)  # of ImageNet's training pictures
DEVIATION = (0.229, 0.224, 0.225)
NORMALISATIONS = {  # mean and deviation of the channels, by the name of the weights that expect them
    "imagenet": (MEAN, DEVIATION),
    "inception": ((0.5,) * 3, (0.5,) * 3),
    "clip": ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
    "none": ((0.0,) * 3, (1.0,) * 3),
}
ENDINGS = (".jpeg", ".jpg", ".png", ".webp", ".bmp", ".tiff", ".tif", ".gif")
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")
LONGEST = 8  # a strip is at most so many times as long as it is wide where it is enlarged: the middle alone is wanted
CROP = 0.875  # the share of the shorter side that is kept, as in evaluations on ImageNet
View = Callable[[Any, int], Any]  # a PIL picture and the side wanted → the picture of that side


def _draw(low: float, high: float) -> float:
    return low + (high - low) * float(torch.rand(()))


def centre_view(picture: Any, side: int, crop: float = CROP) -> Any:
    """The middle: the shorter side becomes side / crop (256 for 224), and the middle is cut out."""
    if max(picture.size) > LONGEST * min(picture.size):
        across, down = (min(size, LONGEST * min(picture.size)) for size in picture.size)
        left, top = (picture.width - across) // 2, (picture.height - down) // 2
        picture = picture.crop((left, top, left + across, top + down))
    scale = round(side / crop) / min(picture.size)
    width, height = (max(side, round(size * scale)) for size in picture.size)
    left, top = (width - side) // 2, (height - side) // 2
    return picture.resize((width, height), 2).crop((left, top, left + side, top + side))


def random_view(picture: Any, side: int) -> Any:
    """A random part of 8 to 100 % of the area, sides 3:4 to 4:3, scaled, mirrored half of the time.

    Source: Szegedy et al. (2014), arXiv 1409.4842, section 6.

    Args:
        picture: A Pillow image.
        side: Pixels of the view's side.

    Returns:
        A Pillow image, `side` pixels square.

    Example:
        from PIL import Image
        from fractionate.data import random_view

        print(random_view(Image.new("RGB", (40, 30)), 16).size)
    """
    width, height = picture.size
    for _ in range(10):
        area, ratio = width * height * _draw(0.08, 1.0), math.exp(_draw(math.log(3 / 4), math.log(4 / 3)))
        across, down = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < across <= width and 0 < down <= height:
            left, top = int(_draw(0, width - across + 1)), int(_draw(0, height - down + 1))
            part = picture.resize((side, side), 2, (left, top, left + across, top + down))
            return part.transpose(0) if _draw(0, 1) < 0.5 else part
    return centre_view(picture, side)


def shown_picture(file: Path | BinaryIO, *, name: str | None = None) -> Any:
    """A picture file as a viewer shows it, a PIL picture in RGB: on white where it is transparent.

    Turned and mirrored as its EXIF says; 16 bits of grey become 8. Only the formats of `ENDINGS` are read, whatever the name says:
    Pillow would start other programs for some of the others. Colour profiles are not applied. Raises `DamagedError` where it cannot
    be read, has multiple frames, floating-point pixels, or more pixels than `PIL.Image.MAX_IMAGE_PIXELS`; `ConfigError` for a path
    that is no regular file; `MissingExtraError` without Pillow.
    """
    with extra("pictures", "pictures need Pillow"):
        import PIL  # noqa: F401
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
        # a JPEG with multiple pictures (MPO) is a photo with a preview behind it
        if picture.format != "MPO" and getattr(picture, "is_animated", False):
            raise ValueError("it has multiple frames or pages: save one of them as a picture")
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


def normalisation(mean: str | float | Sequence[float], std: float | Sequence[float] | None) -> tuple[Any, Any]:
    """Mean and deviation of three channels: by a name of `NORMALISATIONS`, or as numbers.

    Raises `ConfigError` for names nobody knows, numbers without a deviation, and deviations that are not above 0.
    """
    if isinstance(mean, str) and std is None:
        if mean not in NORMALISATIONS:
            raise ConfigError(
                f"unknown normalisation {printable(mean)!r}", expected=f"numbers, or one of {', '.join(NORMALISATIONS)}"
            )
        return NORMALISATIONS[mean]
    found = []
    for name, given in (("mean", mean), ("std", std)):
        numbers = tuple(given) if isinstance(given, (list, tuple)) else (given,) * 3
        plain = all(isinstance(n, (int, float)) and not isinstance(n, bool) and math.isfinite(n) for n in numbers)
        if len(numbers) != 3 or not plain or (name == "std" and min(numbers) <= 0):
            raise ConfigError(
                f"invalid {name} of pictures", expected="a number, or one for each of 3 channels; mean and std together",
                got=repr(given), fix="mean='imagenet' gives both",
            )  # fmt: skip
        found.append(tuple(float(n) for n in numbers))
    return found[0], found[1]


@dataclass(frozen=True)
class PictureEncoding(Record):
    """How pictures become inputs: the middle, `side` pixels square, each channel less `mean` over `deviation`. Kept as data.json.

    Args:
        class_names: The names of the classes in their order.
        side: Pixels of an input's side.
        mean: Of the three channels, from 0 to 1.
        deviation: Their standard deviation.
        crop: The share of the shorter side that is kept.

    Example:
        from PIL import Image
        from fractionate.data import PictureEncoding
        Image.new("RGB", (40, 30)).save("black.png")
        encoding = PictureEncoding(("cat", "dog"), side=16)
        print(encoding.encode(["black.png"]).shape)
    """

    class_names: tuple[str, ...]
    side: int
    mean: tuple[float, ...] = MEAN
    deviation: tuple[float, ...] = DEVIATION
    crop: float = CROP

    @classmethod
    def of(
        cls,
        class_names: tuple[str, ...],
        side: int,
        mean: str | float | Sequence[float] = "imagenet",
        std: float | Sequence[float] | None = None,
        crop: float = CROP,
    ) -> Self:
        """The encoding that the settings of `pictures` name. Raises `ConfigError` for values out of range."""
        if not isinstance(side, int) or isinstance(side, bool) or side < 1:
            raise ConfigError("side is a number of pixels", expected="1 or more", got=repr(side))
        if isinstance(crop, bool) or not isinstance(crop, (int, float)) or not 0 < crop <= 1:
            raise ConfigError("crop is a share of the shorter side", expected="above 0, at most 1", got=repr(crop))
        return cls(class_names, side, *normalisation(mean, std), float(crop))

    def read(
        self, file: Path | BinaryIO, *, view: View | None = None, name: str | None = None
    ) -> Float[Tensor, "3 side side"]:
        """A picture file as an input; `view` in the place of the middle. Raises what `shown_picture` raises."""
        picture = (view or partial(centre_view, crop=self.crop))(shown_picture(file, name=name), self.side)
        pixels = torch.from_numpy(np.array(picture, dtype=np.uint8)).permute(2, 0, 1).float() / 255
        mean, deviation = (torch.tensor(numbers).view(3, 1, 1) for numbers in (self.mean, self.deviation))
        return (pixels - mean) / deviation

    def image_processor(self) -> dict[str, object]:
        """The same as transformers' `AutoImageProcessor` reads it: `preprocessor_config.json` of a model for pictures."""
        return {
            "image_processor_type": "CLIPImageProcessor",
            "do_convert_rgb": True,
            "do_resize": True,
            "size": {"shortest_edge": round(self.side / self.crop)},
            "resample": 2,  # bilinear
            "do_center_crop": True,
            "crop_size": {"height": self.side, "width": self.side},
            "do_rescale": True,
            "rescale_factor": 1 / 255,
            "do_normalize": True,
            "image_mean": list(self.mean),
            "image_std": list(self.deviation),
        }

    def encode(self, files: Sequence[Path | str]) -> Float[Tensor, "pictures 3 side side"]:
        """Picture files as inputs. Raises `DamagedError` for one that cannot be read."""
        return torch.stack([self.read(Path(file)) for file in files])
