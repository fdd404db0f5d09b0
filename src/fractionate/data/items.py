"""What an example is: inputs, a label, and views for other readers, out of a pair, a tuple or a mapping."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import default_collate

from fractionate.data.batch import leaves
from fractionate.errors import FractionateError, MismatchError, printable

LABELS = ("labels", "label", "targets", "target", "y")  # the first of them that a mapping has is the label
VIEWS = "views"  # a mapping under this name holds inputs of other readers, such as {"teacher": …}

Collate = Callable[[list[Any]], Any]


@dataclass(frozen=True, eq=False)
class Item:
    """One example, or a batch of them, taken apart. `label` is None where a collate function makes it later."""

    inputs: Any
    label: Any = None
    views: Mapping[str, Any] = field(default_factory=dict)


def label_name(names: Iterable[Any]) -> str | None:
    """Which of some names is the label's."""
    there = set(map(str, names))
    return next((name for name in LABELS if name in there), None)


def read_item(value: Any, name: str, *, labelled: bool = True) -> Item:
    """An example as (input, label), as (input, …, input, label), or as a mapping with the label under one of `LABELS`.

    `labelled=False` lets examples without a label through, as they are. Raises `MismatchError` for anything else.
    """
    if isinstance(value, Mapping):
        key = label_name(value)
        if key is not None or not labelled:
            views = value.get(VIEWS)
            out = {key, VIEWS} if isinstance(views, Mapping) else {key}
            inputs = {name: part for name, part in value.items() if name not in out}
            label = None if key is None else value[key]
            return Item(inputs, label, views if isinstance(views, Mapping) else {})
    elif isinstance(value, (tuple, list)) and len(value) >= 2:
        return Item(value[0] if len(value) == 2 else tuple(value[:-1]), value[-1])
    elif not labelled:
        return Item(value)
    got = ", ".join(printable(str(key)) for key in value) if isinstance(value, Mapping) else type(value).__name__
    size = f" of {len(value)}" if isinstance(value, (tuple, list)) else ""
    raise MismatchError(
        f"{name}: items are not (input, label)",
        expected=f"pairs, tuples with the label last, or mappings with the label under {', '.join(LABELS)}",
        got=f"{got}{size}",
        fix="wrap the data set so that data[i] gives (input, label), or give a DataLoader whose collate_fn makes the labels",
    )


def with_inputs(value: Any, inputs: Any) -> Any:
    """An example in its own form with other inputs."""
    if isinstance(value, Mapping):
        kept = {label_name(value), VIEWS}
        return {**{name: part for name, part in value.items() if name in kept}, **inputs}
    if len(value) == 2:
        return inputs, value[1]
    return (*inputs, value[-1])


def check_text(inputs: Any, name: str) -> None:
    """Raise `MismatchError` where the inputs are text, which no model takes."""
    if isinstance(inputs, str) or (isinstance(inputs, (list, tuple)) and any(isinstance(part, str) for part in inputs)):
        shown = inputs if isinstance(inputs, str) else next(part for part in inputs if isinstance(part, str))
        raise MismatchError(
            f"{name}: a model takes numbers",
            expected="tensors or arrays",
            got=f"text: {printable(shown, 40)!r}",
            fix="tokenize the texts (a mapping with input_ids), or read a file of them with texts(…)",
        )


def join(items: Sequence[Any], collate: Collate, name: str) -> Any:
    """Examples as one batch. Raises `MismatchError` that says which part cannot be joined, and how it can."""
    if collate is default_collate and any(isinstance(item, Mapping) for item in items):
        names = {frozenset(item) if isinstance(item, Mapping) else frozenset() for item in items}
        if len(names) > 1:  # torch would leave out what the first has not
            some = sorted(map(str, frozenset.union(*names) - frozenset.intersection(*names)))
            raise MismatchError(
                f"{name}: these examples do not fit into one batch: some have {', '.join(map(repr, some[:4]))}, some do not",
                expected="the same names in every example",
                fix="leave the name out, or give it to all",
            )
    try:
        return collate([_in_tensors(item) for item in items] if collate is default_collate else list(items))
    except FractionateError:
        raise
    except Exception as error:  # each collate function has errors of its own
        if collate is default_collate:
            raise _cannot_join(items, name, error) from error
        raise MismatchError(
            f"{name}: the collate function failed on {len(items)} examples",
            expected="a batch: a pair, a tuple with the labels last, or a mapping with labels",
            got=f"{type(error).__name__}: {printable(str(error), 200)}",
            fix="call loader.collate_fn([data[0], data[1]]) to see where",
        ) from error


