"""Examples worth seeing: chosen as a loop over all rows would choose them, shown only where it is allowed, and on the page."""

from __future__ import annotations

import base64
import io
import json
import re

import pytest
import torch
from torch import nn

from fractionate import TeacherSignal
from fractionate.cli.commands import main
from fractionate.data import table
from fractionate.errors import ConfigError, MismatchError
from fractionate.page import read_record, report
from fractionate.page.calibration_plots import expected_calibration_error
from fractionate.records import ExampleList, ExampleRow, NotableExamples, Opinion, Shown
from fractionate.run.notable import row_cells, shower_of
from fractionate.tasks import Task
from fractionate.tasks.examples import notable_examples, thumbnail
from fractionate.tasks.predictions import Predictions

ROWS, CLASSES = 40, 4


class Table(nn.Module):
    """Gives the logits of the rows whose numbers it reads."""

    def __init__(self, logits: torch.Tensor) -> None:
        super().__init__()
        self.logits = nn.Parameter(logits)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.logits[inputs[:, 0].long()]


class Stored:
    """A teacher in use, its signal found by the places of examples."""

    def __init__(self, signal: TeacherSignal) -> None:
        self.signal = signal

    def signal_for(self, predictions: Predictions) -> TeacherSignal:
        return self.signal.take(predictions.example)

    def predictions_for(self, batch: object) -> None:
        return None


