"""Augmentation of tensors: random windows, crops, flips, erasing and noise, drawn anew for each example in each epoch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from fractionate.data.batch import Batch, Split
from fractionate.data.parts import ChangedSplit
from fractionate.data.sampling import draw_seed
from fractionate.data.transforms import Transform, transforms
from fractionate.errors import ConfigError, MismatchError

MOST = 1024  # pixels of a border


@transforms.register("augment")
@dataclass(frozen=True)
class Augment(Transform):
    """Random windows, crops, left-right flips, erasing and noise of tensors: `augment(scale=0.3, flip=True)`, `augment(crop=4)`.

    What an example looks like is a function of (seed, epoch, id): the same in every variant of a seed, however a step is cut.
    A teacher with a view of its own reads that as it is, unless `views` changes it in the same way.

    Args:
        crop: Pixels padded around the last two axes before a window of the old size is cut out.
        border: What is padded, a value for each channel; () is 0. Black of normalised pictures is -mean / deviation.
        flip: Mirror the last axis of half of the examples.
        noise: Standard deviation of what is added.
        part: Which input is changed, of models that take more than one: "pixel_values".
        scale: The least share of the area that a random window keeps, with sides of 3:4 to 4:3; it is scaled to the old size.
        erase: The share of examples of which a random rectangle, 2 to 33 % of the area, becomes 0.
        views: Change the views of the same examples too: the same window, crop in proportion to their size, flip and rectangle.

    Raises:
        ConfigError: Nothing to change, or a number out of range.

    Example:
        from fractionate import Recipe
        from fractionate.data import Augment

        recipe = Recipe(data=(Augment(crop=4, flip=True),))

    Source: random windows, Szegedy et al. 2014 (arXiv 1409.4842); erasing, Zhong et al. 2017 (arXiv 1708.04896); the same change
        for teacher and student, Beyer et al. 2021 (arXiv 2106.05237).
    """

    crop: int = 0
    flip: bool = False
    noise: float = 0.0
    part: str = ""
    scale: float = 0.0
    erase: float = 0.0
    views: bool = False
    border: tuple[float, ...] = ()
    changes: ClassVar[frozenset[str]] = frozenset({"inputs"})

    def __post_init__(self) -> None:
        whole = isinstance(self.crop, int) and not isinstance(self.crop, bool) and 0 <= self.crop <= MOST
        shares = 0 <= self.scale <= 1 and 0 <= self.erase <= 1
        some = self.crop or self.flip or self.noise or self.scale or self.erase
        edge = (
            isinstance(self.border, tuple)
            and all(math.isfinite(v) for v in self.border)
            and (self.crop or not self.border)
        )
        if not (whole and shares and edge and 0 <= self.noise < math.inf and some):
            raise ConfigError(
                "invalid value for augment",
                expected=f"crop from 0 to {MOST}, noise of at least 0, scale and erase from 0 to 1, flip, not all of them 0; "
                "border with a crop alone",
                got=repr(self),
            )

    @property
    def moves(self) -> bool:
        """Whether height and width matter."""
        return bool(self.crop or self.flip or self.scale or self.erase)

    def bind(self, split: Split, student: nn.Module | None, teacher: nn.Module | None, seed: int) -> Split:
        """The split with changed inputs."""
        ids = split.ids

        def change(batch: Batch, epoch: int, seed: int) -> Batch:
            seeds = [draw_seed("augment", seed, epoch, ids[i]) for i in batch.index.tolist()]
            changed = self._part(batch.inputs, seeds, None)
            if not self.views:
                return replace(batch, inputs=changed)
            size = self._check(self._found(batch.inputs)).shape[-2:]
            views = {name: self._part(view, seeds, size) for name, view in batch.views.items()}
            return replace(batch, inputs=changed, views=views)

        return ChangedSplit(split, change, repr(self))

    def __call__(self, inputs: Tensor) -> Tensor:
        """One input as a view of a `Replay`, drawn from torch's stream."""
        return self._changed(self._check(inputs[None]), [int(torch.randint(1 << 62, ()))], None)[0]

    def _found(self, inputs: Any) -> Any:
        return inputs.get(self.part) if self.part and isinstance(inputs, Mapping) else inputs

    def _part(self, inputs: Any, seeds: list[int], size: tuple[int, ...] | None) -> Any:
        changed = self._changed(self._check(self._found(inputs)), seeds, size)
        return {**inputs, self.part: changed} if self.part and isinstance(inputs, Mapping) else changed

    def _check(self, inputs: object) -> Tensor:
        least = 3 if self.moves else 2
        exact = self.noise or self.scale
        if not isinstance(inputs, Tensor) or inputs.ndim < least or (exact and not inputs.is_floating_point()):
            kind = "a floating-point tensor" if exact else "a tensor"
            raise MismatchError(
                f"{self!r} cannot change these inputs",
                expected=f"{kind} [batch, …, height, width]" if least == 3 else f"{kind} [batch, …]",
                got=f"{inputs.dtype} {list(inputs.shape)}" if isinstance(inputs, Tensor) else type(inputs).__name__,
                fix='part="pixel_values" names one of multiple inputs' if isinstance(inputs, Mapping) else None,
            )
        return inputs

    def _changed(self, inputs: Tensor, seeds: list[int], size: tuple[int, ...] | None) -> Tensor:
        """Inputs changed; `size` are height and width of the student's inputs, where these are a view of another size."""
        draws = [torch.Generator().manual_seed(seed) for seed in seeds]
        examples = list(inputs)
        ratio = 1.0 if size is None or not self.moves else inputs.shape[-1] / size[-1]
        for place, draw in enumerate(draws):
            one = examples[place]
            if self.scale:
                one = _window(one, self.scale, draw)
            if self.crop:
                shift, border = torch.randint(2 * self.crop + 1, (2,), generator=draw), round(self.crop * ratio)
                top, left = (shift * border / self.crop).round().long().tolist()
                height, width = one.shape[-2:]
                one = self._padded(one, border)[..., top : top + height, left : left + width]
            if self.flip and float(torch.rand((), generator=draw)) < 0.5:
                one = one.flip(-1)
            if self.erase and float(torch.rand((), generator=draw)) < self.erase:
                top, left, height, width = _rectangle(one, 0.02, 0.33, 0.3, draw)
                one = one.clone()
                one[..., top : top + height, left : left + width] = 0
            examples[place] = one
        made = torch.stack(examples)
        if self.noise and size is None:
            drawn = torch.stack([torch.randn(inputs.shape[1:], generator=draw) for draw in draws])
            made = made + self.noise * drawn.to(made.device, made.dtype)
        return made

    def _padded(self, picture: Tensor, pixels: int) -> Tensor:
        """So many pixels more on each side."""
        padded = functional.pad(picture, (pixels,) * 4)
        if not self.border:
            return padded
        if picture.ndim < 3 or len(self.border) != picture.shape[-3]:
            raise MismatchError(
                "border does not fit these inputs",
                expected=f"a value for each of {picture.shape[-3] if picture.ndim > 2 else 0} channels",
                got=repr(self.border),
            )
        outside = functional.pad(torch.zeros_like(picture), (pixels,) * 4, value=1)
        return padded + outside * torch.tensor(self.border).to(padded).view(-1, 1, 1)


