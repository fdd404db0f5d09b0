"""Studies of dependent arms: further contrasts, teachers by seed and by arm, starts from other arms, students that are kept."""

from __future__ import annotations

import os
import signal as signal_module
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from bench.kill import forked
from torch import Tensor, nn

from encoders import encoder, inputs_of, transformers
from fractionate import Objective, TeacherSignal, dissect
from fractionate.data import Examples
from fractionate.errors import ConfigError, DamagedError, MismatchError
from fractionate.records import Run, Study, Training
from fractionate.study import Arm, BySeed, compare_maps, trained_student
from fractionate.study.workers import start_method
from fractionate.tasks import Task
from fractionate.teachers import Cached, Online
from fractionate.training import Recipe, signal_on

FEW = Training(steps=8, batch_size=8, learning_rate=1e-2)
KD = Objective("kd", 2.0, 0.9)
HARD, TAUGHT = Recipe(training=FEW), Recipe(objective=KD, training=FEW)


def rows(count: int, seed: int = 0) -> Examples:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(count, 6, generator=generator)
    return Examples(inputs, inputs[:, :3].argmax(dim=1))


def student() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))


def task(**changes: Any) -> Task:
    return replace(Task("classification", transfer=rows(40), test=rows(30, 1), student=student), **changes)


def model(seed: int) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return student()


def signal(seed: int) -> TeacherSignal:
    return signal_on(model(100 + seed), rows(40))


EVERY = BySeed(signal)


def study(arms: dict[str, Recipe | Arm], teacher: Any = EVERY, **changes: Any) -> Study:
    return dissect(changes.pop("task", task()), arms, teacher, **({"seeds": 2, "progress": "off"} | changes))


def timeless(found: Study) -> list[Run]:
    return [replace(run, wall_seconds=0.0) for run in found.runs]


def test_contrasts_between_named_variants_are_corrected_together() -> None:
    arms: dict[str, Recipe | Arm] = {
        "no teacher": HARD,
        "kd": TAUGHT,
        "soft": replace(TAUGHT, objective=replace(KD, temperature=4.0)),
    }
    plain = study(arms, signal(0), seeds=3)
    more = study(arms, signal(0), seeds=3, contrasts=[("soft", "kd")])
    accuracy = [e for e in more.effects if e.metric == "accuracy"]
    assert [(e.arm, e.against) for e in accuracy] == [("kd", "no teacher"), ("soft", "no teacher"), ("soft", "kd")]
    first = next(e for e in plain.effects if e.metric == "nll")
    same = next(e for e in more.effects if e.metric == "nll")
    assert (first.gain, first.p_value) == (same.gain, same.p_value) and same.p_holm >= first.p_holm
    by_seed = {(r.arm, r.seed): r.test.values["nll"] for r in more.runs if r.test is not None}
    last = [e for e in more.effects if e.metric == "nll"][-1]
    assert last.gain == pytest.approx(sum(by_seed["soft", s] - by_seed["kd", s] for s in range(3)) / 3)
    assert more.data["classes"] == 3  # without class names
    with pytest.raises(ConfigError, match=r"invalid value for contrasts"):
        study(arms, signal(0), contrasts=[("soft", "kdd")])


def test_a_teacher_for_every_seed(tmp_path: Path) -> None:
    called: list[int] = []

    def make(seed: int) -> TeacherSignal:
        called.append(seed)
        return signal(seed)

    arms: dict[str, Recipe | Arm] = {"no teacher": HARD, "kd": TAUGHT}
    found = study(arms, BySeed(make), out=tmp_path)
    assert called == [0, 1]
    alone = [study(arms, signal(seed), seeds=(seed, 7)) for seed in range(2)]
    for seed, other in enumerate(alone):
        mine = next(r for r in found.runs if (r.arm, r.seed) == ("kd", seed))
        theirs = next(r for r in other.runs if (r.arm, r.seed) == ("kd", seed))
        assert mine.test == theirs.test and mine.settings["teacher"] == theirs.settings["teacher"]
    next((tmp_path / "runs").iterdir()).unlink()
    assert timeless(study(arms, {seed: signal(seed) for seed in range(2)}, out=tmp_path)) == timeless(found)
    make_all = BySeed(make)
    assert timeless(study(arms, make_all, workers=2)) == timeless(found)
    with pytest.raises(MismatchError, match="teacher"):  # another one for the second seed alone
        study(arms, {0: signal(0), 1: signal(5)}, out=tmp_path)
    judged = {seed: signal_on(model(100 + seed), rows(30, 1)) for seed in range(2)}
    study(arms, make_all, test_signal=judged, out=tmp_path / "judged")
    with pytest.raises(MismatchError, match="test_signal"):  # what agreement is measured against is part of a run
        study(arms, make_all, test_signal=judged | {1: judged[0]}, out=tmp_path / "judged")
    with pytest.raises(ConfigError, match="gives nothing for some seeds"):
        study(arms, {0: signal(0)})


