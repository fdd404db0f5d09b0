"""Arrays, frames, items and models as other libraries make them: read as they are meant, or refused by name before a step."""

from __future__ import annotations

import dataclasses
import errno
import os

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, Subset, default_collate

from fractionate import Task, TeacherSignal, collect, diagnose, dissect, distill
from fractionate.data import Examples, as_split, table
from fractionate.data.answers import read_answers
from fractionate.data.tmx import read_tmx
from fractionate.diagnosis import read_signal
from fractionate.errors import ConfigError, DamagedError, FractionateError, MismatchError
from fractionate.models import as_teacher_module, export_student
from fractionate.page import read_record
from fractionate.records import Training
from fractionate.system.atomic import refused

X, Y = torch.randn(64, 8, generator=torch.Generator().manual_seed(0)), torch.arange(64) % 4
ONE = Training(steps=1, batch_size=16)


def small() -> nn.Module:
    torch.manual_seed(0)
    return nn.Linear(8, 4)


def run(student, data, *given, **settings):
    return distill(student, data, *given, training=settings.pop("training", ONE), show="nothing", **settings)


@pytest.mark.parametrize(
    "data",
    [
        (X.numpy().astype(">f4"), Y.numpy().astype(">i4")),
        (X.numpy()[::-1][::-1], Y.numpy()[::-1][::-1]),
        (np.ascontiguousarray(X.numpy()[:, ::-1])[:, ::-1], Y),
        (tuple(map(tuple, X.tolist())), tuple(Y.tolist())),
        (X.tolist(), [place % 4 for place in range(64)]),
        (np.ma.masked_array(X.numpy()), Y),
    ],
    ids=["big-endian", "backwards", "columns backwards", "tuples", "lists", "masked nowhere"],
)
def test_arrays_of_every_make_are_the_same_numbers(data):
    made = as_split(data)
    assert torch.equal(made.inputs, X) and torch.equal(made.labels, Y)


PANDAS = pytest.importorskip("pandas")
SCIPY = pytest.importorskip("scipy.sparse")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ((np.ma.masked_greater(X.numpy(), 2), Y), "values are masked"),
        ((X, np.ma.masked_equal(Y.numpy(), 0)), "16 values are masked"),
        ((X.to_sparse(), Y), "to_dense"),
        ((SCIPY.csr_array(X.numpy()), Y), "toarray"),
        ((torch.nested.nested_tensor([torch.ones(3), torch.ones(2)], layout=torch.jagged), Y[:2]), "to_padded_tensor"),
        ((["two words"] * 64, Y), "a model takes numbers"),
        ((PANDAS.DataFrame(X.numpy()), PANDAS.Series(Y.numpy()).iloc[::-1]), "different orders"),
    ],
    ids=["masked inputs", "masked labels", "sparse", "scipy", "nested", "texts", "index"],
)
def test_arrays_that_are_no_numbers_of_their_examples_are_refused(data, message):
    with pytest.raises(MismatchError, match=message):
        as_split(data)


class Items(Dataset):
    """Items made by a function of their place."""

    def __init__(self, make):
        self.make = make

    def __len__(self):
        return 64

    def __getitem__(self, place):
        return self.make(place)


@dataclasses.dataclass
class Row:
    image: torch.Tensor
    label: int


def broken(place):
    if place == 33:
        raise OSError("broken picture")
    return X[place], int(Y[place])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (lambda: Items(broken), r"example 33 cannot be read(.|\n)*broken picture"),
        (lambda: DataLoader(Items(broken), num_workers=1), "example 33 cannot be read"),
        (lambda: Subset(Items(broken), [*range(20), 99]), "IndexError"),
        (lambda: Items(lambda place: Row(X[place], int(Y[place]))), r"items are not \(input, label\)(.|\n)*Row"),
        (
            lambda: DataLoader(Items(broken), collate_fn=lambda items: default_collate(items[1:])),
            "holds other examples",
        ),
    ],
    ids=["error", "error of a worker", "no such place", "dataclass", "collate that drops"],
)
def test_items_that_cannot_be_read_are_named(data, message):
    with pytest.raises(MismatchError, match=message):
        run(small(), data(), training=Training(epochs=1, batch_size=16))


