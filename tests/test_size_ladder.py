"""Students of different sizes as a factor of a study: arms, comparisons within a size, costs, the page."""

from __future__ import annotations

import re

import pytest
import torch
from torch import nn

from fractionate import Recipe, Task, TeacherSignal, dissect, report
from fractionate.cli.commands import main
from fractionate.data import Examples
from fractionate.errors import ConfigError
from fractionate.page.size_plots import size_figures
from fractionate.records import Study, Training
from fractionate.store import Store
from fractionate.study.arms import make_arms, make_contrasts
from fractionate.teachers import Cached

torch.manual_seed(0)
DATA = Examples(torch.randn(60, 6), torch.arange(60) % 3, name="drawn")
FAST = Training(steps=3, batch_size=20)


class Stacked(nn.Module):
    """A model with a stack of layers, so that students can be cut out of it."""

    def __init__(self, layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Sequential(nn.Linear(6, 6), nn.Tanh()) for _ in range(layers))
        self.head = nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = layer(x)
        return self.head(x)


def test_every_size_is_compared_with_its_own_labels_alone() -> None:
    sizes = {"all layers": ("from_teacher()",), "2 layers": ("from_teacher('every 2')",)}
    arms = make_arms(("kd", "kd-shuffled"), (1.0,), (0.9,), (1.0,), (0.01,), students=sizes)
    assert [arm.name for arm in arms[:3]] == ["hard all layers", "kd all layers", "kd-shuffled all layers"]
    pairs = {(c.arm, c.against) for c in make_contrasts(arms)}
    assert ("kd 2 layers", "hard 2 layers") in pairs and ("kd 2 layers", "kd-shuffled 2 layers") in pairs
    assert not any(one.split(" ", 1)[1] != other.split(" ", 1)[1] for one, other in pairs)
    (base, *_) = make_arms(("kd",), (1.0,), (0.9,), (1.0,), (0.01,), students=("small",))
    assert base.recipe.student == "small" and base.name == "hard"


@pytest.mark.parametrize("students", [("a", "a"), ("",), {"": ()}])
def test_names_of_sizes_are_different_and_not_empty(students) -> None:
    with pytest.raises(ConfigError, match="invalid value for students"):
        make_arms(("kd",), (1.0,), (0.9,), (1.0,), (0.01,), students=students)


def test_a_ladder_of_students_cut_out_of_their_teacher_is_measured_and_drawn(tmp_path) -> None:
    teacher = Stacked(4)
    with torch.no_grad():
        logits = teacher(DATA.inputs)
    task = Task("classification", transfer=DATA, test=DATA)
    sizes = {"4 layers": ("from_teacher()",), "2 layers": ("from_teacher('every 2')",)}
    settings = {"cells": ("kd",), "students": sizes, "training": FAST, "seeds": 2, "progress": "off"}
    made = dissect(task, teacher=Cached(TeacherSignal(logits, DATA.labels), model=teacher), **settings)
    by_size = {run.arm: run for run in made.runs}
    assert by_size["kd 4 layers"].parameters == 4 * 42 + 21 and by_size["kd 2 layers"].parameters == 2 * 42 + 21
    assert {effect.arm for effect in made.effects} == {"kd 4 layers", "kd 2 layers"}
    assert all(run.cost["student_latency_ms"] > 0 and run.cost["teacher_parameters"] == 189 for run in made.runs)
    first, second = size_figures(made.runs, made.metrics, made.arms, frozenset(), ("size", "latency"))
    assert "against size" in first.title and "against latency" in second.title
    assert [row[:2] for row in first.rows[:2]] == [("no teacher 4 layers", 189), ("kd 4 layers", 189)]
    assert all(row[4] <= row[3] <= row[5] for row in first.rows), "each mean lies in its interval"
    assert len(re.findall("<polyline", first.drawing)) == 2, "one line a cell"
    page = report([made], tmp_path / "page.html").read_text(encoding="utf-8")
    assert "against latency" in page and 'id="size"' in page


def test_students_of_one_size_have_no_ladder_and_arms_have_their_own_students() -> None:
    task = Task("classification", transfer=DATA, test=DATA, student=lambda: Stacked(1))
    made = dissect(task, teacher=Stacked(2), cells=("kd",), training=FAST, seeds=2, progress="off")
    assert not size_figures(made.runs, made.metrics, made.arms, frozenset(), ("size", "latency"))
    assert not any(run.cost for run in made.runs)
    with pytest.raises(ConfigError, match="arms= and students= cannot be combined"):
        dissect(task, teacher=Stacked(2), arms={"a": Recipe(), "b": Recipe()}, students=("student",), seeds=2)


def test_a_run_file_has_sizes_hidden_states_and_features(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run.yaml").write_text(
        "data: {source: digits, transfer: 40, validation: 30, test: 30}\nout: out\n"
        "teacher: {model: mlp(12), train: {steps: 20, on: transfer}}\nstudent: {model: mlp(4)}\ntraining: {steps: 3}\n"
        "collect: {form: hidden, features: ['1']}\ndiagnosis: {pilot: 0}\n"
        "study: {cells: [hard, kd], seeds: 2, students: {small: [], whole: [from_teacher()]}}\n"
    )
    with pytest.raises(SystemExit) as left:
        main(["dissect", "run.yaml"])
    assert not left.value.code
    store, study = Store.open("out/store"), Study.load("out/study.json")
    assert store.form.kind == "hidden" and store.head.k == 12 and store.feature_paths == ("1",)
    sizes = {run.arm: run.parameters for run in study.runs}
    assert {"hard small", "kd small", "hard whole", "kd whole"} <= set(sizes)
    assert sizes["kd small"] == 64 * 4 + 4 + 4 * 10 + 10 and sizes["kd whole"] == 64 * 12 + 12 + 12 * 10 + 10
    assert ("kd whole", "hard whole") in {(e.arm, e.against) for e in study.effects}
