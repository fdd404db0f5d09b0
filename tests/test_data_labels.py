"""Labels of any number type, on every way in: the same class numbers, or the same refusal with what to do, before a step."""

from __future__ import annotations

import copy

import numpy as np
import pandas
import pytest
import torch
from torch import nn
from torch.utils.data import Dataset, TensorDataset

from fractionate import collect, diagnose
from fractionate.data import as_examples, as_split
from fractionate.data.labels import as_labels, check_labels, check_same_labels
from fractionate.errors import MismatchError
from fractionate.records import Training
from fractionate.theory.teacher_signal import TeacherSignal
from fractionate.training import distill

X = torch.arange(48 * 6).reshape(48, 6).float() / 100
Y = torch.arange(48) % 3
ONE = Training(steps=1, batch_size=16)


class Rows(Dataset):
    """Examples whose labels are what `make` makes of the class number."""

    def __init__(self, make):
        self.make = make

    def __len__(self):
        return 48

    def __getitem__(self, place):
        return X[place], self.make(int(Y[place]))


def hugging_face(make):
    datasets = pytest.importorskip("datasets")
    labels = [make(int(y)) for y in Y]
    plain = [
        y.tolist() if isinstance(y, torch.Tensor) else y.item() if isinstance(y, np.generic) else y for y in labels
    ]
    return datasets.Dataset.from_dict({"x": X.tolist(), "label": plain})


WAYS = {
    "data set": Rows,
    "mappings": lambda make: [{"x": X[n], "target": make(int(Y[n]))} for n in range(48)],
    "pair": lambda make: (X, [make(int(y)) for y in Y]),
    "series": lambda make: (pandas.DataFrame(X.numpy()), pandas.Series([make(int(y)) for y in Y])),
    "datasets": hugging_face,
}


