"""The loss contract: value, gradient, T² and weights, against torch, against loops, and by gradcheck."""

from __future__ import annotations

import inspect

import pytest
import torch
from hypothesis import given, settings
from torch import Tensor
from torch.nn import functional

import oracles
from drawn import Draw, double_draws, draws
from fractionate import CELLS, Cell, Objective, TeacherSignal
from fractionate.records import Contract
from test_cells import NAMES, lists

SETTINGS = [  # teacher weight, temperature, T² factor
    (0.0, 1.0, True), (1.0, 1.0, False), (0.9, 1.0, True), (0.5, 4.0, True), (0.5, 4.0, False),
    (1.0, 4.0, True), (0.3, 0.5, True), (0.7, 20.0, False), (0.9, 2.5, True),
]  # fmt: skip


def gradient(loss: Tensor, logits: Tensor) -> Tensor:
    return torch.autograd.grad(loss.sum(), logits)[0]


@given(draws(masked=False))
def test_hard_is_cross_entropy(drawn: Draw) -> None:
    signal, student = drawn.signal(), drawn.student().float().requires_grad_()
    expected = functional.cross_entropy(student, signal.labels, reduction="none")
    for weight in (0.0, 0.4, 1.0):
        loss = Objective("hard", 1.0, weight)(student, signal)
        torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(gradient(loss, student), gradient(expected.clone(), student), rtol=1e-5, atol=1e-6)
        expected = functional.cross_entropy(student, signal.labels, reduction="none")