def test_a_variant_with_a_teacher_of_its_own() -> None:
    arms: dict[str, Recipe | Arm] = {"no teacher": HARD, "kd": TAUGHT, "other": Arm(TAUGHT, teacher=model(3))}
    found = study(arms, model(2), backend="loop")
    alone = study({"no teacher": HARD, "other": TAUGHT}, model(3), backend="loop")
    own = {(r.arm, r.seed): r for r in found.runs}
    for run in alone.runs:
        assert run.test is not None
        assert own[run.arm, run.seed].test.values["nll"] == run.test.values["nll"]  # type: ignore[union-attr]
    assert own["kd", 0].settings["teacher"] != own["other", 0].settings["teacher"]
    assert str(study(arms, model(2)).runs[-1].settings["backend"]).startswith("loop: starts and teachers")
    with pytest.raises(ConfigError, match="needs a teacher"):
        study({"no teacher": HARD, "kd": TAUGHT, "other": Arm(TAUGHT, teacher=model(3))}, None)


CHAIN: dict[str, Recipe | Arm] = {
    "no teacher": HARD,
    "kd": Arm(TAUGHT, start="first"),
    "first": Arm(TAUGHT, role="start"),
    "noisy": Arm(replace(TAUGHT, preparations=("lora(2, targets='2')",)), start="kd"),
}


def test_a_variant_goes_on_from_the_trained_student_of_another(tmp_path: Path) -> None:
    pytest.importorskip("peft")
    found = study(CHAIN, out=tmp_path, keep="weights")
    assert {run.status for run in found.runs} == {"completed"}
    assert {(e.arm, e.against) for e in found.effects} == {("kd", "no teacher"), ("noisy", "no teacher")}
    from fractionate import distill

    first, _ = distill(task(), teacher=signal(1), recipe=TAUGHT, seed=1, show="nothing")
    second, _ = distill(first, rows(40), signal(1), recipe=TAUGHT, seed=1, show="nothing")
    kept = trained_student(tmp_path, "kd", 1, task(), arms=CHAIN, teacher=EVERY)
    for one, other in zip(second.parameters(), kept.parameters(), strict=True):
        assert torch.equal(one, other)
    assert "kd: " in str(next(r for r in found.runs if r.arm == "noisy").settings["start"])
    # killed between the links, by other workers: the same numbers
    for file in sorted((tmp_path / "runs").glob("noisy*")) + sorted((tmp_path / "runs").glob("first*"))[:1]:
        file.unlink()
    assert timeless(study(CHAIN, out=tmp_path, keep="weights", workers=2)) == timeless(found)
    changed = CHAIN | {"first": Arm(replace(TAUGHT, objective=Objective("kd", 3.0, 0.9)), role="start")}
    with pytest.raises(MismatchError, match="start"):
        study({name: arm for name, arm in changed.items() if name != "noisy"}, out=tmp_path)


@pytest.mark.skipif(start_method("cpu") != "fork", reason="the trap goes to the workers by fork")
def test_a_killed_chain_ends_in_the_same_runs_and_students(tmp_path: Path) -> None:
    """A real kill -9 of the whole study between two links of a chain; students are kept."""
    arms = {name: arm for name, arm in CHAIN.items() if name != "noisy"}
    out, home = tmp_path / "killed", os.getpid()

    def waits() -> nn.Module:  # once there is a run the workers go on only when the study is gone
        parent = os.getppid()
        while home != parent == os.getppid() and list((out / "runs").glob("first*.json")):
            time.sleep(0.01)
        return student()

    def command(where: Path, make: Callable[[], nn.Module]) -> Study:
        return study(arms, out=where, keep="weights", workers=2, task=task(student=make), seeds=3)

    whole = command(tmp_path / "whole", student)
    process = forked(lambda: command(out, waits))
    while not list((out / "runs").glob("first*.json")):
        assert os.waitpid(process, os.WNOHANG) == (0, 0), "the study ended before it could be killed"
        time.sleep(0.01)
    os.kill(process, signal_module.SIGKILL)
    os.waitpid(process, 0)
    assert not (out / "study.json").exists()
    assert timeless(command(out, student)) == timeless(whole)
    for file in (tmp_path / "whole" / "students").iterdir():
        assert (out / "students" / file.name).read_bytes() == file.read_bytes()


