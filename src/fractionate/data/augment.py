"""Augmentation of tensors: random crops, flips and noise, drawn anew for each example in each epoch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from fractionate.data.batch import Batch, Split
from fractionate.data.parts import ChangedSplit
from fractionate.data.sampling import draw_seed
from fractionate.data.transforms import Transform, transforms
from fractionate.errors import ConfigError, MismatchError


@transforms.register("augment")
@dataclass(frozen=True)
class Augment(Transform):
    """Random crops, left-right flips and Gaussian noise of tensors: `augment(crop=4, flip=True)`.

    What an example looks like is a function of (seed, epoch, id): the same in every variant of a seed, however a step is cut.
    A teacher with a view of its own reads that as it is.

    Args:
        crop: Zeros padded around the last two axes before a window of the old size is cut out.
        flip: Mirror the last axis of half of the examples.
        noise: Standard deviation of what is added.
        part: Which input is changed, of models that take several: "pixel_values".
    """

    crop: int = 0
    flip: bool = False
    noise: float = 0.0
    part: str = ""
    changes: ClassVar[frozenset[str]] = frozenset({"inputs"})

    def __post_init__(self) -> None:
        whole = isinstance(self.crop, int) and not isinstance(self.crop, bool) and self.crop >= 0
        if not (whole and 0 <= self.noise < math.inf and (self.crop or self.flip or self.noise)):
            raise ConfigError(
                "invalid value for augment",
                expected="crop of at least 0, noise of at least 0, flip, not all of them 0",
                got=f"crop {self.crop!r}, flip {self.flip!r}, noise {self.noise!r}",
            )

    def bind(self, split: Split, student: nn.Module | None, teacher: nn.Module | None, seed: int) -> Split:
        """The split with changed inputs."""
        ids = split.ids

        def change(batch: Batch, epoch: int, seed: int) -> Batch:
            inputs = batch.inputs
            found = inputs.get(self.part) if self.part and isinstance(inputs, Mapping) else inputs
            draws = [
                torch.Generator().manual_seed(draw_seed("augment", seed, epoch, ids[i])) for i in batch.index.tolist()
            ]
            changed = self._changed(self._check(found), draws)
            return replace(batch, inputs={**inputs, self.part: changed} if self.part else changed)

        return ChangedSplit(split, change, repr(self), split.name, labels=split.labels)

    def _check(self, inputs: object) -> Tensor:
        least = 3 if self.crop or self.flip else 2
        if not isinstance(inputs, Tensor) or inputs.ndim < least or (self.noise and not inputs.is_floating_point()):
            kind = "a floating-point tensor" if self.noise else "a tensor"
            raise MismatchError(
                f"{self!r} cannot change these inputs",
                expected=f"{kind} [batch, …, height, width]" if least == 3 else f"{kind} [batch, …]",
                got=f"{inputs.dtype} {list(inputs.shape)}" if isinstance(inputs, Tensor) else type(inputs).__name__,
                fix='part="pixel_values" names one of several inputs' if isinstance(inputs, Mapping) else None,
            )
        return inputs

    def _changed(self, inputs: Tensor, draws: list[torch.Generator]) -> Tensor:
        examples = list(inputs)
        if self.crop:
            height, width = inputs.shape[-2:]
            wide = functional.pad(inputs, (self.crop,) * 4)
            for place, draw in enumerate(draws):
                top, left = torch.randint(2 * self.crop + 1, (2,), generator=draw).tolist()
                examples[place] = wide[place, ..., top : top + height, left : left + width]
        if self.flip:
            for place, draw in enumerate(draws):
                if float(torch.rand((), generator=draw)) < 0.5:
                    examples[place] = examples[place].flip(-1)
        made = torch.stack(examples)
        if self.noise:
            drawn = torch.stack([torch.randn(inputs.shape[1:], generator=draw) for draw in draws])
            made = made + self.noise * drawn.to(made.device, made.dtype)
        return made
