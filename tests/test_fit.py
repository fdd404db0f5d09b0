"""A task whose data, models and metrics do not fit is refused before a step; a folder refuses another run by its fields."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from fractionate import Objective, Recipe, Task, TeacherSignal, dissect, distill
from fractionate.errors import MismatchError
from fractionate.records import Training
from fractionate.tasks import check_fit
from fractionate.training.step import Stepper

INPUTS = torch.randn(40, 6, generator=torch.Generator().manual_seed(0))
DATA = (INPUTS, INPUTS[:, :3].argmax(1))
NARROW = (INPUTS[:, :5], DATA[1])
BEYOND = (INPUTS, torch.where(torch.arange(40) == 37, 7, DATA[1]))
RECIPE = Recipe(objective=Objective("kd", 2.0, 0.5), training=Training(steps=2, batch_size=8))


def mlp(outputs: int = 3, features: int = 6) -> Callable[[], nn.Module]:
    return lambda: nn.Sequential(nn.Linear(features, 4), nn.ReLU(), nn.Linear(4, outputs))


SOUND = Task("classification", transfer=DATA, validation=DATA, test=DATA, student=mlp())
BAD: dict[str, tuple[dict[str, Any], Callable[[], nn.Module], str]] = {
    "validation label": ({"validation": BEYOND}, mlp(), "validation: 1 of 40 labels are no class of the student"),
    "test label": ({"test": BEYOND}, mlp(), "test: 1 of 40 labels are no class of the student"),
    "transfer label": ({"transfer": BEYOND}, mlp(), "1 of 40 labels are no class of the student"),
    "test inputs": ({"test": NARROW}, mlp(), "test: the model Sequential cannot compute with these inputs"),
    "student": ({"student": mlp(3, 5)}, mlp(), "the model Sequential cannot compute with these inputs"),
    "metric of text": ({"metrics": ("accuracy", "bleu")}, mlp(), "metric bleu: Sequential writes no text"),
    "metric of numbers": ({"metrics": ("rmse",)}, mlp(), "metric rmse: predictions and labels do not fit"),
    "teacher's classes": ({}, mlp(4), "student and teacher have different classes"),
    "teacher": ({}, mlp(3, 5), "the model Sequential cannot compute with these inputs"),
}


def refused(task: Task, teacher: nn.Module, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What distill and dissect raise, before a step of the loop or of its stack."""
    monkeypatch.setattr(Stepper, "take", lambda *_, **__: pytest.fail("a step was taken"))
    arms = {"no teacher": Recipe(training=RECIPE.training), "kd": RECIPE}
    found = []
    for call in (
        lambda: distill(task, teacher=teacher, recipe=RECIPE, show="nothing"),
        lambda: dissect(task, arms, teacher, seeds=2, backend="loop", progress="off"),
    ):
        with pytest.raises(MismatchError) as error:
            call()
        found.append(str(error.value))
    return found


@pytest.mark.parametrize("name", BAD)
def test_what_does_not_fit_is_refused_before_a_step(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    changed, teacher, words = BAD[name]
    for text in refused(replace(SOUND, **changed), teacher(), monkeypatch):
        assert text.startswith(words), text


def test_all_faults_come_together(monkeypatch: pytest.MonkeyPatch) -> None:
    task = replace(SOUND, transfer=BEYOND, test=NARROW, metrics=("bleu", "rmse"))
    for text in refused(task, mlp(4)(), monkeypatch):
        assert text.startswith("5 parts of the task do not fit")
        words = (
            "1. 1 of 40",
            "test: the model",
            "metric bleu",
            "metric rmse",
            "student and teacher have different classes",
        )
        assert [word in text for word in words] == [True] * 5, text


def test_models_and_random_state_are_left_as_they_were() -> None:
    student = nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4), nn.Dropout(), nn.Linear(4, 3)).train()
    teacher = mlp()()
    before, state = {k: v.clone() for k, v in student.state_dict().items()}, torch.get_rng_state()
    assert check_fit(SOUND, student, teacher, 3, None) == 3
    assert torch.equal(torch.get_rng_state(), state) and student.training
    assert all(torch.equal(before[key], value) for key, value in student.state_dict().items())


OTHERS: dict[str, dict[str, Any]] = {
    "metrics": {"task": {"metrics": ("nll",)}},
    "head": {"task": {"head": lambda output: 2 * output}},
    "teacher_head": {"task": {"teacher_head": lambda output: 2 * output}},
    "output_layer": {"task": {"output_layer": "2"}},
    "classes": {"task": {"classes": 2}},
    "validation": {"task": {"validation": (INPUTS + 1, DATA[1])}},
    "test": {"task": {"test": (INPUTS + 1, DATA[1])}},
    "data": {"task": {"transfer": (INPUTS + 1, DATA[1])}},
    "objective_weight": {"recipe": {"objective_weight": 0.5}},
    "terms": {"recipe": {"terms": ("fitnets('0', '0')",)}},
    "recipe.data": {"recipe": {"data": ("augment(scale=0.1)",)}},
    "validation_signal": {"more": {"validation_signal": TeacherSignal(torch.zeros(40, 3), DATA[1])}},
    "seed": {"more": {"seed": 1}},
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Module, Path]:
    teacher, out = mlp()(), tmp_path_factory.mktemp("run")
    distill(SOUND, teacher=teacher, recipe=RECIPE, out=out, show="nothing")
    return teacher, out


@pytest.mark.parametrize("field", OTHERS)
def test_a_folder_refuses_another_run_and_names_the_field(field: str, finished: tuple[nn.Module, Path]) -> None:
    teacher, out = finished
    other = OTHERS[field]
    task, recipe = replace(SOUND, **other.get("task", {})), replace(RECIPE, **other.get("recipe", {}))
    with pytest.raises(MismatchError, match=rf"holds another run: .*\b{re.escape(field)}\b"):
        distill(task, teacher=teacher, recipe=recipe, out=out, show="nothing", **other.get("more", {}))


def test_a_head_that_is_a_function_is_known_by_its_code(tmp_path: Path) -> None:
    """Not by its address, which differs from process to process."""
    for _ in range(2):
        task = replace(SOUND, head=lambda output: output)
        _, run = distill(task, recipe=Recipe(training=RECIPE.training), seed=3, out=tmp_path, show="nothing")
        assert run.settings["head"] and "0x" not in str(run.settings["head"])
