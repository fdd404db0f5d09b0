"""What docs/how-to/data.md shows runs as it stands: its Python from first to last, its run files from `collect` to `distill`."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import sklearn.datasets
import torch

from fractionate.cli.commands import main
from fractionate.data.encoding import TableEncoding
from fractionate.data.own_texts import TextEncoding
from fractionate.data.picture_files import PictureEncoding
from fractionate.records import Diagnosis, Run
from test_own_folders import digits_to, docstrings

PAGE = (Path(__file__).parents[1] / "docs" / "how-to" / "data.md").read_text(encoding="utf-8")
RUN_FILES = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture
def files(tmp_path, monkeypatch):
    """The files the page speaks of: real wines, real handwritten digits, real descriptions from the standard library."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    frame = sklearn.datasets.load_wine(as_frame=True).frame[["alcohol", "hue", "target"]]
    frame["grape"] = [["barolo", "grignolino", "barbera"][n] for n in frame.pop("target")]
    frame["strength"] = ["strong" if alcohol > 13 else "light" for alcohol in frame["alcohol"]]
    frame.insert(0, "bottle", range(len(frame)))
    frame.to_csv("wine.csv", index=False)
    frame.iloc[50:100].to_csv("fresh.csv", index=False)
    digits_to(tmp_path / "photos", 0, 200)
    with Path("mails.jsonl").open("w", encoding="utf-8") as file:
        file.writelines(json.dumps({"body": text, "folder": name}) + "\n" for text, name in docstrings())
    with Path("chat.jsonl").open("w", encoding="utf-8") as file:
        rows = [{"question": f"where is parcel {n}", "answer": f"in town {n}"} for n in range(40)]
        file.writelines(json.dumps(row) + "\n" for row in rows)
    return tmp_path


def run(*arguments):
    with pytest.raises(SystemExit) as left:
        main(list(arguments))
    return left.value.code or 0


def test_the_python_of_the_page_runs_in_order(files, capsys):
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    names: dict[str, object] = {}
    for block in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL):
        exec(block, names)
    output = capsys.readouterr().out
    assert "'strength=light', 'strength=strong'" in output
    assert "('asyncio', 'decimal', 'logging', 'statistics')" in output
    assert len(names["fresh"]) == 50


@pytest.mark.parametrize(("number", "encoding"), list(enumerate([TableEncoding, PictureEncoding, TextEncoding])))
def test_the_run_files_of_the_page_run(files, capsys, number, encoding):
    """Collect, diagnose and distill by the command line; the student can be fed afterwards from what lies with it."""
    Path("run.yaml").write_text(RUN_FILES[number])
    for verb in ("collect", "diagnose", "distill"):
        assert run(verb, "run.yaml") == 0, capsys.readouterr().err
    out = Path(re.search(r"out: (\S+)", RUN_FILES[number])[1])
    assert (
        Diagnosis.load(out / "diagnosis.json").class_names == encoding.load(out / "student" / "data.json").class_names
    )
    made = Run.load(out / "student" / "run.json")
    assert made.status == "completed" and made.test.examples == 40
    assert run("distill", "run.yaml") == 0


def test_a_data_set_on_the_command_line_with_a_colon_in_it_is_no_code(files, capsys):
    source = "data.source=table('wine.csv', 'grape', drop=['bottle'], kinds={'hue':'number'})"
    common = (
        "teacher.model=mlp(8)",
        "teacher.train.steps=5",
        "student.model=linear",
        "training.steps=5",
        "objective={cell: kd}",
    )
    assert run("distill", source, "out=one", *common) == 0, capsys.readouterr().err
    Path("run.yaml").write_text('out: two\ndata: {source: "evil.module:run(1)"}\n')
    assert run("collect", "run.yaml") == 2
    assert "names code" in capsys.readouterr().err
    assert not Path("two").exists()


def test_data_that_cannot_be_read_claim_no_folder(files, capsys):
    """A wrong path is put right and the same folder used: nothing was written to it."""
    Path("run.yaml").write_text(RUN_FILES[0].replace("wine.csv", "whine.csv"))
    assert run("collect", "run.yaml") == 2
    assert "there is no file whine.csv" in capsys.readouterr().err
    assert not Path("runs/wine").exists()
    Path("run.yaml").write_text(RUN_FILES[0])
    assert run("collect", "run.yaml") == 0, capsys.readouterr().err


def test_a_student_of_words_asked_to_read_numbers_is_told_of_the_bag(files, capsys):
    assert (
        run(
            "distill",
            "data.source=texts('mails.jsonl', text='body', label='folder')",
            "out=three",
            "student.model=mlp(4)",
        )
        == 2
    )
    assert "use bag(...) for texts" in capsys.readouterr().err


def test_a_saved_student_is_fed_as_it_was_trained(files, capsys):
    """The whole way: run file → model.safetensors and data.json → a row of the file → the class, as the run itself scored it."""
    from safetensors.torch import load_file

    from fractionate.data.own_table import encoded_table
    from fractionate.models.zoo import models

    Path("run.yaml").write_text(RUN_FILES[0])
    assert run("distill", "run.yaml") == 0, capsys.readouterr().err
    encoding = TableEncoding.load("runs/wine/student/data.json")
    student = models["mlp(8)"]((len(encoding.features),), 3).eval()
    student.load_state_dict(load_file("runs/wine/student/model.safetensors"))
    data = encoded_table("wine.csv", encoding)
    with torch.no_grad():
        right = (student(data.inputs).argmax(1) == data.labels).double().mean()
    assert float(right) > 0.6, "grapes by alcohol, hue and strength"
