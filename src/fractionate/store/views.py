"""Views: augmented data that look the same whenever and wherever they are read.

A view of an example is a function of (seed, example, view): before a transform is called, the random streams of Python, NumPy and
torch are set from these, and put back afterwards. So any transform will do, and the student sees what the teacher saw.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
import xxhash
from jaxtyping import Shaped
from torch import Tensor

from fractionate.data.batch import Batch, Repeated
from fractionate.data.dataset import DatasetSplit
from fractionate.data.examples import Examples
from fractionate.data.items import read_item, with_inputs
from fractionate.data.parts import SubsetSplit, example_at, subset
from fractionate.data.sampling import isolated, seed_streams
from fractionate.data.splits import as_examples
from fractionate.errors import ConfigError
from fractionate.store.keys import Keyed, key


class Replay:
    """Views of the same data, one after the other: item `view * examples + place` is (input, label).

    Give the same `Replay` to `collect` and to `distill`.

    Args:
        data: What `as_split` takes, with a length.
        transform: Called with one input (torchvision's, or any function); one with `partners = 1` is called with a second input as
            well, drawn by the view (`MixUp`). It has to draw from the streams of Python, NumPy or torch.
        views: Views of each example.
        seed: Of what the transform draws.

    Raises:
        ConfigError: for a transform that draws from elsewhere.
        MismatchError: for data without a length.

    Example:
        import torch
        from fractionate.data import Augment
        from fractionate.store import Replay
        pictures = torch.randn(10, 3, 8, 8), torch.arange(10) % 2
        views = Replay(pictures, Augment(crop=2, flip=True), views=4)
        print(len(views), views[0][0].shape)
    """

    def __init__(self, data: Any, transform: Callable[..., Any], *, views: int = 1, seed: int = 0) -> None:
        if not callable(transform) or not 1 <= views < 1 << 16:
            raise ConfigError(
                "these views cannot be made", expected="a transform, 1 to 65,535 views", got=f"{transform!r}, {views}"
            )
        if isinstance(data, Replay):
            raise ConfigError("these data are views already", fix="compose the transforms into one")
        self.keyed = Keyed.of(data)
        self.split = self.keyed.split
        if isinstance(self.split, DatasetSplit) and self.split.loading.get("worker_init_fn"):
            raise ConfigError(
                f"{self.name}: views read the data in the process that makes them: worker_init_fn is not taken over",
                fix="set up what the data need when they are first read",
            )
        self.transform, self.views, self.seed = transform, views, seed
        self.partners: int = getattr(transform, "partners", 0)
        self._last: tuple[int, Any] = (-1, None)  # an example is read once for its view and its fingerprint
        if not same(self[0][0], self[0][0]):
            raise ConfigError(
                f"the transform {transform!r} gives another view each time",
                expected="draws from random, numpy.random or torch's default stream",
                fix="do not use a generator of its own, such as numpy.random.default_rng() without a seed",
            )

    @property
    def name(self) -> str:
        """The name of the data."""
        return self.keyed.name

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of the classes, where the data has them."""
        return self.split.class_names

    def __len__(self) -> int:
        return self.views * len(self.split)

    def __getitem__(self, slot: int) -> tuple[Any, Any]:
        item = read_item(self.shown(slot), self.name, labelled=False)
        return item.inputs, item.label

    def original(self, slot: int) -> Any:
        """The example that an item is a view of, as the data give it."""
        place = slot % len(self.split)
        if self._last[0] != place:
            self._last = place, example_at(self.split, place)
        return self._last[1]

    def shown(self, slot: int) -> Any:
        """An item, in the form of the data."""
        if not 0 <= slot < len(self):
            raise IndexError(slot)
        with isolated():
            view, place = divmod(int(slot), len(self.split))
            given = self.original(slot)
            inputs = self.apply(read_item(given, self.name, labelled=False).inputs, place, view)
            return with_inputs(given, inputs)

    def apply(self, inputs: Any, place: int, view: int) -> Any:
        """One input as a view shows it. Leaves the random streams changed: call it within `isolated()`."""
        content = f"{self.seed}:{view}:{self.split.ids[place]}".encode("utf-8", "surrogatepass")
        seed_streams(xxhash.xxh3_64_intdigest(content))
        drawn = [int(torch.randint(len(self.split), ())) for _ in range(self.partners)]
        others = [read_item(example_at(self.split, other), self.name).inputs for other in drawn]
        return self.transform(inputs, *others)

    def as_split(self) -> DatasetSplit:
        """The items as data in batches. The views of an example share its id, and the fingerprint of the example as it is."""
        inner, known = self.split, self.split.labels
        whole = inner.split if isinstance(inner, SubsetSplit) else inner
        read = whole if isinstance(whole, DatasetSplit) else DatasetSplit(self)
        return replace(
            read,
            dataset=_Items(self),
            name=inner.name,
            labels=None if known is None or known.ndim != 1 else known.repeat(self.views),
            ids=Repeated(inner.ids, self.views),
            class_names=inner.class_names,
            canonical=_Items(self, originals=True),
        )

    def batch(self, slots: Any) -> Batch:
        """Some items as one batch."""
        return next(self.as_split().batches([(0, torch.as_tensor(slots))], 0))

    def examples(self, view: int = 0) -> Examples:
        """One view in memory."""
        count = len(self.split)
        part = subset(self.as_split(), torch.arange(view * count, (view + 1) * count))
        return replace(as_examples(part), name=f"{self.name}, view {view}", ids=())

    def __repr__(self) -> str:
        return f"Replay({self.name}: {len(self.split):,} examples × {self.views} views, {self.transform!r}, seed {self.seed})"


def same(a: Any, b: Any) -> bool:
    """Whether two inputs are equal, bit by bit."""
    return key("", a, 0) == key("", b, 0)


@dataclass(frozen=True)
class MixUp:
    """λ · input + (1 − λ) · another input, with λ ≥ 1/2, so that the label stays the stronger input's.

    λ = max(b, 1 − b), b from Beta(concentration, concentration). Source: Zhang et al. (2018), arXiv 1710.09412; as a view for
    distillation, Beyer et al. (2022), arXiv 2106.05237.

    Args:
        concentration: Of the Beta distribution.
        before: A view of each input, before they are mixed.

    Example:
        import torch
        from fractionate.store import MixUp, Replay
        views = Replay((torch.randn(20, 4), torch.arange(20) % 3), MixUp(0.4), views=2)
        print(len(views))
    """

    concentration: float = 1.0
    before: Callable[..., Any] | None = None
    partners: ClassVar[int] = 1

    def __call__(self, inputs: Shaped[Tensor, "*shape"], other: Shaped[Tensor, "*shape"]) -> Shaped[Tensor, "*shape"]:
        share = float(np.random.beta(self.concentration, self.concentration))
        share = max(share, 1 - share)
        if self.before is not None:
            inputs, other = self.before(inputs), self.before(other)
        return share * inputs + (1 - share) * other


@dataclass(frozen=True, eq=False)
class _Items:
    """The items of a replay in the form of its data, as a collate function takes them; or the examples they are views of."""

    replay: Replay
    originals: bool = False

    def __len__(self) -> int:
        return len(self.replay)

    def __getitem__(self, slot: int) -> Any:
        split = self.replay.split
        if not self.originals:
            return self.replay.shown(slot)
        if isinstance(split, DatasetSplit) and split.canonical is not None:
            return split.canonical[slot % len(split)]
        return self.replay.original(slot)
