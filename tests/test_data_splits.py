"""Splits: every way in gives the same batches, ids and fingerprints; parts, weights and views belong to the same examples."""

from __future__ import annotations

import pickle
import random

import numpy as np
import pandas
import pytest
import torch
from torch import nn
from torch.utils.data import Dataset, TensorDataset

from fractionate import Objective, TeacherSignal
from fractionate.data import Batch, Examples, Split, as_examples, as_split, subset, weighted, with_views
from fractionate.data.batch import Places, Repeated
from fractionate.data.dataset import DatasetSplit
from fractionate.data.memory import MemorySplit
from fractionate.data.parts import example_at, read_noted
from fractionate.errors import ConfigError, MismatchError
from fractionate.records import Training
from fractionate.training import distill

X = torch.arange(48 * 6).reshape(48, 6).float() / 100
Z = X.flip(0)
Y = torch.arange(48) % 3
EVERY = [(0, torch.arange(48))]


class Rows(Dataset):
    def __len__(self):
        return 48

    def __getitem__(self, place):
        return X[place], int(Y[place])


class Drawn(Rows):
    """Augmented by all three random streams."""

    def __getitem__(self, place):
        noise = torch.rand(6) + random.random() + float(np.random.rand())
        return X[place] + noise, int(Y[place])


ONE_INPUT = {
    "tensors": (X, Y),
    "list of tensors": [X, Y],
    "arrays": (X.numpy(), Y.numpy()),
    "read-only arrays": (np.broadcast_to(X.numpy(), X.shape), np.broadcast_to(Y.numpy(), Y.shape)),
    "frame and series": (pandas.DataFrame(X.numpy()), pandas.Series(Y.tolist(), index=range(100, 148))),
    "array and list": (X.numpy(), Y.tolist()),
    "lists": (X.tolist(), Y.tolist()),
    "list of rows": (list(X), list(Y)),
    "examples": Examples(X, Y),
    "tensor data set": TensorDataset(X, Y),
    "data set": Rows(),
    "list of pairs": [(X[n], Y[n]) for n in range(48)],
    "list of lists": [[X[n].numpy(), int(Y[n])] for n in range(48)],
}


def read(data) -> Batch:
    return next(iter(as_split(data).batches(EVERY, 0)))


@pytest.mark.parametrize("data", ONE_INPUT.values(), ids=ONE_INPUT)
def test_one_input_and_a_label_are_the_same_whatever_holds_them(data):
    split = as_split(data)
    assert isinstance(split, Split) and len(split) == 48
    batch = read(data)
    torch.testing.assert_close(batch.inputs, X, rtol=0, atol=0)
    assert torch.equal(batch.labels, Y) and torch.equal(batch.index, torch.arange(48))
    assert [*split.ids][:2] == ["0", "1"] and split.ids[47] == "47" and len(split.ids) == 48
    assert split.fingerprint() == split.fingerprint() == as_split(data).fingerprint()
    order = split.order(10, 3, 1)
    assert [len(each) for each in order] == [10, 10, 10, 10, 8]
    assert sorted(torch.cat(order).tolist()) == [*range(48)]
    picked = next(iter(split.batches([(0, torch.tensor([7, 0, 7]))], 0)))
    assert torch.equal(picked.inputs, X[[7, 0, 7]]) and picked.index.tolist() == [7, 0, 7]
    torch.testing.assert_close(as_examples(data).inputs, X, rtol=0, atol=0)


SEVERAL = {
    "tuple of tensors": (X, Z, Y),
    "tuple and labels": ((X, Z), Y),
    "tensor data set": TensorDataset(X, Z, Y),
    "triples": [(X[n], Z[n], int(Y[n])) for n in range(48)],
}
NAMED = {
    "columns": {"a": X, "b": Z.numpy(), "label": Y.tolist()},
    "mapping and labels": ({"a": X, "b": Z}, Y),
    "mappings": [{"a": X[n], "b": Z[n], "y": int(Y[n])} for n in range(48)],
}


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(6, 3), nn.Linear(6, 3)

    def forward(self, a, b):
        return self.first(a) + self.second(b)


