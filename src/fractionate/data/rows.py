"""Data sets of Hugging Face's `datasets` as the rest takes them: numbers in tensors, a label apart, names for the classes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import ConcatDataset, Subset

from fractionate.data.items import LABELS, label_name
from fractionate.data.labels import as_labels, check_values
from fractionate.errors import ConfigError, MismatchError, printable

DECODED = ("Image", "Audio", "Video", "Pdf", "Nifti")


def is_hugging_face(data: Any) -> bool:
    """Whether this is a `Dataset`, a `DatasetDict` or a stream of `datasets`, found without importing it."""
    return type(data).__module__.partition(".")[0] == "datasets" and hasattr(data, "with_format")


def label_of(columns: list[str], name: str) -> str:
    """The column of labels. Raises `MismatchError` where none has a known name."""
    found = label_name(columns)
    if found is None:
        raise MismatchError(
            f"{name}: no column is the label",
            expected=f"one named {', '.join(LABELS)}",
            got=", ".join(printable(column) for column in columns[:20]),
            fix="data.rename_column('NAME', 'label')",
        )
    return found


@dataclass(frozen=True, eq=False)
class Pairs:
    """What rows become: the one column there is besides the label as a tensor, more than one as a mapping with `labels`."""

    label: str
    inputs: tuple[str, ...]

    def __call__(self, row: Any) -> Any:
        label = torch.as_tensor(row[self.label])
        if len(self.inputs) == 1:
            return row[self.inputs[0]], label
        return {name: row[name] for name in self.inputs} | {"labels": label}


@dataclass(frozen=True, eq=False)
class Rows:
    """A `datasets.Dataset` as a map-style data set."""

    dataset: Any
    pairs: Pairs
    name: str
    class_names: tuple[str, ...]
    targets: Tensor | None  # all labels; None where an example has a row of them, of a length of its own

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, place: int) -> Any:
        return self.pairs(self.dataset[place])


@dataclass(frozen=True, eq=False)
class Stream:
    """A `datasets.IterableDataset`, which starts anew each time it is walked."""

    dataset: Any
    pairs: Pairs

    def __iter__(self) -> Iterator[Any]:
        return map(self.pairs, self.dataset)


def as_rows(data: Any, name: str = "data") -> Any:
    """A data set of `datasets` as (input, label), in torch's format whatever its own; anything else as it is.

    Parts (torch's `Subset`, `ConcatDataset`) are read as what they are parts of. `ClassLabel` names become `class_names`. A data
    set with a transform of its own (`set_transform`) is left as it is. Raises `ConfigError` for a `DatasetDict`, and
    `MismatchError` for columns of text or pictures and for labels that are no class numbers.
    """
    if type(data).__module__.startswith("fractionate.data.") and hasattr(data, "parts"):
        raise MismatchError(
            f"{name}: these are not examples yet", expected="one part", got=type(data).__name__,
            fix="parts = data.parts(transfer=…, validation=…, test=…), then parts.transfer",
        )  # fmt: skip
    if type(data) is Subset:
        inner = as_rows(data.dataset, name)
        return data if inner is data.dataset else Subset(inner, data.indices)
    if type(data) is ConcatDataset:
        parts = [as_rows(part, name) for part in data.datasets]
        same = all(part is given for part, given in zip(parts, data.datasets, strict=True))
        return data if same else ConcatDataset(parts)
    if not is_hugging_face(data):
        return data
    if isinstance(data, dict):
        raise ConfigError(
            f"{name}: this is more than one data set", expected="one of them", got=", ".join(map(str, data)),
            fix=f"data[{next(iter(data), 'train')!r}]",
        )  # fmt: skip
    features = data.features
    if features is None or (getattr(data, "format", None) and data.format["type"] == "custom"):
        return data
    columns = list(data.format["columns"]) if hasattr(data, "format") else list(features)
    label = label_of(columns, name)
    inputs = tuple(column for column in columns if column != label)
    _check(features, label, inputs, name)
    names = tuple(map(printable, getattr(features[label], "names", None) or ()))
    pairs = Pairs(label, inputs)
    if not hasattr(data, "__len__"):
        return Stream(data.with_format("torch"), pairs)
    shown = printable(str(data.info.dataset_name or name))
    dataset = data.with_format("torch", columns=[label, *inputs])
    targets = None
    if not hasattr(features[label], "feature"):  # else a list of labels in each row
        values = data.with_format("numpy", columns=[label])[label]
        targets = as_labels(values[:], shown, classes=False)
    if not names and targets is not None and len(targets) and not targets.is_floating_point():
        check_values(targets, shown)
        names = tuple(str(c) for c in range(max(0, int(targets.max()) + 1)))
    return Rows(dataset, pairs, shown, names, targets)


def _check(features: Any, label: str, inputs: tuple[str, ...], name: str) -> None:
    if not inputs:
        raise MismatchError(f"{name}: there is no column other than the label", got=printable(label))
    kinds = {column: kind_of(features[column]) for column in (label, *inputs)}
    if kinds[label] != "numbers":
        raise MismatchError(
            f"{name}: the label {printable(label)!r} is {kinds[label]}",
            expected="class numbers",
            fix=f"data.class_encode_column({label!r})",
        )
    unread = {column: kinds[column] for column in inputs if kinds[column] != "numbers"}
    if unread:
        first = next(iter(unread.values()))
        fix = (
            f"make numbers of it, data.map(lambda row: tokenizer(row[{next(iter(unread))!r}], truncation=True, "
            f"padding='max_length'), batched=True), and leave it out, data.remove_columns({list(unread)!r})"
            if first == "text"
            else "make tensors of one size, data.with_transform(...) with 'label' among what it gives, or read the folder with "
            "saved(...)"
        )
        raise MismatchError(
            f"{name}: a model takes numbers",
            expected="columns of numbers",
            got=", ".join(f"{printable(column)!r} is {kind}" for column, kind in unread.items()),
            fix=fix,
        )


def kind_of(feature: Any) -> str:
    """What a column holds: numbers, text, a picture, or another type by its name."""
    kind = type(feature).__name__
    if kind in DECODED:
        return "a picture" if kind == "Image" else kind
    if kind in ("Sequence", "List", "LargeList"):
        return kind_of(feature.feature)
    dtype = str(getattr(feature, "dtype", ""))
    if dtype in ("string", "large_string"):
        return "text"
    return "numbers" if dtype.startswith(("int", "uint", "float", "bool", "double")) else dtype or kind