class Plain(nn.Module):
    """Takes its input by position or under the name x."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(6, 3)

    def forward(self, x):
        return self.layer(x)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("make", [int, np.int32, np.uint8, torch.tensor, lambda y: torch.tensor(y, dtype=torch.int16)],
                         ids=["int", "int32", "uint8", "tensor", "int16 tensor"])  # fmt: skip
def test_whole_numbers_of_any_type_are_classes_on_every_way_in(way, make, tmp_path):
    if way == "series" and make not in (int, np.int32, np.uint8):
        pytest.skip("a series of tensors is none")
    data = WAYS[way](make)
    split = as_split(data)
    batch = next(iter(split.batches([(0, torch.arange(48))], 0)))
    assert batch.labels.dtype == torch.int64 and torch.equal(batch.labels, Y)
    trained, run = distill(Plain(), data, training=ONE, test=data, show="nothing")
    same, _ = distill(Plain(), (X, Y), training=ONE, show="nothing")
    assert torch.equal(trained.layer.weight, same.layer.weight) and run.test is not None
    assert torch.equal(collect(Plain(), data, tmp_path / "s").signal().labels, Y)


def test_truth_values_are_two_classes():
    assert as_labels([True, False, True], "data").tolist() == [1, 0, 1]
    assert as_split((X[:4], torch.tensor([True, False, True, True]))).labels.tolist() == [1, 0, 1, 1]


REFUSED = {
    "words": (lambda y: ["cat", "dog", "emu"][y], "are words|is text"),
    "floats": (float, "not class numbers"),
    "missing": (lambda y: None if y == 1 else y, "not class numbers"),
    "hidden": (lambda y: -1, "label below 0"),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("what", REFUSED)
def test_what_is_no_class_is_refused_alike_with_what_to_do(way, what, tmp_path):
    make, message = REFUSED[what]
    with pytest.raises(MismatchError, match=message) as caught:
        distill(Plain(), WAYS[way](make), training=ONE, show="nothing")
    assert caught.value.fix
    for doing in (
        lambda data: distill(Plain(), (X, Y), training=ONE, test=data, show="nothing"),
        lambda data: distill(Plain(), (X, Y), training=ONE, validation=data, show="nothing"),
        lambda data: collect(Plain(), data, tmp_path / "s"),
    ):
        student_untouched = pytest.raises(MismatchError, match=message)
        with student_untouched:
            doing(WAYS[way](make))
    assert not (tmp_path / "s").exists()


def test_hidden_labels_of_a_test_set_are_found_before_the_training():
    student = Plain()
    before = copy.deepcopy(student.state_dict())
    with pytest.raises(MismatchError, match="test data: 48 of 48 examples have a label below 0") as caught:
        distill(student, (X, Y), training=ONE, test=(X, torch.full((48,), -1)), show="nothing")
    assert "hidden test sets" in caught.value.fix
    assert all(torch.equal(before[name], value) for name, value in student.state_dict().items())


@pytest.mark.parametrize(
    ("labels", "advice", "not_advised"),
    [
        (torch.eye(3, dtype=torch.long)[Y], "argmax", "multiple"),
        (torch.eye(3)[Y], "argmax", "multiple"),
        (torch.tensor([[1, 1, 0]] * 48), "multiple labels", "argmax"),
        (torch.tensor([[0, 0, 0]] * 24 + [[1, 0, 1]] * 24), "multiple labels", "argmax"),
        (torch.full((48, 3), 1 / 3), "TeacherSignal", "argmax"),
    ],
)
def test_rows_of_labels_are_told_apart(labels, advice, not_advised, tmp_path):
    for doing in (
        lambda: distill(Plain(), (X, labels), training=ONE, show="nothing"),
        lambda: distill(Plain(), [(x, y) for x, y in zip(X, labels, strict=True)], training=ONE, show="nothing"),
        lambda: collect(Plain(), (X, labels), tmp_path / "s"),
        lambda: as_examples((X, labels)),
        lambda: as_examples(TensorDataset(X, labels)),
    ):
        with pytest.raises(MismatchError) as caught:
            doing()
        assert advice in str(caught.value.fix) and not_advised not in str(caught.value.fix)


def test_labels_of_tokens_are_labels_but_no_examples():
    ids = torch.randint(0, 9, (16, 6))
    split = as_split((ids, ids))
    assert split.labels.shape == (16, 6)
    with pytest.raises(MismatchError) as caught:
        as_examples((ids, ids))
    assert "tokens" in caught.value.fix


def test_rows_of_labels_that_differ_in_length_name_the_collate_function():
    with pytest.raises(MismatchError, match="differ in length") as caught:
        as_split((X[:3], [[0, 1], [1], [0, 1, 2]]))
    assert "collate_fn" in caught.value.fix
    with pytest.raises(MismatchError, match="differ in length") as caught:
        as_split([{"x": X[n], "labels": [0] * (1 + n % 3)} for n in range(9)])
    assert "DataCollator" in caught.value.fix and "'labels'" in str(caught.value)


def test_one_rule_says_whether_labels_are_classes_of_a_model():
    assert check_labels(torch.tensor([0, 2], dtype=torch.uint8), 3, name="data").dtype == torch.int64
    with pytest.raises(MismatchError, match="1 of 3 labels are no class of the student") as caught:
        check_labels(torch.tensor([0, 1, 5]), 3, name="data", shown=lambda row: f"id-{row}", of="student")
    assert "5 at example id-2" in caught.value.got


def test_one_rule_says_whether_a_signal_has_the_labels_of_the_data():
    check_same_labels(Y, Y.clone())
    with pytest.raises(MismatchError, match="different labels at 1 of 3 examples") as caught:
        check_same_labels(torch.tensor([0, 1, 2]), torch.tensor([0, 1, 1]), torch.tensor([7, 8, 9]))
    assert "example 9" in caught.value.expected
    with pytest.raises(MismatchError, match="differ in their rows"):
        check_same_labels(torch.tensor([0, 1]), torch.tensor([0, 1, 1]))


@pytest.mark.parametrize("targets", ["labels", "label", "targets", "target", "y"])
def test_labels_go_by_five_names_in_every_verb(targets, tmp_path):
    rows = [{"x": X[n], targets: int(Y[n])} for n in range(48)]
    teacher, _ = distill(Plain(), rows, training=ONE, show="nothing")
    store = collect(teacher, rows, tmp_path / "s")
    _, run = distill(Plain(), rows, store, training=ONE, test=rows, show="nothing")
    assert run.test is not None


def test_a_transform_of_the_labels_counts_in_every_verb(tmp_path):
    """torchvision's data sets: `targets` are as stored, the items give them after target_transform."""

    class Superclasses(Rows):
        targets = Y.tolist()

    data = Superclasses(lambda y: y // 2)
    store = collect(Plain(), data, tmp_path / "s")
    assert torch.equal(store.signal().labels, Y // 2)
    _, run = distill(Plain(), data, store, training=ONE, show="nothing")
    assert run.status == "completed"
    assert torch.equal(as_examples(data).labels, Y // 2)
    assert diagnose(store).spectrum is not None


def test_a_signal_of_other_labels_is_refused_whatever_the_data_are():
    signal = TeacherSignal(torch.randn(48, 3), (Y + 1) % 3)
    for data in ((X, Y), Rows(int)):
        with pytest.raises(MismatchError, match="different labels"):
            distill(Plain(), data, signal, training=ONE, show="nothing")