def drawn() -> tuple[Task, torch.Tensor, dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(3)
    labels = torch.randint(CLASSES, (ROWS,), generator=generator)
    logits = {who: 1.5 * torch.randn(ROWS, CLASSES, generator=generator) for who in ("teacher", "student", "alone")}
    inputs = torch.arange(ROWS).float()[:, None]
    task = Task("classification", transfer=(inputs, labels), student=lambda: Table(logits["student"]), batch_size=7)
    return task, labels, logits


def found(**more: object) -> tuple[NotableExamples, torch.Tensor, dict[str, torch.Tensor]]:
    task, labels, logits = drawn()
    record = notable_examples(
        task,
        task.splits.transfer,
        Table(logits["student"]),
        Stored(TeacherSignal(logits["teacher"], labels)),
        no_teacher=Table(logits["alone"]),
        name="one",
        **more,  # type: ignore[arg-type]
    )
    return record, labels, logits


def test_rows_are_those_a_plain_loop_finds() -> None:
    record, labels, logits = found(most=3)
    p, q, a = (logits[who].softmax(1) for who in ("teacher", "student", "alone"))
    kinds: dict[str, list[tuple[float, int]]] = {one.kind: [] for one in record.lists}
    for i, y in enumerate(labels.tolist()):
        kinds["least sure"].append((float(-p[i].max()), i))
        if p[i].argmax() != y:
            kinds["contradicts the label"].append((float(p[i].max() - p[i, y]), i))
        if q[i].argmax() == y != a[i].argmax():
            kinds["student wins"].append((float(q[i, y] - a[i, y]), i))
        if a[i].argmax() == y != q[i].argmax():
            kinds["student loses"].append((float(a[i, y] - q[i, y]), i))
        if q[i].argmax() != p[i].argmax():
            kinds["disagreement"].append((float((p[i] - q[i]).abs().sum() / 2), i))
    pairs = record.lists[-1]
    assert [one.kind for one in record.lists] == list(kinds)
    for one in record.lists[:-1]:
        best = sorted(kinds[one.kind], reverse=True)[:3]
        assert [row.id for row in one.rows] == [str(i) for _, i in best]
        assert one.count == len(kinds[one.kind])
        row, i = one.rows[0], best[0][1]
        assert row.position is None and row.shown is None and row.label == str(int(labels[i]))
        teacher, student, alone = row.opinions
        assert (teacher.who, student.who, alone.who) == ("teacher", "student", "no teacher")
        assert teacher.choice == str(int(p[i].argmax())) and student.probability == pytest.approx(float(q[i].max()))
        assert alone.of_label == pytest.approx(float(a[i, labels[i]]))
    most = {}
    for i, y in enumerate(labels.tolist()):
        other = max((c for c in range(CLASSES) if c != y), key=lambda c: float(p[i, c]))
        most[y, other] = max(most.get((y, other), (0.0, -1)), (float(p[i, other]), i))
    strongest = sorted(((value, i, pair) for pair, (value, i) in most.items()), reverse=True)
    assert [(row.id, (row.label, row.other)) for row in pairs.rows] == [
        (str(i), (str(y), str(other))) for _, i, (y, other) in strongest
    ]
    assert pairs.rows[0].of_other == pytest.approx(strongest[0][0])
    assert NotableExamples.from_json(record.to_json()) == record == read_record(record.to_json())


def test_without_a_student_without_a_teacher_nothing_is_won_or_lost() -> None:
    task, labels, logits = drawn()
    signal = Stored(TeacherSignal(logits["teacher"], labels))
    record = notable_examples(task, task.splits.transfer, Table(logits["student"]), signal)
    assert [one.kind for one in record.lists] == [
        "least sure", "contradicts the label", "disagreement", "takes for another class",
    ]  # fmt: skip


def test_reliability_is_that_of_plain_bins_and_of_torchmetrics() -> None:
    from torchmetrics.functional.classification import multiclass_calibration_error

    record, labels, logits = found()
    for one, who in zip(record.reliability, ("teacher", "student", "alone"), strict=True):
        p = logits[who].softmax(1)
        top, choice = p.max(1)
        for i, (n, sure, right) in enumerate(zip(one.counts, one.confidence, one.right, strict=True)):
            inside = (top > i / 10) & (top <= (i + 1) / 10)
            assert n == int(inside.sum())
            if n:
                assert sure == pytest.approx(float(top[inside].mean()))
                assert right == pytest.approx(float((choice == labels)[inside].float().mean()))
        error = float(multiclass_calibration_error(p, labels, CLASSES, n_bins=10))
        assert expected_calibration_error(one) == pytest.approx(100 * error, abs=1e-4)


def test_what_an_example_looks_like_is_shown_only_where_it_is_given(tmp_path) -> None:  # type: ignore[no-untyped-def]
    bare = report(found()[0], tmp_path / "a.html").read_text()
    rows, pairs = sum(len(one.rows) for one in found()[0].lists), len(found()[0].lists[-1].rows)
    assert "<img" not in bare and "Where the teacher is least sure" in bare
    assert bare.count('class="example"') == rows == 30 + pairs <= 30 + CLASSES * (CLASSES - 1)
    text = report(found(show=lambda i: f"text <b>{i}</b>")[0], tmp_path / "b.html").read_text()
    assert "text &lt;b&gt;" in text and "<b>3</b>" not in text
    rowed = report(found(show=lambda i: {"age": i})[0], tmp_path / "c.html").read_text()
    assert "<dt>age</dt>" in rowed
    pictures = report(found(show=lambda i: torch.rand(3, 80, 60))[0], tmp_path / "d.html")
    assert pictures.read_text().count('<img class="thumb"') >= 30 and pictures.stat().st_size < 800_000
    pieces = found(show=lambda i: ["a"])[0]
    assert pieces.lists[0].rows[0].shown is not None and len(pieces.lists[0].rows[0].shown.weights) == 1


def test_a_picture_that_is_none_is_not_put_on_the_page(tmp_path) -> None:  # type: ignore[no-untyped-def]
    for picture in ("javascript:alert(1)", "data:text/html;base64,AAAA", 'data:image/png;base64,AA" onerror="x'):
        row = ExampleRow("1", "cat", (Opinion("teacher", "dog", 0.5, 0.1),), shown=Shown(picture=picture))
        record = NotableExamples("one", "test", 5, (ExampleList("least sure", 5, (row,)),))
        assert "<img" not in report(record, tmp_path / "a.html").read_text()


def test_thumbnails_are_pictures() -> None:
    from PIL import Image

    picture = torch.zeros(3, 96, 48)
    picture[0] = 2.0  # red, outside of 0..1 as normalised pictures are
    made = thumbnail(picture)
    image = Image.open(io.BytesIO(base64.b64decode(made.partition(",")[2])))
    assert image.size == (24, 48) and image.getpixel((3, 3)) == (255, 0, 0)
    grey = Image.open(io.BytesIO(base64.b64decode(thumbnail(torch.arange(64.0).reshape(8, 8)).partition(",")[2])))
    assert grey.mode == "L" and grey.getpixel((0, 0)) == 0 and grey.getpixel((7, 7)) == 255
    assert re.fullmatch(r"data:image/png;base64,[A-Za-z0-9+/=]+", made)
    with pytest.raises(MismatchError, match="not a picture"):
        thumbnail(torch.zeros(2, 8, 8))


def test_a_run_file_asks_for_examples(tmp_path, capsys) -> None:  # type: ignore[no-untyped-def]
    small = ["data.source=digits", "data.transfer=60", "data.validation=40", "data.test=50", "teacher.model=mlp(16)"]
    small += ["teacher.train.steps=60", "training.steps=30", "export.program=false", "objective={cell: kd}"]
    for wanted in ("ids", "show", "none"):
        out = tmp_path / wanted
        with pytest.raises(SystemExit) as left:
            main(["distill", *small, f"out={out}", f"report.examples={wanted}", "--json"])
        assert not left.value.code
        assert len(json.loads(capsys.readouterr().out)["card"]["decisions"]) == 1
        if wanted == "none":
            assert not (out / "examples.json").exists()
            continue
        found = NotableExamples.load(out / "examples.json")
        shown = found.lists[0].rows[0].shown
        assert found.rows_seen == 50 and (shown is None) == (wanted == "ids")


def test_pictures_and_texts_look_like_themselves() -> None:
    pictures = Task("classification", transfer=(torch.rand(3, 1, 8, 8), torch.tensor([0, 1, 0])), student=None)
    assert shower_of(pictures.splits.transfer, None)(1).shape == (1, 8, 8)
    with pytest.raises(ConfigError, match="cannot be shown"):
        shower_of(drawn()[0].splits.transfer, None)


def test_rows_of_tables_show_their_cells() -> None:
    split = drawn()[0].splits.transfer
    assert shower_of(split, None, lambda row: {"place": f"{float(row[0]):g}"})(3) == {"place": "3"}
    cells = row_cells("breast-cancer", None)
    assert cells is not None
    found = cells(torch.arange(30.0) - 10)
    assert len(found) == 30 and next(iter(found.items())) == ("worst fractal dimension", "+19.00 sd")
    assert row_cells("digits", None) is None


def test_a_table_of_ones_own_shows_the_values_of_its_file(tmp_path) -> None:  # type: ignore[no-untyped-def]
    rows = ["age,town,grade", *(f"{20 + i},{'ab'[i % 2]},{'xy'[i // 20]}" for i in range(40)), ",a,x"]
    (tmp_path / "people.csv").write_text("\n".join(rows))
    parts = table(tmp_path / "people.csv", label="grade").parts(transfer=30, validation=4, test=7, seed=0)
    for row in ({"age": "31", "town": "b"}, {"age": "20.5", "town": "a"}):
        assert parts.encoding.decode(parts.encoding.encode([row])[0]) == row
    assert parts.encoding.decode(parts.encoding.encode([{"age": "31", "town": "c"}])[0])["town"] == "unknown"
