from __future__ import annotations

import dataclasses
import json
from functools import cache

import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

from counting_term import Calling
from fractionate import Objective, TeacherSignal
from fractionate.data.examples import Examples
from fractionate.errors import ConfigError, MismatchError, NumericsError
from fractionate.records import Run, Training
from fractionate.training import distill
from fractionate.training.evaluation import evaluate


@cache
def digits() -> tuple[Examples, Examples, Examples]:
    pictures, labels = load_digits(return_X_y=True)
    data = Examples(torch.tensor(pictures, dtype=torch.float32) / 16, torch.tensor(labels), name="digits")
    train, validation, test = data.split(800, 400, 400)
    return train, validation, test


def mlp(seed: int = 0, dropout: float = 0.0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Dropout(dropout), nn.Linear(32, 10))


@cache
def teacher_signal() -> TeacherSignal:
    train, _, _ = digits()
    teacher, _ = distill(mlp(99), train, training=Training(epochs=10, learning_rate=3e-3))
    with torch.no_grad():
        return TeacherSignal(teacher(train.inputs), train.labels)


FAST = Training(steps=40, batch_size=32, learning_rate=3e-3)


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def test_the_labels_alone_teach_digits():
    train, validation, test = digits()
    student, run = distill(
        mlp(), train, training=Training(epochs=15, batch_size=64, learning_rate=3e-3), validation=validation, test=test
    )
    assert run.test is not None and run.test.accuracy > 0.9
    assert run.validation is not None and run.status == "completed" and run.contract is None
    assert evaluate(student, test) == run.test
    assert run.steps == 15 * 13 and len(run.history) > 10
    assert run.history[-1].loss < run.history[0].loss
    assert Run.from_json(run.to_json()) == run


def test_a_teacher_is_learned_from_and_its_contract_recorded():
    train, _, _ = digits()
    objective = Objective("kd", temperature=2.0, teacher_weight=1.0)
    student, run = distill(
        mlp(), train, teacher_signal(), objective=objective, training=Training(epochs=15, learning_rate=1e-2)
    )
    assert run.contract == objective.describe()
    scores = evaluate(student, train, signal=teacher_signal())
    assert scores.agreement is not None and scores.agreement > 0.9


def test_two_runs_of_a_seed_are_bitwise_equal_and_leave_the_generators_alone():
    train, _, _ = digits()
    teacher_signal()  # whoever asks first trains it, and draws
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first, _ = distill(mlp_at(before), train, teacher_signal(), training=FAST)
    assert torch.equal(torch.get_rng_state(), before)
    second, _ = distill(mlp_at(before), train, teacher_signal(), training=FAST)
    other, _ = distill(mlp_at(before), train, teacher_signal(), training=FAST, seed=1)
    assert same(first, second) and not same(first, other)


def mlp_at(state: torch.Tensor) -> nn.Module:
    model = mlp(3, dropout=0.2)
    torch.set_rng_state(state)
    return model


def test_the_run_is_kept_and_read_back(tmp_path):
    train, _, test = digits()
    student, run = distill(mlp(), train, training=FAST, test=test, out=tmp_path)
    names = {path.name for path in tmp_path.iterdir()}
    assert {"student.safetensors", "run.json", "metrics.jsonl"} <= names
    again, read = distill(mlp(), train, training=FAST, test=test, out=tmp_path)
    assert same(student, again) and read == run
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["step"] == 40 and rows[-1]["examples"] == run.steps * 32
    for other, given in (
        ("seed", {"seed": 1}),
        ("test", {"test": train}),
        ("terms", {"terms": [Calling(lambda predictions, signal: 0.0 * predictions.labels)]}),
    ):
        with pytest.raises(MismatchError, match=other):
            distill(mlp(), train, **{"training": FAST, "test": test, "out": tmp_path} | given)
    with pytest.raises(MismatchError, match=r"initial_weights(.|\n)*torch.manual_seed"):
        distill(mlp(7), train, training=FAST, test=test, out=tmp_path)


def test_a_loss_that_is_not_finite_stops_before_the_weights_are_touched():
    train, _, _ = digits()
    inputs = train.inputs.clone()
    inputs[17] = torch.nan
    student = mlp()
    before = {name: value.clone() for name, value in student.state_dict().items()}
    bad = Examples(inputs[:32], train.labels[:32])
    with pytest.raises(NumericsError, match=r"step 0, from 1 of its rows(.|\n)*examples 17"):
        distill(student, bad, training=FAST)
    assert all(torch.equal(before[name], value) for name, value in student.state_dict().items())


class Rooted(nn.Module):
    """Finite logits whose gradient is not: the root of 0."""

    def __init__(self) -> None:
        super().__init__()
        self.body = mlp()

    def forward(self, inputs):
        return (self.body(inputs).relu() * 0.0).sqrt()


@pytest.mark.parametrize("clip_norm", [None, 1.0])
def test_a_gradient_that_is_not_finite_stops_before_the_weights_are_touched(clip_norm):
    train, _, _ = digits()
    student = Rooted()
    before = {name: value.clone() for name, value in student.state_dict().items()}
    with pytest.raises(NumericsError, match=r"the gradient is not finite at step 0.*though the loss is"):
        distill(student, train, training=dataclasses.replace(FAST, clip_norm=clip_norm))
    assert all(torch.equal(before[name], value) for name, value in student.state_dict().items())


def test_what_does_not_belong_together_is_refused():
    train, validation, _ = digits()
    signal = teacher_signal()
    with pytest.raises(MismatchError, match="differ in length"):
        distill(mlp(), validation, signal, training=FAST)
    order = torch.arange(len(train)).roll(1)
    with pytest.raises(MismatchError, match="different labels"):
        distill(mlp(), train, TeacherSignal(signal.logits[order], signal.labels[order]), training=FAST)
    with pytest.raises(ConfigError, match="needs a teacher"):
        distill(mlp(), train, objective=Objective(), training=FAST)
    with pytest.raises(MismatchError, match="different classes"):
        distill(nn.Linear(64, 12), train, signal, training=FAST)
