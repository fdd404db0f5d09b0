"""What a caller gives is honoured, or refused before a step with what to do: labels, rows, models, settings, modes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import Dataset, IterableDataset, TensorDataset

from fractionate import Objective, Recipe, TeacherSignal, collect, dissect, distill, spectrum
from fractionate.data import Examples, divide, table
from fractionate.data.items import join
from fractionate.errors import ConfigError, FractionateError, MismatchError
from fractionate.models import export_student
from fractionate.records import Training

X, Y = torch.randn(64, 8, generator=torch.Generator().manual_seed(0)), torch.arange(64) % 4
ONE = Training(steps=1, batch_size=16)
TWO = Training(steps=2, batch_size=16)
IDS = Y + 1234567890123456001


def small() -> nn.Module:
    return nn.Linear(8, 4)


def run(student, data, *given, **settings):
    return distill(student, data, *given, training=settings.pop("training", ONE), show="nothing", **settings)


class Lists(Dataset):
    """Rows as `datasets` gives them without a format: lists of numbers."""

    def __len__(self):
        return 64

    def __getitem__(self, place):
        return X[place].tolist(), int(Y[place])


def test_lists_of_numbers_are_rows(tmp_path):
    trained, _ = run(small(), Lists(), test=Lists())
    assert collect(trained, Lists(), tmp_path / "s").complete
    batch = join([{"input_ids": [5, 6, 7], "labels": [0, 1, 1]}] * 2, torch.utils.data.default_collate, "data")
    assert batch["input_ids"].tolist() == [[5, 6, 7]] * 2 and batch["labels"].shape == (2, 3)


def test_labels_of_uint64_are_class_numbers():
    _, found = run(small(), [(x, np.uint64(y)) for x, y in zip(X, Y.tolist(), strict=True)])
    assert found.steps == 1


@pytest.mark.parametrize(
    "data",
    [
        lambda: (X, IDS),
        lambda: TensorDataset(X, IDS),
        lambda: [(x, int(y)) for x, y in zip(X, IDS, strict=True)],
        lambda: {"x": X, "label": IDS},
        lambda: Examples(X, IDS),
    ],
    ids=["pair", "tensors", "rows", "columns", "examples"],
)
def test_ids_are_no_class_numbers(data, tmp_path):
    """A name for each number below the largest label would be made without end."""
    with pytest.raises(MismatchError, match="labels are ids") as caught:
        collect(small(), data(), tmp_path / "s")
    assert "sorted(set(labels))" in str(caught.value.fix)
    assert len(divide(64, labels=IDS, transfer=0.5, validation=0.2, test=0.2)["transfer"]) == 32


def test_ids_of_datasets_are_no_class_numbers():
    datasets = pytest.importorskip("datasets")
    with pytest.raises(MismatchError, match="labels are ids"):
        run(small(), datasets.Dataset.from_dict({"x": X.tolist(), "label": IDS.tolist()}))


def test_float64_inputs_are_read_by_float32_students_of_a_study():
    study = dissect(
        small,
        (X.double(), Y),
        small(),
        test=(X.double(), Y),
        validation=(X, Y),
        training=TWO,
        cells=("hard", "kd"),
        seeds=2,
    )
    assert all(one.status == "completed" for one in study.runs)


def test_a_study_keeps_modules_in_evaluation_mode():
    """A stack trains all of its template: such students are trained one by one."""
    made = []

    def frozen() -> nn.Module:
        model = nn.Sequential(nn.BatchNorm1d(8), nn.Linear(8, 4))
        model[0].eval()
        made.append(model)
        return model

    dissect(frozen, (X + 5, Y), small(), test=(X, Y), training=TWO, cells=("hard", "kd"), seeds=2)
    assert all(float(model[0].running_mean.abs().max()) == 0 for model in made)


@pytest.mark.parametrize(
    ("student", "message"),
    [
        (lambda: nn.LazyLinear(4), "has no weights yet"),
        (lambda: nn.Linear(8, 4, device="meta"), "on the device meta"),
        (lambda: nn.Linear, "student is not a model"),
        (lambda: small, "student is not a model"),
        (lambda: "mlp(4)", "student is not a model"),
        (lambda: nn.Sequential(small(), nn.Softmax(1)), "student gives probabilities"),
    ],
)
def test_what_is_no_student_is_refused(student, message):
    with pytest.raises(FractionateError, match=message):
        run(student(), (X, Y), small())


def test_students_of_a_study_end_before_the_softmax_and_are_made_anew():
    settings = {"test": (X, Y), "training": TWO, "cells": ("hard", "kd"), "seeds": 2}
    with pytest.raises(MismatchError, match="student gives probabilities"):
        dissect(lambda: nn.Sequential(small(), nn.Softmax(1)), (X, Y), small(), **settings)
    with pytest.raises(ConfigError, match="a model, not a function"):
        dissect(small(), (X, Y), small(), **settings)
    with pytest.raises(ConfigError, match="file:"):
        dissect(small, (X, Y), small(), out="file:///tmp/x", **settings)


def test_a_teacher_without_weights_is_refused(tmp_path):
    for doing in (
        lambda teacher: run(small(), (X, Y), teacher),
        lambda teacher: collect(teacher, (X, Y), tmp_path / "s"),
    ):
        with pytest.raises(MismatchError, match="teacher Linear has no weights"):
            doing(nn.Linear(8, 4, device="meta"))
    with pytest.raises(MismatchError, match="has no weights yet"):
        export_student(nn.LazyLinear(4), tmp_path / "student", program=False)


def test_a_traced_teacher_is_a_teacher(tmp_path):
    with pytest.warns(DeprecationWarning, match=r"jit\.trace"):
        traced = torch.jit.trace(small(), X)  # type: ignore[no-untyped-call]
    assert collect(traced, (X, Y), tmp_path / "s").complete


@pytest.mark.parametrize(
    "settings",
    [
        {"steps": 0}, {"steps": 1.5}, {"epochs": -1}, {"batch_size": 0}, {"learning_rate": "1e-3"}, {"learning_rate": float("nan")},
        {"optimizer": "adam"}, {"precision": "fp16"}, {"schedule": "cosin"}, {"keep": "first"}, {"clip_norm": 0},
        {"warmup_share": 2}, {"steps": 1, "epochs": 1}, {"batch_size": True},
    ],
)  # fmt: skip
def test_a_training_has_possible_settings(settings):
    with pytest.raises(ConfigError) as caught:
        Recipe(training=Training(**settings))
    assert next(iter(settings)) in str(caught.value)


def test_settings_are_of_their_own_kind():
    for settings in ({"objective": "kd"}, {"training": {"steps": 1}}, {"recipe": "kd", "training": None}):
        with pytest.raises(ConfigError, match=f"{next(iter(settings))}= is no"):
            run(small(), (X, Y), small(), **settings)
    with pytest.raises(ConfigError, match="training= is no Training"):
        Recipe(training={"steps": 1})  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="no teacher's signal"):
        spectrum(torch.randn(4, 3))  # type: ignore[arg-type]


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = small()

    def forward(self, x):
        return (self.layer(x),)


def test_a_head_that_is_not_there_is_named():
    for head in (7, "nope"):
        with pytest.raises(MismatchError, match="cannot find the logits"):
            run(Two(), (X, Y), head=head)


class Words(nn.Module):
    """Two embeddings, as tokens and their types have."""

    def __init__(self):
        super().__init__()
        self.words, self.types, self.out = nn.Embedding(60, 8), nn.Embedding(2, 8), nn.Linear(8, 4)

    def forward(self, input_ids, token_type_ids):
        return self.out((self.words(input_ids) + self.types(token_type_ids)).mean(1))


def test_numbers_that_a_smaller_embedding_does_not_have_are_named():
    rows = {"input_ids": torch.full((64, 3), 5), "token_type_ids": torch.full((64, 3), 7), "labels": Y}
    with pytest.raises(MismatchError, match="embedding of Words is smaller") as caught:
        run(Words(), rows)
    assert "token_type_ids: up to 7" in str(caught.value)
    with pytest.raises(MismatchError, match="begins with an embedding"):
        run(nn.Sequential(nn.Embedding(5, 4), nn.Flatten(), nn.Linear(12, 4)), (torch.rand(64, 3), Y))


def test_several_labels_of_a_signal_are_not_taken_for_one_hot_rows():
    with pytest.raises(MismatchError) as caught:
        TeacherSignal(torch.randn(64, 4), torch.tensor([[1, 0, 1, 0]] * 64))
    assert "argmax" not in str(caught.value)
    with pytest.raises(MismatchError, match="argmax"):
        TeacherSignal(torch.randn(64, 4), torch.eye(4, dtype=torch.long)[Y])


def test_label_smoothing_by_name_is_label_smoothing():
    logits = torch.randn(64, 4)
    found = Objective("ls(0.1)")(logits, TeacherSignal(torch.randn(64, 4), Y)).mean()
    assert torch.allclose(found, nn.functional.cross_entropy(logits, Y, label_smoothing=0.1))


def test_excel_s_line_that_names_the_separator_is_no_header(tmp_path):
    file = tmp_path / "t.csv"
    file.write_text("sep=;\nrate;y\n" + "".join(f"{i * 7 % 13}.5;{'ab'[i % 2]}\n" for i in range(40)))
    read = table(file, label="y")
    assert list(read.parts().encoding.features) == ["rate"]
    file.write_text("sep=;\nrate;y\n1.5;a\n2.5;b;c\n")
    with pytest.raises(FractionateError, match=r"t\.csv:4"):
        table(file, label="y")


class Copies(IterableDataset):
    """Token ids that are their own labels."""

    def __iter__(self):
        ids = torch.randint(2, 40, (10,), generator=torch.Generator().manual_seed(0))
        return iter([{"input_ids": ids, "labels": ids}] * 16)


def test_labels_that_are_the_inputs_are_noticed_by_every_verb(tmp_path):
    rows = list(Copies())
    model = nn.Sequential(nn.Embedding(40, 8), nn.Linear(8, 40))
    pairs = [(row["input_ids"], row["labels"]) for row in rows]
    with pytest.raises(MismatchError, match="copy each token") as caught:
        collect(model, pairs, tmp_path / "s", tokens="aligned")
    assert "tokens='next'" in str(caught.value.fix)
    assert collect(model, pairs, tmp_path / "s", tokens="next").complete


class Trained(nn.Module):
    """A model of transformers' form, with normalisation that is frozen."""

    def __init__(self):
        super().__init__()
        self.norm, self.layer = nn.BatchNorm1d(8), small()

    def forward(self, x, labels=None):
        return {"logits": self.layer(self.norm(x))}


