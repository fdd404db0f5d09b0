"""What a caller may give as data, made a split: arrays, data sets, loaders, streams; and read into memory as `Examples`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import ConcatDataset, DataLoader, IterableDataset, Subset, TensorDataset, default_collate

from fractionate.data.batch import Ids, MakesSplit, Places, Split
from fractionate.data.dataset import DatasetSplit, as_batch
from fractionate.data.dense import check_dense
from fractionate.data.examples import Examples
from fractionate.data.items import check_text, join, label_name
from fractionate.data.labels import advice, as_labels, check_values
from fractionate.data.loaders import Loaded, taken_apart
from fractionate.data.memory import MemorySplit, as_inputs, in_memory, is_array, is_columns, is_rows
from fractionate.data.parts import subset, with_views
from fractionate.data.rows import Rows, Stream, as_rows
from fractionate.data.stream import as_stream, stream_items
from fractionate.errors import MismatchError, printable
from fractionate.records import Training

READ_AT_ONCE = 256  # examples in one batch where all are read


def as_split(
    data: Any,
    name: str = "data",
    *,
    training: Training | None = None,
    views: Mapping[str, Any] | None = None,
    classes: bool = True,
) -> Split:
    """Data as a split, checked: the first examples are read here, and faults are reported before anything is trained.

    Args:
        data: `Examples`; a pair (inputs, labels) of tensors, arrays or frames, where inputs may be a tuple or mapping of them; a
            mapping of columns with the labels under one of `LABELS`; a map-style data set whose items are pairs, tuples with the
            label last or mappings; a `datasets.Dataset`; a loader over one of these, which lends its collate function and its
            workers; a stream (an iterable without places), of which as many examples are read as the training's steps take.
        name: The data's name where they have none of their own.
        training: Sets the length of streams; order and batch size are the training's.
        views: Inputs of other readers of the same examples by name, such as {"teacher": other}.
        classes: Labels are class numbers; False where they are numbers to predict.

    Returns:
        The data as a `Split`.

    Raises:
        MismatchError: for no data, items that are not (input, label), and labels that are no class numbers.
        ConfigError: for what a loader has and the training cannot honour, streams of unknown length, and those that cannot be
            started again.

    Example:
        import torch
        from fractionate.data import as_split

        print(len(as_split((torch.randn(6, 2), torch.arange(6)))))
    """
    split = _as_split(data, name, training, classes)
    if views:
        split = with_views(
            split, {key: _as_view(view, f"{name}: view {key!r}", training) for key, view in views.items()}
        )
    return split


def _as_split(data: Any, name: str, training: Training | None, classes: bool) -> Split:
    if isinstance(data, Examples):
        return MemorySplit.of(data)
    if isinstance(data, Split):
        return data
    if isinstance(data, MakesSplit):
        return data.as_split()
    columns = as_columns(data, name)
    if columns is not None:
        return in_memory(*columns, name, classes=classes)
    loaded = taken_apart(data, name) if isinstance(data, DataLoader) else Loaded(data)
    plain = loaded.collate is default_collate
    # a collate function of the caller's is given the rows as the caller's data set gives them
    rows = as_rows(loaded.dataset, name) if plain else _rows_or_none(loaded.dataset, name)
    dataset = rows if plain else loaded.dataset
    if isinstance(dataset, IterableDataset) or not _has_places(dataset):
        return as_stream(dataset, name, training, loaded.collate, loaded.workers, loaded.loading, classes=classes)
    if len(dataset) == 0:
        raise MismatchError(f"{name}: there is no data", expected="at least one example", got="none")
    own = getattr(dataset, "name", None)
    name = own if isinstance(own, str) and own else name
    ids, names = _ids_of(dataset, name), _names_of(rows if rows is not None else dataset)
    if type(dataset) is TensorDataset and len(dataset.tensors) > 1 and plain and not loaded.loading:
        *inputs, labels = dataset.tensors
        made = in_memory(inputs[0] if len(inputs) == 1 else tuple(inputs), labels, name, classes=classes)
        split: Split = replace(made, ids=ids, class_names=names)
    else:
        known = _known_labels(rows) if plain else None
        if known is not None:
            known = as_labels(known, name, classes=classes)
            check_values(known, name, ids.__getitem__)
        split = DatasetSplit(
            dataset,
            name,
            loaded.collate,
            loaded.workers,
            known,
            ids,
            names,
            loaded.loading,
            classes,
            canonical=None if plain or rows is dataset else rows,
        ).check(loaded.places)
    return split if loaded.places is None else subset(split, loaded.places)


def as_columns(data: Any, name: str) -> tuple[Any, Any] | None:
    """Inputs and labels of data that are given as whole columns; None for data that are given example by example."""
    if isinstance(data, Mapping):
        key = label_name(data)
        if key is not None and all(is_array(part) or is_rows(part) or _is_scalars(part) for part in data.values()):
            return {column: part for column, part in data.items() if column != key}, data[key]
        return None
    if hasattr(data, "__dataframe__"):
        raise MismatchError(
            f"{name}: a frame alone does not say what its label is",
            expected="a pair (inputs, labels)",
            got=f"columns {', '.join(printable(str(column), 20) for column in _titles(data)[:8])}",
            fix="give (frame.drop(columns='label'), frame['label'])",
        )
    if isinstance(data, (tuple, list)) and len(data) >= 2:
        inputs, labels = data[0] if len(data) == 2 else tuple(data[:-1]), data[-1]
        if isinstance(data, tuple):
            inputs, labels = _listed(inputs), list(labels) if isinstance(labels, (tuple, range)) else labels
            check_dense(inputs, name)
            _check_order(inputs, labels, name)
        if is_columns(inputs) and (is_array(labels) or (isinstance(data, tuple) and isinstance(labels, list))):
            return inputs, labels
        if (
            isinstance(data, tuple)
            and len(data) == 2
            and is_rows(inputs)
            and len(inputs) > 2
            and _is_column(labels, inputs)
        ):
            return inputs, labels  # lists of rows, as scikit-learn takes them; a list of two is two examples
    return None


def _titles(frame: Any) -> list[Any]:
    """The names of the columns of a frame, or of a table of Arrow."""
    return list(getattr(frame, "column_names", None) or frame.columns)


def _listed(inputs: Any) -> Any:
    """Rows in tuples as rows in lists."""
    whole = isinstance(inputs, (list, tuple)) and len(inputs) > 2
    tuples = whole and all(isinstance(row, (list, tuple)) and _is_scalars(list(row)) for row in inputs)
    return [list(row) for row in inputs] if tuples else inputs


def _check_order(inputs: Any, labels: Any, name: str) -> None:
    """Raise `MismatchError` for text, and for a frame and labels whose indexes name the same rows in another order."""
    if isinstance(inputs, list) and inputs and is_array(labels) and all(isinstance(row, str) for row in inputs):
        check_text(inputs, name)
    ours: Any = getattr(inputs, "index", None)
    theirs: Any = getattr(labels, "index", None)
    if not (hasattr(ours, "equals") and hasattr(theirs, "equals")) or ours.equals(theirs):
        return
    if len(ours) == len(theirs) and set(ours) == set(theirs):
        first = next(place for place, (one, other) in enumerate(zip(ours, theirs, strict=True)) if one != other)
        raise MismatchError(
            f"{name}: the rows of inputs and labels are in different orders",
            expected=f"the same index: {printable(str(ours[first]), 40)} at row {first}",
            got=printable(str(theirs[first]), 40),
            fix="labels.loc[inputs.index]; or .reset_index(drop=True) of both, where their places are what counts",
        )


def _is_column(labels: Any, inputs: Any) -> bool:
    whole = _is_scalars(labels) or is_rows(labels) or (is_array(labels) and np.ndim(labels) > 0)
    return whole and len(labels) == len(inputs)


def _is_scalars(values: Any) -> bool:
    return isinstance(values, list) and bool(values) and all(isinstance(value, (int, float, str)) for value in values)


def _as_view(view: Any, name: str, training: Training | None) -> Split:
    if isinstance(view, (Examples, Split)) or not is_columns(view) or as_columns(view, name) is not None:
        return as_split(view, name, training=training)
    inputs = as_inputs(view, name)
    first: Tensor = (
        inputs if isinstance(inputs, Tensor) else next(iter(inputs.values() if isinstance(inputs, dict) else inputs))
    )
    return MemorySplit(inputs, torch.zeros(len(first), dtype=torch.long), name)


def _has_places(data: Any) -> bool:
    return hasattr(data, "__getitem__") and hasattr(data, "__len__") and not isinstance(data, Mapping)


def _rows_or_none(data: Any, name: str) -> Any:
    """Rows in torch's format where they have a label and numbers alone; None where only the collate function makes them so."""
    with suppress(MismatchError):
        return as_rows(data, name)
    return None