def test_a_column_of_labels_is_told_how_to_become_a_row():
    with pytest.raises(MismatchError, match="squeeze"):
        run(small(), (X, Y[:, None]))
    with pytest.raises(MismatchError, match="one output alone"):
        run(nn.Linear(8, 1), (X, Y % 2))


def test_an_estimator_fitted_on_names_belongs_to_named_classes():
    """Its columns are in the order of the alphabet, which is not the order of class numbers."""
    linear = pytest.importorskip("sklearn.linear_model")
    names = ("cat", "bird", "dog", "ant")
    teacher = linear.LogisticRegression().fit(X.numpy(), np.array(names)[Y.numpy()])
    with pytest.raises(MismatchError, match="fitted on names of classes"):
        run(small(), (X, Y), teacher)
    found = as_teacher_module(teacher, class_names=names)(X)
    assert torch.equal(found.argmax(1), torch.tensor([names.index(name) for name in teacher.predict(X.numpy())]))


class Scaled(nn.Module):
    """A teacher with a number of its own, and a buffer that is not saved."""

    def __init__(self, temperature, offset):
        super().__init__()
        self.layer, self.temperature = small(), temperature
        self.register_buffer("offset", torch.tensor(offset), persistent=False)

    def forward(self, x):
        return self.layer(x) / self.temperature + self.offset


def test_models_of_the_same_weights_are_told_apart_by_their_settings(tmp_path):
    def student(activation):
        return nn.Sequential(small(), activation, nn.Linear(4, 4))

    store = collect(Scaled(1.0, 0.0), (X, Y), tmp_path / "s")
    assert collect(Scaled(1.0, 0.0), (X, Y), tmp_path / "s").content() == store.content()
    for other in (Scaled(2.0, 0.0), Scaled(1.0, 3.0)):
        with pytest.raises(MismatchError, match="belongs to something else: teacher"):
            collect(other, (X, Y), tmp_path / "s")
    out = tmp_path / "run"
    relu, again, gelu = (student(kind) for kind in (nn.ReLU(), nn.ReLU(), nn.GELU()))
    for other in (again, gelu):
        other.load_state_dict(relu.state_dict())
    run(relu, (X, Y), Scaled(1.0, 0.0), out=out)
    with pytest.raises(MismatchError, match="student differ"):
        run(gelu, (X, Y), Scaled(1.0, 0.0), out=out)
    with pytest.raises(MismatchError, match="teacher differ"):
        run(again, (X, Y), Scaled(2.0, 0.0), out=out)


@pytest.mark.parametrize("ids", [(), tuple(f"row {place}" for place in range(64))], ids=["places", "ids"])
def test_a_store_of_the_same_labels_in_another_order_is_refused(tmp_path, ids):
    data = Examples(X, torch.tensor([0, 1, 2, 3, *[0] * 60]), ids=ids)
    store = collect(small(), data, tmp_path / "s")
    assert run(small(), data, store)[1].steps == 1
    assert run(small(), (X * 2, data.labels), store)[1].steps == 1  # inputs of the student's own
    turned = torch.cat([torch.arange(4), torch.arange(63, 3, -1)])
    with pytest.raises(MismatchError, match="in another order"):
        run(small(), data.take(turned) if ids else (X[turned], data.labels[turned]), store)


def test_settings_of_a_study_and_its_surroundings(tmp_path):
    settings = {"training": ONE, "test": (X, Y), "cells": ("hard", "kd"), "seeds": 2}
    for changed, message in (({"seeds": 2.0}, "seeds"), ({"student": lambda width: small()}, "without arguments")):
        with pytest.raises(ConfigError, match=message):
            dissect(**{"student": small, "data": (X, Y), "teacher": small()} | settings | changed)
    for switched in (torch.no_grad(), torch.inference_mode()):
        with switched, pytest.raises(ConfigError, match="gradients are switched off"):
            run(small(), (X, Y))
    before = torch.get_default_dtype()
    try:
        torch.set_default_dtype(torch.float64)
        assert run(nn.Linear(8, 4), (X.double(), Y))[1].steps == 1
    finally:
        torch.set_default_dtype(before)


@pytest.mark.parametrize(
    ("number", "fix"), [(errno.EMFILE, "ulimit -n"), (errno.EFBIG, "ulimit -f"), (errno.EROFS, "read-only")]
)
def test_the_fix_is_for_what_the_system_says(tmp_path, number, fix):
    error: FractionateError = refused(tmp_path / "x", OSError(number, "why"))
    assert fix in str(error.fix)


