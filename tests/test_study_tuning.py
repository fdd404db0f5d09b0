"""An equal tuning budget: as many tries for every arm, chosen on validation data alone, test data read for the chosen only."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from fractionate.data.hierarchy import Hierarchy
from fractionate.errors import ConfigError
from fractionate.losses.objective import Objective
from fractionate.records import Run, Scores, Study, Training, Tuning
from fractionate.study import dissect, trials
from fractionate.study.arms import Arm, make_arms, named_arms
from fractionate.study.jobs import JobRunner
from fractionate.study.tuning import choose, settings_of, spread_rates, tried_arms, tuning_seeds
from fractionate.tasks import CLASSIFICATION, infos
from fractionate.training.recipe import Recipe

TRAINING = Training(epochs=2, batch_size=16, learning_rate=0.01)
TUNING = Tuning(temperatures=(1.0, 4.0), teacher_weights=(0.5, 1.0), learning_rates=(0.002, 0.02), seeds=2)


def student() -> nn.Module:
    return nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 12))


def study(**changes: Any) -> Study:
    world = Hierarchy()
    settings: dict[str, Any] = {
        "cells": ("ls", "kd", "class-mean"),
        "seeds": 2,
        "training": TRAINING,
        "validation": world.draw(60, seed=2),
        "test": world.draw(60, seed=3),
        "tune": TUNING,
        "progress": "off",
        "points": 1,
        "backend": "stacked",
    }
    return dissect(student, world.draw(60, seed=1), world.oracle(60, seed=1), **(settings | changes))


def test_every_arm_has_the_same_number_of_tries() -> None:
    arms = make_arms(("ls", "kd"), (1.0,), (0.9,), (1.0,), (0.01,))
    tried = tried_arms(arms, TUNING, TRAINING)
    assert {name: len(own) for name, own in tried.items()} == {"hard": 8, "ls": 8, "kd": 8}
    for own in tried.values():
        assert len({(a.temperature, a.teacher_weight, a.learning_rate) for a in own}) == 8  # none of them twice
    assert {a.temperature for a in tried["kd"]} == {1.0, 4.0}
    assert min(a.learning_rate for a in tried["hard"]) == 0.002 and max(a.learning_rate for a in tried["hard"]) == 0.02


def test_learning_rates_of_the_hard_arm_are_spread_by_equal_ratios() -> None:
    assert spread_rates((0.001, 0.1), 3) == [0.001, 0.01, 0.1]
    assert spread_rates((0.01,), 3) == [0.005, 0.01, 0.02]
    assert spread_rates((0.01,), 1) == [0.01]
    hard = make_arms(("kd",), (1.0,), (0.9,), (1.0,), (0.01,))[0]
    plain = Tuning(temperatures=(1.0, 4.0), teacher_weights=(0.9,))
    assert [rate for _, _, rate in settings_of(hard, plain, TRAINING)] == [0.005, 0.02]


def test_a_recommended_recipe_and_the_usual_one_tune_their_learning_rate_alone() -> None:
    """Temperature and weight are what is judged; as many tries as all others, the recipe's own rate among them."""
    faster = replace(TRAINING, learning_rate=0.03)
    arms = {
        "no teacher": Arm(Recipe(training=TRAINING)),
        "kd": Arm(Recipe(objective=Objective("kd", 1.0, 0.9), training=TRAINING)),
        "mine": Arm(Recipe(objective=Objective("kd", 2.0, 0.7), training=faster), role="recommended"),
        "T = 4 / 0.9": Arm(Recipe(objective=Objective("kd", 4.0, 0.9), training=TRAINING), role="usual"),
    }
    tried = tried_arms(named_arms(arms), TUNING, TRAINING)
    assert {len(own) for own in tried.values()} == {8}
    assert {(a.temperature, a.teacher_weight) for a in tried["kd"]} == {(1.0, 0.5), (1.0, 1.0), (4.0, 0.5), (4.0, 1.0)}
    for name, fixed, own in (("mine", (2.0, 0.7), 0.03), ("T = 4 / 0.9", (4.0, 0.9), 0.01)):
        assert {(a.temperature, a.teacher_weight) for a in tried[name]} == {fixed}
        rates = [a.learning_rate for a in tried[name]]
        assert len(set(rates)) == 8 and own in rates and min(rates) == 0.002 and max(rates) == max(0.02, own)
    one = Tuning(temperatures=(1.0,), teacher_weights=(0.9,))
    assert settings_of(named_arms(arms)[2], one, TRAINING) == [(2.0, 0.7, 0.03)]


def test_test_data_are_read_once_for_the_chosen_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[tuple[str, int, bool]] = []
    before = JobRunner.work

    def work(self: JobRunner, job: Any, advance: Any) -> Any:
        read.extend((t.arm.name, t.seed, self.setup.task.test is not None) for t in job.group)
        return before(self, job, advance)

    monkeypatch.setattr(trials.JobRunner, "work", work)
    found = study(out=tmp_path)
    on_test = [(arm, seed) for arm, seed, tested in read if tested]
    assert sorted(on_test) == sorted((arm, seed) for arm in found.arms for seed in found.seeds)  # each once, no try
    assert len(read) == 4 * 8 * 2 + 4 * 2
    assert not set(found.seeds) & {seed for _, seed, tested in read if not tested}
    tries = [Run.load(file) for file in (tmp_path / "tries" / "runs").iterdir()]
    assert len(tries) == 4 * 8 * 2 and all(run.test is None and run.validation is not None for run in tries)

    # what was chosen is what the record says, and what the runs were trained with
    for arm in found.arms:
        own = [one for one in found.tries if one.arm == arm]
        (chosen,) = [one for one in own if one.chosen]
        assert len(own) == 8 and chosen.value == max(one.value for one in own if one.value is not None)
        settings = next(run for run in found.runs if run.arm == arm).settings
        assert settings["learning_rate"] == chosen.learning_rate and settings["teacher_weight"] == chosen.teacher_weight
        assert settings["temperature"] == chosen.temperature
    assert {e.arm for e in found.effects} == {"ls", "kd", "class-mean"} and found.shares  # cells are compared as before

    read.clear()
    again = study(out=tmp_path)
    assert read == [] and again.tries == found.tries and again.runs == found.runs
    assert Study.load(tmp_path / "study.json").tries == found.tries


