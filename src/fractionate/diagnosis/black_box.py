"""Signals from raw arrays, without any model: logits or probabilities with labels, in .npy, .npz, .safetensors or .parquet."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fractionate.errors import ConfigError, DamagedError, MismatchError, MissingExtraError, NumericsError
from fractionate.teacher import TeacherSignal

Outputs = Literal["auto", "logits", "probabilities"]
Array = NDArray[Any]
SUFFIXES = (".npy", ".npz", ".safetensors", ".parquet")
LABEL_NAMES = ("labels", "label", "targets", "target", "y")
OUTPUT_NAMES = ("logits", "probabilities", "probs", "outputs", "predictions")
SUM_TOLERANCE = 1e-2  # half precision rounds the sum of a thousand probabilities by less than this


def signal_from_arrays(outputs: Array | Tensor, labels: Array | Tensor, *, kind: Outputs = "auto") -> TeacherSignal:
    """A teacher signal from outputs [examples, classes] and labels [examples] of any framework.

    `kind="auto"` takes rows of numbers in 0..1 that sum to 1 for probabilities and stores their logarithm, which has the same
    softmax; anything else for logits. Say `kind` to overrule. One-hot labels are turned into class numbers.

    Raises `MismatchError` where outputs and labels do not fit (transposed, 1-based, of other lengths, a single class) and
    `NumericsError` for NaN, infinities, and for "probabilities" that are none.
    """
    values = torch.as_tensor(_plain(outputs))
    targets = torch.as_tensor(_plain(labels))
    if values.ndim != 2:
        raise MismatchError(
            "outputs are not a table", expected="[examples, classes]", got=str(list(values.shape)),
            fix="flatten tokens into rows" if values.ndim == 3 else "one row an example, one column a class",
        )  # fmt: skip
    if targets.ndim == 2 and 1 in targets.shape:
        targets = targets.flatten()
    if targets.ndim == 2 and targets.shape == values.shape:
        targets = _from_one_hot(targets)
    if len(targets) != len(values) and len(targets) == values.shape[1]:
        raise MismatchError(
            "outputs look transposed", expected=f"[{len(targets)} examples, classes]", got=str(list(values.shape)),
            fix="pass outputs.T",
        )  # fmt: skip
    if targets.is_floating_point():
        if not bool((targets == targets.round()).all()):
            raise MismatchError("labels are not class numbers", expected="whole numbers", got=str(targets[:5].tolist()))
        targets = targets.long()
    if not values.is_floating_point():
        values = values.float()
    if kind not in ("auto", "logits", "probabilities"):
        raise ConfigError("unknown kind of outputs", expected="auto, logits or probabilities", got=repr(kind))
    if kind == "probabilities" or (kind == "auto" and are_probabilities(values)):
        if not are_probabilities(values):
            worst = float((values.double().sum(1) - 1).abs().max())
            raise NumericsError(
                "these are not probabilities", expected="numbers in 0..1, rows that sum to 1",
                got=f"least {float(values.min()):.3g}, a row sum off by {worst:.3g}", fix='say kind="logits"',
            )  # fmt: skip
        # a probability of 0 becomes -inf: a class the teacher rules out
        values = values.double().log().to(values.dtype if values.dtype == torch.float64 else torch.float32)
    return TeacherSignal(values, targets)


def are_probabilities(values: Tensor) -> bool:
    """Whether all numbers lie in 0..1 and all rows sum to 1."""
    inside = bool(((values >= 0) & (values <= 1)).all())
    return inside and bool(((values.double().sum(1) - 1).abs() < SUM_TOLERANCE).all())


def _from_one_hot(targets: Tensor) -> Tensor:
    hot = targets.double()
    if not bool((((hot == 0) | (hot == 1)).all(1) & (hot.sum(1) == 1)).all()):
        raise MismatchError(
            "labels are soft, or no labels at all", expected="class numbers, or one-hot rows with a single 1",
            got=str(hot[0].tolist()[:6]), fix="pass the class numbers as labels",
        )  # fmt: skip
    return hot.argmax(1)


def _plain(values: Array | Tensor) -> Array | Tensor:
    if isinstance(values, Tensor):
        return values.detach()
    array = np.asarray(values)
    if array.dtype == object or array.dtype.kind not in "fiub":
        raise MismatchError("this array does not hold numbers", got=str(array.dtype))
    return array.astype(array.dtype.newbyteorder("=")) if not array.dtype.isnative else np.ascontiguousarray(array)


def read_signal(
    path: Path | str, labels: Path | str | None = None, *, kind: Outputs = "auto", known: Tensor | None = None
) -> TeacherSignal:
    """Read a signal from files: one with outputs and labels (.npz, .safetensors, .parquet), or outputs and labels apart.

    In a file with several arrays outputs are called `logits` or `probabilities`, labels `labels` (or label, target, y). In a
    Parquet file outputs are one list column so called, or one column a class named `logit_0`, `logit_1` … or `p_0`, `p_1` …
    `known` are the labels of a file without any, such as another view of the same examples.

    Raises `ConfigError` for a missing or unknown file, `DamagedError` for one that cannot be read, and what
    `signal_from_arrays` raises. Nothing in a file is executed.
    """
    arrays = read_arrays(Path(path))
    found_labels = read_arrays(Path(labels)) if labels is not None else arrays
    name, outputs = _pick(arrays, OUTPUT_NAMES, Path(path), "the teacher's outputs")
    named = any(label in found_labels for label in LABEL_NAMES)
    if known is not None and not named and labels is None:
        targets: Array | Tensor = known.cpu()
    else:
        _, targets = _pick(found_labels, LABEL_NAMES, Path(labels or path), "labels")
    if kind == "auto" and name in ("probabilities", "probs"):
        kind = "probabilities"
    ids = arrays.get("ids")
    if ids is not None and len(np.unique(ids)) < len(ids):
        values, counts = np.unique(ids, return_counts=True)
        raise MismatchError(
            f"{int((counts > 1).sum())} ids come more than once", expected="one row an id",
            got=str(values[counts > 1][:3].tolist()), fix="drop the repeated rows, or the column of ids",
        )  # fmt: skip
    return signal_from_arrays(outputs, targets, kind=kind)


def read_arrays(path: Path) -> dict[str, Array]:
    """The arrays of a file by name; a .npy file's single array has the name ""."""
    if not path.is_file():
        raise ConfigError(f"there is no file {path}", expected="a .npy, .npz, .safetensors or .parquet file")
    if path.suffix not in SUFFIXES:
        raise ConfigError(f"cannot read {path.name}", expected=", ".join(SUFFIXES), got=path.suffix or "no suffix")
    try:
        return {".npy": _npy, ".npz": _npz, ".safetensors": _safetensors, ".parquet": _parquet}[path.suffix](path)
    except (OSError, ValueError, EOFError, KeyError) as error:
        if isinstance(error, (ConfigError, MismatchError)):
            raise
        raise DamagedError(f"{path} cannot be read: {error}", fix="write the file again") from error