@pytest.mark.parametrize("content", [b"\xff\xfe\0\xd8", b"[" * 100_000, b"\x80\x04}"], ids=["utf-16", "deep", "pickle"])
def test_answers_that_are_no_text_are_refused_by_name(tmp_path, content):
    (tmp_path / "answers.jsonl").write_bytes(content)
    with pytest.raises(DamagedError, match=r"answers\.jsonl"):
        list(read_answers(tmp_path / "answers.jsonl"))


def test_outputs_that_are_no_table_name_their_file(tmp_path):
    np.savez(tmp_path / "outputs.npz", logits=np.array(1.0), labels=np.arange(3))
    with pytest.raises(MismatchError, match=r"outputs\.npz"):
        read_signal(tmp_path / "outputs.npz")


def test_files_too_large_for_any_memory_are_refused_before_they_are_read(tmp_path):
    for name, read in (
        ("r.json", read_record),
        ("t.jsonl", lambda path: table(path, label="c")),
        ("a.jsonl", lambda p: list(read_answers(p))),
    ):
        (tmp_path / name).touch()
        os.truncate(tmp_path / name, 1 << 42)
        with pytest.raises(FractionateError, match=name):
            read(tmp_path / name)


def test_an_encoding_that_nobody_knows_and_kinds_that_are_a_list(tmp_path):
    (tmp_path / "pairs.tmx").write_text('<?xml version="1.0" encoding="x-9"?><tmx><body/></tmx>')
    with pytest.raises(DamagedError, match="unknown encoding"):
        read_tmx(tmp_path / "pairs.tmx", {"source": "en", "target": "it"})
    (tmp_path / "t.csv").write_text("a,c\n" + "".join(f"{n * 7 % 13}.5,{'xy'[n % 2]}\n" for n in range(30)))
    with pytest.raises(ConfigError, match="kinds= takes a mapping"):
        table(tmp_path / "t.csv", label="c", kinds=["a"])  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="drop= takes a list"):
        table(tmp_path / "t.csv", label="c", drop=3)  # type: ignore[arg-type]


class Noted(nn.Module):
    """A student whose state holds more than dense tensors."""

    def __init__(self, kind):
        super().__init__()
        self.layer, self.kind = small(), kind
        if kind == "sparse":
            self.register_buffer("mask", torch.eye(4).to_sparse())

    def get_extra_state(self):
        return {"kind": self.kind}

    def set_extra_state(self, state):
        self.kind = state["kind"]

    def forward(self, x):
        return self.layer(x)


@pytest.mark.parametrize(("kind", "name"), [("notes", "_extra_state"), ("sparse", "mask")])
def test_a_state_that_no_file_holds_is_refused_where_it_would_be_saved(tmp_path, kind, name):
    trained, _ = run(Noted(kind), (X, Y))
    with pytest.raises(MismatchError, match=name):
        run(Noted(kind), (X, Y), out=tmp_path / "run")
    with pytest.raises(MismatchError, match=name):
        export_student(trained, tmp_path / "student", program=False)


@pytest.mark.parametrize(
    "settings",
    [{"seed": "1"}, {"seed": 1.5}, {"show": "loud"}, {"parallel": "ddp"}, {"compile_mode": "fast"}, {"log_every": 0},
     {"save_every_steps": -1}, {"terms": "map"}],
    ids=lambda settings: next(iter(settings)),
)  # fmt: skip
def test_settings_of_a_call_that_mean_nothing_are_refused(settings):
    with pytest.raises(ConfigError, match=f"invalid value for {next(iter(settings))}"):
        distill(small(), (X, Y), small(), training=ONE, **{"show": "nothing"} | settings)


def test_percentages_are_no_logits():
    percent = 100 * torch.softmax(torch.randn(64, 4), 1)
    with pytest.raises(MismatchError, match="percentages"):
        run(small(), (X, Y), TeacherSignal(percent, Y))


def test_a_diagnosis_takes_splits_of_other_lengths():
    task = Task("classification", transfer=(X, Y), test=(X[:, :5], Y), student=small)
    assert diagnose(small(), data=task).findings