def test_the_trainer_takes_its_arguments_by_place_and_keeps_modes(tmp_path):
    transformers, datasets = pytest.importorskip("transformers"), pytest.importorskip("datasets")
    from fractionate.integrations import Distilling

    class Distiller(Distilling, transformers.Trainer):
        pass

    def arguments():
        return transformers.TrainingArguments(
            output_dir=str(tmp_path), max_steps=1, use_cpu=True, report_to=[], save_strategy="no", disable_tqdm=True
        )

    rows = datasets.Dataset.from_dict({"x": (X + 5).tolist(), "labels": Y.tolist()})
    student = Trained()
    student.norm.eval()
    Distiller(student, arguments(), None, rows, signal=TeacherSignal(torch.randn(64, 4), Y)).train()
    assert float(student.norm.running_mean.abs().max()) == 0
    with pytest.raises(ConfigError, match="objective= is no Objective"):
        Distiller(Trained(), arguments(), teacher=Trained(), objective="kd")
    with pytest.raises(ConfigError, match="needs the settings of the Trainer"):
        Distiller(Trained(), train_dataset=rows, signal=TeacherSignal(torch.randn(64, 4), Y))
    words = datasets.Dataset.from_dict({"x": X.tolist(), "label": ["a", "b"] * 32})
    with pytest.raises(MismatchError, match="'label' is text"):
        Distiller(Trained(), arguments(), train_dataset=words, teacher=Trained())


def test_columns_that_a_model_would_swallow_are_named():
    transformers = pytest.importorskip("transformers")
    settings = transformers.BertConfig(
        vocab_size=60, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, num_labels=2
    )
    rows = {"input_ids": torch.randint(5, 60, (16, 6)), "colour": torch.ones(16), "label": torch.arange(16) % 2}
    with pytest.warns(UserWarning, match="does not read the columns 'colour'"):
        run(transformers.BertForSequenceClassification(settings), rows)


def test_a_record_belongs_to_the_run_it_was_made_for(tmp_path):
    _, found = run(small(), (X, Y), test=(X, Y))
    path = found.save(tmp_path / "run.json", made_for="this run")
    assert type(found).load(path) == type(found).load_kept(path, made_for="this run") == found
    with pytest.raises(MismatchError, match=r"run\.json is the record of another run"):
        type(found).load_kept(path, made_for="that run")
    path.write_text(path.read_text().replace("this run", "that run"))
    with pytest.raises(FractionateError, match="the values are not those that were saved"):
        type(found).load_kept(path, made_for="that run")