def _npy(path: Path) -> dict[str, Array]:
    return {"": np.load(path, allow_pickle=False)}


def _npz(path: Path) -> dict[str, Array]:
    from zipfile import BadZipFile

    try:
        with np.load(path, allow_pickle=False) as arrays:
            return dict(arrays)
    except BadZipFile as error:
        raise ValueError(str(error)) from error


def _safetensors(path: Path) -> dict[str, Array]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors = load_file(path)
    except SafetensorError as error:
        raise ValueError(str(error)) from error
    return {name: (t.float() if t.dtype == torch.bfloat16 else t).numpy() for name, t in tensors.items()}


def _parquet(path: Path) -> dict[str, Array]:
    try:
        from pyarrow import ArrowInvalid, parquet
    except ImportError as error:
        raise MissingExtraError("reading Parquet needs pyarrow", fix='pip install "fractionate[parquet]"') from error
    try:
        table = parquet.read_table(path)
    except ArrowInvalid as error:
        raise ValueError(str(error)) from error
    arrays: dict[str, Array] = {}
    for name in table.column_names:
        column = table[name].to_pylist()
        arrays[name] = np.array(column) if not isinstance(column[0], list) else np.array(column, dtype=np.float64)
    for prefix, name in (("logit_", "logits"), ("p_", "probabilities")):
        single = sorted((c for c in arrays if c.startswith(prefix) and c[len(prefix) :].isdigit()),
                        key=lambda c: int(c[len(prefix) :]))  # fmt: skip
        if len(single) > 1:
            arrays[name] = np.stack([arrays[c] for c in single], axis=1)
    return arrays


def _pick(arrays: Mapping[str, Array], names: tuple[str, ...], path: Path, what: str) -> tuple[str, Array]:
    for name in names:
        if name in arrays:
            return name, arrays[name]
    if list(arrays) == [""]:
        return "", arrays[""]
    raise ConfigError(
        f"{path.name} does not name {what}", expected=f"one of {', '.join(names)}", got=", ".join(arrays) or "nothing"
    )
