"""What an export hangs on: was the recipe compared with no teacher under the same training, and is it surely worse?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch

from fractionate import Objective, Recipe, Task, TeacherSignal, diagnose, dissect
from fractionate.errors import MismatchError
from fractionate.records import (
    Contract,
    Interval,
    MetricInfo,
    Pilot,
    Recommendation,
    Run,
    Scores,
    Study,
    Training,
    Trial,
    Try,
)
from fractionate.run.recipe_arms import recipe_arms, usual_arms
from fractionate.study import Arm, PilotPlan, recommended_arms
from fractionate.study.effects import compared_with_no_teacher, surely_worse
from fractionate.study.effects.contrasts import judge
from fractionate.study.effects.harm import undertrained, without_teacher
from fractionate.study.effects.power import power_of_difference, smallest_effect
from fractionate.study.pilot_arms import Round

ACCURACY = MetricInfo("accuracy", "points", "more", 0.5, counts=True)
NLL = MetricInfo("nll", "nats", "less", 0.02)


def runs(arm: str, values: Sequence[float], weight: float | None, rate: float = 1e-3) -> list[Run]:
    contract = None if weight is None else Contract("", "kd", "", "", "instance", 1.0, weight, "cross-entropy", True)
    return [
        Run(arm, seed, "completed", contract, 10, 1.0, 5, test=Scores(2000, 2000, {"accuracy": value, "nll": value / 100}),
            settings={"learning_rate": rate, "share": 1.0, "cell": arm, "steps": 10})
        for seed, value in enumerate(values)
    ]  # fmt: skip


def study(*arms: list[Run], metric: MetricInfo = ACCURACY, tries: tuple[Try, ...] = ()) -> Study:
    found = tuple(run for arm in arms for run in arm)
    return Study(
        "s", (metric,), "hard", tuple(dict.fromkeys(r.arm for r in found)), (0, 1, 2, 3), found, (), tries=tries
    )


HARD = runs("hard", (80.0, 81.0, 80.5, 80.2), None)


def test_a_recipe_that_costs_points_is_surely_worse():
    found = study(HARD, runs("kd", (78.0, 79.1, 78.4, 78.3), 0.9))
    compared = compared_with_no_teacher(found, "kd")
    assert surely_worse(found, "kd") and compared.against == "hard" and compared.gain == pytest.approx(-1.975)
    assert compared.interval is not None and compared.interval.high < 0 and "surely worse" in str(compared)
    better = study(HARD, runs("kd", (78.0, 79.1, 78.4, 78.3), 0.9), metric=NLL)  # less is better
    assert compared_with_no_teacher(better, "kd").verdict == "surely better" and not surely_worse(better, "kd")


def test_what_cannot_be_told_says_what_could_have_been_seen():
    found = compared_with_no_teacher(study(HARD, runs("kd", (79.0, 82.1, 80.4, 81.0), 0.9)), "kd")
    assert found.verdict == "cannot tell" and found.seeds_to_settle is not None and found.seeds_to_settle > 4
    assert found.smallest_effect is not None and found.smallest_effect > 0.5
    equal = compared_with_no_teacher(study(HARD, runs("kd", (80.05, 81.1, 80.5, 80.2), 0.9)), "kd")
    assert equal.verdict == "equal"


def test_only_the_same_training_counts():
    other = runs("kd", (78.0, 79.1, 78.4, 78.3), 0.9, rate=3e-3)
    assert compared_with_no_teacher(study(HARD, other), "kd").verdict == "not compared"
    assert not surely_worse(study(HARD, other), "kd") and without_teacher(study(HARD, other), "kd") == ""
    multiple = study(
        HARD, runs("hard lr×9", (79.0, 79.5, 79.4, 79.1), None, rate=9e-3), other
    )  # the best of them counts
    assert without_teacher(multiple, "kd") == "hard" and surely_worse(multiple, "kd")
    tuned = study(HARD, other, tries=(Try("kd", 1.0, 0.9, 3e-3, 80.0, chosen=True),))  # each at its best
    assert surely_worse(tuned, "kd")
    with pytest.raises(MismatchError, match="no run of arm"):
        surely_worse(tuned, "dk")


def test_the_smallest_effect_is_what_the_test_finds_in_eight_of_ten():
    found = smallest_effect(0.5, 5)
    assert found is not None and power_of_difference(found, 0.5, 5) == pytest.approx(0.8, abs=0.01)
    assert found == pytest.approx(0.84, abs=0.02)  # G*Power: dz = 1.68 for n = 5
    assert smallest_effect(0.0, 5) is None


def test_a_difference_below_rounding_is_none():
    assert judge(4e-4, 1e-9, 1e-9, resolution=5e-4) == "equivalent"
    assert judge(6e-4, 1e-9, 1e-9, resolution=5e-4) == "helps"
    assert judge(-4e-4, 0.5, 0.5, resolution=5e-4) == "cannot tell"


def test_students_near_chance_are_said_to_be_undertrained():
    labels = [0] * 60 + [1] * 40
    assert "undertrained" in undertrained(runs("hard", (61.0, 60.0), None), labels)
    assert undertrained(runs("hard", (61.0, 60.0), None) + runs("kd", (75.0, 74.0), 0.9), labels) == ""
    assert undertrained([], labels) == "" == undertrained(HARD, [])


def test_a_real_study_says_whether_its_arms_harm_and_what_was_not_tuned():
    draw = torch.Generator().manual_seed(0)
    inputs = torch.randn(160, 6, generator=draw)
    labels = (inputs @ torch.randn(6, 3, generator=draw)).argmax(1)
    wrong = TeacherSignal(8.0 * torch.nn.functional.one_hot((labels[:80] + 1) % 3, 3), labels[:80])
    found = dissect(
        lambda: torch.nn.Linear(6, 3), (inputs[:80], labels[:80]), wrong, cells=("hard", "kd"), teacher_weights=(0.9,),
        training=Training(steps=60, learning_rate=0.05), seeds=3, test=(inputs[80:], labels[80:]), progress="off",
    )  # fmt: skip
    assert surely_worse(found, "kd") and not surely_worse(found, "hard")
    assert any("learning rate 0.05, tuned for none" in note for note in found.notes)
    assert not any("undertrained" in note for note in found.notes)


def test_the_recipe_and_what_everyone_copies_are_arms_beside_no_teacher():
    draw = torch.Generator().manual_seed(0)
    inputs = torch.randn(240, 6, generator=draw)
    logits = inputs @ torch.randn(6, 3, generator=draw)
    labels = torch.multinomial(torch.softmax(logits, 1), 1, generator=draw).flatten()
    task = Task("classification", transfer=(inputs[:60], labels[:60]), validation=(inputs[60:150], labels[60:150]),
                test=(inputs[150:], labels[150:]), student=lambda: torch.nn.Linear(6, 3))  # fmt: skip
    signal = TeacherSignal(logits[:60], labels[:60])
    training = Training(steps=20, learning_rate=0.02)
    plan = PilotPlan(
        training=training, rounds=(Round(None, 1),), confirming_seeds=2, grid=(), rates=(1.0, 4.0), progress="off"
    )
    found = diagnose(signal, data=task, pilot=plan, only=["temperature"])
    arms = recommended_arms(found, training)
    assert arms["no teacher"].role == "baseline" and arms["recommended"].role == "recommended"
    own = found.recipe
    same = (own.temperature, own.teacher_weight, own.learning_rate_factor) == (
        4.0,
        0.9,
        1.0,
    )  # no arm stands there twice
    assert ("T = 4 / 0.9" in arms) is not same
    made = dissect(task, arms, signal, seeds=2, progress="off")
    assert compared_with_no_teacher(made, "recommended").verdict != "not compared"
    plain = recommended_arms(diagnose(signal, data=task, only=["temperature"]), training)
    assert list(plain) == ["no teacher", "recommended", "T = 4 / 0.9"]
    assert found.predicted is not None and found.predicted.basis == "signal and pilot"
    assert found.predicted.interval.low <= found.predicted.gain <= found.predicted.interval.high
    assert str(found.predicted) in str(found)


def test_no_teacher_is_compared_at_its_own_best_learning_rate_of_the_pilot():
    """At the recipe's rate alone the students without a teacher may be trained worse than anyone would."""
    training, none = Training(steps=20, learning_rate=0.01), Interval(0.0, 0.0)
    trials = tuple(
        Trial(f"no teacher lr×{factor:g}", "hard", 1.0, 0.0, 80.0, 0.0, none, 9, factor) for factor in (9.0, 3.0, 1.0)
    )
    pilot = Pilot("kd", 1.0, none, 4, trials, 60, 400, 500, 1.0, 5.0, 0.0, no_teacher="no teacher lr×3")
    recipe = Recipe(objective=Objective("kd", 2.0, 0.9), training=replace(training, learning_rate=0.27))
    rates = [
        (arm.recipe.objective is None, arm.recipe.training.learning_rate)
        for arm in recipe_arms(recipe, training, pilot)
    ]
    assert rates == [(True, 0.27), (True, 0.03), (False, 0.27)]


def test_the_usual_recipe_is_compared_at_the_rate_of_the_chosen_one_too():
    training = Training(steps=20, learning_rate=0.02)
    usual = Arm(Recipe(objective=Objective("kd", 4.0, 0.9), training=training), role="usual")
    both = usual_arms([usual], 0.18)
    assert [arm.recipe.training.learning_rate for arm in both] == [0.02, 0.18] and both[1].role == ""
    assert usual_arms([usual], 0.02) == (usual,) and usual_arms([], 0.18) == ()
    advised = Recommendation(True, "kd", 1.0, 0.6, "cross-entropy", True, "a pilot", learning_rate_factor=9.0)
    signal = TeacherSignal(torch.eye(4).repeat(10, 1) * 3, torch.arange(40) % 4)
    found = replace(diagnose(signal, only=["temperature"]), recipe=advised)
    rates = {name: arm.recipe.training.learning_rate for name, arm in recommended_arms(found, training).items()}
    assert {round(rate / 0.02) for name, rate in rates.items() if name.startswith("T = 4")} == {1, 9}
