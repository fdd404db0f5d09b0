"""The studies in lab/ run end to end at a tiny setting: trainings, tables and page. What they find is not tested."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import pytest

from fractionate.records import Study

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