ACCURACY, NLL = infos(CLASSIFICATION, "accuracy")[0], infos(CLASSIFICATION, "nll")[0]


def validated(arm: str, seed: int, accuracy: float, nll: float) -> Run:
    scores = Scores(100, 100, {"accuracy": 100 * accuracy, "nll": nll, "ece": 0.0})
    return Run(arm, seed, "completed", None, 1, 0.0, 1, validation=scores)


def test_the_rule_of_choice() -> None:
    """The best mean over seeds; ties by NLL, then the earlier; a setting with a diverged run never."""
    arms = make_arms(("kd",), (1.0,), (0.9,), (1.0,), (0.01,))[1:]
    tuning = Tuning(temperatures=(1.0, 2.0, 4.0, 8.0), teacher_weights=(0.9,))
    tried = tried_arms(arms, tuning, TRAINING)
    table = {  # try: (accuracy, NLL) by seed
        "kd try 1": [(0.90, 1.0), (0.50, 1.0)],
        "kd try 2": [(0.75, 0.8), (0.75, 0.9)],
        "kd try 3": [(0.80, 0.7), (0.70, 0.7)],
        "kd try 4": [(0.99, 0.1), (0.99, 0.1)],
    }
    runs = {(name, seed): validated(name, seed, *row[seed]) for name, row in table.items() for seed in (0, 1)}
    runs["kd try 4", 1] = replace(runs["kd try 4", 1], status="diverged", validation=None)
    choice = choose(arms, tried, runs, ACCURACY)
    assert choice.arms[0].temperature == 4.0  # as accurate as try 2, with fewer nats
    assert [one.value for one in choice.tries] == [pytest.approx(70), pytest.approx(75), pytest.approx(75), None]
    assert choose(arms, tried, runs, NLL).arms[0].temperature == 4.0
    everything = {key: replace(run, status="diverged", validation=None) for key, run in runs.items()}
    with pytest.raises(ConfigError, match="no setting tried for the arm 'kd' came to an end"):
        choose(arms, tried, everything, ACCURACY)


def test_seeds_of_the_tries_are_their_own() -> None:
    assert len(set(tuning_seeds(Tuning(seeds=5)))) == 5
    assert not set(tuning_seeds(Tuning(seeds=5))) & set(range(1000))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"validation": None}, "tuned on validation data"),
        ({"temperatures": (1.0, 2.0)}, "what is tuned is no factor"),
        ({"learning_rates": (0.1, 0.2)}, "what is tuned is no factor"),
        ({"tune": Tuning(temperatures=(0.0,))}, "temperatures must be above 0"),
        ({"tune": Tuning(temperatures=())}, "must hold a value"),
        ({"tune": Tuning(teacher_weights=(1.5,))}, "teacher_weights must be in"),
        ({"tune": Tuning(learning_rates=(float("inf"),))}, "learning_rates must be above 0"),
        ({"tune": Tuning(seeds=0)}, "seeds must be at least 1"),
    ],
)
def test_tunings_that_cannot_be_meant(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        study(**changes)


def test_learning_rates_and_divergences_are_factors() -> None:
    found = study(tune=None, cells=("kd",), learning_rates=(0.01, 0.02), divergence=("cross-entropy", "jsd"))
    assert found.arms == (
        "hard lr=0.01", "kd cross-entropy lr=0.01", "kd jsd lr=0.01",
        "hard lr=0.02", "kd cross-entropy lr=0.02", "kd jsd lr=0.02",
    )  # fmt: skip
    pairs = {(e.arm, e.against) for e in found.effects if e.metric == "accuracy"}
    assert pairs == {(a, "hard " + a.rpartition(" ")[2]) for a in found.arms if not a.startswith("hard")}
    run = next(r for r in found.runs if r.arm == "kd jsd lr=0.02")
    assert (
        run.settings["learning_rate"] == 0.02 and run.contract is not None and "jsd" in run.contract.divergence.lower()
    )


def test_bfloat16_is_close_to_float32_and_stacks_too() -> None:
    """Weights and losses stay in float32; the students differ by the rounding of their passes."""
    exact = study(tune=None, cells=("kd",))
    for backend in ("stacked", "loop"):
        rounded = study(tune=None, cells=("kd",), backend=backend, training=replace(TRAINING, precision="bfloat16"))
        for one, other in zip(exact.runs, rounded.runs, strict=True):
            assert one.test is not None and other.test is not None
            assert other.settings["precision"] == "bfloat16"
            assert one.test.nll_nats == pytest.approx(other.test.nll_nats, abs=0.05)
            assert one.test.nll_nats != other.test.nll_nats
    assert torch.get_default_dtype() == torch.float32
