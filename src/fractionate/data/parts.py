"""Splits made of a split: some of its places, weights, and views for other readers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import tee
from typing import Any, Protocol, cast

import torch
import xxhash
from jaxtyping import Bool, Float, Int
from torch import Tensor

from fractionate.data.batch import Batch, Ids, Note, NotedSplit, Places, Plan, Split
from fractionate.data.dataset import DatasetSplit
from fractionate.data.examples import Examples
from fractionate.data.memory import MemorySplit
from fractionate.data.sampling import batches as shuffled
from fractionate.errors import ConfigError, MismatchError
from fractionate.system.hashing import content_hash


def read_noted(split: Split, plan: Plan, seed: int, note: Note | None) -> Iterator[tuple[Batch, list[bytes]]]:
    """The planned batches of any split, each with what is noted of its examples; each read alone where the split cannot note."""
    if isinstance(split, NotedSplit):
        yield from split.read(plan, seed, note)
        return
    ours, theirs = tee(plan)
    for (epoch, index), batch in zip(ours, split.batches(theirs, seed), strict=False):
        noted = []
        if note is not None:
            for one in split.batches(((epoch, place[None]) for place in index), seed):
                noted.append(note(split.ids[int(one.index[0])], (one.inputs, one.labels)))
        yield batch, noted


def example_at(split: Split, place: int) -> Any:
    """One example as the data give it. Raises `MismatchError` where a split is read in batches only."""
    if not hasattr(split, "read"):  # isinstance would read all of its properties, for each example
        raise MismatchError(
            f"{split.name}: these data are read in batches only", expected="examples that can be read one by one",
            got=type(split).__name__,
        )  # fmt: skip
    return cast(NotedSplit, split)[place]


def first_batch(split: Split, size: int, seed: int) -> Batch:
    """The first examples as a batch, for shapes; read without worker processes where that can be."""
    places = torch.arange(min(size, len(split)))
    while isinstance(split, SubsetSplit):
        places = split.places[places]
        split = split.split
    split = replace(split, workers=0) if isinstance(split, DatasetSplit) else split
    return next(iter(split.batches([(0, places)], seed)))


class Over(Protocol):
    """A split made of another, `split`: what a subclass does not change is the other's."""

    split: Split

    @property
    def name(self) -> str:
        """The data's name."""
        return self.split.name

    @property
    def ids(self) -> Ids:
        """The ids of the examples."""
        return self.split.ids

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of the classes."""
        return self.split.class_names

    @property
    def labels(self) -> Tensor | None:
        """All labels, where they are known."""
        return self.split.labels

    def __len__(self) -> int:
        return len(self.split)

    def order(self, batch_size: int, seed: int, epoch: int) -> tuple[Int[Tensor, "batch"], ...]:
        """The places of the batches of an epoch."""
        return self.split.order(batch_size, seed, epoch)


@dataclass(frozen=True, eq=False)
class SubsetSplit(Over):
    """Some examples of a split, under their ids. What an example looks like does not depend on the part it is in."""

    split: Split
    places: Int[Tensor, "some"]

    @cached_property
    def ids(self) -> Ids:
        """The ids they have in the whole."""
        return tuple(self.split.ids[place] for place in self.places.tolist())

    @property
    def labels(self) -> Tensor | None:
        """Their labels, where the whole's are known."""
        return None if self.split.labels is None else self.split.labels[self.places]

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, place: int, /) -> Any:
        """One example as the data give it."""
        return example_at(self.split, int(self.places[place]))

    def order(self, batch_size: int, seed: int, epoch: int) -> tuple[Int[Tensor, "batch"], ...]:
        """Shuffled anew in each epoch."""
        return shuffled(len(self), batch_size, seed, epoch)

    def batches(self, plan: Plan, seed: int) -> Iterator[Batch]:
        """The planned batches, in their order."""
        return (batch for batch, _ in self.read(plan, seed))

    def read(self, plan: Plan, seed: int, note: Note | None = None) -> Iterator[tuple[Batch, list[bytes]]]:
        """The planned batches, each with what is noted of its examples."""
        ours, theirs = tee(plan)
        inner = ((epoch, self.places[index]) for epoch, index in theirs)
        for (_, index), (batch, noted) in zip(ours, read_noted(self.split, inner, seed, note), strict=False):
            yield replace(batch, index=index), noted

    def fingerprint(self) -> str:
        """The whole's, with the places."""
        return xxhash.xxh3_128_hexdigest(f"{self.split.fingerprint()}:{content_hash(self.places)}".encode())