@given(double_draws)
def test_fixed_ls_is_label_smoothing(drawn: Draw) -> None:
    signal, student = drawn.signal(), drawn.student().requires_grad_()
    for epsilon in (0.0, 0.1, 0.37, 1.0):
        loss = Objective(f"ls({epsilon})", temperature=1.0, teacher_weight=1.0)(student, signal)
        same = functional.cross_entropy(student, signal.labels, reduction="none", label_smoothing=epsilon)
        torch.testing.assert_close(loss, same, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(gradient(loss, student), gradient(same, student), rtol=1e-10, atol=1e-12)


@given(double_draws)
def test_label_smoothing_is_kd_from_a_uniform_teacher(drawn: Draw) -> None:
    """P1 (3): at T = 1, with weight epsilon."""
    signal, student = drawn.signal(), drawn.student().requires_grad_()
    flat = TeacherSignal(torch.zeros_like(signal.logits), signal.labels)
    loss = Objective("kd", 1.0, 0.2)(student, flat)
    same = functional.cross_entropy(student, signal.labels, reduction="none", label_smoothing=0.2)
    torch.testing.assert_close(loss, same, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(gradient(loss, student), gradient(same, student), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("divergence", ["cross-entropy", "forward-kl"])
@given(drawn=double_draws)
@settings(max_examples=30)
def test_kd_has_the_gradient_of_kl_div_times_t_squared(divergence: str, drawn: Draw) -> None:
    t = drawn.temperature
    signal, student = drawn.signal(), drawn.student().requires_grad_()
    for squared in (True, False):
        objective = Objective("kd", t, 1.0, squared, divergence)
        same = functional.kl_div(
            functional.log_softmax(student / t, 1), functional.softmax(signal.logits / t, 1), reduction="none"
        ).sum(1) * (t * t if squared else 1)
        loss = objective(student, signal)
        torch.testing.assert_close(gradient(loss, student), gradient(same, student), rtol=1e-9, atol=1e-10)
        if divergence == "forward-kl":
            torch.testing.assert_close(loss, same, rtol=1e-9, atol=1e-9)


@given(double_draws)
@settings(max_examples=30)
def test_value_equals_the_loop_oracle(drawn: Draw) -> None:
    signal, student = drawn.signal(), drawn.student()
    logits, labels, relation = lists(signal)
    for name in ("ls", "kd-pt+sim", "kd"):
        for divergence in oracles.DIVERGENCES:
            for weight, _, squared in SETTINGS[2:5]:
                loss = Objective(name, drawn.temperature, weight, squared, divergence)(student, signal)
                expected = oracles.objective(
                    student.tolist(), logits, labels, cell=name, temperature=drawn.temperature, teacher_weight=weight,
                    squared=squared, divergence=divergence, relation=relation,
                )  # fmt: skip
                torch.testing.assert_close(loss, torch.tensor(expected, dtype=torch.float64), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("weight", "temperature", "squared"), SETTINGS)
@pytest.mark.parametrize("seed", range(3))
def test_gradient_identity(weight: float, temperature: float, squared: bool, seed: int) -> None:
    """P1 (2) to 1e-10: dL/dz_i = (1 - w)(q_i - y_i) + s (q̃_i - p̃_i); the gradient sums to zero."""
    drawn = Draw(seed, 6, 9, torch.float64, 3.0, temperature, one_class=False, masked=False, related=True)
    signal, student = drawn.signal(), drawn.student(2.0).requires_grad_()
    logits, labels, relation = lists(signal)
    for name in oracles.CELLS:
        actual = gradient(Objective(name, temperature, weight, squared)(student, signal), student)
        goals = oracles.target(name, logits, labels, temperature, relation)
        expected = [
            oracles.gradient(z, goal, label, temperature=temperature, teacher_weight=weight, squared=squared)
            for z, goal, label in zip(student.tolist(), goals, labels, strict=True)
        ]
        torch.testing.assert_close(actual, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-10, msg=name)
        assert float(actual.sum(1).abs().max()) < 1e-12 * max(1.0, temperature)


def test_at_temperature_one_mixing_with_labels_is_a_mixed_target(signal: TeacherSignal) -> None:
    student = torch.randn(8, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64).requires_grad_()
    mixed = 0.3 * CELLS["hard"].target(signal) + 0.7 * CELLS["kd"].target(signal)
    expected = functional.cross_entropy(student, mixed, reduction="none")
    torch.testing.assert_close(Objective("kd", 1.0, 0.7)(student, signal), expected)


def test_high_temperature_matches_logits() -> None:
    """P1 (2), T → ∞ with T²: (w/K)[(z_i - mean z) - (v_i - mean v)]."""
    drawn = Draw(0, 5, 7, torch.float64, 3.0, 1.0, one_class=False, masked=False, related=False)
    signal, student = drawn.signal(), drawn.student(2.0).requires_grad_()
    actual = gradient(Objective("kd", 1e5, 1.0)(student, signal), student)
    z, v = student.detach(), signal.logits
    expected = ((z - z.mean(1, keepdim=True)) - (v - v.mean(1, keepdim=True))) / 7
    torch.testing.assert_close(actual, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_gradcheck(name: str, signal: TeacherSignal) -> None:
    student = torch.randn(8, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64).requires_grad_()
    for weight, temperature, squared in SETTINGS[2:5]:
        objective = Objective(name, temperature, weight, squared)
        assert torch.autograd.gradcheck(lambda z, objective=objective: objective(z, signal), (student,))


@given(draws())
def test_everything_is_finite_and_gradient_reaches_the_student_only(drawn: Draw) -> None:
    """Logits of ±1e4 and classes masked by the teacher, at any temperature."""
    made = drawn.signal()
    teacher = made.logits.clone().requires_grad_()
    relation = None if made.class_relation is None else made.class_relation.clone().requires_grad_()
    signal = TeacherSignal(teacher, made.labels, relation)
    student = drawn.student(drawn.scale).requires_grad_()
    for name in NAMES:
        for divergence in ("cross-entropy", "forward-kl"):
            loss = Objective(name, drawn.temperature, 0.9, divergence=divergence)(student, signal)
            assert loss.shape == (len(signal),)
            assert loss.dtype == (torch.float64 if drawn.dtype == torch.float64 else torch.float32)
            assert bool(torch.isfinite(loss).all()), name
            assert bool(torch.isfinite(gradient(loss, student)).all()), name
    Objective("kd-pt+sim", drawn.temperature)(student, signal).sum().backward()
    assert student.grad is not None
    assert teacher.grad is None
    assert relation is None or relation.grad is None


@given(draws(masked=True))
def test_a_class_that_both_mask_costs_nothing(drawn: Draw) -> None:
    """The student masks where the teacher does: -inf · 0 is 0, in value and in gradient."""
    signal = drawn.signal()
    masked = torch.isneginf(signal.logits) & ~functional.one_hot(signal.labels, signal.classes).bool()
    student = drawn.student().masked_fill(masked, -torch.inf).requires_grad_()
    if bool((masked.sum(1) >= signal.classes - 1).any()):
        return  # only the label is left: other cells than kd put mass on masked classes then
    for name in NAMES:
        loss = Objective(name, drawn.temperature)(student, signal)
        assert bool(torch.isfinite(loss).all()), name
        assert bool(torch.isfinite(gradient(loss, student)).all()), name


def test_forward_kl_is_zero_where_student_and_target_agree(signal: TeacherSignal) -> None:
    for temperature in (1.0, 4.0):
        loss = Objective("kd", temperature, 1.0, divergence="forward-kl")(signal.logits, signal)
        torch.testing.assert_close(loss, torch.zeros_like(loss), rtol=0, atol=1e-12)


def test_one_number_an_example_whatever_the_batch() -> None:
    drawn = Draw(2, 12, 5, torch.float64, 3.0, 1.0, one_class=False, masked=False, related=True)
    signal, student = drawn.signal(), drawn.student()
    for name in NAMES:
        objective = Objective(name, 2.0, 0.9)
        whole = objective(student, signal)
        parts = [objective(student[i], signal.take(i)) for i in torch.arange(12).split(5)]
        torch.testing.assert_close(torch.cat(parts), whole, msg=name)


def test_an_empty_batch_gives_an_empty_loss_with_a_gradient_path(signal: TeacherSignal) -> None:
    student = torch.zeros(0, 4, dtype=torch.float64, requires_grad=True)
    nobody = signal.take(torch.tensor([], dtype=torch.long))
    for name in NAMES:
        loss = Objective(name)(student, nobody)
        assert loss.shape == (0,)
        loss.sum().backward()


def test_layouts_do_not_matter() -> None:
    drawn = Draw(2, 6, 5, torch.float32, 3.0, 1.0, one_class=False, masked=False, related=False)
    signal, student = drawn.signal(), drawn.student()
    turned = TeacherSignal(signal.logits.T.contiguous().T, signal.labels)
    expanded = student.repeat(1, 2)[:, ::1][:, :5]
    torch.testing.assert_close(Objective()(expanded.T.contiguous().T, turned), Objective()(student, signal))


@pytest.mark.parametrize("teacher", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("student", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_student_and_teacher_may_differ_in_precision(teacher: torch.dtype, student: torch.dtype) -> None:
    drawn = Draw(3, 6, 5, torch.float64, 2.0, 1.0, one_class=False, masked=False, related=True)
    signal, logits = drawn.signal(), drawn.student().to(student).requires_grad_()
    low = TeacherSignal(signal.logits.to(teacher), signal.labels, signal.class_relation)
    same = TeacherSignal(low.logits.double(), low.labels, low.class_relation)
    for name in ("hard", "ls", "kd-sim", "kd-pt", "kd", "kd-shuffled"):
        loss = Objective(name, 2.0, 0.5)(logits, low)
        assert loss.dtype == (torch.float64 if student == torch.float64 else torch.float32)
        expected = Objective(name, 2.0, 0.5)(logits.detach().double(), same)
        torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=1e-5)
        assert gradient(loss, logits).dtype == student


def test_the_interface_as_written() -> None:
    """Outside checks rely on these names, their order and their defaults."""
    parameters = inspect.signature(Objective).parameters
    assert list(parameters)[:4] == ["cell", "temperature", "teacher_weight", "scale_by_temperature_squared"]
    assert [parameters[name].default for name in list(parameters)[:4]] == ["kd", 4.0, 0.9, True]
    signal = TeacherSignal(torch.zeros(2, 3), torch.tensor([0, 1]), None)
    forms = [
        Objective(),
        Objective("kd", 4.0, 0.9, True),
        Objective(cell="kd", temperature=4.0, teacher_weight=0.9, scale_by_temperature_squared=True),
        Objective(cell=CELLS["kd"], temperature=4),
        Objective(cell=Cell(confidence="instance", shape="instance")),
        Objective("instance * instance"),
    ]
    for objective in forms:
        assert objective == forms[0]
        assert torch.equal(objective(torch.ones(2, 3), signal), forms[0](torch.ones(2, 3), signal))
        assert torch.equal(
            objective(student_logits=torch.ones(2, 3), signal=signal), objective(torch.ones(2, 3), signal)
        )


@pytest.mark.parametrize("name", NAMES)
def test_the_contract_says_what_is_computed(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    objective = Objective(name, 3.0, 0.25, scale_by_temperature_squared=False)
    text = objective.contract()
    assert capsys.readouterr().out == text + "\n"
    for word in ("0.75 · H(label", "0.25", "student / 3", "not scaled by T²", str(objective.cell)):
        assert word in text
    assert "0.75 · H(label" in objective._repr_html_()
    record = objective.describe()
    assert isinstance(record, Contract)
    assert Contract.from_json(record.to_json()) == record
    rebuilt = Objective(
        record.cell, record.temperature, record.teacher_weight, record.scale_by_temperature_squared, record.divergence
    )
    if "shuffled" not in name and "permuted" not in name:
        assert rebuilt == objective, "the contract alone builds the objective again"


def test_the_contract_leaves_out_terms_of_weight_zero() -> None:
    assert "label" not in Objective("kd", 4.0, 1.0).describe().formula
    assert "target" not in Objective("kd", 4.0, 0.0).describe().formula
    assert "4²" in Objective("kd", 4.0).describe().formula


def test_hard_without_settings_is_the_cross_entropy_of_the_labels() -> None:
    drawn = Draw(5, 6, 5, torch.float64, 2.0, 1.0, one_class=False, masked=False, related=True)
    signal, logits = drawn.signal(), drawn.student().requires_grad_()
    plain = torch.nn.functional.cross_entropy(logits, signal.labels, reduction="none")
    for objective in (
        Objective("hard"), Objective("certain * instance"), Objective("hard", temperature=3), Objective("hard", teacher_weight=0.7)
    ):  # fmt: skip
        torch.testing.assert_close(objective(logits, signal), plain)
    assert Objective("hard").teacher_weight == 0 and type(Objective().temperature) is float
    softened = Objective("hard", 4.0, 0.9)  # given, and so it is what it says
    assert (softened.temperature, softened.teacher_weight) == (4.0, 0.9)
    assert Objective("hard", divergence="jsd").teacher_weight == 1


def test_defaults_of_placebos_are_those_of_what_they_mimic() -> None:
    for placebo, cell in (("kd-pt-shuffled", "kd-pt"), ("kd-shuffled", "kd"), ("class-mean-permuted", "class-mean")):
        own, other = Objective(placebo), Objective(cell)
        assert (own.temperature, own.teacher_weight) == (other.temperature, other.teacher_weight)
