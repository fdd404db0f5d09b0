"""The gradient rescaling identity, P1 (4): exact before any expectation, on the label and on the sum of the others."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from torch.nn import functional

import oracles
from drawn import Draw, double_draws, draws
from fractionate import CELLS, Objective, TeacherSignal, rescaling
from test_cells import NAMES, lists
from test_objective_kernel import SETTINGS, gradient


@pytest.mark.parametrize(("weight", "temperature", "squared"), SETTINGS)
@pytest.mark.parametrize("divergence", ["cross-entropy", "forward-kl"])
@pytest.mark.parametrize("seed", range(3))
def test_rescaling_is_the_ratio_of_gradients(
    weight: float, temperature: float, squared: bool, divergence: str, seed: int
) -> None:
    drawn = Draw(seed, 8, 11, torch.float64, 3.0, temperature, one_class=False, masked=False, related=True)
    signal, student = drawn.signal(), drawn.student(2.0).requires_grad_()
    plain = gradient(functional.cross_entropy(student, signal.labels, reduction="none"), student)
    at = signal.labels[:, None]
    for name in NAMES:
        objective = Objective(name, temperature, weight, squared, divergence)
        full = gradient(objective(student, signal), student)
        actual = rescaling(student, signal, objective)
        on_label = (full.gather(1, at) / plain.gather(1, at)).squeeze(1)
        on_rest = full.scatter(1, at, 0.0).sum(1) / plain.scatter(1, at, 0.0).sum(1)
        torch.testing.assert_close(actual, on_label, rtol=1e-10, atol=1e-10, msg=name)
        torch.testing.assert_close(actual, on_rest, rtol=1e-10, atol=1e-10, msg=name)


@given(double_draws)
@settings(max_examples=40)
def test_rescaling_equals_the_loop_oracle(drawn: Draw) -> None:
    signal, student = drawn.signal(), drawn.student()
    logits, labels, relation = lists(signal)
    for name in ("ls", "kd-sim", "kd-pt", "kd"):
        goals = oracles.target(name, logits, labels, drawn.temperature, relation)
        actual = rescaling(student, signal, Objective(name, drawn.temperature, 0.7))
        expected = [
            oracles.rescaling(z, goal, label, temperature=drawn.temperature, teacher_weight=0.7, squared=True)
            for z, goal, label in zip(student.tolist(), goals, labels, strict=True)
        ]
        # the oracle divides by q[y] - 1, which cancels where the student is certain: scale the tolerance
        rest = 1 - torch.softmax(student, 1).gather(1, signal.labels[:, None]).squeeze(1)
        tolerance = 1e-12 * max(1.0, drawn.temperature) / rest**2 + 1e-10
        assert bool(((actual - torch.tensor(expected, dtype=torch.float64)).abs() <= tolerance).all()), name


@given(double_draws)
def test_at_temperature_one(drawn: Draw) -> None:
    """1 - w (1 - p[y]) / (1 - q[y]); kd and kd-pt rescale alike; a certain teacher rescales nothing."""
    signal, student = drawn.signal(), drawn.student()
    kd, pt = (rescaling(student, signal, Objective(name, 1.0, 0.6)) for name in ("kd", "kd-pt"))
    torch.testing.assert_close(kd, pt, rtol=1e-12, atol=1e-12)
    q = functional.softmax(student, 1)
    rest_q = q.scatter(1, signal.labels[:, None], 0.0).sum(1)
    rest_p = signal.probabilities.scatter(1, signal.labels[:, None], 0.0).sum(1)
    torch.testing.assert_close(kd, 1 - 0.6 * rest_p / rest_q, rtol=1e-8, atol=1e-8)
    hard = rescaling(student, signal, Objective("hard", 1.0, 0.6))
    torch.testing.assert_close(hard, torch.ones_like(hard), rtol=1e-12, atol=1e-12)


def test_a_student_that_agrees_is_rescaled_by_the_label_weight(signal: TeacherSignal) -> None:
    ratio = rescaling(signal.logits, signal, Objective("kd", 1.0, 0.9))
    torch.testing.assert_close(ratio, torch.full_like(ratio, 0.1), rtol=0, atol=1e-6)


def test_more_teacher_confidence_rescales_up() -> None:
    confident = torch.linspace(-5, 5, 21, dtype=torch.float64)
    logits = torch.stack([confident, torch.zeros(21), torch.zeros(21)], 1)
    ratio = rescaling(
        torch.zeros(21, 3), TeacherSignal(logits, torch.zeros(21, dtype=torch.long)), Objective("kd", 2.0)
    )
    assert bool((ratio.diff() > 0).all())


def test_it_is_not_class_by_class(signal: TeacherSignal) -> None:
    student = torch.randn(8, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64).requires_grad_()
    full = gradient(Objective("kd", 1.0, 0.9)(student, signal), student)
    plain = gradient(functional.cross_entropy(student, signal.labels, reduction="none"), student)
    ratio = full / plain
    assert float((ratio - rescaling(student, signal, Objective("kd", 1.0, 0.9))[:, None]).abs().max()) > 0.1


@given(draws())
def test_finite_everywhere(drawn: Draw) -> None:
    signal, student = drawn.signal(), drawn.student(drawn.scale).requires_grad_()
    for name in NAMES:
        ratio = rescaling(student, signal, Objective(name, drawn.temperature, 0.9))
        assert ratio.shape == (len(signal),)
        assert not ratio.requires_grad
        assert bool(torch.isfinite(ratio).all()), name


def test_the_interface_as_written(signal: TeacherSignal) -> None:
    student = torch.zeros(8, 4, dtype=torch.float64)
    by_place = rescaling(student, signal, Objective())
    assert torch.equal(rescaling(student_logits=student, signal=signal, objective=Objective()), by_place)
    index = torch.tensor([1, 5])
    for name in CELLS:
        whole = rescaling(student, signal, Objective(name))
        torch.testing.assert_close(rescaling(student[index], signal.take(index), Objective(name)), whole[index])
