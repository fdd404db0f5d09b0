"""dissect from end to end, on real digits."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from fractionate.data.examples import Examples
from fractionate.errors import ConfigError, DamagedError, MismatchError
from fractionate.losses.divergences.base import Target
from fractionate.records import Study, Training
from fractionate.study import dissect
from fractionate.study.arms import FACTORIAL
from fractionate.theory.teacher_signal import TeacherSignal

TRAINING = Training(epochs=6, batch_size=32, learning_rate=5e-3)


@functools.cache
def digits() -> tuple[Examples, Examples, Examples]:
    datasets = pytest.importorskip("sklearn.datasets")
    bunch = datasets.load_digits()
    data = Examples(torch.tensor(bunch.data, dtype=torch.float32) / 16, torch.tensor(bunch.target), name="digits")
    train, validation, test = data.split(200, 200, 500, seed=1)
    return train, validation, test


@functools.cache
def teacher() -> nn.Module:
    train = digits()[0]
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    optimizer = torch.optim.AdamW(model.parameters(), 5e-3)
    for _ in range(60):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(train.inputs), train.labels).backward()
        optimizer.step()
    return model


def signal_on(data: Examples) -> TeacherSignal:
    return TeacherSignal(teacher()(data.inputs).detach(), data.labels)


def student() -> nn.Module:
    return nn.Sequential(nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10))


def study(out: Path | None = None, **changes: Any) -> Study:
    train, validation, test = digits()
    settings: dict[str, Any] = {
        "cells": ("hard", "kd", "kd-pt", "kd-pt-shuffled"),
        "seeds": 3,
        "training": TRAINING,
        "validation": validation,
        "test": test,
        "test_signal": signal_on(test),
        "progress": "off",
        "points": 2,
        "out": out,
    }
    data = changes.pop("data", train)
    signal = changes.pop("signal", None) or signal_on(data)
    factory = changes.pop("factory", student)
    return dissect(factory, data, signal, **(settings | changes))


def test_a_study_holds_everything_it_promises(tmp_path: Path) -> None:
    found = study(tmp_path, cells=[*FACTORIAL, "kd-shuffled"], name="digits")
    assert len(found.runs) == 11 * 3 and {r.status for r in found.runs} == {"completed"}
    accuracy = [e for e in found.effects if e.metric == "accuracy"]
    assert {(e.arm, e.against) for e in accuracy} == {(a, "hard") for a in found.arms if a != "hard"} | {
        ("kd", "kd-shuffled")
    }
    assert [e.arm for e in accuracy if e.placebo] == ["kd-shuffled"]
    assert {e.metric for e in found.effects} == {"accuracy", "nll", "ece", "agreement"}
    kd = next(e for e in accuracy if e.arm == "kd" and e.against == "hard")
    for method in ("ladder", "Shapley"):
        assert sum(s.gain for s in found.shares if s.method == method) == pytest.approx(kd.gain, abs=1e-9)
    run = next(r for r in found.runs if r.arm == "kd")
    assert run.test is not None and run.test.agreement is not None and run.validation is not None
    assert run.student_spectrum is not None and run.rescaling is not None and run.contract is not None
    assert len(run.student_relation) == 10 and run.student_relation[3][3] == 0
    assert sum(run.student_relation[3]) == pytest.approx(1)
    assert next(r for r in found.runs if r.arm == "hard").contract is None
    assert Study.load(tmp_path / "study.json") == found
    assert "kd" in str(found)


def test_a_killed_study_goes_on_where_it_was(tmp_path: Path) -> None:
    whole = study(tmp_path / "whole")
    first = study(tmp_path / "killed", seeds=(0, 1))
    files = sorted((tmp_path / "killed" / "runs").iterdir())
    assert len(files) == 8
    files[0].unlink()
    kept = {f.name: f.read_bytes() for f in files[1:]}
    again = study(tmp_path / "killed")
    assert {f: (tmp_path / "killed" / "runs" / f).read_bytes() for f in kept} == kept
    assert len(again.runs) == 12 and len(first.runs) == 8
    for one, other in zip(whole.effects, again.effects, strict=True):
        assert one.gain == pytest.approx(other.gain, abs=0.3) and one.arm == other.arm


def test_a_lost_run_of_a_stack_comes_back_bit_for_bit(tmp_path: Path) -> None:
    """What a student computes hangs, in its last bits, on who shares its stack: the stack is trained whole again."""
    first = study(tmp_path, seeds=2)
    assert {run.settings["backend"] for run in first.runs} == {"stacked"}
    for file in sorted((tmp_path / "runs").iterdir())[::3]:
        file.unlink()
    again = study(tmp_path, seeds=2)
    assert [replace(run, wall_seconds=0.0) for run in again.runs] == [replace(r, wall_seconds=0.0) for r in first.runs]


def test_the_loop_and_the_stack_agree() -> None:
    loop, stacked = (study(seeds=2, backend=backend) for backend in ("loop", "stacked"))
    assert {run.settings["backend"] for run in loop.runs} == {"loop: as wanted"}
    for one, other in zip(loop.runs, stacked.runs, strict=True):
        assert one.test is not None and other.test is not None
        assert one.test.values["nll"] == pytest.approx(other.test.values["nll"], abs=1e-4)
        assert [p.step for p in one.history] == [p.step for p in other.history]
        assert one.history[-1].loss == pytest.approx(other.history[-1].loss, abs=1e-4)
        assert one.history[-1].rescaling_mean == pytest.approx(other.history[-1].rescaling_mean, abs=1e-3)


def test_a_folder_of_another_study_is_refused(tmp_path: Path) -> None:
    study(tmp_path)
    with pytest.raises(MismatchError, match="another study"):
        study(tmp_path, training=Training(epochs=7, batch_size=32, learning_rate=5e-3))
    file = next((tmp_path / "runs").iterdir())
    file.write_text("{")
    with pytest.raises(DamagedError, match="is not a run"):
        study(tmp_path)


def test_shares_of_the_data_are_a_factor() -> None:
    found = study(share=(0.2, 1.0), cells=("kd",))
    assert found.arms == ("hard share=0.2", "kd share=0.2", "hard share=1", "kd share=1")
    pairs = {(e.arm, e.against) for e in found.effects if e.metric == "accuracy"}
    assert pairs == {("kd share=0.2", "hard share=0.2"), ("kd share=1", "hard share=1")}
    steps = {r.arm: r.steps for r in found.runs}
    assert steps["kd share=0.2"] == 2 * 6 and steps["kd share=1"] == 7 * 6


def test_temperatures_and_weights_are_factors() -> None:
    found = study(cells=("kd",), temperatures=(1, 4), teacher_weights=(0.5, 1.0), seeds=2)
    assert found.arms == ("hard", "kd T=1 w=0.5", "kd T=1 w=1", "kd T=4 w=0.5", "kd T=4 w=1")
    contract = next(r for r in found.runs if r.arm == "kd T=4 w=0.5").contract
    assert contract is not None and (contract.temperature, contract.teacher_weight) == (4, 0.5)


@dataclass(frozen=True)
class Broken:
    """A divergence whose gradient is never finite."""

    formula: str = "broken"

    def __call__(self, student_logits: torch.Tensor, target: Target) -> torch.Tensor:
        return student_logits.sum(-1) * float("nan")

    def gradient(
        self, student_logits: torch.Tensor, target: Target, scale: float = 1.0
    ) -> tuple[torch.Tensor, torch.Tensor]:
        return self(student_logits, target), torch.full_like(student_logits, float("nan"))


def test_a_diverging_arm_is_reported_and_the_study_goes_on(tmp_path: Path) -> None:
    found = study(tmp_path, cells=("kd",), divergence=Broken(), seeds=2)
    assert {(r.arm, r.status) for r in found.runs} == {("hard", "completed"), ("kd", "diverged")}
    assert any("diverged" in note for note in found.notes) and any("cannot be judged" in note for note in found.notes)
    assert Study.load(tmp_path / "study.json").runs[-1].status == "diverged"


def test_a_class_absent_from_the_transfer_set_is_said() -> None:
    train = digits()[0]
    without = train.take((train.labels != 7).nonzero().flatten())
    found = study(data=without, seeds=2, cells=("kd", "class-mean", "ls"))
    assert "1 of 10 classes are absent from the data: 7" in found.notes


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seeds": 1}, "different seeds"),
        ({"seeds": (3, 3)}, "different seeds"),
        ({"cells": ("hard",)}, "no cell other than"),
        ({"cells": ("kd", "kd")}, "given twice"),
        ({"cells": ("kdd",)}, "did you mean"),
        ({"temperatures": ()}, "temperatures must be"),
        ({"teacher_weights": (0.0,)}, "teacher_weights must be"),
        ({"share": (2.0,)}, "shares must be"),
        ({"baseline": "ls"}, "no arm of the study"),
        ({"metric": "acc"}, "unknown metric"),
        ({"margin": 0.0}, "margin must be above"),
        ({"validation": None, "test": None, "test_signal": None}, "nothing to judge"),
    ],
)
def test_studies_that_cannot_be_meant(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        study(**changes)


@pytest.mark.parametrize(
    ("factory", "message"),
    [(lambda: nn.Linear(63, 10), "cannot compute with these inputs"), (lambda: nn.Linear(64, 9), "different classes")],
)
def test_students_that_do_not_fit(factory: Callable[[], nn.Module], message: str) -> None:
    with pytest.raises(MismatchError, match=message):
        study(factory=factory)


def test_a_signal_of_other_examples_is_refused() -> None:
    train = digits()[0]
    with pytest.raises(MismatchError, match="not of the same examples"):
        study(signal=signal_on(train.take(torch.arange(len(train)).flip(0))))


def test_another_baseline_can_be_named() -> None:
    found = study(baseline="kd-pt", cells=("kd", "kd-pt"), seeds=2)
    assert {(e.arm, e.against) for e in found.effects if e.metric == "nll"} == {("hard", "kd-pt"), ("kd", "kd-pt")}


def test_progress_goes_to_standard_error_only(capsys: pytest.CaptureFixture[str]) -> None:
    study(cells=("kd",), seeds=2, progress="auto")
    assert capsys.readouterr().out == ""


def test_measuring_on_the_way_is_no_more_than_a_tenth_of_training() -> None:
    from fractionate.study.setup import affordable_points

    assert (
        affordable_points(Training(steps=400, batch_size=32), 100, 300) == 8
    )  # 38,400 forward passes, 400 a measurement
    assert affordable_points(Training(epochs=3, batch_size=128), 1000, 0) == 1
    assert affordable_points(Training(steps=128, batch_size=64), 1000, 0) == 2
    assert affordable_points(Training(steps=1, batch_size=2), 10, 10) == 1
