"""A pilot keeps what beats no teacher, says so with an interval, ends in time, resumes where it was stopped."""

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
from fractionate.losses.objective import Objective
from fractionate.records import Diagnosis, Pilot, Training
from fractionate.study import pilot as module
from fractionate.study.pilot import PilotPlan
from fractionate.study.pilot_answers import Answers
from fractionate.study.pilot_arms import CAUTIOUS, FALLBACK, HARD, LEAST_TRAININGS, USUAL, Round
from fractionate.study.pilot_scores import Answer, Compared, best_scale, folds_of, gain_interval, shrunken
from fractionate.tasks.task import Task
from fractionate.theory.teacher_signal import TeacherSignal
from fractionate.training.recipe import Recipe

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
        "validation": made(400, 1)[0], "training": TRAINING, "progress": "off", "rounds": (Round(None, 1), Round(2, 1)),
        "confirming_seeds": 3, "rates": (1.0, 2.0), "grid": (("kd", 1.0, 1.0),),
    }  # fmt: skip
    return PilotPlan(**settings | changes)


def piloted(**changes: Any) -> Diagnosis:
    data, logits = made()
    return diagnose(TeacherSignal(logits, data.labels), student, data=data, pilot=plan(**changes))


def test_a_teacher_who_knows_the_rule_is_taken_with_evidence():
    found = piloted()
    assert found.recipe.distil and isinstance(found.pilot, Pilot)
    assert found.pilot.complete and found.pilot.interval.low > 0 and found.pilot.nll_gain_nats > 0
    arms = {trial.arm: trial for trial in found.pilot.trials}
    chosen = arms[found.pilot.chosen]
    own = found.recipe
    assert (chosen.cell, chosen.temperature, chosen.teacher_weight) == (own.cell, own.temperature, own.teacher_weight)
    assert own.learning_rate_factor == chosen.learning_rate_factor
    # no teacher, the rule's arm and the usual one are always there, each at every learning rate
    for name in ("no teacher", "kd T=1 w=0.6", "kd T=4 w=0.9", "kd T=1 w=1"):
        assert {name, f"{name} lr×2"} <= set(arms)
    assert arms[found.pilot.no_teacher].gain_points == 0
    assert chosen.seeds == 1 + 1 + 3 and min(t.seeds for t in found.pilot.trials) == 1
    assert found.pilot.students <= plan().students
    assert found.pilot.chosen in str(found) and "fresh seeds" in own.reason
    assert Diagnosis.from_json(found.to_json()) == found
    recipe = Recipe.recommended(own, TRAINING)
    assert recipe.training.learning_rate == TRAINING.learning_rate * own.learning_rate_factor
    assert recipe.objective == Objective.from_recipe(own)


def test_a_teacher_who_misleads_is_left_out():
    data, logits = made()
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(0))
    wrong = TeacherSignal(3 * logits[order], data.labels)
    only = ["temperature"]  # the other probes would stop it before the pilot
    found = diagnose(wrong, student, data=data, pilot=plan(), only=only)
    assert found.pilot is not None and found.pilot.gain_points < 0
    assert not found.recipe.distil and "is unlikely; best of" in found.recipe.reason
    stopped = diagnose(TeacherSignal(20 * nn.functional.one_hot((data.labels + 1) % 4, 4).float(), data.labels), student,
                       data=data, pilot=plan())  # fmt: skip
    assert stopped.pilot is None and "permuted-classes" in stopped.recipe.repair


def test_what_nothing_is_known_of_is_the_default_arm():
    """With 20 validation examples neither is shown: not "do not distil", and not the arm that happened to be best."""
    data, logits = made(200)
    signal = TeacherSignal(logits + torch.randn(logits.shape, generator=torch.Generator().manual_seed(1)), data.labels)
    found = diagnose(signal, student, data=data, pilot=plan(validation=made(20, 3)[0], coverage=0.99))
    assert found.pilot is not None and found.recipe.distil and "are possible: the default of" in found.recipe.reason
    assert (found.recipe.cell, found.recipe.temperature, found.recipe.teacher_weight) == FALLBACK


def test_it_repeats_itself_and_goes_on_from_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    first = piloted(out=tmp_path / "pilot").pilot
    assert first is not None
    plain = piloted(minutes=60).pilot  # a bound that does not bind changes nothing
    assert plain is not None and replace(plain, wall_seconds=0.0, budget_seconds=0.0) == replace(
        first, wall_seconds=0.0
    )
    next((tmp_path / "pilot").glob("kd_T=1_w=1-*seed-0.json")).unlink()
    trained: list[int] = []
    train = module.JobRunner.train

    def counting(runner: Any, job: Any, advance: Any) -> Any:
        trained.extend(t.seed for t in job.group)
        return train(runner, job, advance)

    monkeypatch.setattr(module.JobRunner, "train", counting)
    again = piloted(out=tmp_path / "pilot").pilot
    assert again is not None and replace(again, wall_seconds=0.0) == replace(first, wall_seconds=0.0)
    assert set(trained) == {0} and len(trained) == len(plan().settings) + 1  # the stack that misses an answer
    for changes in ({"validation": made(300, 2)[0]}, {"share": 0.5}):
        with pytest.raises(MismatchError, match="another pilot"):
            piloted(out=tmp_path / "pilot", **changes)
    next((tmp_path / "pilot").glob("kd_T=1_w=1-*seed-0.json")).write_text("{")
    with pytest.raises(DamagedError, match="delete this file"):
        piloted(out=tmp_path / "pilot")


