"""Hugging Face's `datasets`: in Python in every format, and from the folders it saved. Real digits, irises and words."""

from __future__ import annotations

import json
import os
import shutil

import pytest
import sklearn.datasets
import torch
from PIL import Image
from torch import nn

from fractionate import collect, diagnose
from fractionate.data.own_saved import saved
from fractionate.data.own_table import Table
from fractionate.data.own_texts import texts
from fractionate.data.rows import as_rows
from fractionate.data.splits import as_examples
from fractionate.errors import ConfigError, DamagedError, MismatchError
from fractionate.models.names import find_parts
from fractionate.records import Training
from fractionate.training import distill

datasets = pytest.importorskip("datasets")
FAST = Training(steps=6, batch_size=16)
NAMES = [f"digit {number}" for number in range(10)]


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    datasets.disable_progress_bars()


@pytest.fixture(scope="module")
def digits():
    loaded = sklearn.datasets.load_digits()
    features = datasets.Features(
        {"pixels": datasets.List(datasets.Value("float32"), length=64), "label": datasets.ClassLabel(names=NAMES)}
    )
    pixels = (loaded.images[:200].reshape(-1, 64) / 16).astype("float32")
    return datasets.Dataset.from_dict(
        {"pixels": pixels.tolist(), "label": loaded.target[:200].tolist()}, features=features
    )


@pytest.mark.parametrize("form", [None, "torch", "numpy", "pandas"])
def test_a_data_set_works_in_every_verb_whatever_its_format(digits, form, tmp_path):
    data = digits.with_format(form)
    torch.manual_seed(0)
    teacher, run = distill(nn.Linear(64, 10), data, training=FAST)
    store = collect(teacher, data, tmp_path / "store")
    assert store.head.class_names == tuple(NAMES)
    found = diagnose(store, nn.Linear(64, 10), data=data)
    assert found.class_names == tuple(NAMES)
    torch.manual_seed(1)
    student, _ = distill(nn.Linear(64, 10), data, store, training=FAST)
    torch.manual_seed(1)
    examples = as_examples(digits)
    same, _ = distill(nn.Linear(64, 10), examples, store, training=FAST)
    assert torch.equal(student.weight, same.weight)
    assert examples.class_names == tuple(NAMES)
    assert run.status == "completed"


def test_a_stream_of_it_works_too(digits):
    data = digits.to_iterable_dataset()
    _, run = distill(nn.Linear(64, 10), data, training=FAST)
    assert run.status == "completed"


def test_a_transform_of_ones_own_is_left_alone(digits):
    data = digits.with_transform(
        lambda rows: {"labels": rows["label"], "input": [torch.tensor(p) for p in rows["pixels"]]}
    )
    assert as_rows(data) is data
    assert as_rows([1, 2]) == [1, 2]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"text": ["a", "b"], "idx": [1, 2], "label": [0, 1]}, r"'text' is text(.|\n)*remove_columns\(\['text'\]\)"),
        (
            {"image": "pictures", "text": ["a", "b"], "label": [0, 1]},
            r"'image' is a picture, 'text' is text(.|\n)*with_transform",
        ),
        ({"x": [[1.0], [2.0]], "label": ["a", "b"]}, r"'label' is text(.|\n)*class_encode_column\('label'\)"),
        ({"x": [[1.0], [2.0]], "kind": [0, 1]}, r"no column is the label(.|\n)*rename_column"),
        ({"label": [0, 1]}, "no column other than the label"),
    ],
)
def test_columns_that_no_model_takes_are_told(columns, message):
    if columns.get("image"):
        columns = columns | {"image": [Image.new("RGB", (4, 4))] * 2}
    data = datasets.Dataset.from_dict(columns)
    with pytest.raises(MismatchError, match=message):
        distill(nn.Linear(1, 2), data, training=FAST)
    with pytest.raises(MismatchError, match=message):
        as_examples(data)


def test_several_splits_are_told(digits):
    with pytest.raises(ConfigError, match=r"more than one data set(.|\n)*data\['train'\]"):
        distill(nn.Linear(64, 10), datasets.DatasetDict(train=digits, test=digits), training=FAST)


def test_tokenized_columns_become_a_mapping():
    data = as_rows(
        datasets.Dataset.from_dict(
            {"input_ids": [[1, 2], [3, 4]], "attention_mask": [[1, 1], [1, 0]], "labels": [1, 0]}
        )
    )
    assert {name: part.tolist() for name, part in data[1].items()} == {
        "input_ids": [3, 4],
        "attention_mask": [1, 0],
        "labels": 0,
    }
    assert data.targets.tolist() == [1, 0] and data.class_names == ("0", "1")


