"""Tables with multiple labels or with numbers to predict; parts by file, by column and by group."""

from __future__ import annotations

import numpy as np
import pytest
import sklearn.datasets
import torch

from fractionate.data import TableEncoding, data_sets, encoded_table, table
from fractionate.errors import ConfigError, DamagedError, NumericsError


@pytest.fixture
def diabetes(tmp_path):
    """442 real patients with a measure of their disease a year later."""
    frame = sklearn.datasets.load_diabetes(as_frame=True, scaled=False).frame
    frame["ward"] = [f"ward {place % 30}" for place in range(len(frame))]
    frame["split"] = ["train" if place % 5 < 3 else "val" if place % 5 == 3 else "test" for place in range(len(frame))]
    frame["high"], frame["old"] = (
        (frame["target"] > 150).astype(int),
        ["yes" if age > 50 else "no" for age in frame["age"]],
    )
    frame.to_csv(tmp_path / "all.csv", index=False)
    for part in ("train", "val", "test"):
        frame[frame["split"] == part].to_csv(tmp_path / f"{part}.csv", index=False)
    return frame, tmp_path


DROP = ["ward", "split", "high", "old"]


def test_numbers_to_predict_are_standardised_by_the_transfer_part(diabetes):
    frame, folder = diabetes
    parts = table(folder / "all.csv", target="target", drop=DROP).parts(transfer=200, validation=100, test=100, seed=1)
    assert parts.transfer.labels.dtype == torch.float32 and parts.transfer.class_names == ()
    assert abs(float(parts.transfer.labels.mean())) < 1e-5 and float(
        parts.transfer.labels.std(correction=0)
    ) == pytest.approx(1)
    encoding = TableEncoding.from_json(parts.encoding.to_json())
    back = encoding.target.in_units(parts.test.labels)
    assert torch.allclose(back, torch.tensor([frame["target"][int(line) - 2] for line in parts.test.ids]).float())
    again = encoded_table(folder / "test.csv", encoding)
    assert torch.allclose(
        encoding.target.in_units(again.labels), torch.tensor(frame[frame["split"] == "test"]["target"].values).float()
    )
    two = table(folder / "all.csv", target=["target", "bmi"], drop=DROP).parts()
    assert two.test.labels.shape == (88, 2) and two.test.inputs.shape[1] == 9
    assert "'target'" not in repr(two) and "numbers target" in repr(
        table(folder / "all.csv", target="target", drop=DROP)
    )


def test_several_labels_a_row(diabetes):
    frame, folder = diabetes
    read = table(folder / "all.csv", label=["high", "old"], drop=["ward", "split", "target", "age"])
    parts = read.parts(seed=2)
    assert parts.test.class_names == ("high", "old") and parts.test.labels.dtype == torch.int64
    rows = frame.iloc[[int(line) - 2 for line in parts.test.ids]]
    assert torch.equal(parts.test.labels, torch.tensor(np.stack([rows["high"], rows["old"] == "yes"], 1)).long())
    assert abs(float(parts.transfer.labels.float().mean() - parts.test.labels.float().mean())) < 0.03
    again = encoded_table(folder / "test.csv", parts.encoding)
    assert again.labels.shape == (88, 2)
    (folder / "gaps.csv").write_text(
        "x,a,b\n" + "".join(f"{i},{i % 2},{'' if i % 3 else 'no'}\n" for i in range(1, 20))
    )
    gaps = table(folder / "gaps.csv", label=["a", "b"], kinds={"x": "number"}).labels.values
    assert gaps[:3].tolist() == [[1, -100], [0, -100], [1, 0]]


@pytest.mark.parametrize(
    ("settings", "match"),
    [({}, "a label or a target"), ({"label": "high", "target": "bmi"}, "a label or a target"),
     ({"label": []}, "empty list"), ({"label": ["high", "bmi"]}, "label of 0 and 1: .*all.csv:2"),
     ({"target": "old"}, "no target: .*all.csv:2"), ({"target": "target", "drop": ["target"]}, "two things"),
     ({"label": "high", "part": "ward"}, "these parts are unknown"), ({"label": "high", "part": "nowhere"}, "no column 'nowhere'"),
     ({"label": "high", "validation": "val.csv", "part": "split"}, "cannot be combined")],
)  # fmt: skip
def test_what_does_not_fit_is_refused(diabetes, monkeypatch, settings, match):
    monkeypatch.chdir(diabetes[1])
    with pytest.raises(ConfigError, match=match):
        table("all.csv", **{"drop": [c for c in DROP if c not in str(settings)], **settings}).parts()


def test_a_target_that_is_always_the_same_in_the_transfer_part_is_refused(tmp_path):
    rows = [f"{i % 7},{0 if i < 30 else 1},{'train' if i < 30 else 'test'}" for i in range(50)]
    (tmp_path / "t.csv").write_text("x,y,split\n" + "\n".join(rows))
    with pytest.raises(NumericsError, match="cannot be standardised"):
        table(tmp_path / "t.csv", target="y", part="split").parts(validation=0.2)