def _in_tensors(item: Any) -> Any:
    """An example whose lists of numbers are rows: torch's own joining would take each number for an input of its own."""
    if isinstance(item, Mapping):
        return {name: _row(part) for name, part in item.items()}
    if isinstance(item, (tuple, list)) and len(item) >= 2 and not hasattr(item, "_fields"):
        return [_row(part) for part in item]
    return item


def _row(part: Any) -> Any:
    if isinstance(part, np.uint64):  # the one number of NumPy that torch does not take
        return int(part)
    if not isinstance(part, list) or not part or not isinstance(part[0], (int, float, list)):
        return part
    try:
        return torch.tensor(part)
    except (TypeError, ValueError, RuntimeError):  # lists of different lengths, of words
        return part


def _cannot_join(items: Sequence[Any], name: str, error: Exception) -> MismatchError:
    """Which part of the examples differs in shape, or is nothing that can be stacked."""
    missing = sum(read_item(item, name, labelled=False).label is None for item in items)
    if missing == len(items):  # nothing a label could stand in?
        read_item(items[0], name)
    if missing:
        return MismatchError(
            f"{name}: labels are not class numbers",
            expected="a label for each example",
            got=f"{missing} of {len(items)} without one",
            fix="leave out the examples that have no label, or give a DataLoader whose collate_fn makes the labels",
        )
    shapes: dict[str, set[tuple[int, ...]]] = {}
    kinds: dict[str, str] = {}
    for item in items:
        whole = _shapes(item)
        for path, shape in whole.items():
            shapes.setdefault(path, set()).add(shape)
        for path, leaf in leaves(item):
            if not isinstance(leaf, (Tensor, np.ndarray, np.generic, int, float, str, bytes)):
                kinds.setdefault(path, type(leaf).__name__)
    for path, found in shapes.items():
        if len(found) > 1:
            shown = ", ".join(map(str, [list(s) for s in sorted(found)][:4])) + (" …" if len(found) > 4 else "")
            return MismatchError(
                f"{name}: rows differ in length{f' in {path!r}' if path and not path.isdigit() else ''}",
                expected="tensors or arrays of one shape",
                got=f"shapes {shown}",
                fix="give a DataLoader with a collate function that pads, such as DataCollatorWithPadding(tokenizer) or "
                "DataCollatorForTokenClassification(tokenizer); or pad or resize in the data set",
            )
    paths = {frozenset(path for path, _ in leaves(item)) for item in items}
    if kinds:
        path, kind = next(iter(kinds.items()))
        what = f"{kind}{f' in {path!r}' if path else ''}"
    else:
        what = (
            "examples of different parts" if len(paths) > 1 else f"{type(error).__name__}: {printable(str(error), 200)}"
        )
    return MismatchError(
        f"{name}: these examples do not fit into one tensor",
        expected="tensors, arrays or numbers of one shape",
        got=what,
        fix="make tensors of one size in the data set's transform, or give a DataLoader with a collate function",
    )


def _shapes(item: Any, path: str = "") -> dict[str, tuple[int, ...]]:
    """The shapes of the parts of an example; of lists of numbers, their lengths."""
    if isinstance(item, Mapping):
        parts: Iterable[tuple[Any, Any]] = item.items()
    elif isinstance(item, (Tensor, np.ndarray)):
        return {path: tuple(item.shape)}
    elif isinstance(item, (list, tuple)):
        if item and all(isinstance(part, (int, float)) for part in item) and path:
            return {path: (len(item),)}
        parts = enumerate(item)
    else:
        return {}
    found: dict[str, tuple[int, ...]] = {}
    for name, part in parts:
        found |= _shapes(part, f"{path}.{name}" if path else str(name))
    return found
