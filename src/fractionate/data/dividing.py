"""Transfer, validation and test parts of any data: stratified, with groups kept whole and no example in two of them."""

from __future__ import annotations

import warnings
from collections.abc import Hashable, Mapping, Sequence
from itertools import accumulate, pairwise

import numpy as np
import torch
from jaxtyping import Int, Shaped
from torch import Tensor

from fractionate.data.labels import MOST_CLASSES
from fractionate.errors import ConfigError, printable

Size = int | float | None  # a count, a share below 1, or None for the default
PARTS = {"train": "train", "training": "train", "transfer": "train", "val": "validation", "valid": "validation",
         "validation": "validation", "dev": "validation", "test": "test"}  # fmt: skip
ORDER = ("transfer", "validation", "test")


def divide(
    count: int,
    *,
    labels: Shaped[Tensor, "examples *labels"] | None = None,
    groups: Sequence[Hashable] | None = None,
    keys: Sequence[Hashable] | None = None,
    given: Sequence[str | None] | None = None,
    transfer: Size = None,
    validation: Size = None,
    test: Size = None,
    seed: int = 0,
    name: str = "data",
) -> dict[str, Int[Tensor, "some"]]:
    """The places of the examples of each part.

    Parts that the data name (`given`) stay as they are, or a stratified sample of them of the requested size; the others are
    drawn from the transfer examples.

    Args:
        count: The number of examples.
        labels: [examples] class numbers, or [examples, labels]: each part has their combinations in proportion. Floating-point
            labels are not stratified.
        groups: The group of each example, such as a patient: all of its examples are in one part, and sizes are as near as whole
            groups allow.
        keys: What makes two examples the same. Those of validation and test that are in an earlier part as well are left out,
            with one warning that counts them.
        given: The part that the data name for each example, one of `PARTS`; None and "" are transfer examples.
        transfer: A count, or a share below 1 of the examples it is drawn from. None: a fifth; where the data name parts, what
            the other parts leave.
        validation: As `transfer`; None: a fifth, or all examples that the data name as such.
        test: As `validation`.
        seed: Of the draw.
        name: The data's name, for messages.

    Returns:
        The places by part: transfer, validation, test, and teaching where examples are left over.

    Raises:
        ConfigError: for parts that are empty or larger than the data, for part names that are unknown, and for a group in two
            of the parts that the data name.

    Example:
        import torch
        from fractionate.data import divide

        parts = divide(100, labels=torch.arange(100) % 4, transfer=0.5, seed=1)
        print({name: len(places) for name, places in parts.items()})
    """
    sizes: dict[str, Size] = {"transfer": transfer, "validation": validation, "test": test}
    strata = _strata(labels, count)
    fixed = _named_parts(given, count, name)
    if fixed and groups is not None:
        _check_groups(groups, fixed, name)
    pool = fixed.pop("transfer", torch.arange(count))
    drawn = [part for part in ORDER if part not in fixed]
    wanted = {part: _size(sizes[part], part, len(pool), len(pool) // 5) for part in drawn}
    if fixed and transfer is None:
        wanted["transfer"] = len(pool) - sum(size for part, size in wanted.items() if part != "transfer")
    if min(wanted.values()) < 1 or sum(wanted.values()) > len(pool):
        raise ConfigError(
            f"{name} cannot be split like this" if len(wanted) > 1 else "transfer cannot be of this size",
            expected=f"parts of at least 1, {len(pool)} examples in all",
            got=", ".join(f"{part} {size}" for part, size in wanted.items()),
        )
    if len(pool) > sum(wanted.values()):
        wanted["teaching"] = len(pool) - sum(wanted.values())
    found = _draw(pool, wanted, strata, groups, seed, name)
    for part, places in fixed.items():
        size = _size(sizes[part], part, len(places), len(places))
        if not 1 <= size <= len(places):
            raise ConfigError(
                f"{part} cannot be of this size",
                expected=f"1 to the {len(places):,} examples there are",
                got=f"{size:,}",
            )
        cut = {part: size, "left": len(places) - size} if size < len(places) else {part: size}
        found[part] = _draw(places, cut, strata, groups, seed, name)[part]
    if keys is not None:
        _leave_out_repeats(found, keys, name)
    return {part: found[part] for part in (*ORDER, "teaching") if part in found}


def stratified_order(labels: Int[Tensor, "examples"], seed: int) -> Int[Tensor, "examples"]:
    """A random order of examples in which each class is spread evenly, so that any stretch of it is stratified."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(labels), generator=generator)
    labels = labels[order]
    within = torch.zeros(len(labels), dtype=torch.float64)
    for label in range(int(labels.max()) + 1 if len(labels) else 0):
        places = (labels == label).nonzero().flatten()
        offset = torch.rand(1, generator=generator, dtype=torch.float64)
        within[places] = (torch.arange(len(places), dtype=torch.float64) + offset) / len(places)
    return order[torch.argsort(within, stable=True)]


def _strata(labels: Tensor | None, count: int) -> Int[Tensor, "examples"]:
    if labels is None or labels.is_floating_point():
        return torch.zeros(count, dtype=torch.long)
    labels = labels.cpu()
    plain = labels.ndim == 1 and bool(((labels >= 0) & (labels < MOST_CLASSES)).all())
    return labels.long() if plain else torch.unique(labels, dim=0, return_inverse=True)[1]


def _size(size: Size, part: str, there: int, default: int) -> int:
    if size is None:
        return default
    whole = isinstance(size, int) and not isinstance(size, bool)
    if not whole and not (isinstance(size, float) and 0 < size < 1):
        raise ConfigError(f"invalid size of {part}", expected="a count, or a share below 1 such as 0.2", got=repr(size))
    return int(size) if whole else int(size * there + 1e-6)


def _named_parts(given: Sequence[str | None] | None, count: int, name: str) -> dict[str, Tensor]:
    """The places of the parts that the data name; nothing where they name one part alone."""
    if given is None:
        return {}
    unknown = sorted({part for part in given if part and part.strip().lower() not in PARTS})
    if unknown:
        raise ConfigError(
            f"{name}: these parts are unknown",
            expected=", ".join(PARTS),
            got=", ".join(printable(part) for part in unknown[:10]),
        )
    places: dict[str, list[int]] = {}
    for place, part in enumerate(given):
        named = PARTS[part.strip().lower()] if part else "train"
        places.setdefault("transfer" if named == "train" else named, []).append(place)
    if len(given) != count or "transfer" not in places:
        raise ConfigError(
            f"{name}: the parts do not fit",
            expected=f"a part for each of {count:,} examples, some of them train",
            got=", ".join(f"{len(some):,} {part}" for part, some in places.items()) or "none",
        )
    return {part: torch.tensor(some) for part, some in places.items()} if len(places) > 1 else {}


def _check_groups(groups: Sequence[Hashable], parts: Mapping[str, Tensor], name: str) -> None:
    seen: dict[Hashable, str] = {}
    for part, places in parts.items():
        for group in {groups[place] for place in places.tolist()}:
            if seen.setdefault(group, part) != part:
                raise ConfigError(
                    f"{name}: the group {printable(str(group))!r} is in two parts",
                    expected="each group in one part",
                    got=f"{seen[group]} and {part}",
                    fix="leave out the groups, or the names of the parts",
                )


def _draw(
    pool: Tensor, sizes: Mapping[str, int], strata: Tensor, groups: Sequence[Hashable] | None, seed: int, name: str
) -> dict[str, Tensor]:
    """Disjoint samples of a pool, of these sizes, which sum to it."""
    if len(sizes) == 1:
        return dict.fromkeys(sizes, pool)
    order = pool[stratified_order(strata[pool], seed)]
    if groups is not None:
        return _whole_groups(order, sizes, strata, groups, name)
    ends = accumulate(sizes.values(), initial=0)
    return {part: order[start:end] for part, (start, end) in zip(sizes, pairwise(ends), strict=True)}


def _whole_groups(
    order: Tensor, sizes: Mapping[str, int], strata: Tensor, groups: Sequence[Hashable], name: str
) -> dict[str, Tensor]:
    """Groups from the largest on, each to a part with room for it: to the one that lacks most of the group's classes."""
    members: dict[Hashable, list[int]] = {}
    for place in order.tolist():
        members.setdefault(groups[place], []).append(place)
    if len(members) < len(sizes):
        raise ConfigError(f"{name} has too few groups", expected=f"{len(sizes)}, one per part", got=f"{len(members)}")
    numbers = strata.numpy()
    room = np.array([*sizes.values()], dtype=np.float64)
    share = np.bincount(numbers[order.numpy()], minlength=int(numbers.max()) + 1) / len(order)
    lacking = room[:, None] * share
    wanted = room.copy()
    found: list[list[int]] = [[] for _ in sizes]
    for left, group in zip(range(len(members), 0, -1), sorted(members.values(), key=len, reverse=True), strict=True):
        classes = numbers[group]
        worth = lacking[:, classes].sum(1) / wanted
        empty = [not part for part in found]
        if left <= sum(empty):  # no part stays without a group
            worth[~np.array(empty)] = -np.inf
        elif (room >= len(group)).any():
            worth[room < len(group)] = -np.inf
        else:
            worth = room / wanted
        chosen = int(worth.argmax())
        found[chosen] += group
        room[chosen] -= len(group)
        np.subtract.at(lacking[chosen], classes, 1)
    return {part: torch.tensor(places) for part, places in zip(sizes, found, strict=True)}


def _leave_out_repeats(found: dict[str, Tensor], keys: Sequence[Hashable], name: str) -> None:
    """Leave out of validation and test what earlier parts hold as well."""
    seen = {keys[place] for part in ("transfer", "teaching") if part in found for place in found[part].tolist()}
    gone: dict[str, int] = {}
    for part in ("validation", "test"):
        places = found[part].tolist()
        kept = [place for place in places if keys[place] not in seen]
        seen |= {keys[place] for place in kept}
        if not kept:
            raise ConfigError(
                f"{name}: every example of {part} is in an earlier part too",
                got=f"{len(places):,} exact repeats",
                fix="remove repeats from the data, or keep them: repeats=True",
            )
        if len(kept) < len(places):
            gone[part] = len(places) - len(kept)
            found[part] = torch.tensor(kept)
    if gone:
        counts = " and ".join(f"{number:,} of {part}" for part, number in gone.items())
        warnings.warn(
            f"{name}: {counts} are left out, for the same examples are in an earlier part (repeats=True keeps them)",
            stacklevel=3,
        )
