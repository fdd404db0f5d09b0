"""Run files over the sources of data: the teacher's own view, pictures read one by one, multiple labels, named parts."""

from __future__ import annotations

from pathlib import Path

import pytest
import sklearn.datasets
import torch

from fractionate.cli.commands import main
from fractionate.data import TableEncoding, as_split
from fractionate.data.parts import MarkedSplit, first_batch, seen_as, subset
from fractionate.records import Run, Study
from test_own_folders import digits_to


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    digits_to(tmp_path / "photos", 0, 120)
    frame = sklearn.datasets.load_diabetes(as_frame=True, scaled=False).frame
    frame["high"], frame["old"] = (frame["target"] > 150).astype(int), (frame["age"] > 50).astype(int)
    frame["split"] = (["train"] * 3 + ["val", "test"]) * 88 + ["train"] * 2
    frame.to_csv("people.csv", index=False)
    return tmp_path


RUNS = {
    "view": ("", "pictures('photos', 8, mean='none', teacher={'side': 12, 'mean': 'imagenet'}, class_weights=True)",
             "transforms: 'augment(crop=1, flip=True, views=True)'"),
    "one by one": ("", "pictures('photos', 8, in_memory=False)", ""),
    "labels": ("task: multi-label", "table('people.csv', label=['high', 'old'], drop=['target', 'age', 'split'])", ""),
    "named": ("", "table('people.csv', label='high', drop=['target', 'old'], part='split', class_weights=True)", ""),
    "numbers": ("task: regression", "table('people.csv', target='target', drop=['high', 'old', 'split'])", ""),
}  # fmt: skip


@pytest.mark.parametrize("name", RUNS)
def test_a_run_file_distils_from_it(files, capsys, name):
    task, source, more = RUNS[name]
    sizes = "" if name == "named" else ", transfer: 0.4, validation: 0.2, test: 0.2"
    on = "transfer" if name == "named" else "teaching"
    text = f"""{task}
out: out
data: {{source: "{source}"{sizes}}}
teacher: {{model: "mlp(16)", train: {{steps: 10, on: {on}}}}}
student: {{model: "mlp(4)"}}
training: {{steps: 6}}
{more}
"""
    Path("run.yaml").write_text(text)
    with pytest.raises(SystemExit) as left:
        main(["distill", "run.yaml"])
    assert not left.value.code, capsys.readouterr().err
    assert Run.load("out/student/run.json").status == "completed"


def test_a_report_on_numbers_compares_the_usual_term_with_no_teacher(files, capsys):
    Path("run.yaml").write_text("""
task: regression
out: out
data: {source: "table('people.csv', target='target', drop=['high', 'old', 'split'])", transfer: 0.4, validation: 0.2, test: 0.2}
teacher: {model: "mlp(16)", train: {steps: 40}}
student: {model: "mlp(4)"}
training: {steps: 10}
study: {seeds: 2}
""")
    with pytest.raises(SystemExit) as left:
        main(["report", "run.yaml"])
    found = capsys.readouterr()
    assert not left.value.code, found.err
    study = Study.load("out/study.json")
    assert "squared-error" in str(study)
    assert "squared-error" in found.err and "RMSE" in found.err
    assert TableEncoding.load("out/student/data.json").target.deviation[0] > 0


def test_a_view_takes_the_place_of_the_inputs():
    small, large, labels = torch.rand(20, 3), torch.rand(20, 5), torch.arange(20) % 2
    held = as_split((small, labels), views={"teacher": large})
    read = MarkedSplit(as_split((small, labels)), weight=torch.rand(20), views={"teacher": as_split((large, labels))})
    for split in (held, subset(held, torch.arange(20)), read, subset(read, torch.arange(20))):
        batch = first_batch(seen_as(split, "teacher"), 20, 0)
        assert torch.equal(batch.inputs, large) and not batch.views
        assert torch.equal(first_batch(seen_as(split, "other"), 20, 0).inputs, small)
    assert first_batch(seen_as(read, "teacher"), 20, 0).weight is not None