def test_answers_on_disk_are_those_that_were_saved(tmp_path: Path):
    one = Answer(torch.tensor([1.0, 0.0, 1.0]).double(), torch.tensor([0.1, 2.5, 1 / 3]).double())
    answers = Answers(tmp_path, "mark")
    answers.save("kd", 0, one)
    answers.save("kd", 1, Answer(1 - one.right, one.nats))
    again = Answers(tmp_path, "mark").load("kd", 0)
    assert again is not None and torch.equal(again.right, one.right) and torch.equal(again.nats, one.nats)
    assert answers.load("kd", 2) is None
    with pytest.raises(MismatchError, match="another pilot"):
        Answers(tmp_path, "other")
    first, second = sorted(tmp_path.glob("kd-*.json"))
    kept = first.read_bytes()
    for content in (kept.replace(b"2.5", b"2.4"), kept[:-9], b"", b"[]", b"\xff", second.read_bytes()):
        first.write_bytes(content)
        with pytest.raises(DamagedError, match=re.escape(first.name)):
            Answers(tmp_path, "mark").load("kd", 0)
    plan = tmp_path / "plan.json"
    kept = plan.read_bytes()
    for content in (kept.replace(b"mark", b"mask"), b"{}", b"null"):
        plan.write_bytes(content)
        with pytest.raises(DamagedError, match=r"plan\.json"):
            Answers(tmp_path, "mark")


def test_it_ends_in_time_with_what_there_is():
    found = piloted(minutes=1e-9).pilot
    assert found is not None and not found.complete and "more minutes" in str(found)
    assert found.confirming_seeds == 2 and {t.learning_rate_factor for t in found.trials} == {1.0}


def test_a_budget_in_trainings_cuts_arms_and_seeds_and_never_steps():
    sizes = []
    for budget in (200, 50, LEAST_TRAININGS):
        made_of = PilotPlan.default(budget=budget)
        assert made_of.students <= budget and made_of.share == 1
        assert {HARD, CAUTIOUS, USUAL} <= set(made_of.settings)
        assert set(made_of.rates) == {1 / 3, 1.0, 3.0}  # no teacher is not undersold in any of them
        sizes.append(made_of.students)
    assert sizes == sorted(sizes, reverse=True) and sizes[-1] == LEAST_TRAININGS
    with pytest.raises(ConfigError, match=f"a budget of at least {LEAST_TRAININGS}"):
        PilotPlan.default(budget=LEAST_TRAININGS - 1)
    with pytest.raises(ConfigError, match="validation"):
        PilotPlan.default(Task("classification", transfer=made()[0], student=student))


def test_quick_students_are_all_tried_and_large_ones_are_not_even_counted():
    data = made()[0]
    for width, steps, students in ((8, 50, 105), (8, 50_000_000, 48), (200_000, 1, 48)):
        task = Task(
            "classification", transfer=data, validation=data,
            student=lambda width=width: nn.Sequential(nn.Linear(8, width), nn.ReLU(), nn.Linear(width, 4)),
        )  # fmt: skip
        assert PilotPlan.default(task, Training(steps=steps, batch_size=16, learning_rate=1e-2)).students == students


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"minutes": 0.0}, "minutes must be above 0"),
        ({"share": 1.5}, r"share must be in \(0, 1\]"),
        ({"rounds": ()}, "at least one seed"),
        ({"confirming_seeds": 1}, "2 or more"),
        ({"rates": (1.0, 1.0)}, "rates must be different"),
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
    points = values.tolist()
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
        held += around.low <= 0.01 <= around.high
    assert 0.92 <= held / 400 <= 0.99


def test_gains_that_are_poorly_measured_are_drawn_to_what_the_likelihood_says():
    """The posterior mean of normal gains around a line, written out; and it is nearer to the truth than what was measured."""
    draw = torch.Generator().manual_seed(0)
    nats = torch.randn(200, generator=draw).double()
    truth = 2 * nats + 0.5 * torch.randn(200, generator=draw).double()
    measured = truth + 2 * torch.randn(200, generator=draw).double()
    found = shrunken(measured, torch.full((200,), 4.0).double(), nats)
    slope = float((measured * nats).sum() / nats.square().sum())
    left = measured - slope * nats
    spread = max(0.0, float(left.square().mean()) - 4)
    torch.testing.assert_close(found, slope * nats + spread / (spread + 4) * left)
    assert float((found - truth).square().mean()) < 0.2 * float((measured - truth).square().mean())
    assert torch.equal(
        shrunken(measured, torch.full((200,), 1e-12).double(), nats).round(decimals=6), measured.round(decimals=6)
    )


def test_a_choice_among_equals_gains_nothing_when_it_is_cross_fitted():
    draw = torch.Generator().manual_seed(0)
    gains, plain = [], []
    for _ in range(200):
        right = (torch.rand(8, 3, 100, generator=draw) < 0.7).double() * 100
        compared = Compared(right, torch.rand(8, 3, 100, generator=draw).double(), likelihood=False)
        gains.append(float(compared.cross_fitted([0], range(3)).mean()))
        plain.append(float(right.mean((1, 2))[1:].max() - right[0].mean()))
    assert abs(sum(gains) / 200) < 0.5 < 2 < sum(plain) / 200


def test_nats_are_taken_at_the_scale_that_other_examples_choose():
    draw = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(500, 4, generator=draw)
    labels = torch.multinomial(torch.softmax(logits, 1), 1, generator=draw).flatten()
    loss = torch.stack([nn.functional.cross_entropy(s * logits / 2, labels, reduction="none") for s in (1.0, 2.0, 4.0)])
    torch.testing.assert_close(best_scale(loss.double(), folds_of(500)), loss[1].double())
    assert torch.bincount(folds_of(500)).tolist() == [100] * 5