def _rectangle(
    picture: Tensor, least: float, most: float, ratio: float, draw: torch.Generator
) -> tuple[int, int, int, int]:
    """Top, left, height and width of a random rectangle: `least` to `most` of the area, sides of `ratio` to 1 / `ratio`."""
    area, aspect, down, across = torch.rand(4, generator=draw, dtype=torch.float64).tolist()
    share = least + (most - least) * area
    stretch = math.exp((2 * aspect - 1) * math.log(1 / ratio) / 2)
    height = max(1, min(round(picture.shape[-2] * math.sqrt(share) / stretch), picture.shape[-2]))
    width = max(1, min(round(picture.shape[-1] * math.sqrt(share) * stretch), picture.shape[-1]))
    return (
        int(down * (picture.shape[-2] - height + 1)), int(across * (picture.shape[-1] - width + 1)), height, width
    )  # fmt: skip


def _window(picture: Tensor, scale: float, draw: torch.Generator) -> Tensor:
    """A random window of a picture, scaled to its size."""
    top, left, height, width = _rectangle(picture, scale, 1.0, 3 / 4, draw)
    part = picture[..., top : top + height, left : left + width].reshape(1, -1, height, width)
    size = list(picture.shape[-2:])
    return functional.interpolate(part, size, mode="bilinear", antialias=True).reshape(picture.shape)
