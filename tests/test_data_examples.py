"""Examples: names and ids, parts that stay disjoint, stratified and in order, and what is refused."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fractionate.data.examples import Examples
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


@pytest.mark.wrong_types
def test_bad_examples_and_splits_are_refused() -> None:
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