@dataclass(frozen=True, eq=False)
class MarkedSplit(Over):
    """A split whose batches carry weights, marks of examples whose label is only a guess, and views for other readers."""

    split: Split
    weight: Float[Tensor, "examples"] | None = None
    labelled: Bool[Tensor, "examples"] | None = None
    views: Mapping[str, Split] = field(default_factory=dict)

    def __getitem__(self, place: int, /) -> Any:
        """One example as the data give it."""
        return example_at(self.split, place)

    def batches(self, plan: Plan, seed: int) -> Iterator[Batch]:
        """The planned batches, in their order."""
        return (batch for batch, _ in self.read(plan, seed))

    def read(self, plan: Plan, seed: int, note: Note | None = None) -> Iterator[tuple[Batch, list[bytes]]]:
        """The planned batches, each with what is noted of its examples and, after that, of their views."""
        ours, *others = tee(plan, 1 + len(self.views))
        parts = zip(self.views.items(), others, strict=True)
        seen = {name: read_noted(view, other, seed, note) for (name, view), other in parts}
        for batch, noted in read_noted(self.split, ours, seed, note):
            found = {name: next(view) for name, view in seen.items()}
            if note is not None:
                for _, theirs in found.values():
                    noted = [own + other for own, other in zip(noted, theirs, strict=True)]
            more: dict[str, Any] = {name: view.inputs for name, (view, _) in found.items()}
            weight = batch.weight if self.weight is None else self.weight[batch.index]
            labelled = batch.labelled if self.labelled is None else self.labelled[batch.index]
            yield replace(batch, views={**batch.views, **more}, weight=weight, labelled=labelled), noted

    def fingerprint(self) -> str:
        """The split's, with the marks and the views."""
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        marks = [content_hash(mark) if mark is not None else "" for mark in (self.weight, self.labelled)]
        views = [f"{name}={view.fingerprint()}" for name, view in sorted(self.views.items())]
        return xxhash.xxh3_128_hexdigest(":".join([self.split.fingerprint(), *marks, *views]).encode())


@dataclass(frozen=True, eq=False)
class ChangedSplit(Over):
    """A split whose batches are changed as they are read: the change of a batch follows from it, the epoch and the seed.

    Args:
        change: (batch, epoch, seed) -> the changed batch.
        text: What tells this change from others.
        renamed: The data's name; left out, the split's.
        relabels: The change makes labels of its own.
    """

    split: Split
    change: Callable[[Batch, int, int], Batch]
    text: str
    renamed: str = ""
    relabels: bool = False

    @property
    def name(self) -> str:
        """The data's name."""
        return self.renamed or self.split.name

    @property
    def labels(self) -> Tensor | None:
        """All labels, where the change leaves them alone."""
        return None if self.relabels else self.split.labels

    def batches(self, plan: Plan, seed: int) -> Iterator[Batch]:
        """The planned batches, in their order, each changed when it is drawn and not before."""
        ours, theirs = tee(plan)
        for (epoch, _), batch in zip(ours, self.split.batches(theirs, seed), strict=False):
            yield self.change(batch, epoch, seed)

    def fingerprint(self) -> str:
        """The split's, with the change."""
        return xxhash.xxh3_128_hexdigest(f"{self.split.fingerprint()}:{self.text}".encode())


def subset(split: Split, places: Int[Tensor, "some"]) -> Split:
    """Some examples of a split, under the ids they have there.

    Args:
        split: The data.
        places: [some] places in the split; one may come more than once.

    Returns:
        A split of these examples, in this order.

    Raises:
        MismatchError: for places that the split does not have, and for none.

    Example:
        import torch
        from fractionate.data import as_split, subset

        split = as_split((torch.randn(6, 2), torch.arange(6)))
        print(subset(split, torch.tensor([4, 1])).labels)
    """
    if not len(places) or not 0 <= int(places.min()) <= int(places.max()) < len(split):
        raise MismatchError(
            f"{split.name}: these places are not in the data",
            expected=f"at least one place in 0..{len(split) - 1}",
            got="none" if not len(places) else f"{int(places.min())}..{int(places.max())}",
        )
    places = places.long().cpu()
    return split.take(places) if isinstance(split, MemorySplit) else SubsetSplit(split, places)


