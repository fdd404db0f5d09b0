"""Augmentations of pictures by torchvision and timm, such as RandAugment: on pixels, between two normalisations."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from fractionate.data.batch import Batch, Split
from fractionate.data.parts import ChangedSplit
from fractionate.data.picture_files import normalisation
from fractionate.data.sampling import draw_seed, isolated, seed_streams
from fractionate.data.transforms import Transform, transforms
from fractionate.errors import ConfigError, MismatchError, MissingExtraError, reason
from fractionate.system.registry import nearest, parse_call

Pixels = Callable[[Tensor], Tensor]  # bytes [3, height, width] → bytes of the same shape
BEYOND = 2  # steps of 255 by which rounding may leave the range of pixels


@dataclass(frozen=True)
class LibraryAugment(Transform):
    """What the transforms of both libraries share: pictures [batch, 3, height, width], normalised, changed one by one as bytes.

    What a picture looks like is a function of (seed, epoch, id). A teacher with a view of its own reads that as it is.
    """

    steps: str | tuple[str, ...]
    mean: str | float | tuple[float, ...] = "imagenet"
    std: float | tuple[float, ...] | None = None
    part: str = ""
    changes: ClassVar[frozenset[str]] = frozenset({"inputs"})

    def __post_init__(self) -> None:
        for name in ("steps", "mean", "std"):
            if isinstance(getattr(self, name), list):
                object.__setattr__(self, name, tuple(getattr(self, name)))
        normalisation(self.mean, self.std)
        steps = (self.steps,) if isinstance(self.steps, str) else self.steps
        if not isinstance(steps, tuple) or not steps or not all(isinstance(step, str) and step for step in steps):
            raise ConfigError(
                f"invalid steps of {type(self).__name__}", expected="text, or a list", got=repr(self.steps)
            )
        object.__setattr__(self, "steps", steps)

    @abstractmethod
    def pixels(self) -> Pixels:
        """The change of one picture. Raises `MissingExtraError` without the library, `ConfigError` for steps it does not have."""

    def bind(self, split: Split, student: nn.Module | None, teacher: nn.Module | None, seed: int) -> Split:
        """The split with changed pictures."""
        ids, pixels = split.ids, self.pixels()
        mean, deviation = (torch.tensor(numbers).view(3, 1, 1) for numbers in normalisation(self.mean, self.std))

        def change(batch: Batch, epoch: int, seed: int) -> Batch:
            named = self.part and isinstance(batch.inputs, Mapping)
            inputs = self._check(batch.inputs.get(self.part) if named else batch.inputs)
            shown = (inputs.cpu().float() * deviation + mean) * 255
            if shown.numel() and not -BEYOND <= float(shown.min()) <= float(shown.max()) <= 255 + BEYOND:
                raise MismatchError(
                    f"{split.name}: these inputs are not pictures normalised by mean {self.mean}",
                    expected="0 to 255 once that is undone", got=f"{float(shown.min()):.0f} to {float(shown.max()):.0f}",
                    fix="give mean= and std= as the data have them; augment(...) adds noise after this",
                )  # fmt: skip
            made = []
            with isolated():
                for place, picture in zip(batch.index.tolist(), shown.round().clamp(0, 255).byte(), strict=True):
                    seed_streams(draw_seed("library augment", seed, epoch, ids[place]))
                    made.append(pixels(picture))
                    if made[-1].shape != picture.shape or made[-1].dtype != torch.uint8:
                        raise MismatchError(
                            f"{self!r} changes the shape of pictures", expected=f"uint8 {list(picture.shape)}",
                            got=f"{made[-1].dtype} {list(made[-1].shape)}", fix="name the size of the inputs",
                        )  # fmt: skip
            changed = ((torch.stack(made).float() / 255 - mean) / deviation).to(inputs.device, inputs.dtype)
            return replace(batch, inputs={**batch.inputs, self.part: changed} if named else changed)

        return ChangedSplit(split, change, repr(self))

    def _check(self, inputs: Any) -> Tensor:
        if not isinstance(inputs, Tensor) or inputs.ndim != 4 or inputs.shape[1] != 3 or not inputs.is_floating_point():
            raise MismatchError(
                f"{self!r} cannot change these inputs", expected="floating-point pictures [batch, 3, height, width]",
                got=f"{inputs.dtype} {list(inputs.shape)}" if isinstance(inputs, Tensor) else type(inputs).__name__,
                fix='part="pixel_values" names one of multiple inputs' if isinstance(inputs, Mapping) else None,
            )  # fmt: skip
        return inputs


@transforms.register("torchvision")
@dataclass(frozen=True)
class TorchvisionAugment(LibraryAugment):
    """Augmentations of torchvision.transforms.v2, in their order: `torchvision(['RandAugment()', 'RandomErasing(p=0.2)'])`.

    Args:
        steps: Names of transforms with their arguments, as numbers, text and lists.
        mean: The normalisation of the inputs, as in `pictures`, with `std`.
        part: Which input is changed, of models that take more than one.
    """

    def pixels(self) -> Pixels:
        """The change of one picture."""
        try:
            from torchvision.transforms import v2
        except (ImportError, RuntimeError) as error:  # RuntimeError: a build for another torch
            raise _missing("torchvision", error) from error
        made = [_made(step, v2) for step in self.steps]

        def change(picture: Tensor) -> Tensor:
            for step in made:
                picture = step(picture)
            return picture

        return change


@transforms.register("timm")
@dataclass(frozen=True)
class TimmAugment(LibraryAugment):
    """Augmentations of timm by their text there: `timm('rand-m9-mstd0.5-inc1')`, `timm('augmix-m3-w3')`, `timm('original')`.

    Args:
        steps: Texts of `timm.data.auto_augment`, in their order.
        mean: The normalisation of the inputs, as in `pictures`, with `std`.
        part: Which input is changed, of models that take more than one.
    """

    def pixels(self) -> Pixels:
        """The change of one picture."""
        try:
            from PIL import Image
            from timm.data import auto_augment
            from torchvision.transforms.functional import pil_to_tensor
        except (ImportError, RuntimeError) as error:
            raise _missing("timm", error) from error
        fill = tuple(round(255 * number) for number in normalisation(self.mean, self.std)[0])
        try:
            made = []
            for step in self.steps:
                kinds = {"rand": "rand_augment_transform", "augm": "augment_and_mix_transform"}
                make = getattr(auto_augment, kinds.get(step[:4], "auto_augment_transform"))
                made.append(make(step, {"img_mean": fill}))
        except (AssertionError, ValueError, KeyError, IndexError) as error:
            raise ConfigError(
                f"timm knows no augmentation {list(self.steps)}",
                expected="such as rand-m9-mstd0.5-inc1",
                got=reason(error),
            ) from error

        def change(picture: Tensor) -> Tensor:
            shown = Image.fromarray(picture.permute(1, 2, 0).numpy())
            for step in made:
                shown = step(shown)
            changed: Tensor = pil_to_tensor(shown)
            return changed

        return change


def _made(step: str, v2: Any) -> Any:
    name, arguments, keywords = parse_call(step)
    known = [
        known for known, part in vars(v2).items()
        if isinstance(part, type) and issubclass(part, v2.Transform) and part is not v2.Transform
    ]  # fmt: skip
    if name not in known:
        near = nearest(name, known)
        raise ConfigError(f"torchvision has no transform {name!r}", fix=f"did you mean {near!r}?" if near else None)
    try:
        return getattr(v2, name)(*arguments, **keywords)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"torchvision's {name} does not take these arguments", got=reason(error)) from error


def _missing(library: str, error: Exception) -> MissingExtraError:
    return MissingExtraError(
        f"this augmentation needs {library}",
        expected=library,
        got=reason(error),
        fix="pip install 'fractionate[vision]'",
    )