def test_several_inputs_are_the_same_by_position_and_by_name(tmp_path):
    from fractionate import collect

    weights, logits = [], []
    for number, data in enumerate((*SEVERAL.values(), *NAMED.values())):
        batch = read(data)
        parts = list(batch.inputs.values()) if isinstance(batch.inputs, dict) else batch.inputs
        assert torch.equal(parts[0], X) and torch.equal(parts[1], Z) and torch.equal(batch.labels, Y)
        trained, _ = distill(Two(), data, training=Training(steps=2, batch_size=16), test=data, show="nothing")
        weights.append(trained.second.weight)
        logits.append(collect(Two(), data, tmp_path / str(number)).signal().logits)
        with pytest.raises(MismatchError, match="inputs are not one tensor"):
            as_examples(data)
    assert all(torch.equal(weights[0], each) for each in weights)
    assert all(torch.equal(logits[0], each) for each in logits)


def test_the_data_s_own_ids_are_the_ids_and_must_be_as_many():
    class Named(Rows):
        ids = tuple(f"row {n}" for n in range(48))
        class_names = ("a", "b", "c")
        name = "named"

    split = as_split(Named())
    assert split.ids[3] == "row 3" and split.class_names == ("a", "b", "c") and split.name == "named"
    assert as_examples(Named()).ids[3] == "row 3"
    Named.ids = ("one",)
    with pytest.raises(MismatchError, match="1 ids for 48 examples"):
        as_split(Named())
    assert Places(3)[2] == "2" and [*Repeated(Places(2), 2)] == ["0", "1", "0", "1"]


@pytest.mark.wrong_types
@pytest.mark.parametrize(
    ("data", "message", "fix"),
    [
        (pandas.DataFrame({"a": [1.0], "label": [0]}), "a frame alone does not say", "frame.drop"),
        ((pandas.DataFrame({"a": [1.0, 2], "city": ["x", "y"]}), [0, 1]), "takes numbers(.|\n)*city", "numbers of the columns"),
        ((np.array(["a", "b"]), [0, 1]), "takes numbers", "tokenize"),
        ([("a text", 0)] * 9, "takes numbers", "tokenize"),
        ((X, Y[:5]), "inputs and labels do not fit", None),
        (((X, Z[:5]), Y), "inputs and labels do not fit", None),
        ([X[0], X[1], X[2]], "labels are not class numbers", None),
        ([1, 2, 3], r"items are not \(input, label\)", "collate_fn makes the labels"),
        ([{"a": X[0]}] * 9, r"items are not \(input, label\)", "collate_fn makes the labels"),
        ([(X[n, : 2 + n % 3], 0) for n in range(9)], r"rows differ in length(.|\n)*\[2\], \[3\], \[4\]", "pads"),
        ([{"ids": [1] * (2 + n % 3), "label": 0} for n in range(9)], "rows differ in length in 'ids'", "pads"),
        (([[1], [1, 2], [1, 2, 3]], [0, 1, 0]), "rows differ in length", "pad"),
        ([(object(), 0)] * 9, r"do not fit into one tensor(.|\n)*object", "transform"),
        ([{"a": X[0], "label": 0}, {"a": X[0], "b": X[0], "label": 0}] * 4, "some have 'b', some do not", "to all"),
        ([], "there is no data", None),
    ],
)  # fmt: skip
def test_what_is_not_data_is_refused_with_what_to_do(data, message, fix):
    with pytest.raises(MismatchError, match=message) as caught:
        as_split(data)
    assert fix is None or fix in caught.value.fix


@pytest.mark.wrong_types  # under --shapes the checker itself draws from `random`
def test_augmentation_follows_from_seed_epoch_and_example_and_leaves_the_caller_s_streams_alone():
    split = as_split(Drawn())
    torch.manual_seed(1), random.seed(1), np.random.seed(1)
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    first = next(iter(split.batches([(2, torch.tensor([5, 9, 1]))], seed=7)))
    again = next(iter(split.batches([(2, torch.tensor([9, 5]))], seed=7)))
    other = next(iter(split.batches([(3, torch.tensor([9, 5]))], seed=7)))
    assert torch.equal(first.inputs[0], again.inputs[1]) and not torch.equal(again.inputs, other.inputs)
    split.fingerprint()
    assert torch.equal(before[0], torch.get_rng_state()) and before[1] == random.getstate()
    assert before[2] == np.random.get_state()[1].tolist()
    part = subset(split, torch.tensor([30, 9]))
    assert torch.equal(next(iter(part.batches([(2, torch.tensor([1]))], seed=7))).inputs[0], again.inputs[0])


