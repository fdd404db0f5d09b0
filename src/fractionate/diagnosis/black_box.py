"""Signals from raw arrays, without any model: logits or probabilities with labels, in .npy, .npz, .safetensors or .parquet."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fractionate.data.arrays import SUFFIXES, Array, StoredArray, arrays_in, to_tensor
from fractionate.data.items import LABELS
from fractionate.errors import ConfigError, FractionateError, MismatchError, printable
from fractionate.models.output_kinds import Outputs, as_logits, check_kind, recognise
from fractionate.theory.teacher_signal import TeacherSignal

__all__ = ["SUFFIXES", "read_signal", "signal_from_arrays"]

LARGEST_CLASS = 2**31  # more is no class, and may be no number of float32
OUTPUT_NAMES = ("logits", "probabilities", "probs", "outputs", "predictions")


def signal_from_arrays(outputs: Array | Tensor, labels: Array | Tensor, *, kind: Outputs = "auto") -> TeacherSignal:
    """A teacher signal from outputs [examples, classes] and labels [examples] of any framework.

    `kind="auto"` recognises probabilities, percentages and log-probabilities, whose logarithm has the same softmax; anything else
    is logits. Give `kind` to overrule. One-hot labels are turned into class numbers.

    Raises `MismatchError` where outputs and labels do not fit (transposed, 1-based, of other lengths, a single class) and
    `NumericsError` for NaN, infinities, and for "probabilities" that are none.
    """
    values, targets = to_tensor(outputs, "outputs"), to_tensor(labels, "labels")
    _check_shapes(tuple(values.shape), tuple(targets.shape))
    if targets.ndim == 2 and 1 in targets.shape:
        targets = targets.flatten()
    if targets.ndim == 2 and targets.shape == values.shape:
        targets = _from_one_hot(targets)
    if targets.is_floating_point():
        if not bool(((targets == targets.round()) & (targets.abs() < LARGEST_CLASS)).all()):
            raise MismatchError("labels are not class numbers", expected="whole numbers", got=str(targets[:5].tolist()))
        targets = targets.long()
    if not values.is_floating_point():
        values = values.float()
    check_kind(kind, "auto")
    wide = values.double()
    logits = as_logits(wide, recognise(wide) if kind == "auto" else kind)
    return TeacherSignal(logits.to(torch.promote_types(values.dtype, torch.float32)), targets)


def _from_one_hot(targets: Tensor) -> Tensor:
    hot = targets.double()
    if not bool((((hot == 0) | (hot == 1)).all(1) & (hot.sum(1) == 1)).all()):
        raise MismatchError(
            "labels are soft, or no labels at all", expected="class numbers, or one-hot rows with a single 1",
            got=str(hot[0].tolist()[:6]), fix="pass the class numbers as labels",
        )  # fmt: skip
    return hot.argmax(1)


def _check_shapes(outputs: tuple[int, ...], labels: tuple[int, ...]) -> None:
    """Raise `MismatchError` for outputs that are no table, and for labels that cannot be theirs."""
    if len(outputs) != 2:
        raise MismatchError(
            "outputs are not a table", expected="[examples, classes]", got=str(list(outputs)),
            fix="flatten tokens into rows" if len(outputs) == 3 else "one row an example, one column a class",
        )  # fmt: skip
    if 0 in outputs:
        raise MismatchError(
            "there is no data: the outputs are empty",
            expected="at least one example and two classes",
            got=str(list(outputs)),
        )
    count = math.prod(labels) if len(labels) == 2 and 1 in labels else labels[0] if labels else 1
    if count != outputs[0] and count == outputs[1]:
        raise MismatchError(
            "outputs look transposed", expected=f"[{count} examples, classes]", got=str(list(outputs)),
            fix="pass outputs.T",
        )  # fmt: skip
    if count != outputs[0] or len(labels) not in (1, 2):
        raise MismatchError(
            "outputs and labels differ in length", expected=f"labels [{outputs[0]}]", got=str(list(labels))
        )


def read_signal(
    path: Path | str, labels: Path | str | None = None, *, kind: Outputs = "auto", known: Tensor | None = None
) -> TeacherSignal:
    """Read a signal from files. Nothing in a file is executed.

    In a file with more than one array, outputs are called `logits` or `probabilities`, labels `labels` (or label, target, y). In a
    Parquet file outputs are one list column so called, or one column a class named `logit_0`, `logit_1` … or `p_0`, `p_1` ….

    Args:
        path: An .npz, .safetensors or .parquet file with outputs and labels, or a file of outputs alone.
        labels: The file of labels, where they are apart.
        kind: What the outputs are; "auto" recognises them.
        known: [rows] labels of a file without any, such as another view of the same examples.

    Returns:
        A `TeacherSignal`.

    Raises:
        ConfigError: for a missing or unknown file.
        DamagedError: for one that cannot be read.
        MismatchError: where outputs, labels and ids do not fit.

    Example:
        import numpy as np
        from fractionate.diagnosis import read_signal

        np.savez("outputs.npz", logits=np.random.randn(40, 4).astype(np.float32), labels=np.arange(40) % 4)
        print(len(read_signal("outputs.npz")))
    """
    with named_in_errors(path):
        return _read(path, labels, kind, known)


@contextmanager
def named_in_errors(path: Path | str) -> Iterator[None]:
    """Let what is wrong with the arrays of a file begin with its name, where it does not stand there yet."""
    try:
        yield
    except FractionateError as error:
        name = printable(Path(path).name)
        if name in str(error):
            raise
        raise type(error)(f"{name}: {error.what}", expected=error.expected, got=error.got, fix=error.fix) from error


def _read(path: Path | str, labels: Path | str | None, kind: Outputs, known: Tensor | None) -> TeacherSignal:
    arrays = arrays_in(path)
    found_labels = arrays_in(labels) if labels is not None else arrays
    name, outputs = _pick(arrays, OUTPUT_NAMES, path, "the teacher's outputs")
    if kind == "auto" and name in ("probabilities", "probs"):
        kind = "probabilities"
    named = any(label in found_labels for label in LABELS)
    if known is not None and not named and labels is None:
        _check_shapes(outputs.shape, tuple(known.shape))
        return signal_from_arrays(outputs.load(), known.cpu(), kind=kind)
    _, targets = _pick(found_labels, LABELS, labels or path, "labels")
    _check_shapes(outputs.shape, targets.shape)  # before anything is read
    ids = arrays.get("ids")
    if ids is not None:
        if ids.shape != outputs.shape[:1]:
            raise MismatchError(
                "ids and outputs differ in number", expected=f"{outputs.shape[0]}", got=str(list(ids.shape))
            )
        values, counts = np.unique(ids.load(), return_counts=True)
        if bool((counts > 1).any()):
            raise MismatchError(
                f"{int((counts > 1).sum())} ids come more than once", expected="one row an id",
                got=printable(str(values[counts > 1][:3].tolist())), fix="drop the repeated rows, or the column of ids",
            )  # fmt: skip
    return signal_from_arrays(outputs.load(), targets.load(), kind=kind)


def _pick(
    arrays: Mapping[str, StoredArray], names: tuple[str, ...], path: Path | str, what: str
) -> tuple[str, StoredArray]:
    for name in names:
        if name in arrays:
            return name, arrays[name]
    if list(arrays) == [""]:
        return "", arrays[""]
    raise ConfigError(
        f"{Path(path).name} does not name {what}",
        expected=f"one of {', '.join(names)}",
        got=printable(", ".join(arrays), 200) or "nothing",
    )
