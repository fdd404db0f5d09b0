"""The studies in lab/ run end to end at a tiny setting: trainings, tables and page. What they find is not tested."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

from fractionate.records import Study, Training
from tiny_hub import WORDS, bert

LAB = Path(__file__).parents[1] / "lab"


@pytest.fixture
def lab(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty folder to run in, with the modules of lab/ at hand."""
    monkeypatch.syspath_prepend(str(LAB))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def program(name: str) -> ModuleType:
    return importlib.import_module(name)


def test_study_of_translation(lab: Path) -> None:
    pytest.importorskip("sacrebleu")
    study = program("study_translation")
    study.main(study.TINY)
    kept = study.TINY.runs
    found = Study.load(kept / "study" / "study.json")
    assert {run.status for run in found.runs} == {"completed"} and len(found.arms) == 10
    assert (kept / "study_translation.html").exists()
    table = (kept / "study_translation.md").read_text()
    assert "| tie-kd − word-kd | 2 |" in table and "| sequence-level | 2 |" in table


def test_size_ladders(lab: Path) -> None:
    pytest.importorskip("peft")
    ladder = program("size_ladder")
    ladder.main(ladder.TINY)
    table = (ladder.TINY.out / "size_ladder.md").read_text()
    assert "| kd 1 layer, LoRA | 2,560 |" in table
    difference = float(table.rsplit("difference of logits ", 1)[1].rstrip(".\n"))
    assert difference < 1e-5  # another process, perhaps with other kernels
    assert "against latency" in (ladder.TINY.out / "size_ladder.html").read_text()


def test_study_of_quantized_encoders(lab: Path) -> None:
    pytest.importorskip("torchao")
    study = program("study_quantized")
    study.main(study.TINY, workers=1)
    found = Study.load(study.TINY / "glosses" / "W2A8" / "study" / "study.json")
    assert {run.status for run in found.runs} == {"completed"} and found.arms == (*study.ARMS, study.PLACEBO)
    assert all("ranking-loss" in run.test.values for run in found.runs if run.test)
    assert (study.TINY / "study_quantized.html").exists()
    table = (study.TINY / "study_quantized.md").read_text()
    assert "| unified | 2 |" in table and "Finding" in table


def test_study_of_explanations(lab: Path) -> None:
    study = program("study_explanations")
    study.main(study.TINY, 2)
    (setting,) = study.TINY
    found = Study.load(setting.kept / "study.json")
    assert {run.status for run in found.runs} == {"completed"} and len(found.arms) == 24 and len(found.runs) == 48
    pairs = {(e.arm, e.against) for e in found.effects}
    assert ("ked + chimeras", "kd + chimeras") in pairs and not any("begun" in name for pair in pairs for name in pair)
    assert (setting.kept.parent / "study_explanations.html").exists()
    table = (setting.kept.parent / "study_explanations.md").read_text()
    assert "ked + chimeras − ked" in table and "One superfeature's explanation alone" in table
    before = {file: file.read_bytes() for folder in ("runs", "students") for file in (setting.kept / folder).iterdir()}
    study.main(study.TINY, 2)  # nothing is trained again
    assert len(before) == 96 and all(file.read_bytes() == content for file, content in before.items())


def test_every_seeded_bug_has_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """`python bench/seeded_bugs.py` takes minutes: places that are gone show here."""
    monkeypatch.syspath_prepend(str(LAB.parent / "bench"))
    bugs = program("seeded_bugs")
    for bug in bugs.BUGS:
        assert bugs.seeded(bug) is not None, f"{bug.name}: its place in {bug.file} is gone"
        tests = bug.tests or bugs.FIRST.get(bug.file, bugs.TESTS[0])
        assert (LAB.parent / "tests" / f"{tests}.py").exists(), f"{bug.name}: tests/{tests}.py is gone"


@pytest.fixture
def few_digits(lab: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., ModuleType]:
    """A program on the digits of scikit-learn, with results in the empty folder and other constants given."""
    monkeypatch.setattr(program("bench.teachers"), "CACHE", lab / "cache")

    def named(name: str, **constants: object) -> ModuleType:
        study = program(name)
        for constant, value in {"RUNS": lab, "RESULTS": lab, "SEEDS": 2, **constants}.items():
            monkeypatch.setattr(study, constant, value)
        return study

    return named