@pytest.mark.parametrize("place", [0, 1, 407, 998, 999])
def test_one_changed_label_of_a_thousand_is_another_data_set(place):
    items = [(X[i % 48], int(Y[i % 48])) for i in range(1000)]
    edited = [(x, y + (i == place)) for i, (x, y) in enumerate(items)]
    assert as_split(items).fingerprint() != as_split(edited).fingerprint()


@pytest.mark.parametrize("data", [(X, Y), Rows()], ids=["memory", "data set"])
def test_a_part_keeps_the_ids_and_a_place_may_come_twice(data):
    split = as_split(data)
    part = subset(subset(split, torch.arange(10, 40)), torch.tensor([5, 5, 0]))
    assert [*part.ids] == ["15", "15", "10"] and len(part) == 3
    batch = next(iter(part.batches([(0, torch.tensor([2, 0]))], 0)))
    assert torch.equal(batch.inputs, X[[10, 15]]) and batch.index.tolist() == [2, 0]
    assert torch.equal(example_at(part, 1)[0], X[15])
    assert part.labels is None or part.labels.tolist() == Y[[15, 15, 10]].tolist()
    assert len({part.fingerprint(), split.fingerprint(), subset(split, torch.arange(3)).fingerprint()}) == 3
    for wrong in (torch.tensor([48]), torch.tensor([-1]), torch.tensor([], dtype=torch.long)):
        with pytest.raises(MismatchError, match="places are not in the data"):
            subset(split, wrong)
    trained, _ = distill(nn.Linear(6, 3), part, training=Training(steps=1, batch_size=2), show="nothing")
    assert trained is not None


@pytest.mark.parametrize("data", [(X, Y), Rows()], ids=["memory", "data set"])
def test_weights_and_marks_travel_with_their_examples(data):
    weights, labelled = torch.arange(48.0), torch.arange(48) % 2 == 0
    split = weighted(as_split(data), weights, labelled)
    batch = next(iter(split.batches([(0, torch.tensor([4, 7]))], 0)))
    assert batch.weight.tolist() == [4.0, 7.0] and batch.labelled.tolist() == [True, False]
    part = next(iter(subset(split, torch.tensor([9, 8])).batches([(0, torch.tensor([0]))], 0)))
    assert part.weight.tolist() == [9.0] and part.labelled.tolist() == [False]
    assert split.fingerprint() != as_split(data).fingerprint() != weighted(as_split(data), weights + 1).fingerprint()
    assert weighted(as_split(data), list(range(48))) is not None


@pytest.mark.wrong_types
@pytest.mark.parametrize(
    ("weights", "labelled"),
    [
        (torch.ones(47), None),
        (torch.ones(100), None),
        (torch.ones(48, 1), None),
        (torch.full((48,), -1.0), None),
        (torch.zeros(48), None),
        (torch.full((48,), float("nan")), None),
        (None, torch.ones(48)),
        (None, torch.ones(47, dtype=torch.bool)),
    ],
)
def test_weights_and_marks_that_do_not_fit_are_refused(weights, labelled):
    for data in ((X, Y), Rows()):
        with pytest.raises(MismatchError, match=r"weights= do not fit|labelled= does not fit"):
            weighted(as_split(data), weights, labelled)
    teacher = TeacherSignal(torch.randn(48, 3), Y)
    with pytest.raises(MismatchError, match=r"weights= do not fit|labelled= does not fit"):
        distill(
            nn.Linear(6, 3),
            Rows(),
            teacher,
            objective=Objective(),
            weights=weights,
            labelled=labelled,
            training=Training(steps=1),
            show="nothing",
        )


class OwnViews(Rows):
    def __getitem__(self, place):
        return {"x": X[place], "label": int(Y[place]), "views": {"teacher": {"z": Z[place]}}}