def test_saved_arrays_pictures_tables_and_texts(digits, tmp_path):
    digits.save_to_disk(tmp_path / "arrays")
    parts = find_parts(f"saved({str(tmp_path / 'arrays')!r})", transfer=50, validation=50, test=50, seed=0)
    assert parts.transfer.inputs.shape == (50, 64) and parts.transfer.inputs.dtype == torch.float32
    assert parts.transfer.class_names == tuple(NAMES)

    loaded = sklearn.datasets.load_digits()
    drawn = [Image.fromarray((image * 15).astype("uint8")) for image in loaded.images[:100]]
    shown = datasets.Dataset.from_dict({"img": drawn, "label": loaded.target[:100].tolist()})
    shown.train_test_split(0.3, seed=0).save_to_disk(tmp_path / "pictures")
    parts = saved(tmp_path / "pictures", side=8).parts()
    assert (len(parts.transfer), len(parts.validation), len(parts.test)) == (56, 14, 30)
    assert parts.transfer.inputs.shape[1:] == (3, 8, 8)
    assert parts.encoding.side == 8

    rows = {"text": ["a good one", "a bad one"] * 20, "stars": ["many", "few"] * 20}
    datasets.Dataset.from_dict(rows).save_to_disk(tmp_path / "texts")
    with pytest.raises(ConfigError, match=r"'text' is text(.|\n)*texts\('.*', text='text', label='stars'\)"):
        saved(tmp_path / "texts", label="stars")
    made = texts(tmp_path / "texts", label="stars", buckets=50, places=8, repeats=True)
    assert made.examples.class_names == ("few", "many")
    assert torch.equal(made.examples.inputs[:2], made.encoding.encode(rows["text"][:2]))

    frame = sklearn.datasets.load_iris(as_frame=True).frame
    table = datasets.Dataset.from_pandas(frame).cast_column(
        "target", datasets.ClassLabel(names=["setosa", "versicolor", "virginica"])
    )
    table.save_to_disk(tmp_path / "iris")
    found = saved(tmp_path / "iris")
    assert isinstance(found, Table)
    parts = found.parts(seed=2)
    assert parts.transfer.class_names == ("setosa", "versicolor", "virginica")
    torch.testing.assert_close(parts.transfer.inputs.mean(0), torch.zeros(4), atol=1e-6, rtol=0)


def test_saved_says_what_it_cannot_read(digits, tmp_path):
    with pytest.raises(ConfigError, match=r"nothing is ever downloaded(.|\n)*save_to_disk"):
        saved("imdb")
    with pytest.raises(ConfigError, match="it is a URL"):
        saved("s3://bucket/data")
    two = datasets.Dataset.from_dict(
        {"v": [[1], [2]] * 4, "b": ["x", "y"] * 4, "a": ["x", "y"] * 4, "label": [0, 1] * 4}
    )
    two.save_to_disk(tmp_path / "two")
    with pytest.raises(ConfigError, match=r"not clear which column(.|\n)*column='v'"):
        saved(tmp_path / "two")
    assert saved(tmp_path / "two", column="v").examples.class_names == ("0", "1")
    with pytest.raises(ConfigError, match="no column 'c'"):
        saved(tmp_path / "two", column="c")
    datasets.DatasetDict(mine=digits).save_to_disk(tmp_path / "mine")
    with pytest.raises(ConfigError, match="splits of this data set are not known"):
        saved(tmp_path / "mine")


def test_a_path_or_address_inside_a_saved_picture_is_never_opened(tmp_path):
    """A picture column may name a file or a web address in the place of bytes; opening it would read or fetch what it says."""
    Image.new("RGB", (4, 4)).save(tmp_path / "secret.png")
    for path in (str(tmp_path / "secret.png"), "https://example.org/a.png", "/dev/zero"):
        plain = datasets.Features(
            {
                "img": {"bytes": datasets.Value("binary"), "path": datasets.Value("string")},
                "label": datasets.Value("int64"),
            }
        )
        rows = datasets.Dataset.from_dict(
            {"img": [{"bytes": None, "path": path}] * 4, "label": [0, 1] * 2}, features=plain
        )
        features = datasets.Features({"img": datasets.Image(), "label": datasets.Value("int64")})
        folder = tmp_path / "saved"
        shutil.rmtree(folder, ignore_errors=True)
        rows.save_to_disk(folder)
        info = json.loads((folder / "dataset_info.json").read_text())
        info["features"] = features.to_dict()
        (folder / "dataset_info.json").write_text(json.dumps(info))
        with pytest.raises(MismatchError, match="row 0 has no picture in it"):
            saved(folder)


