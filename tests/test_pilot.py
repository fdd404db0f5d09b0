"""A pilot keeps what beats no teacher, says so with an interval, ends in time, goes on where it was stopped."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fractionate.data.examples import Examples
from fractionate.diagnosis import diagnose
from fractionate.errors import ConfigError, DamagedError, MismatchError
from fractionate.records import Diagnosis, Pilot, Training
from fractionate.study import pilot as module
from fractionate.study.pilot import HARD, USUAL, PilotPlan, Round, arm_name, gain_interval
from fractionate.study.results import Answers
from fractionate.theory.teacher_signal import TeacherSignal

TRAINING = Training(steps=60, batch_size=16, learning_rate=2e-2)


def student() -> nn.Module:
    return nn.Sequential(nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, 4))


def made(examples: int = 60, seed: int = 0) -> tuple[Examples, Tensor]:
    """Noisy labels of a linear rule, and the logits of the rule itself."""
    rule = torch.randn(8, 4, generator=torch.Generator().manual_seed(9))
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(examples, 8, generator=draw)
    logits = x @ rule
    labels = torch.multinomial(torch.softmax(logits, 1), 1, generator=draw).flatten()
    return Examples(x, labels, ("a", "b", "c", "d")), logits


def plan(**changes: Any) -> PilotPlan:
    settings: dict[str, Any] = {
        "minutes": 5.0, "validation": made(400, 1)[0], "training": TRAINING, "share": 1.0, "progress": "off",
        "rounds": (Round(None, 2), Round(2, 1)), "confirming_seeds": 3,
        "grid": (("kd", 1.0, 0.6), ("kd", 1.0, 1.0), ("kd-pt", 1.0, 0.9)),
    }  # fmt: skip
    return PilotPlan(**settings | changes)


def piloted(**changes: Any) -> Diagnosis:
    data, logits = made()
    return diagnose(TeacherSignal(logits, data.labels), student, data=data, pilot=plan(**changes))


def test_a_teacher_who_knows_the_rule_is_taken_with_evidence():
    found = piloted()
    assert found.recipe.distil and isinstance(found.pilot, Pilot)
    assert found.pilot.complete and found.pilot.interval.low > 0
    arms = {trial.arm: trial for trial in found.pilot.trials}
    assert found.pilot.chosen == arm_name((found.recipe.cell, found.recipe.temperature, found.recipe.teacher_weight))
    assert {arm_name(USUAL), "kd T=1 w=1"} <= set(arms) and "no teacher" not in arms
    assert arms[found.pilot.chosen].seeds == 6 and min(t.seeds for t in found.pilot.trials) == 2
    assert found.pilot.students == (len(arms) + 1) * 2 + 3 + 2 * 3
    assert found.pilot.chosen in str(found) and "fresh seeds" in found.recipe.reason
    assert Diagnosis.from_json(found.to_json()) == found


def test_a_teacher_who_misleads_is_left_out():
    data, logits = made()
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(0))
    wrong = TeacherSignal(3 * logits[order], data.labels)
    only = ["temperature"]  # the other probes would stop it before the pilot
    found = diagnose(wrong, student, data=data, pilot=plan(), only=only)
    assert found.pilot is not None and found.pilot.gain_points < 0
    assert not found.recipe.distil and "nothing surely beat no teacher" in found.recipe.reason
    stopped = diagnose(TeacherSignal(20 * nn.functional.one_hot((data.labels + 1) % 4, 4).float(), data.labels), student,
                       data=data, pilot=plan())  # fmt: skip
    assert stopped.pilot is None and not stopped.recipe.distil


def test_it_repeats_itself_and_goes_on_from_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    first = piloted(out=tmp_path / "pilot").pilot
    assert first is not None
    plain = piloted().pilot
    assert plain is not None and replace(plain, wall_seconds=0.0) == replace(first, wall_seconds=0.0)
    next((tmp_path / "pilot").glob("kd_T=1_w=1*seed-1.json")).unlink()
    trained: list[int] = []
    train = module.JobRunner.train

    def counting(runner: Any, job: Any, advance: Any) -> Any:
        trained.extend([runner.steps(job)] * len(job.group))
        return train(runner, job, advance)

    monkeypatch.setattr(module.JobRunner, "train", counting)
    again = piloted(out=tmp_path / "pilot").pilot
    assert again is not None and replace(again, wall_seconds=0.0) == replace(first, wall_seconds=0.0)
    assert trained.count(60) == len(again.trials) + 1  # the seed that misses an answer: all its arms
    with pytest.raises(MismatchError, match="another pilot"):
        piloted(out=tmp_path / "pilot", validation=made(300, 2)[0])
    with pytest.raises(MismatchError, match="another share of the steps"):
        piloted(out=tmp_path / "pilot", share=0.5)
    next((tmp_path / "pilot").glob("kd_T=1_w=1*seed-0.json")).write_text("{")
    with pytest.raises(DamagedError, match="delete this file"):
        piloted(out=tmp_path / "pilot")


def test_answers_on_disk_are_those_that_were_saved(tmp_path: Path):
    right = torch.tensor([True, False, True])
    answers = Answers(tmp_path, "mark")
    answers.share = 0.5
    answers.save("kd", 0, right)
    answers.save("kd", 1, ~right)
    again = Answers(tmp_path, "mark")
    assert again.share == 0.5 and torch.equal(again.load("kd", 0), right) and again.load("kd", 2) is None
    with pytest.raises(MismatchError, match="another pilot"):
        Answers(tmp_path, "other")
    first, second = sorted(tmp_path.glob("kd-*.json"))
    kept = first.read_bytes()
    for content in (kept.replace(b"101", b"100"), kept[:-9], b"", b"[]", b"\xff", second.read_bytes()):
        first.write_bytes(content)
        with pytest.raises(DamagedError, match=re.escape(first.name)):
            Answers(tmp_path, "mark").load("kd", 0)
    plan = tmp_path / "plan.json"
    kept = plan.read_bytes()
    for content in (kept.replace(b"0.5", b"0.6"), kept.replace(b"mark", b"mask"), b"{}", b"null"):
        plan.write_bytes(content)
        with pytest.raises(DamagedError, match=r"plan\.json"):
            Answers(tmp_path, "mark")


def test_it_ends_in_time_with_what_there_is():
    found = piloted(minutes=1e-4, share=None).pilot
    assert found is not None and not found.complete and "more minutes" in str(found)
    assert found.share_of_steps == module.SHARES[-1] and found.confirming_seeds == 2


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"minutes": 0.0}, "minutes must be above 0"),
        ({"share": 1.5}, r"share must be in \(0, 1\]"),
        ({"rounds": ()}, "at least one seed"),
        ({"confirming_seeds": 1}, "2 or more"),
        ({"grid": ()}, "the grid is empty"),
        ({"coverage": 1.0}, r"coverage must be in \(0, 1\)"),
    ],
)
def test_a_plan_that_cannot_be_meant_is_refused(changes: dict[str, Any], told: str):
    with pytest.raises(ConfigError, match=told):
        plan(**changes)


def test_what_a_pilot_needs_is_said():
    data, logits = made()
    signal = TeacherSignal(logits, data.labels)
    for given in ({"student": student}, {"data": data}, {"student": student(), "data": data}):
        with pytest.raises(ConfigError, match="a pilot trains many students"):
            diagnose(signal, pilot=plan(), **given)
    with pytest.raises(MismatchError, match="different classes"):
        diagnose(signal, lambda: nn.Linear(8, 5), data=data, pilot=plan(), only=["temperature"])


def test_the_interval_is_that_of_two_way_random_effects():
    """Loop-form oracle, and coverage on simulated seeds and examples that both vary."""
    torch.manual_seed(0)
    values = (torch.rand(4, 7) < 0.4).double() - (torch.rand(4, 7) < 0.3).double()
    mean, around = gain_interval(values)
    points = (100 * values).tolist()
    grand = sum(map(sum, points)) / 28
    rows = [sum(r) / 7 for r in points]
    columns = [sum(points[s][i] for s in range(4)) / 4 for i in range(7)]
    by_seed = sum((r - grand) ** 2 for r in rows) / 3 / 4
    by_example = sum((c - grand) ** 2 for c in columns) / 6 / 7
    rest = sum((points[s][i] - rows[s] - columns[i] + grand) ** 2 for s in range(4) for i in range(7)) / 18 / 28
    half = (3.182446**2 * by_seed + 1.959964**2 * max(0.0, by_example - rest)) ** 0.5
    assert mean == pytest.approx(grand) and around.high - grand == pytest.approx(half, rel=1e-6)

    held = 0
    for _ in range(400):
        seed, example = 0.02 * torch.randn(5, 1), 0.3 * torch.randn(1, 200)
        _, around = gain_interval(0.01 + seed + example + 0.3 * torch.randn(5, 200))
        held += around.low <= 1.0 <= around.high
    assert 0.92 <= held / 400 <= 0.99


def test_the_grid_holds_what_a_pilot_must_try():
    assert HARD not in module.GRID and USUAL in module.GRID and len(set(module.GRID)) == len(module.GRID)
