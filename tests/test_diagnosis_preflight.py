"""A preflight estimates from real steps and leaves everything as it was."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fractionate.data.examples import Examples
from fractionate.diagnosis import preflight
from fractionate.errors import ConfigError, MismatchError, NumericsError
from fractionate.losses.objective import Objective
from fractionate.records import Preflight, Training
from fractionate.theory.teacher_signal import TeacherSignal


def parts(examples: int = 128) -> tuple[nn.Module, Examples, TeacherSignal]:
    torch.manual_seed(0)
    labels = torch.arange(examples) % 4
    student = nn.Sequential(nn.Linear(6, 32), nn.Dropout(0.1), nn.ReLU(), nn.Linear(32, 4))
    logits = torch.randn(examples, 4) + 3 * nn.functional.one_hot(labels, 4)
    return student, Examples(torch.randn(examples, 6), labels), TeacherSignal(logits, labels)


def test_a_preflight():
    student, data, signal = parts()
    before = {name: value.clone() for name, value in student.state_dict().items()}
    state = torch.get_rng_state()
    found = preflight(student, data, signal, training=Training(epochs=10, batch_size=32))
    assert torch.equal(state, torch.get_rng_state()) and student.training
    assert all(torch.equal(before[name], value) for name, value in student.state_dict().items())
    assert found.steps == 40 and found.wall_seconds == pytest.approx(40 * found.step_seconds)
    assert found.parameters == 6 * 32 + 32 + 32 * 4 + 4
    assert 0.7 < found.first_loss_of_uniform < 1.5
    assert found.gradient_ratio is not None and found.gradient_ratio > 1 and found.gradient_cosine > 0
    # weights and gradients, two moments, at least the hidden layer of a batch, data and signal
    least = 4 * (4 * found.parameters + 32 * 32 + 128 * (6 + 4))
    assert least <= found.memory_bytes < 3 * least
    assert Preflight.from_json(found.to_json()) == found and "estimate" in str(found)


def test_one_part_has_no_ratio():
    found = preflight(*parts(), objective=Objective("kd", 1.0, 1.0))
    assert found.gradient_ratio is None


def test_bad_input():
    student, data, signal = parts()
    with pytest.raises(MismatchError):
        preflight(student, data.take(torch.arange(5)), signal)
    with pytest.raises(ConfigError):
        preflight(student, data, signal, steps=1)
    broken = Examples(torch.full((128, 6), torch.inf), data.labels)
    with pytest.raises(NumericsError, match="not finite"):
        preflight(student, broken, signal)
