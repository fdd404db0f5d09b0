"""A setting that cannot change an artifact of a run's folder keeps it; what it does change is refused by name, or made anew."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from fractionate.cli.commands import main
from fractionate.errors import MismatchError
from fractionate.records import Run, Study
from fractionate.run import workflow
from fractionate.run.assembly import Assembly
from fractionate.run.folder import ARTIFACTS, check_folder
from fractionate.run.read import read_run
from fractionate.run.schema import all_keys

RUN = """
out: out
data: {source: digits, transfer: 40, validation: 40, test: 40}
teacher: {model: mlp(8), train: {steps: 2}}
student: {model: mlp(4)}
training: {steps: 2}
diagnosis: {pilot: 0}
study: {cells: [hard, kd], seeds: 2}
export: {program: false}
"""
TRAINED = ("diagnosis", "study", "training", "student")
ALL = ("teacher", "store", *TRAINED)
CHANGES = {  # a setting, and what of the folder it outdates
    "training.steps=3": TRAINED,
    "student.model=mlp(5)": TRAINED,
    "terms=['label-smoothing(0.1)']": TRAINED,
    "transforms=['augment(scale=0.1)']": TRAINED,
    "objective.cell=kd": TRAINED,
    "metrics=[nll]": TRAINED,
    "diagnosis.pilot=28": TRAINED,  # the recommended recipe may change
    "study.cells=[hard, ls]": ("study",),
    "study.tune={learning_rates: [0.1]}": ("study", "training", "student"),  # at the rate that was chosen
    "study.seeds=3": (),
    "study.metric=nll": (),
    "study.margin=2": (),
    "distill.clip_norm=1": ("training", "student"),
    "distill.save_every_steps=1": (),
    "distill.device=cpu": (),
    "export.licence=mit": ("student",),
    "report.examples=ids": (),
    "name=other": ("student",),
    "seed=1": TRAINED,
    "collect.dtype=float16": ("store", *TRAINED),
    "collect.device=cpu": (),
    "teacher.train.steps=3": ALL,
    "teacher.model=mlp(9)": ALL,
    "data.seed=1": ALL,
    "data.test=41": ALL,  # what is left for the teacher differs
    "teacher.train.on=transfer": ALL,
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    here = tmp_path_factory.mktemp("settings")
    (here / "run.yaml").write_text(RUN.replace("out: out", f"out: {here}/out"))
    with pytest.raises(SystemExit) as left:
        main(["report", str(here / "run.yaml")])
    assert not left.value.code
    return here


@pytest.mark.parametrize("change", CHANGES)
def test_what_a_setting_outdates(change: str, finished: Path) -> None:
    assembly = Assembly(read_run(finished / "run.yaml", (change,)))
    outdated = CHANGES[change]
    if not outdated:
        assert all(ARTIFACTS[name].derived for name in check_folder(assembly))
        return
    with pytest.raises(MismatchError) as error:
        check_folder(assembly)
    assert error.value.what.endswith(f": {', '.join(outdated)}")
    assert [name for name in check_folder(assembly, remake=True) if not ARTIFACTS[name].derived] == list(outdated)
    key = change.partition("=")[0]
    assert key.startswith(("data.test", "data.seed")) or key in str(error.value.got) or "." not in key, error.value.got


def test_every_setting_belongs_to_an_artifact_or_to_none_on_purpose() -> None:
    aside = {"out", "data.transfer", "data.validation", "data.test"}  # of these parts the content counts
    named = {key for one in ARTIFACTS.values() for key in one.keys}
    for key in all_keys():
        found = any(f"{key}.".startswith(f"{one.removeprefix('-')}.") for one in named)
        assert found != (key in aside), key


def folder(finished: Path, here: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(finished / "out", here / "out")
    (here / "run.yaml").write_text(RUN)
    monkeypatch.chdir(here)
    return here / "out"


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as left:
        main([*arguments])
    return int(left.value.code or 0)


def test_more_seeds_keep_the_finished_ones(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = folder(finished, tmp_path, monkeypatch)
    before = {path: path.stat().st_mtime_ns for path in out.glob("study/runs/*")}
    assert run("report", "run.yaml", "study.seeds=3") == 0
    assert before and all(path.stat().st_mtime_ns == when for path, when in before.items())
    assert run("dissect", "run.yaml", "study.seeds=3", "out=whole") == 0
    ours, fresh = Study.load(out / "study.json"), Study.load("whole/study.json")
    assert ours.effects == fresh.effects and ours.seeds == (0, 1, 2)
    # the student's record says what this study, not the last, found
    assert "3 seeds" in str(Run.load(out / "student/run.json").settings["compared_with_no_teacher"])


def test_remake_keeps_the_teacher_and_its_signal(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = folder(finished, tmp_path, monkeypatch)
    kept = [out / "teacher.safetensors", *(path for path in out.glob("store/**/*") if path.is_file())]
    before = {path: path.stat().st_mtime_ns for path in kept}
    assert run("report", "run.yaml", "training.steps=3") == 4
    assert "--remake makes diagnosis, study, training, student anew and keeps teacher, store" in capsys.readouterr().err
    assert run("report", "run.yaml", "training.steps=3", "--remake") == 0
    assert all(path.stat().st_mtime_ns == when for path, when in before.items())
    assert run("distill", "run.yaml", "training.steps=3", "out=whole") == 0
    assert (out / "student/model.safetensors").read_bytes() == Path("whole/student/model.safetensors").read_bytes()
    assert Run.load(out / "student/run.json").settings["steps"] == 3
    assert run("report", "out/run.yaml") == 0  # the folder's own run file is that of what it holds


TUNED = "study.tune={learning_rates: [0.02, 0.1], temperatures: [1.0], teacher_weights: [0.5]}"


def test_a_student_at_a_tuned_rate_is_trained_after_its_study(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`distill` alone, stopped before its first step: with the study made by then it ends in the student of one go."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run.yaml").write_text(RUN)
    given, before = ("training.steps=3", TUNED), workflow.distill

    def stopped(*what: Any, **settings: Any) -> Any:
        if settings["out"].name == "training":
            raise KeyboardInterrupt
        return before(*what, **settings)

    with monkeypatch.context() as stopping:
        stopping.setattr(workflow, "distill", stopped)
        assert run("distill", "run.yaml", *given) != 0
    assert (tmp_path / "out/study.json").exists()  # the rate is known before a step
    assert run("dissect", "run.yaml", *given) == run("distill", "run.yaml", *given) == 0
    assert run("report", "run.yaml", *given, "out=whole") == 0
    ours, whole = (tmp_path / name / "student" for name in ("out", "whole"))
    assert (ours / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    study, made = Study.load("out/study.json"), Run.load(ours / "run.json")
    rates = {one.arm: one.learning_rate for one in study.tries if one.chosen}
    assert made.settings["training.learning_rate"] == rates["kd T=1 w=0.6"] != 5e-3
    capsys.readouterr()
    assert run("report", "run.yaml", *given, "study.metric=nll") == 4  # another rate may be best by it
    assert "study.metric" in capsys.readouterr().err


def test_examples_are_added_without_a_training(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = folder(finished, tmp_path, monkeypatch)
    weights = (out / "training/student.safetensors").stat().st_mtime_ns
    assert not (out / "examples.json").exists()
    assert run("report", "run.yaml", "report.examples=ids") == 0
    assert (out / "examples.json").exists() and (out / "training/student.safetensors").stat().st_mtime_ns == weights


def test_a_folder_that_is_not_known_is_refused(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = folder(finished, tmp_path, monkeypatch)
    found = json.loads((out / "sources.json").read_text())
    found["study"]["training.steps"] = 3
    (out / "sources.json").write_text(json.dumps(found))
    assert run("report", "run.yaml") == 3
    (out / "sources.json").unlink()
    assert run("report", "run.yaml") == 3
    shutil.rmtree(out)
    out.mkdir()
    (out / "run.yaml").write_text("name: mine\n")  # a run file of the person's own is not written over
    assert run("report", "run.yaml") == 4 and (out / "run.yaml").read_text() == "name: mine\n"
