"""Examples: what is data, what is not, and parts that stay disjoint, stratified and in order."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from fractionate.data.examples import Examples
from fractionate.data.splits import as_examples
from fractionate.errors import ConfigError, FractionateError, MismatchError


def some(examples: int = 10, classes: int = 3) -> Examples:
    inputs = torch.arange(examples * 2).reshape(examples, 2).float()
    return Examples(inputs, torch.arange(examples) % classes)


def test_names_and_ids_are_filled_in() -> None:
    data = some()
    assert data.class_names == ("0", "1", "2")
    assert data.classes == 3
    assert data.ids[:2] == ("0", "1")
    assert len(data) == 10
    assert "10 × [2]" in repr(data)
    named = Examples(torch.zeros(1, 2), torch.tensor([1], dtype=torch.uint8), ("cat", "dog", "emu"), name="pets")
    assert named.classes == 3
    assert named.labels.dtype == torch.long


def test_take_keeps_inputs_labels_and_ids_together() -> None:
    data = some()
    part = data.take(torch.tensor([7, 0, 3]))
    assert part.ids == ("7", "0", "3")
    assert torch.equal(part.inputs, data.inputs[[7, 0, 3]])
    assert torch.equal(part.labels, data.labels[[7, 0, 3]])
    assert part.class_names == data.class_names


@given(st.integers(1, 200), st.integers(1, 6), st.integers(0, 50), st.data())
@settings(max_examples=40)
def test_parts_are_disjoint_stratified_and_drawn_by_seed(
    examples: int, classes: int, seed: int, data: st.DataObject
) -> None:
    whole = some(examples, min(classes, examples))
    first = data.draw(st.integers(0, examples))
    second = data.draw(st.integers(0, examples - first))
    parts = whole.split(first, second, seed=seed) if first and second else ()
    ids = [i for part in parts for i in part.ids]
    assert len(set(ids)) == len(ids) == sum(map(len, parts))
    for part in parts:
        for label in range(whole.classes):
            share = float((whole.labels == label).double().mean())
            assert abs(int((part.labels == label).sum()) - share * len(part)) <= 3 + whole.classes
    if parts:
        assert [p.ids for p in whole.split(first, second, seed=seed)] == [p.ids for p in parts]


def test_classes_keep_their_proportions_in_every_part() -> None:
    labels = torch.cat([torch.zeros(90, dtype=torch.long), torch.ones(10, dtype=torch.long)])
    data = Examples(torch.arange(100.0)[:, None], labels)
    for part in data.split(50, 30, 20):
        assert abs(float(part.labels.double().mean()) - 0.1) < 0.051


class Pairs:
    """A dataset as people write them: places and a length, nothing else."""

    def __len__(self) -> int:
        return 5

    def __getitem__(self, i: int) -> tuple[Any, int]:
        if i >= 5:
            raise IndexError(i)
        return np.full((2, 2), i, dtype=np.float32), i % 2


class Stream(IterableDataset[tuple[torch.Tensor, int]]):
    def __iter__(self) -> Iterator[tuple[torch.Tensor, int]]:
        yield from ((torch.full((2, 2), float(i)), i % 2) for i in range(5))


INPUTS = torch.arange(5.0)[:, None, None].expand(5, 2, 2)
LABELS = torch.arange(5) % 2


@pytest.mark.parametrize(
    "data",
    [
        (INPUTS, LABELS),
        [INPUTS.numpy(), LABELS.numpy()],
        Examples(INPUTS, LABELS),
        TensorDataset(INPUTS, LABELS),
        DataLoader(TensorDataset(INPUTS, LABELS), batch_size=2),
        DataLoader(TensorDataset(INPUTS, LABELS), batch_size=None),
        DataLoader(Stream(), batch_size=3),
        Pairs(),
        Stream(),
        [(x, y) for x, y in zip(INPUTS, LABELS, strict=True)],
        [[x, int(y)] for x, y in zip(INPUTS, LABELS, strict=True)],
        ((x, y) for x, y in zip(INPUTS, LABELS, strict=True)),
        [(x, y) for x, y in zip(INPUTS, LABELS, strict=True)] * 1,
    ],
    ids=["tensors", "arrays", "examples", "dataset", "loader", "unbatched", "stream loader", "pairs", "stream", "list",
         "lists", "generator", "copy"],
)  # fmt: skip
def test_data_in_every_shape_people_have_it(data: Any) -> None:
    found = as_examples(data, name="mine")
    assert torch.equal(found.inputs, INPUTS)
    assert torch.equal(found.labels, LABELS)


def test_two_pairs_are_two_examples() -> None:
    """A list of two pairs is not a pair of arrays."""
    found = as_examples([(torch.zeros(3), 0), (torch.ones(3), 1)])
    assert len(found) == 2


@pytest.mark.wrong_types
@pytest.mark.parametrize(
    ("data", "words"),
    [
        ([], "no data"),
        (7, "this is not data"),
        (None, "this is not data"),
        ([1, 2, 3], "not (input, label)"),
        ([{"image": 1, "label": 2}], "not one tensor"),
        ([(torch.zeros(2), 0), (torch.zeros(3), 1), (torch.zeros(2), 1)], "one shape"),
        ([("text", 0), ("more", 1), ("words", 1)], "takes numbers"),
        ((torch.zeros(3, 2), torch.zeros(2)), "do not fit"),
        ((torch.zeros(3, 2), torch.zeros(3)), "not class numbers"),
        ((torch.zeros(3, 2), torch.tensor([0, -1, 1])), "least -1"),
        ((torch.zeros(3, 2), torch.eye(3, dtype=torch.long)), "argmax"),
        ((torch.zeros(3, 2), torch.tensor([[1, 0], [1, 1], [0, 1]])), "several labels"),
        ((torch.zeros(0, 2), torch.zeros(0, dtype=torch.long)), "at least one"),
        ((torch.tensor(1.0), torch.tensor(1)), "do not fit"),
    ],
)
def test_what_is_not_data_is_said(data: Any, words: str) -> None:
    with pytest.raises(MismatchError) as error:
        as_examples(data, name="mine")
    assert words in str(error.value)
    assert "mine" in str(error.value)


@pytest.mark.wrong_types
def test_bad_examples_and_splits_are_said() -> None:
    for make in (
        lambda: Examples([1, 2], [0, 1]),  # type: ignore[arg-type]
        lambda: Examples(torch.zeros(2, 2), torch.tensor([0, 3]), class_names=("a", "b")),
        lambda: Examples(torch.zeros(2, 2), torch.tensor([0, 1]), ids=("one",)),
    ):
        with pytest.raises(MismatchError, match="expected"):
            make()
    for sizes in ((11,), (5, 6), (-1, 3)):
        with pytest.raises(ConfigError, match="expected"):
            some().split(*sizes)
    assert issubclass(MismatchError, FractionateError)