def rewritten(path, change):
    body = json.loads(path.read_text())
    change(body)
    path.write_text(json.dumps(body))


OUTSIDE = {
    "a path above": lambda folder, away: rewritten(
        folder / "train" / "state.json",
        lambda s: s["_data_files"][0].update(filename="../../away/data-00000-of-00001.arrow"),
    ),
    "an absolute path": lambda folder, away: rewritten(
        folder / "train" / "state.json",
        lambda s: s["_data_files"][0].update(filename=str(away / "data-00000-of-00001.arrow")),
    ),
    "a split above": lambda folder, away: rewritten(
        folder / "dataset_dict.json", lambda d: d.update(splits=["../away", "test"])
    ),
    "a number": lambda folder, away: rewritten(
        folder / "train" / "state.json", lambda s: s["_data_files"][0].update(filename=3)
    ),
    "a link": lambda folder, away: linked(folder / "train" / "data-00000-of-00001.arrow", away),
    "a linked split": lambda folder, away: linked(folder / "train", away),
    "a linked state": lambda folder, away: linked(folder / "train" / "state.json", away),
}


def linked(path, away):
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    path.symlink_to(away if path.name == "train" else away / path.name)


@pytest.mark.parametrize("how", OUTSIDE)
def test_a_saved_folder_opens_no_file_outside_of_it(digits, tmp_path, how):
    digits.save_to_disk(tmp_path / "away")
    digits.train_test_split(0.3, seed=0).save_to_disk(tmp_path / "d")
    assert len(saved(tmp_path / "d").parts().test) == 60
    OUTSIDE[how](tmp_path / "d", tmp_path / "away")
    with pytest.raises(DamagedError, match=r"names a file outside of it(.|\n)*save the data set again"):
        saved(tmp_path / "d")


@pytest.mark.parametrize("name", ["state.json", "dataset_info.json", "data-00000-of-00001.arrow"])
def test_a_saved_folder_with_a_pipe_in_it_is_refused_at_once(digits, tmp_path, name):
    digits.save_to_disk(tmp_path / "d")
    (tmp_path / "d" / name).unlink()
    os.mkfifo(tmp_path / "d" / name)
    with pytest.raises(ConfigError, match=r"no regular file|no folder that"):
        saved(tmp_path / "d")


def test_saved_labels_are_text_letter_by_letter(tmp_path):
    names = ["--5", "\u00b2", "007", "7", "1234567890123456001", "1234567890123456002"]
    datasets.Dataset.from_dict({"x": [[0.5]] * 6, "label": names}).save_to_disk(tmp_path / "d")
    assert set(saved(tmp_path / "d").examples.class_names) == set(names)


def test_what_is_missing_is_a_setting_of_tables(tmp_path):
    rows = {"size": [1.0, 2.0, 3.0] * 20, "country": ["NA", "ZA", "BW"] * 20}
    datasets.Dataset.from_dict(rows).save_to_disk(tmp_path / "t")
    with pytest.raises(ConfigError, match=r"20 rows have no label(.|\n)*missing="):
        saved(tmp_path / "t", label="country")
    assert saved(tmp_path / "t", label="country", missing=[]).labels.names == ("BW", "NA", "ZA")
    datasets.Dataset.from_dict({"x": [[1.0], [2.0]], "label": ["NA", "ZA"]}).save_to_disk(tmp_path / "arrays")
    assert saved(tmp_path / "arrays").examples.class_names == ("NA", "ZA")
    with pytest.raises(ConfigError, match="missing is a setting of tables"):
        saved(tmp_path / "arrays", missing=[])


@pytest.mark.parametrize("name", ["state.json", "dataset_info.json"])
@pytest.mark.parametrize("content", ["", "{", "[]", "[" * 5000, '{"_data_files": [{"filename": "../../../etc/passwd"}]}',
                                     '{"features": {"a": {"_type": "os.system"}}}'])  # fmt: skip
def test_saved_folders_that_lie_are_typed_errors(digits, tmp_path, name, content):
    digits.save_to_disk(tmp_path / "d")
    if "_data_files" in content:
        name = "state.json"
    (tmp_path / "d" / name).write_text(content)
    with pytest.raises((DamagedError, ConfigError, MismatchError)):
        saved(tmp_path / "d")