def test_study_of_class_relations(few_digits: Callable[..., ModuleType], lab: Path) -> None:
    few = program("bench.teachers").Upbringing(hidden=(8,), epochs=1)
    study = few_digits("study_relations", TEACHER=few, TRAINING=Training(steps=3, batch_size=64, learning_rate=1e-2))
    study.main(["digits"])
    table = (lab / "study_relations.md").read_text()
    assert "## digits" in table and table.count("| 2 |") == len(study.CONTRASTS)


def test_study_of_faulty_teachers(
    few_digits: Callable[..., ModuleType], lab: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kinds = program("study_teachers").KINDS
    study = few_digits("study_teachers", KINDS={kind: replace(own, epochs=1) for kind, own in kinds.items()})
    study.main(["digits"])
    printed = capsys.readouterr().out
    assert "| smoothed − healthy | 2 |" in printed and "| over-trained − healthy | 2 |" in printed
    before = (lab / "teachers" / "digits.json").read_bytes()
    study.main(["digits"])  # read back
    assert capsys.readouterr().out == printed and (lab / "teachers" / "digits.json").read_bytes() == before


def test_study_of_explaining_convolutional_students(
    few_digits: Callable[..., ModuleType], lab: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few = Training(steps=1, batch_size=20, learning_rate=1e-3)
    study = few_digits("study_explaining_cnn", TAUGHT=few, LEARNED=few, DATA={"digits": (60, 40, (1, 8, 8))})
    study.main(["digits"])
    table = (lab / "study_explaining_cnn.md").read_text()
    assert table.count("| 2 |") == len(study.CONTRASTS) and "M = 8 1,528" in table


def tiny_encoders(folder: Path, layers: int) -> tuple[str, ...]:
    """Settings of a run file: a tiny BERT in place of MiniLM, two seeds, few steps."""
    pytest.importorskip("torchao")
    bert(folder / "bert")
    model = f"hf({str(folder / 'bert')!r}, layers={layers}, width=32, heads=2)"
    return (
        f'teacher={{model: "{model}", train: {{steps: 2, batch_size: 8}}}}',
        f'student={{model: "{model}", prepare: ["from_teacher()", "quantize(\'ternary\')"]}}',
        "training={steps: 1, batch_size: 8, learning_rate: 1e-3}",
        "study.seeds=2",
    )


def test_study_of_encoder_layers(
    lab: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = "".join(f"{word} {number},{number % 2}\n" for number, word in enumerate(WORDS * 4))
    (lab / "texts.csv").write_text("text,label\n" + rows)
    texts = "texts('texts.csv', text='text', label='label')"
    source = f'data={{source: "{texts}", transfer: 16, validation: 4, test: 8, length: 32}}'
    study = program("study_encoder_layers")
    monkeypatch.setattr(study, "MEASURED", 8)
    study.main({"two labels": (source, *tiny_encoders(lab, 4))})
    printed = capsys.readouterr().out
    assert "| map − first layer | 2 |" in printed and "| map − map of another text | 2 |" in printed
    kept = json.loads((lab / "runs/encoder_layers/two-labels-students/curvature.json").read_text())
    assert len(kept) == 2 * len(study.CURVED)


def test_study_of_encoders_that_predict_numbers(lab: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = program("study_encoder_regression")
    above = {number: [("noun", (number - 1) // 2)] if number else [] for number in range(255)}  # a binary tree
    tree = {("noun", number): (f"{WORDS[number % 8]} {number}", 0, up) for number, up in above.items()}
    for constant, value in {"RESULTS": lab, "PAIRS": 40, "synsets": lambda: tree}.items():
        monkeypatch.setattr(study, constant, value)
    study.main((*tiny_encoders(lab, 2), "data.transfer=16", "data.validation=4", "data.test=8", "data.length=32"))
    rows = (lab / "runs/encoder_regression/pairs.csv").read_text().splitlines()
    assert len(rows) == 41 and all(0 < float(row.rsplit(",", 1)[1]) <= 1 for row in rows[1:])
    assert "| logits − logits of other pairs | 2 |" in (lab / "study_encoder_regression.md").read_text()
