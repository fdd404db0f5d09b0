"""Labels, checked alike wherever they come from: whole numbers become int64; words, hidden and multiple labels are refused."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from fractionate.data.dense import dense_array, tensor_of
from fractionate.errors import MismatchError, printable

IGNORED = -100  # the label of examples and tokens that count for nothing (the convention of torch's cross_entropy)
MOST_CLASSES = 1 << 24  # a larger label is an id, not the number of a class
ONE_HOT = "one-hot labels: labels.argmax(1)"
MULTI_LABEL = "multiple labels per example (multi-hot rows) are a task of their own: Task('multi-label', transfer=..., student=...)"

TOKENS = "labels of tokens belong to a dataset of rows, or to (inputs, labels) given to distill or collect"


def as_labels(values: Any, name: str, *, classes: bool = True) -> Tensor:
    """Labels of any number type, as arrays, series, lists or tensors: class numbers as int64.

    Args:
        values: One label per example, or one per token.
        name: The data's name, for messages.
        classes: Labels are class numbers; False lets floating-point numbers through (regression).

    Raises:
        MismatchError: for words, missing values, rows of different lengths, and floating-point numbers where classes are wanted.
    """
    found = values if isinstance(values, Tensor) else _tensor(values, name)
    if found.dtype == torch.int64:
        return found
    if not (found.is_floating_point() or found.is_complex()):
        return found.long()
    if not classes and not found.is_complex():
        return found
    missing = int(torch.isnan(found).sum())
    whole = not found.is_complex() and found.ndim <= 1 and bool((found == found.round()).all())
    fix = "give class numbers: " + ("labels.long()" if whole else "whole numbers from 0, such as labels.long()")
    if missing:
        fix = "leave out the examples that have no label"
    elif found.ndim > 1:
        fix = advice(found)
    raise MismatchError(
        f"{name}: labels are not class numbers",
        expected="whole numbers from 0, one per example",
        got=f"{found.dtype} {list(found.shape)}" + (f", {missing} of them NaN" if missing else ""),
        fix=fix,
    )


def as_numbers(values: Any, name: str) -> Tensor:
    """Labels that are numbers to predict. Raises `MismatchError` for words and rows of different lengths."""
    try:
        return as_labels(values, name, classes=False)
    except MismatchError as error:
        raise MismatchError(
            error.what.replace("class numbers", "numbers"),
            expected="a number for each example, or a row of them",
            got=error.got,
            fix="read the column as numbers; words are classes: Task('classification', ...)",
        ) from error


def advice(labels: Tensor) -> str:
    """What to do with labels that are rows of numbers where one class number per example is wanted."""
    zero_one = bool(((labels == 0) | (labels == 1)).all())
    sums = labels.reshape(-1, labels.shape[-1]).sum(dim=1) if labels.ndim else labels
    if zero_one and bool((sums == 1).all()):
        return ONE_HOT
    if labels.is_floating_point() and bool((labels >= 0).all()) and bool(((sums - 1).abs() < 1e-3).all()):
        return "rows of probabilities are a teacher's: TeacherSignal(rows.log(), labels), next to one class number per example"
    return MULTI_LABEL if zero_one else TOKENS


def _tensor(values: Any, name: str) -> Tensor:
    if isinstance(values, (list, tuple)) and values and all(isinstance(value, Tensor) for value in values):
        if len({value.shape for value in values}) > 1:
            raise _ragged(name, sorted({len(value) if value.ndim else 0 for value in values}))
        return torch.stack(list(values))
    try:
        array = dense_array(values, name)
    except MismatchError:
        raise
    except ValueError as error:  # NumPy's for rows of different lengths
        raise _ragged(name, sorted({len(value) for value in values if hasattr(value, "__len__")})) from error
    if array.dtype.kind == "O":
        array = _plain(array, name)
    if array.dtype.kind in "UST":
        words = sorted({str(word) for word in array.flat[:1000]})
        raise MismatchError(
            f"{name}: labels are words",
            expected="class numbers from 0",
            got=", ".join(repr(printable(word, 20)) for word in words[:5]) + (" …" if len(words) > 5 else ""),
            fix="names = sorted(set(labels)); numbers = [names.index(label) for label in labels], with the same names for "
            "every part of the data; a data set of `datasets`: data.class_encode_column('label')",
        )
    if array.dtype.kind not in "biufc":
        raise MismatchError(f"{name}: labels are not class numbers", expected="whole numbers", got=str(array.dtype))
    return tensor_of(array)


def _plain(array: np.ndarray[Any, Any], name: str) -> np.ndarray[Any, Any]:
    """Objects as what they are: words, whole numbers, floating-point numbers."""
    kinds = {type(value) for value in array.flat}
    if kinds and all(issubclass(kind, str) for kind in kinds):
        return array.astype(str)
    if any(issubclass(kind, (list, tuple, np.ndarray, Tensor)) for kind in kinds):
        raise _ragged(name, sorted({len(value) for value in array.flat if hasattr(value, "__len__")}))
    if kinds and all(issubclass(kind, (bool, int, np.integer, np.bool_)) for kind in kinds):
        return array.astype(np.int64)
    raise MismatchError(
        f"{name}: labels are not class numbers",
        expected="whole numbers from 0, one per example",
        got=", ".join(sorted(kind.__name__ for kind in kinds)),
        fix="leave out the examples that have no label",
    )


def _ragged(name: str, lengths: list[int]) -> MismatchError:
    shown = ", ".join(map(str, lengths[:6])) + (" …" if len(lengths) > 6 else "")
    return MismatchError(
        f"{name}: rows of labels differ in length",
        expected="one class number per example, or as many as tokens",
        got=f"lengths {shown}",
        fix=f"give a DataLoader whose collate_fn pads them with {IGNORED}, such as DataCollatorForTokenClassification(tokenizer)",
    )


def check_values(labels: Tensor, name: str, shown: Callable[[int], str] = str) -> None:
    """Raise `MismatchError` for labels below 0 that are not `IGNORED`, and for ids; `shown` names the example at a place."""
    if labels.is_floating_point() or not labels.numel():
        return
    if int(labels.max()) >= MOST_CLASSES:
        raise MismatchError(
            f"{name}: labels are ids, not class numbers",
            expected=f"class numbers from 0 to at most {MOST_CLASSES - 1:,}",
            got=str(int(labels.max())),
            fix="names = sorted(set(labels)); numbers = [names.index(label) for label in labels], with the same names for "
            "every part of the data; a data set of `datasets`: data.class_encode_column('label')",
        )
    wrong = (labels < 0) & (labels != IGNORED)
    if bool(wrong.any()):
        rows = wrong.reshape(len(labels), -1).any(dim=1).nonzero().flatten().tolist()
        least = int(labels[wrong].min())
        raise MismatchError(
            f"{name}: {len(rows)} of {len(labels)} examples have a label below 0 (first: {shown(rows[0])})",
            expected=f"class numbers from 0, or {IGNORED} for what counts for nothing",
            got=f"least {least}",
            fix="-1 marks examples without a label, as hidden test sets have: leave them out, or learn them from the teacher "
            "alone (labelled=)" if least == -1 else "check the label map",
        )  # fmt: skip


def check_labels(
    labels: Tensor, classes: int, *, name: str, shown: Callable[[int], str] = str, of: str = "teacher"
) -> Int[Tensor, "rows"]:
    """Labels as class numbers of a model with so many classes, one per row.

    Args:
        labels: [rows].
        classes: How many classes the model has.
        name: The data's name, for messages.
        shown: Names the example of a row.
        of: Whose classes they are.

    Raises:
        MismatchError: naming the examples that have no label or a wrong one.
    """
    labels = as_labels(labels, name)
    if labels.ndim != 1:
        raise MismatchError(
            f"{name}: labels are not class numbers",
            expected="one class number per row",
            got=f"{labels.dtype} {list(labels.shape)}",
            fix=advice(labels),
        )
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        rows = ((labels < 0) | (labels >= classes)).nonzero().flatten().tolist()
        ids = list(dict.fromkeys(shown(row) for row in rows[:64]))
        raise MismatchError(
            f"{name}: {len(rows)} of {len(labels)} labels are no class of the {of}",
            expected=f"whole numbers in 0..{classes - 1}, or {IGNORED} to ignore",
            got=f"{int(labels[rows[0]])} at example {ids[0]}; examples {', '.join(ids[:8])}",
            fix="one output alone tells no classes apart: a model has one for each class, two for yes and no"
            if classes == 1
            else f"check the label map and the {of}'s number of outputs; labels that start at 1 need 1 subtracted; leave out "
            "examples without a label",
        )
    return labels


def superclass_names(names: Sequence[str], classes: int) -> list[str]:
    """Superclasses by names such as noun.animal or vehicles/truck: what precedes the mark; empty where names have none."""
    for mark in (".", "/", ":"):
        heads = [name.partition(mark)[0] for name in names]
        if len(names) == classes and all(mark in name for name in names) and 1 < len(set(heads)) < classes:
            return heads
    return []


def check_same_labels(stored: Tensor, labels: Tensor, examples: Tensor | None = None) -> None:
    """Raise `MismatchError` naming the first of the examples (of each row; its number where left out) whose label is not the one
    the teacher was given."""
    if stored is labels or torch.equal(stored, labels):
        return
    if stored.shape != labels.shape:
        raise MismatchError(
            "teacher signal and data differ in their rows", expected=str(list(labels.shape)), got=str(list(stored.shape)),
            fix="collect the signal on these very data, in their order",
        )  # fmt: skip
    wrong = (stored != labels).nonzero().flatten()
    first = int(wrong[0])
    place = first if examples is None else int(examples[first])
    raise MismatchError(
        f"teacher signal and data have different labels at {len(wrong)} of {len(labels)} examples",
        expected=f"label {int(labels[first])} at example {place}",
        got=f"label {int(stored[first])}",
        fix="the data were reordered or changed since the signal was collected: collect it again",
    )
