"""A student of a study is the student that `distill` trains: one order, one optimiser, one loss."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fractionate.engine import distill
from fractionate.objective import Objective
from fractionate.records import Training
from fractionate.sources.hierarchy import Hierarchy
from fractionate.study.fleet import Course, Entrant, make_student, model_logits, train_fleet


def student() -> nn.Module:
    return nn.Sequential(nn.Linear(16, 12), nn.LayerNorm(12), nn.ReLU(), nn.Dropout(0.2), nn.Linear(12, 12))


@pytest.mark.parametrize("way", ["stacked", "one by one"])
def test_a_fleet_equals_distill(way: str) -> None:
    world = Hierarchy()
    data, signal = world.draw(100, seed=1), world.oracle(100, seed=1)
    training = Training(epochs=3, batch_size=16, learning_rate=0.01, weight_decay=0.01, warmup_share=0.1)
    objectives = {"hard": None, "kd": Objective("kd", 2.0, 0.9), "jsd": Objective("kd", 1.0, 0.5, divergence="jsd")}
    entrants = [Entrant(arm, 4, objective) for arm, objective in objectives.items()]
    for outcome in train_fleet(student, entrants, Course({4: data}, {4: signal}, training), way=way):  # type: ignore[arg-type]
        objective = outcome.entrant.objective
        model, _ = distill(
            make_student(student, 4),
            data,
            None if objective is None else signal,
            objective=objective,
            training=training,
            seed=4,
        )
        torch.testing.assert_close(
            model_logits(outcome.model, data.inputs), model_logits(model, data.inputs), atol=1e-5, rtol=1e-4
        )