@pytest.mark.parametrize(
    ("arms", "words"),
    [
        ({"a": HARD, "b": Arm(TAUGHT, start="c")}, "starts from 'c'"),
        ({"a": HARD, "b": Arm(TAUGHT, start="c"), "c": Arm(TAUGHT, start="b")}, "start from each other"),
    ],
)
def test_starts_that_are_not_there(arms: dict[str, Recipe | Arm], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        study(arms)


def test_a_start_that_diverges_takes_those_after_it_along() -> None:
    wild = replace(HARD, training=replace(FEW, learning_rate=1e30))
    found = study({"no teacher": HARD, "first": Arm(wild, role="start"), "then": Arm(HARD, start="first")}, None)
    status = {run.arm: (run.status, run.note) for run in found.runs}
    assert status["no teacher"][0] == "completed" and status["first"][0] == status["then"][0] == "diverged"
    assert "first, its start, diverged" in status["then"][1]


@pytest.mark.parametrize("workers", [1, 2])
def test_trained_students_are_kept_and_come_back(tmp_path: Path, workers: int) -> None:
    arms: dict[str, Recipe | Arm] = {"no teacher": HARD, "kd": TAUGHT}
    small = study(arms, signal(0), out=tmp_path)  # records alone: the next call trains again, to the same numbers
    found = study(arms, signal(0), out=tmp_path, keep="weights", workers=workers)
    assert [r.test for r in found.runs] == [r.test for r in small.runs]
    inputs: Tensor = rows(30, 1).inputs
    for run in found.runs:
        back = trained_student(tmp_path, run.arm, run.seed, task())
        right = (back(inputs).argmax(dim=1) == rows(30, 1).labels).double().mean()
        assert run.test is not None and run.test.accuracy == pytest.approx(float(right))
    written = {path: path.read_bytes() for path in tmp_path.glob("*/*")}
    file = next((tmp_path / "students").glob("kd*"))
    file.unlink()  # lost weights are trained again, with their record
    study(arms, signal(0), out=tmp_path, keep="weights")
    assert set(tmp_path.glob("*/*")) == set(written) and file.read_bytes() == written[file]
    file.write_bytes(b"x")
    with pytest.raises(DamagedError, match="is damaged"):
        trained_student(tmp_path, "kd", int(file.stem[-1]), task())
    with pytest.raises(ConfigError, match="holds no student"):
        trained_student(tmp_path, "kd", 9, task())
    with pytest.raises(ConfigError, match="invalid value for keep"):
        study(arms, signal(0), keep="weights")


def test_transforms_of_the_data_hear_the_teacher_itself() -> None:
    """Data in memory: the teacher's answers are kept, but not for variants whose transform makes other data."""
    groups = "chimeras(((0, 1, 2), (3, 4, 5)), size=40)"
    arms: dict[str, Recipe | Arm] = {"no teacher": HARD, "kd": TAUGHT, "mixed": replace(TAUGHT, data=(groups,))}
    found = study(arms, Online(model(2)))
    assert {run.status for run in found.runs} == {"completed"}


def metrics_of(teacher: Any, make: Callable[[], nn.Module], **changes: Any) -> Study:
    inputs = inputs_of(batch=12)
    data = [{name: value[i] for name, value in inputs.items()} | {"labels": i % 3} for i in range(12)]
    own = Task(
        "classification", transfer=data, test=data, student=make, metrics=("accuracy", "ranking-loss", "cover-length")
    )
    return dissect(own, {"no teacher": HARD, "kd": TAUGHT}, teacher, seeds=2, progress="off", **changes)


def test_metrics_read_inside_student_and_teacher(tmp_path: Path) -> None:
    transformers()
    teacher, data = encoder(seed=5).eval(), inputs_of(batch=12)
    found = metrics_of(teacher, encoder, out=tmp_path, keep="weights")
    own = Task("classification", transfer=[{"input_ids": data["input_ids"][0], "labels": 0}], student=encoder)
    for run in found.runs:
        change = compare_maps(trained_student(tmp_path, run.arm, run.seed, own), teacher, [(data, torch.zeros(12))])
        assert run.test is not None
        assert run.test.values["ranking-loss"] == pytest.approx(
            torch.tensor(change.ranking_loss).mean().item(), rel=1e-5
        )
        assert run.test.values["cover-length"] == pytest.approx(
            torch.tensor(change.cover_length_ratio).mean().item(), rel=1e-5
        )
    assert {e.metric for e in found.effects} == {"accuracy", "ranking-loss", "cover-length"}
    labels = torch.arange(12) % 3
    cached = Cached(TeacherSignal(teacher(**data).logits.detach(), labels), model=teacher)
    assert [r.test for r in metrics_of(cached, encoder).runs] == [r.test for r in found.runs]
    with pytest.raises(MismatchError, match="differ in depth"):
        metrics_of(teacher, lambda: encoder(num_hidden_layers=1))


@pytest.mark.parametrize(
    "factor", [{"training": Training(steps=3)}, {"cells": ("kd",)}, {"terms": ("map",)}, {"temperatures": (2.0,)}]
)
def test_factors_next_to_arms_are_refused_not_dropped(factor):
    data = (torch.randn(24, 5), torch.arange(24) % 3)
    with pytest.raises(ConfigError, match=f"arms= and {next(iter(factor))}= cannot be combined"):
        dissect(lambda: nn.Linear(5, 3), data, nn.Linear(5, 3), arms={"no teacher": Recipe()}, test=data, **factor)