def test_parts_by_a_column_and_by_files_are_the_same(diabetes):
    _, folder = diabetes
    others = ["ward", "target", "old"]
    named = data_sets[f"table({str(folder / 'all.csv')!r}, label='high', drop={others}, part='split')"].parts()
    files = table(
        folder / "train.csv", "high", validation=folder / "val.csv", test=folder / "test.csv", drop=[*others, "split"]
    ).parts()
    for part in ("transfer", "validation", "test"):
        assert torch.equal(getattr(named, part).inputs, getattr(files, part).inputs)
        assert torch.equal(getattr(named, part).labels, getattr(files, part).labels)
    assert named.teaching is None and files.test.ids[0] == "test:2"
    (folder / "other.csv").write_text("x,high\n1,0\n2,1\n")
    with pytest.raises(ConfigError, match=r"the file of test has other columns than the first"):
        table(folder / "train.csv", "high", test=folder / "other.csv", drop=[*others, "split"])


def test_a_fault_in_another_file_has_its_name_and_line(diabetes):
    _, folder = diabetes
    lines = (folder / "test.csv").read_text().splitlines()
    lines[3] = lines[3].replace(lines[3].split(",")[10], "many")
    (folder / "odd.csv").write_text("\n".join(lines))
    with pytest.raises(ConfigError, match=r"odd.csv:4"):
        table(folder / "train.csv", target="target", test=folder / "odd.csv", drop=DROP)


def test_groups_are_in_one_part(diabetes):
    frame, folder = diabetes
    parts = table(folder / "all.csv", "high", drop=["split", "target", "old"], group="ward").parts(
        transfer=0.5, validation=0.2, test=0.2
    )
    wards = [
        {frame["ward"][int(line) - 2] for line in part.ids} for part in (parts.transfer, parts.validation, parts.test)
    ]
    assert sum(map(len, wards)) + len({frame["ward"][int(line) - 2] for line in parts.teaching.ids}) == 30


def test_rows_that_are_in_an_earlier_part_are_left_out_where_that_is_wanted(tmp_path):
    rows = [f"{i % 60},{'ab'[i % 2]}" for i in range(100)]
    (tmp_path / "t.csv").write_text("x,y\n" + "\n".join(rows))
    assert len(table(tmp_path / "t.csv", "y").parts(test=0.3).test) == 30
    with pytest.warns(UserWarning, match=r"t.csv: \d+ of validation and \d+ of test are left out"):
        parts = table(tmp_path / "t.csv", "y", repeats=False).parts(test=0.3)
    assert not {*parts.test.inputs.flatten().tolist()} & {*parts.transfer.inputs.flatten().tolist()}


def test_class_weights_weigh_what_is_learned_from(tmp_path):
    (tmp_path / "t.csv").write_text(
        "x,y\n" + "\n".join(f"{i % 13},{'rare' if i % 5 == 0 else 'often'}" for i in range(100))
    )
    parts = table(tmp_path / "t.csv", "y", class_weights=True).parts()
    weight, labels = parts.transfer.weight, parts.transfer.labels
    totals = [float(weight[labels == label].sum()) for label in (0, 1)]
    assert totals == pytest.approx([10, 10]) and parts.teaching.weight is not None
    assert getattr(parts.test, "weight", None) is None
    with pytest.raises(ConfigError, match="class_weights needs classes"):
        table(tmp_path / "t.csv", target="x", class_weights=True).parts()


def test_json_lines_are_the_same_table(diabetes):
    frame, folder = diabetes
    frame.to_json(folder / "all.jsonl", orient="records", lines=True)
    settings = {"drop": ["target", "old", "split"], "group": "ward"}
    one, other = (table(folder / name, "high", **settings).parts(seed=1) for name in ("all.csv", "all.jsonl"))
    assert (
        torch.equal(one.transfer.inputs, other.transfer.inputs)
        and one.transfer.class_names == other.transfer.class_names
    )
    assert [int(line) - 1 for line in one.test.ids] == [int(line) for line in other.test.ids]
    again = encoded_table(folder / "all.jsonl", one.encoding)
    assert torch.equal(again.inputs[int(other.test.ids[0]) - 1], other.test.inputs[0])
    rows = ['{"x": 1.5, "on": true, "y": "a"}', '{"x": null, "on": false, "y": "b"}', '{"on": true, "y": "a"}'] * 4
    (folder / "t.jsonl").write_text("\n".join(rows))
    read = table(folder / "t.jsonl", "y", kinds={"x": "number"})
    assert read.columns[1].categories == ("false", "true") and np.isnan(read.columns[0].values).sum() == 8
    for text, match in (("", "is empty"), ("[1]", "no JSON object"), ("{", "t.jsonl:1 this is not JSON"),
                        (4 * '{"x": [1], "y": "a"}\n{"x": [2], "y": "b"}\n', "'x' holds lists or objects")):  # fmt: skip
        (folder / "t.jsonl").write_text(text)
        with pytest.raises((ConfigError, DamagedError), match=match):
            table(folder / "t.jsonl", "y")
    with pytest.raises(ConfigError, match="setting of delimited files"):
        table(folder / "all.jsonl", "high", separator=";")
