"""Parts of any data: sizes, strata, groups, named parts, repeats."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fractionate.data import Examples, divide
from fractionate.data.bundled import split_parts
from fractionate.errors import ConfigError


@given(st.integers(15, 400), st.integers(1, 6), st.integers(0, 9))
def test_every_place_is_in_one_part_and_classes_are_in_proportion(count, classes, seed):
    labels = torch.arange(count) % classes
    parts = divide(count, labels=labels, seed=seed)
    assert [*parts][:3] == ["transfer", "validation", "test"]
    assert torch.equal(torch.cat([*parts.values()]).sort().values, torch.arange(count))
    assert {len(parts[name]) for name in ("transfer", "validation", "test")} == {count // 5}
    for places in parts.values():
        counts = torch.bincount(labels[places], minlength=classes)
        assert int(counts.max() - counts.min()) <= 3


def test_parts_are_those_of_examples_split():
    data = Examples(torch.arange(100)[:, None], torch.arange(100) % 3)
    parts = split_parts(data, transfer=40, validation=0.2, test=30, seed=4)
    for made, old in zip(
        (parts.transfer, parts.validation, parts.test, parts.teaching), data.split(40, 20, 30, 10, seed=4), strict=True
    ):
        assert made.ids == old.ids


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [({"transfer": 0.5}, (50, 20, 20, 10)), ({"transfer": 0.6, "validation": 0.1, "test": 0.3}, (60, 10, 30, 0)),
     ({"transfer": 1, "validation": 1, "test": 1}, (1, 1, 1, 97)), ({}, (20, 20, 20, 40))],
)  # fmt: skip
def test_sizes_are_counts_or_shares(sizes, expected):
    parts = divide(100, **sizes)
    assert tuple(len(parts.get(name, ())) for name in ("transfer", "validation", "test", "teaching")) == expected


@pytest.mark.parametrize("size", [0, 101, -1, 1.0, 1.5, float("nan"), True, "40", 0.001])
def test_sizes_that_do_not_fit_are_refused(size):
    with pytest.raises(ConfigError):
        divide(100, transfer=size)


def test_several_labels_are_stratified_by_their_combination_and_numbers_are_not():
    labels = torch.stack([torch.arange(120) % 2, torch.arange(120) % 3 // 2], 1)
    parts = divide(120, labels=labels)
    assert labels[parts["test"]].float().mean(0).tolist() == pytest.approx([1 / 2, 1 / 3], abs=0.05)
    assert torch.equal(divide(120, labels=torch.rand(120))["test"], divide(120)["test"])


@given(st.integers(4, 40), st.integers(0, 9), st.booleans())
def test_groups_are_kept_whole(groups, seed, uneven):
    of = [f"g{number}" for number in range(groups) for _ in range(1 + number % 7 if uneven else 5)]
    labels = torch.arange(len(of)) % 2
    parts = divide(len(of), labels=labels, groups=of, transfer=0.4, validation=0.2, test=0.2, seed=seed)
    assert torch.equal(torch.cat([*parts.values()]).sort().values, torch.arange(len(of)))
    found = [{of[place] for place in places.tolist()} for places in parts.values()]
    assert sum(map(len, found)) == len(set(of)) and all(found)
    if groups >= 20:
        assert abs(len(parts["transfer"]) - 0.4 * len(of)) <= 7
        assert abs(float(labels[parts["transfer"]].float().mean()) - 0.5) < 0.2


def test_too_few_groups_are_refused():
    with pytest.raises(ConfigError, match="too few groups"):
        divide(20, groups=["a"] * 10 + ["b"] * 10)


def test_parts_that_the_data_name_stay():
    named = ["train"] * 60 + ["Test"] * 30 + [None] * 10
    parts = divide(100, given=named)
    assert parts["test"].tolist() == list(range(60, 90)) and "teaching" not in parts
    assert (len(parts["transfer"]), len(parts["validation"])) == (56, 14)
    parts = divide(100, given=named, transfer=20, validation=10, test=0.5)
    assert [len(places) for places in parts.values()] == [20, 10, 15, 40]
    assert set(parts["test"].tolist()) < set(range(60, 90))
    parts = divide(100, given=["train"] * 50 + ["val"] * 20 + ["test"] * 30)
    assert [places.tolist() for places in parts.values()] == [[*range(50)], [*range(50, 70)], [*range(70, 100)]]
    with pytest.raises(ConfigError, match="test cannot be of this size"):
        divide(100, given=named, test=31)
    with pytest.raises(ConfigError, match="unknown"):
        divide(3, given=["train", "holdout", "test"])
    with pytest.raises(ConfigError, match="some of them train"):
        divide(2, given=["test", "val"])
    with pytest.raises(ConfigError, match="'b' is in two parts"):
        divide(4, given=["train", "train", "val", "test"], groups=["a", "b", "c", "b"])


def test_repeats_are_left_out_of_later_parts_and_counted():
    keys = [place % 60 for place in range(100)]
    with pytest.warns(UserWarning, match=r"notes: \d+ of validation and \d+ of test are left out"):
        parts = divide(100, keys=keys, transfer=20, validation=30, test=40, name="notes")
    found = {part: {keys[place] for place in places.tolist()} for part, places in parts.items()}
    trained_teacher = found["transfer"] | found["teaching"]
    assert not found["validation"] & trained_teacher and not found["test"] & (trained_teacher | found["validation"])
    assert (len(parts["transfer"]), len(parts["teaching"])) == (20, 10)
    with pytest.raises(ConfigError, match="every example of validation"):
        divide(100, keys=[0] * 100)
    whole = divide(100, keys=range(100), seed=3)
    assert all(torch.equal(whole[part], places) for part, places in divide(100, seed=3).items())
