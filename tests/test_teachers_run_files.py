"""Teachers without weights in run files: boosted trees, an ONNX file, answers of a language model; no user code."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from fractionate.cli.commands import main
from fractionate.records import Run
from fractionate.store import Store

COMMON = (
    "training: {steps: 5}\nstudy: {cells: [hard, kd], temperatures: [1.0], seeds: 2}\nout: run\n"
    "diagnosis: {pilot: 0}\nobjective: {cell: kd, temperature: 1.0, teacher_weight: 0.5}\n"
)


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as left:
        main(list(arguments))
    return left.value.code or 0


def table(path) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(0)
    labels = np.arange(180) % 3
    values = np.round(draw.normal(size=(180, 3)) + labels[:, None], 3)
    lines = [
        "a,b,c,kind",
        *(",".join(map(str, [*row, f"k{label}"])) for row, label in zip(values, labels, strict=True)),
    ]
    path.write_text("\n".join(lines) + "\n")
    return values, labels


def test_a_boosted_teacher_of_a_csv_reports_without_user_code(tmp_path, monkeypatch) -> None:
    io = pytest.importorskip("skops.io")
    from sklearn.ensemble import HistGradientBoostingClassifier

    from fractionate.models import find_parts

    monkeypatch.chdir(tmp_path)
    table(tmp_path / "t.csv")
    source = "table('t.csv', label='kind', raw=False)"
    parts = find_parts(source, transfer=60, validation=40, test=40, seed=0)
    teaching = parts.teaching
    teacher = HistGradientBoostingClassifier(max_iter=3, random_state=0)
    io.dump(teacher.fit(teaching.inputs.numpy(), teaching.labels.numpy()), "t.skops")
    (tmp_path / "run.yaml").write_text(
        f'data: {{source: "{source}", transfer: 60, validation: 40, test: 40}}\n'
        f"teacher: {{model: \"sklearn('t.skops')\"}}\nstudent: {{model: mlp(8)}}\n{COMMON}"
    )
    assert run("report", "run.yaml") == 0
    expected = torch.from_numpy(teacher.predict_proba(parts.transfer.inputs.numpy())).float()
    torch.testing.assert_close(Store.open("run/store").signal().probabilities, expected)
    assert Run.load("run/student/run.json").test is not None and (tmp_path / "run" / "report.html").exists()
    io.dump(HistGradientBoostingClassifier(max_iter=1).fit(teaching.inputs.numpy(), teaching.labels.numpy()), "t.skops")
    assert run("distill", "run.yaml") == 4  # another teacher under the same name


@pytest.mark.parametrize("frame", [False, True], ids=["rows", "named columns"])
def test_a_teacher_fitted_on_the_file_itself_reads_its_cells(frame, tmp_path, monkeypatch) -> None:
    io, pandas = pytest.importorskip("skops.io"), pytest.importorskip("pandas")
    from sklearn.ensemble import HistGradientBoostingClassifier

    from fractionate.models import find_parts

    monkeypatch.chdir(tmp_path)
    values, labels = table(tmp_path / "t.csv")
    columns = pandas.DataFrame(values, columns=["a", "b", "c"])
    teacher = HistGradientBoostingClassifier(max_iter=3, random_state=0)
    teacher.fit(columns if frame else values, [f"k{label}" for label in labels])
    io.dump(teacher, "t.skops")
    (tmp_path / "run.yaml").write_text(
        "data: {source: \"table('t.csv', label='kind', raw=True)\", transfer: 60, validation: 40, test: 40}\n"
        f"teacher: {{model: \"sklearn('t.skops')\"}}\nstudent: {{model: mlp(8)}}\n{COMMON}"
    )
    assert run("distill", "run.yaml") == 0
    parts = find_parts("table('t.csv', label='kind', raw=True)", transfer=60, validation=40, test=40, seed=0)
    rows = [int(line) - 2 for line in parts.transfer.ids]
    expected = torch.from_numpy(teacher.predict_proba(columns.iloc[rows] if frame else values[rows])).float()
    torch.testing.assert_close(Store.open("run/store").signal().probabilities, expected)


def test_a_pipeline_reads_text_cells_as_pandas_does(tmp_path, monkeypatch) -> None:
    io, pandas = pytest.importorskip("skops.io"), pytest.importorskip("pandas")
    from sklearn.compose import make_column_transformer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder

    from fractionate.models import find_parts
    from fractionate.models.estimators import as_cells

    monkeypatch.chdir(tmp_path)
    words = ["grün", "", "red", "a longer word"]
    rows = [f"{i * i % 7}.5,{words[i % 4]},{i % 3 == 0},k{(i * i % 7 + i) % 2}" for i in range(120)]
    (tmp_path / "t.csv").write_text("size,colour,old,kind\n" + "\n".join(rows) + "\n")
    frame = pandas.read_csv("t.csv")
    columns = ["size", "colour", "old"]
    encode = make_column_transformer((OneHotEncoder(), ["colour", "old"]), remainder="passthrough")
    teacher = make_pipeline(encode, LogisticRegression()).fit(frame[columns], frame["kind"])
    io.dump(teacher, "t.skops")
    assert run("init", "t.csv", "--teacher", "sklearn('t.skops')") == 0
    assert run("distill", "run.yaml", "training.epochs=1", "out=run", "diagnosis.pilot=0") == 0
    source = "table('t.csv', label='kind', raw=True)"
    parts = find_parts(source, transfer=0.6, validation=0.2, test=0.2, seed=0)
    given = frame[columns].iloc[[int(line) - 2 for line in parts.transfer.ids]]
    cells = {name: as_cells(part.numpy()) for name, part in parts.transfer.views["teacher"].items()}
    pandas.testing.assert_frame_equal(pandas.DataFrame(cells), given.reset_index(drop=True), check_dtype=False)
    expected = torch.from_numpy(teacher.predict_proba(given)).float()
    torch.testing.assert_close(Store.open("run/store").signal().probabilities, expected)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_an_onnx_program_reads_the_cells_of_a_table(tmp_path, monkeypatch) -> None:
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    from fractionate.models import find_parts

    monkeypatch.chdir(tmp_path)
    values, _ = table(tmp_path / "t.csv")
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 3), nn.Softmax(-1)).eval()
    torch.onnx.export(
        network, (torch.zeros(2, 3),), "t.onnx", input_names=["x"], output_names=["probabilities"], dynamo=False,
        dynamic_axes={"x": {0: "batch"}, "probabilities": {0: "batch"}},
    )  # fmt: skip
    assert run("init", "t.csv", "--teacher", "onnx('t.onnx')") == 0
    assert run("distill", "run.yaml", "training.epochs=1", "out=run", "diagnosis.pilot=0") == 0
    parts = find_parts("table('t.csv', label='kind', raw=True)", transfer=0.6, validation=0.2, test=0.2, seed=0)
    rows = torch.from_numpy(values[[int(line) - 2 for line in parts.transfer.ids]]).float()
    torch.testing.assert_close(
        Store.open("run/store").signal().probabilities, network(rows).detach(), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        (["1", "red"], object),
        (["True", "maybe"], object),
        (["true", "False"], bool),
        (["3", "12"], float),
        (["007", "3"], object),
    ],
)
def test_what_a_column_holds_is_the_same_in_every_batch(words: list[str], kind: type) -> None:
    from fractionate.data.columns import Column
    from fractionate.models.estimators import as_cells

    column = Column("c", "category", np.array([0, 0, 1, 1]), tuple(words))
    for places in ([0, 1], [2, 3], [0, 1, 2, 3]):  # some batches hold one of the words alone
        cells = as_cells(column.as_read(np.array(places)))
        assert cells.dtype == kind and len(cells) == len(places)
    missing = replace(column, values=np.array([0, -1, 1, 1]))
    assert as_cells(missing.as_read(np.array([0, 1])))[1] != as_cells(missing.as_read(np.array([1])))[0]  # NaN in both


def test_one_long_text_is_refused_before_all_rows_are_as_long() -> None:
    from fractionate.data import columns
    from fractionate.errors import ResourceError

    with pytest.raises(ResourceError, match="leave out the longest text, of 1,000,000 bytes"):
        columns.text_cells(["x" * 1_000_000, *["short"] * 1_000_000])


def test_a_vectoriser_and_a_classifier_teach_texts(tmp_path, monkeypatch) -> None:
    io = pytest.importorskip("skops.io")
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.pipeline import make_pipeline

    from fractionate.models import find_parts

    monkeypatch.chdir(tmp_path)
    texts = [f"{'große gute' if i % 2 else 'bad'} word{i % 7} and thing{i}" for i in range(90)]
    stars = [1 + 2 * (i % 2) for i in range(90)]  # classes 1 and 3, which are no class numbers
    (tmp_path / "t.csv").write_text("review,stars\n" + "".join(f"{a},{b}\n" for a, b in zip(texts, stars, strict=True)))
    teacher = make_pipeline(TfidfVectorizer(), LogisticRegression()).fit(texts, stars)
    io.dump(teacher, "t.skops")
    assert run("init", "t.csv", "--teacher", "sklearn('t.skops')") == 0
    assert run("distill", "run.yaml", "training.epochs=1", "out=run", "diagnosis.pilot=0") == 0
    parts = find_parts("texts('t.csv', text='review', label='stars')", transfer=0.6, validation=0.2, test=0.2, seed=0)
    expected = torch.from_numpy(teacher.predict_proba([texts[int(line) - 2] for line in parts.transfer.ids])).float()
    torch.testing.assert_close(Store.open("run/store").signal().probabilities, expected)
    io.dump(make_pipeline(TfidfVectorizer(), Ridge()).fit(texts, stars), "t.skops")
    numbers = ["task=regression", "data.source=texts('t.csv', text='review', target='stars')", "terms=[squared-error]"]
    assert run("distill", "run.yaml", *numbers, "training.epochs=1", "out=numbers", "diagnosis.pilot=0") == 0
    assert abs(float(Store.open("numbers/store").signal().values.mean())) < 0.3  # standardised, as the labels are


def test_a_teacher_of_a_file_asks_which_columns_it_reads(tmp_path, monkeypatch, capsys) -> None:
    io = pytest.importorskip("skops.io")
    from sklearn.tree import DecisionTreeClassifier

    monkeypatch.chdir(tmp_path)
    values, labels = table(tmp_path / "t.csv")
    io.dump(DecisionTreeClassifier(max_depth=3, random_state=0).fit(values, labels), "t.skops")
    (tmp_path / "run.yaml").write_text(
        "data: {source: \"table('t.csv', label='kind')\", transfer: 60, validation: 40, test: 40}\n"
        f"teacher: {{model: \"sklearn('t.skops')\"}}\nstudent: {{model: mlp(8)}}\n{COMMON}"
    )
    assert run("distill", "run.yaml") == 2
    assert "table('t.csv', label='kind', raw=True)" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_an_onnx_classifier_by_path(tmp_path, monkeypatch) -> None:
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 10), nn.Softmax(-1)).eval()
    torch.onnx.export(
        network, (torch.zeros(2, 64),), "t.onnx", input_names=["x"], output_names=["p"], dynamo=False,
        dynamic_axes={"x": {0: "batch"}, "p": {0: "batch"}},
    )  # fmt: skip
    (tmp_path / "run.yaml").write_text(
        "data: {source: digits, transfer: 50, validation: 50, test: 60}\n"
        f"teacher: {{model: \"onnx('t.onnx')\"}}\nstudent: {{model: linear}}\n{COMMON}"
    )
    assert run("distill", "run.yaml") == 0
    signal = Store.open("run/store").signal()
    assert signal.logits.shape == (50, 10) and bool((signal.logits <= 0).all())
    assert Run.load("run/student/run.json").test is not None


def test_a_file_of_answers_about_texts(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    lines = [
        {"text": f"{'fine' if n % 2 else 'poor'} thing {n}", "label": "good" if n % 2 else "bad"} for n in range(150)
    ]
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))

    def answer(number: int) -> str:
        shares = (
            {" good": 0.9 - number / 1000, "bad": 0.05, "I": 0.01} if number % 2 == 0 else {"bad": 0.7, "good": 0.2}
        )
        return json.dumps({"custom_id": str(number), "logprobs": {t: math.log(p) for t, p in shares.items()}}) + "\n"

    (tmp_path / "answers.jsonl").write_text("".join(map(answer, range(1, 151))))  # ids are the numbers of the lines
    (tmp_path / "run.yaml").write_text(
        "task: text-classification\ndata: {source: \"texts('texts.jsonl')\", transfer: 40, validation: 40, test: 60}\n"
        f"teacher: {{model: \"answers('answers.jsonl')\"}}\nstudent: {{model: bag()}}\n{COMMON}"
    )
    assert run("distill", "run.yaml") == 0
    found = Store.open("run/store")
    assert found.head.identity["outputs"] == "log-probabilities" and found.signal().logits.shape == (40, 2)
    odd = found.signal().probabilities[:, 1]
    assert bool(((odd - 0.2 / 0.9).abs() < 1e-5).logical_or(odd > 0.9).all())
    (tmp_path / "answers.jsonl").write_text("".join(map(answer, range(150))))  # counted from 0
    assert run("distill", "run.yaml", "out=other") == 2
    message = capsys.readouterr().err
    assert "has no answer about" in message and "none about 150; one about 0" in message