def _known_labels(rows: Any) -> Tensor | None:
    return rows.targets if isinstance(rows, Rows) and rows.targets is not None and rows.targets.ndim == 1 else None


def _ids_of(data: Any, name: str) -> Ids:
    """The data's own ids; places where they have none."""
    own = getattr(data, "ids", None)
    if own is None or callable(own):
        return Places(len(data))
    ids = tuple(str(one) for one in own)
    if len(ids) != len(data):
        raise MismatchError(f"{name}: {len(ids)} ids for {len(data)} examples")
    return ids


def _names_of(data: Any) -> tuple[str, ...]:
    """The names of the classes, of the data or of what they are a part of."""
    while isinstance(data, (Subset, ConcatDataset)):
        data = data.dataset if isinstance(data, Subset) else data.datasets[0]
    return tuple(map(str, getattr(data, "class_names", ())))


def as_examples(data: Any, name: str = "data") -> Examples:
    """Examples as they are, or from any data that fit in memory: one tensor of inputs and one class number each.

    Args:
        data: What `as_split` takes.
        name: The data's name where they have none of their own.

    Returns:
        `Examples`.

    Raises:
        MismatchError: where there are no data, where items are not (input, label) and where they differ in shape.

    Example:
        import torch
        from fractionate.data import as_examples

        print(as_examples([(torch.zeros(3), 0), (torch.ones(3), 1)]).inputs.shape)
    """
    if isinstance(data, Examples):
        return data
    data = data.as_split() if isinstance(data, MakesSplit) else data
    columns = None if isinstance(data, Split) else as_columns(data, name)
    if columns is not None:
        return _as_one(in_memory(*columns, name), name)
    loaded = taken_apart(data, name) if isinstance(data, DataLoader) else Loaded(data)
    dataset = as_rows(loaded.dataset, name)
    if isinstance(data, Split) or _has_places(dataset):
        split = as_split(data, name)
        if isinstance(split, MemorySplit):
            return _as_one(split, name)
        plan = ((0, index) for index in torch.split(torch.arange(len(split)), READ_AT_ONCE))
        parts = [(batch.inputs, batch.labels) for batch in split.batches(plan, 0)]
        ids, names = split.ids, split.class_names
    elif isinstance(dataset, Stream) or hasattr(dataset, "__iter__"):
        items = stream_items(dataset, loaded.workers, loaded.loading)
        parts = [
            (batch.inputs, batch.labels)
            for some in _chunks(items)
            for batch in [as_batch(join(some, loaded.collate, name), torch.arange(len(some)), name)]
        ]
        ids, names = Places(0), ()
    else:
        raise MismatchError(
            f"{name}: this is not data",
            expected="Examples, a pair of tensors, a dataset or a loader",
            got=type(data).__name__,
        )
    if not parts:
        raise MismatchError(f"{name}: there is no data", expected="at least one example", got="none")
    for inputs, _ in parts:
        _check_one(inputs, name)
    try:
        whole, labels = torch.cat([inputs for inputs, _ in parts]), torch.cat([label for _, label in parts])
    except RuntimeError as error:
        raise MismatchError(
            f"{name}: batches do not fit into one tensor",
            expected="tensors or arrays of one shape",
            got=printable(str(error), 200),
            fix="pad or resize all examples to one size",
        ) from error
    split = MemorySplit(whole, labels, name, () if isinstance(ids, Places) else ids, names)
    return _as_one(split, name)


def _chunks(items: Iterator[Any]) -> Iterator[list[Any]]:
    while some := list(islice(items, READ_AT_ONCE)):
        yield some


def _check_one(inputs: Any, name: str) -> None:
    if not isinstance(inputs, Tensor):
        got = ", ".join(inputs) if isinstance(inputs, Mapping) else f"{len(inputs)} parts"
        raise MismatchError(
            f"{name}: inputs are not one tensor",
            expected="one tensor an example",
            got=printable(got),
            fix="give the data to distill or collect, which take multiple inputs",
        )


def _as_one(split: MemorySplit, name: str) -> Examples:
    _check_one(split.inputs, name)
    if split.labels.ndim != 1:
        raise MismatchError(
            f"{name}: labels are not class numbers",
            expected="whole numbers from 0, one per example",
            got=f"{split.labels.dtype} {list(split.labels.shape)}",
            fix=advice(split.labels),
        )
    own = () if isinstance(split.ids, Places) else tuple(split.ids)
    return Examples(split.inputs, split.labels, split.class_names, split.name, own)
