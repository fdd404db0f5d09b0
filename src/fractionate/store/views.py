"""Views: augmented data that look the same whenever and wherever they are looked at.

A view of an example is a function of (seed, example, view): before a transform is called, the random streams of Python, NumPy and
torch are set from these, and put back afterwards. So any transform will do, and the student sees what the teacher saw.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
import xxhash
from jaxtyping import Shaped
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from fractionate.data.examples import Examples
from fractionate.errors import ConfigError, MismatchError
from fractionate.store.source import Batch, Source, key


@contextlib.contextmanager
def isolated() -> Iterator[None]:
    """Python's, NumPy's and torch's (CPU) random streams are put back as they were."""
    python, numpy, tensor = random.getstate(), np.random.get_state(), torch.default_generator.get_state()
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        torch.default_generator.set_state(tensor)


def seed_streams(seed: int) -> None:
    """Let all three streams follow from a seed."""
    torch.default_generator.manual_seed(seed & 0x7FFF_FFFF_FFFF_FFFF)
    np.random.seed(seed & 0xFFFF_FFFF)
    random.seed(seed)


class Replay:
    """Several views of the same data, one after the other: item `view * examples + place` is (input, label).

    `transform` is called with one input (torchvision's, or any function); one with `partners = 1` is called with a second
    input, drawn by the view, as well (`MixUp`). Give the same `Replay` to `collect` and to `distill`. A transform must draw
    from the streams of Python, NumPy or torch; raises `ConfigError` for one that draws from elsewhere, `MismatchError` for
    data without a length.
    """

    def __init__(self, data: Any, transform: Callable[..., Any], *, views: int = 1, seed: int = 0) -> None:
        if not callable(transform) or not 1 <= views < 1 << 16:
            raise ConfigError(
                "these views cannot be made", expected="a transform, 1 to 65,535 views", got=f"{transform!r}, {views}"
            )
        if isinstance(data, Replay):
            raise ConfigError("these data are views already", fix="compose the transforms into one")
        self.source = Source(data)
        self.transform, self.views, self.seed = transform, views, seed
        self.partners: int = getattr(transform, "partners", 0)
        if not same(self[0][0], self[0][0]):
            raise ConfigError(
                f"the transform {transform!r} gives another view each time",
                expected="draws from random, numpy.random or torch's default stream",
                fix="do not use a generator of its own, such as numpy.random.default_rng() without a seed",
            )

    @property
    def name(self) -> str:
        """The name of the data."""
        return self.source.name

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of the classes, where the data has them."""
        return self.source.class_names

    @property
    def targets(self) -> Tensor | None:
        """All labels, view after view; None where they would have to be read."""
        examples = self.source.examples
        return None if examples is None else examples.labels.repeat(self.views)

    def __len__(self) -> int:
        return self.views * len(self.source)

    def __getitem__(self, slot: int) -> tuple[Any, Any]:
        if not 0 <= slot < len(self):
            raise IndexError(slot)
        with isolated():
            view, place = divmod(int(slot), len(self.source))
            inputs, label = self.source.item(place)
            return self.apply(inputs, place, view), label

    def apply(self, inputs: Any, place: int, view: int) -> Any:
        """One input as a view shows it. Leaves the random streams changed: call it within `isolated()`."""
        content = f"{self.seed}:{view}:{self.source.id(place)}".encode("utf-8", "surrogatepass")
        seed_streams(xxhash.xxh3_64_intdigest(content))
        others = [self.source.item(int(torch.randint(len(self.source), ())))[0] for _ in range(self.partners)]
        return self.transform(inputs, *others)

    def batch(self, slots: NDArray[np.int64] | Tensor) -> Batch:
        """Inputs, labels and fingerprints (of the examples as they are) of some items."""
        wanted = np.asarray(slots, np.int64)
        places = wanted % len(self.source)
        items, raw = [], []
        with isolated():
            for slot, place in zip(wanted.tolist(), places.tolist(), strict=True):
                inputs, label = self.source.item(place)
                raw.append((inputs, label))
                items.append((self.apply(inputs, place, slot // len(self.source)), label))
        inputs, labels = self.source.collate(items)
        return Batch(inputs, labels, places, self.source.keys(places, raw))

    def examples(self, view: int = 0) -> Examples:
        """One view in memory."""
        count = len(self.source)
        batch = self.batch(np.arange(view * count, (view + 1) * count))
        if not isinstance(batch.inputs, Tensor):
            raise MismatchError(
                "inputs are not single tensors", got=type(batch.inputs).__name__, fix="read them batch by batch"
            )
        return Examples(batch.inputs, batch.labels, self.class_names, f"{self.name}, view {view}")

    def __repr__(self) -> str:
        return f"Replay({self.name}: {len(self.source):,} examples × {self.views} views, {self.transform!r}, seed {self.seed})"


def same(a: Any, b: Any) -> bool:
    """Whether two inputs are equal, bit by bit."""
    return key("", a, 0) == key("", b, 0)


# --- views of tensors, without torchvision ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sequence:
    """One transform after the other."""

    transforms: tuple[Callable[..., Any], ...]

    def __call__(self, inputs: Any) -> Any:
        for transform in self.transforms:
            inputs = transform(inputs)
        return inputs


@dataclass(frozen=True)
class Crop:
    """The picture moved by up to `padding` pixels each way, zeros at the edge."""

    padding: int = 2

    def __call__(self, picture: Shaped[Tensor, "*channels height width"]) -> Shaped[Tensor, "*channels height width"]:
        height, width = picture.shape[-2:]
        down, right = torch.randint(2 * self.padding + 1, (2,)).tolist()
        return functional.pad(picture, (self.padding,) * 4)[..., down : down + height, right : right + width]


@dataclass(frozen=True)
class Flip:
    """Left and right exchanged in a share of the pictures."""

    share: float = 0.5

    def __call__(self, picture: Shaped[Tensor, "*channels height width"]) -> Shaped[Tensor, "*channels height width"]:
        return picture.flip(-1) if float(torch.rand(())) < self.share else picture


@dataclass(frozen=True)
class MixUp:
    """λ · input + (1 - λ) · another input, λ from Beta(concentration, concentration) and at least a half, so that the label
    stays the stronger input's (Zhang et al. 2018, arXiv 1710.09412; as a view for distillation, Beyer et al. 2022, 2106.05237)."""

    concentration: float = 1.0
    before: Callable[..., Any] | None = None  # a view of each input, before they are mixed
    partners: ClassVar[int] = 1

    def __call__(self, inputs: Shaped[Tensor, "*shape"], other: Shaped[Tensor, "*shape"]) -> Shaped[Tensor, "*shape"]:
        share = float(np.random.beta(self.concentration, self.concentration))
        share = max(share, 1 - share)
        if self.before is not None:
            inputs, other = self.before(inputs), self.before(other)
        return share * inputs + (1 - share) * other