def weighted(
    split: Split,
    weights: Float[Tensor, "examples"] | Sequence[float] | None = None,
    labelled: Bool[Tensor, "examples"] | Sequence[bool] | None = None,
) -> Split:
    """The split with weights, and with marks of examples whose label is only the teacher's guess, in its batches.

    Args:
        split: The data.
        weights: [examples] numbers of at least 0, not all 0.
        labelled: [examples] False where the teacher alone is learned from.

    Returns:
        A split of the same examples; the split itself where both are None.

    Raises:
        MismatchError: for another length than the data's, and for weights that are negative, not finite or all 0.

    Example:
        import torch
        from fractionate.data import as_split, weighted

        split = weighted(as_split((torch.randn(4, 2), torch.arange(4))), [1.0, 1.0, 2.0, 2.0])
    """
    if weights is None and labelled is None:
        return split
    checked: dict[str, Tensor] = {}
    if weights is not None:
        numbers = torch.as_tensor(weights)
        numbers = numbers if numbers.is_floating_point() else numbers.float()
        usable = numbers.shape == (len(split),) and bool(torch.isfinite(numbers).all())
        if not usable or bool((numbers < 0).any()) or not bool((numbers > 0).any()):
            raise MismatchError(
                f"{split.name}: weights= do not fit the data",
                expected=f"{len(split)} numbers of at least 0, not all 0: one per example",
                got=str(list(numbers.shape)) if numbers.shape != (len(split),) else "negative, all 0 or not finite",
            )
        checked["weight"] = numbers.cpu()
    if labelled is not None:
        marks = torch.as_tensor(labelled)
        if marks.dtype != torch.bool or marks.shape != (len(split),):
            raise MismatchError(
                f"{split.name}: labelled= does not fit the data",
                expected=f"{len(split)} truth values: whether each example's label is its own",
                got=f"{marks.dtype} {list(marks.shape)}",
            )
        checked["labelled"] = marks.cpu()
    if isinstance(split, MemorySplit):
        return replace(split, **{name: mark.to(split.labels.device) for name, mark in checked.items()})  # type: ignore[arg-type]
    return MarkedSplit(split, checked.get("weight"), checked.get("labelled"))


def balanced(data: Split | Examples) -> Split:
    """The data with weights that give each class the same total: examples / (classes there are · examples of the class).

    Raises `ConfigError` for labels that are not one class number per example.
    """
    split: Split = MemorySplit.of(data) if isinstance(data, Examples) else data
    labels = split.labels
    if labels is None or labels.ndim != 1 or labels.is_floating_point() or int(labels.min()) < 0:
        raise ConfigError(f"{split.name}: class_weights needs classes", expected="one class number per example")
    counts = torch.bincount(labels)
    return weighted(split, len(labels) / (int((counts > 0).sum()) * counts[labels].float()))


def with_views(split: Split, views: Mapping[str, Split]) -> Split:
    """The split with inputs of other readers of the same examples in its batches.

    Args:
        split: The data.
        views: Splits of the same examples by the reader's name, such as {"teacher": other}.

    Returns:
        A split whose batches hold the views.

    Raises:
        MismatchError: where a view has another number of examples, or other ids.

    Example:
        import torch
        from fractionate.data import as_split, with_views

        small, large = (as_split((torch.randn(4, width), torch.arange(4))) for width in (2, 8))
        both = with_views(small, {"teacher": large})
    """
    for name, view in views.items():
        if len(view) != len(split):
            raise MismatchError(
                f"{split.name}: the view {name!r} has other examples",
                expected=f"{len(split)} examples",
                got=f"{len(view)}",
            )
        theirs, ours = tuple(view.ids), tuple(split.ids)
        if theirs != ours and not {theirs, ours} & {tuple(Places(len(split)))}:
            place = next(i for i, (a, b) in enumerate(zip(theirs, ours, strict=True)) if a != b)
            raise MismatchError(
                f"{split.name}: the view {name!r} has other examples", expected=f"id {ours[place]!r} at place {place}",
                got=f"id {theirs[place]!r}", fix="give both in the same order",
            )  # fmt: skip
    if isinstance(split, MemorySplit) and all(isinstance(view, MemorySplit) for view in views.values()):
        return replace(
            split, views={**split.views, **{n: v.inputs for n, v in views.items() if isinstance(v, MemorySplit)}}
        )
    return MarkedSplit(split, views=views) if views else split


def seen_as(split: Split, view: str) -> Split:
    """The split with a view in the place of the inputs, such as "teacher"; as it is where it has no such view."""
    if isinstance(split, MemorySplit) and view in split.views:
        others = {name: inputs for name, inputs in split.views.items() if name != view}
        return replace(split, inputs=split.views[view], views=others)
    if isinstance(split, MarkedSplit):
        others = {name: other for name, other in split.views.items() if name != view}
        return replace(split, split=split.views.get(view, seen_as(split.split, view)), views=others)
    return replace(split, split=seen_as(split.split, view)) if isinstance(split, SubsetSplit) else split