@pytest.mark.parametrize("way", ["memory", "data set", "mixed", "own"])
def test_the_teacher_s_inputs_are_a_view_of_the_same_examples(way):
    data = {"memory": (X, Y), "data set": Rows(), "mixed": Rows(), "own": OwnViews()}[way]
    other = {"memory": Z, "data set": [(Z[n], int(Y[n])) for n in range(48)], "mixed": (Z, Y), "own": None}[way]
    split = as_split(data, views=None if other is None else {"teacher": other})
    batch = next(iter(split.batches([(0, torch.tensor([3, 8]))], 0)))
    theirs = batch.view("teacher")
    assert torch.equal(theirs["z"] if way == "own" else theirs, Z[[3, 8]])
    assert torch.equal(batch.inputs["x"] if way == "own" else batch.inputs, X[[3, 8]])
    part = next(iter(subset(split, torch.tensor([8])).batches([(0, torch.tensor([0]))], 0)))
    theirs = part.view("teacher")
    assert torch.equal(theirs["z"] if way == "own" else theirs, Z[[8]])
    assert split.fingerprint() != as_split((X, Y)).fingerprint()

    class Wide(nn.Module):
        """A teacher that sees its own inputs: its logits are the first three of them."""

        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))

        def forward(self, z):
            return z[:, :3] * self.scale

    class Student(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(6, 3)

        def forward(self, x):
            return self.layer(x)

    torch.manual_seed(0)
    online, _ = distill(Student(), split, Wide(), training=Training(steps=3, batch_size=16), show="nothing")
    torch.manual_seed(0)
    signal = TeacherSignal(Z[:, :3], Y)
    cached, _ = distill(Student(), split, signal, training=Training(steps=3, batch_size=16), show="nothing")
    torch.testing.assert_close(online.layer.weight, cached.layer.weight)


def test_a_view_of_other_examples_is_refused():
    with pytest.raises(MismatchError, match="has other examples"):
        as_split((X, Y), views={"teacher": X[:5]})
    ours, theirs = (Examples(X, Y, ids=tuple(f"{kind}{n}" for n in range(48))) for kind in "ab")
    with pytest.raises(MismatchError, match=r"has other examples(.|\n)*'b0'|has other examples(.|\n)*'a0'"):
        with_views(as_split(ours), {"teacher": as_split(theirs)})


def test_what_a_split_is_made_of_can_be_sent_to_another_process():
    for data in ((X, Y), Rows(), [(X[n], int(Y[n])) for n in range(48)]):
        split = pickle.loads(pickle.dumps(as_split(data)))
        assert torch.equal(next(iter(split.batches(EVERY, 0))).inputs, X)


def test_notes_of_examples_are_the_same_from_every_kind_of_split():
    class Bare:
        """A split of one's own that can do no more than the protocol says."""

        name, ids, class_names, labels = "bare", Places(48), (), None

        def __len__(self):
            return 48

        def order(self, batch_size, seed, epoch):
            return torch.split(torch.arange(48), batch_size)

        def batches(self, plan, seed):
            for _, index in plan:
                yield Batch(X[index], Y[index], index)

        def fingerprint(self):
            return "bare"

    def note(identifier, item):
        return f"{identifier}:{float(item[0].sum()):.3f}".encode()

    plan = [(0, torch.tensor([3, 8])), (0, torch.tensor([1]))]
    found = [[n for _, noted in read_noted(split, plan, 0, note) for n in noted]
             for split in (as_split((X, Y)), as_split(Rows()), subset(as_split(Rows()), torch.arange(48)), Bare())]  # fmt: skip
    assert all(len(each) == 3 and each[0].startswith(b"3:") for each in found)
    assert found[0] == found[1] == found[2] == found[3]
    assert isinstance(as_split(Bare()), Bare)
    with pytest.raises(MismatchError, match="read in batches only"):
        example_at(Bare(), 0)


def test_splits_are_made_for_what_they_read():
    assert isinstance(as_split((X, Y)), MemorySplit) and isinstance(as_split(Rows()), DatasetSplit)
    assert as_split((X, Y)) is not None and as_split(as_split(Rows())).name == "data"
    with pytest.raises(ConfigError, match="a stream has no length"):
        as_split(iter_again())


class iter_again:
    def __iter__(self):
        return iter([(X[0], 0)])
