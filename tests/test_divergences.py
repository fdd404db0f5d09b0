"""Every divergence against its formula written as a loop, autograd against finite differences, and the hard corners."""

from __future__ import annotations

import math

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck
from torch.nn import functional

from fractionate import CELLS, Objective, TeacherSignal
from fractionate.errors import ConfigError, MismatchError, NumericsError, UnknownNameError
from fractionate.losses.divergences import divergences
from fractionate.losses.divergences.base import couples_batch, own_temperature, written

NAMES = list(divergences)
CELLS_TRIED = ("kd", "ls", "class-mean", "kd-pt", "hard")


def signal_of(batch=6, classes=5, dtype=torch.float64, seed=0, scale=2.0):
    """A teacher right and wrong, sure and unsure."""
    generator = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(batch, classes, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, classes, (batch,), generator=generator)
    logits[0, labels[0]] += 9.0
    logits[1, (labels[1] + 1) % classes] += 9.0
    return TeacherSignal(logits.to(dtype), labels)


def student_of(signal, seed=1, scale=2.0):
    generator = torch.Generator().manual_seed(seed)
    return (scale * torch.randn(signal.logits.shape, generator=generator, dtype=torch.float64)).to(signal.logits.dtype)


def soft_only(name, cell="kd", temperature=2.5):
    return Objective(cell, temperature, 1.0, divergence=name)


def meets(name, cell):
    try:
        soft_only(name, cell)
    except MismatchError:
        return False
    return True


PAIRS = [(name, cell) for name in NAMES for cell in CELLS_TRIED if meets(name, cell)]


# -- the formulas, one number at a time ---------------------------------------------------------------------------------


def softmax(row):
    top = max(row)
    powers = [math.exp(x - top) for x in row]
    return [x / sum(powers) for x in powers]


def kl(p, q):
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True) if a > 0)


def without(row, place):
    rest = [x for k, x in enumerate(row) if k != place]
    return [x / sum(rest) for x in rest]


def bucketed(p, q, k):
    kept = sorted(range(len(p)), key=lambda i: -p[i])[: min(k, len(p) - 1)]
    return [[row[i] for i in kept] + [sum(row) - sum(row[i] for i in kept)] for row in (p, q)]


def ranking(p, q, k):
    t, s = (sorted(range(len(row)), key=lambda i: -row[i])[:k] for row in (p, q))
    return sum(max(0.0, q[i] - q[t[0]]) for i in t) + sum(max(0.0, q[j] - q[i]) for i in t for j in s if p[i] > p[j])


def pearson(a, b):
    mean_a, mean_b = sum(a) / len(a), sum(b) / len(b)
    top = sum((x - mean_a) * (y - mean_b) for x, y in zip(a, b, strict=True))
    return top / math.sqrt(sum((x - mean_a) ** 2 for x in a) * sum((y - mean_b) ** 2 for y in b))


def mix(a, b, share):
    return [share * x + (1 - share) * y for x, y in zip(a, b, strict=True)]


def standard(row):
    mean = sum(row) / len(row)
    deviation = math.sqrt(sum((x - mean) ** 2 for x in row) / (len(row) - 1))
    return [(x - mean) / (deviation + 1e-7) for x in row]


def oracle(name, student, teacher, label, temperature):
    """Teacher and student logits of one example, cell kd: the divergence by the textbook."""
    p, q = softmax([x / temperature for x in teacher]), softmax([x / temperature for x in student])
    plain_p, plain_q = softmax(teacher), softmax(student)
    classes = len(p)
    return {
        "cross-entropy": lambda: -sum(a * math.log(b) for a, b in zip(p, q, strict=True)),
        "forward-kl": lambda: kl(p, q),
        "reverse-kl": lambda: kl(q, p),
        "bucketed-kl": lambda: kl(*bucketed(p, q, 32)),
        "topk-cross-entropy": lambda: -max(p) * math.log(q[p.index(max(p))]),
        "total-variation": lambda: 0.5 * sum(abs(a - b) for a, b in zip(p, q, strict=True)),
        "ranking": lambda: ranking(p, q, 5),
        "jsd": lambda: 0.5 * kl(p, mix(p, q, 0.5)) + 0.5 * kl(q, mix(p, q, 0.5)),
        "skew-forward": lambda: kl(p, mix(p, q, 0.1)),
        "skew-reverse": lambda: kl(q, mix(p, q, 0.9)),
        "dkd": lambda: (
            kl([p[label], 1 - p[label]], [q[label], 1 - q[label]]) + 8 * kl(without(p, label), without(q, label))
        ),
        "nkd": lambda: (
            -plain_p[label] * math.log(plain_q[label])
            - 1.5
            * temperature**2
            * sum(a * math.log(b) for a, b in zip(without(p, label), without(q, label), strict=True))
        ),
        "mse-logits": lambda: (
            sum((a - b) ** 2 for a, b in zip(student, teacher, strict=True)) / temperature**2 / classes
        ),
        "mse-centred-logits": lambda: (
            sum(
                ((a - sum(student) / classes) - (b - sum(teacher) / classes)) ** 2
                for a, b in zip(student, teacher, strict=True)
            )
            / temperature**2
            / classes
        ),
        "margin-mse": lambda: (
            sum(
                ((student[label] - student[i]) - (teacher[label] - teacher[i])) ** 2
                for i in range(classes)
                if i != label
            )
            / temperature**2
            / (classes - 1)
            / 2
        ),
        "logit-standardised": lambda: oracle("forward-kl", standard(student), standard(teacher), label, temperature),
        "ttm": lambda: kl(p, plain_q),
        "wttm": lambda: sum(x ** (1 / temperature) for x in plain_p) * kl(p, plain_q),
    }[name]()


@pytest.mark.parametrize("temperature", [1.0, 2.5, 4.0])
@pytest.mark.parametrize("name", [n for n in NAMES if n != "dist"])
def test_value_is_the_formula(name, temperature):
    signal = signal_of()
    student = student_of(signal)
    loss = Objective("kd", temperature, 1.0, False, divergence=name)(student, signal)
    expected = [
        oracle(name, z.tolist(), v.tolist(), int(y), temperature)
        for z, v, y in zip(student, signal.logits, signal.labels, strict=True)
    ]
    torch.testing.assert_close(loss, torch.tensor(expected, dtype=torch.float64), rtol=1e-9, atol=1e-11)


def test_dist_mean_is_the_paper_formula():
    signal = signal_of()
    student = student_of(signal)
    q, p = torch.softmax(student / 2, 1), torch.softmax(signal.logits / 2, 1)
    rows = sum(1 - pearson(a.tolist(), b.tolist()) for a, b in zip(q, p, strict=True)) / len(q)
    columns = 1 - sum(pearson(a.tolist(), b.tolist()) for a, b in zip(q.T, p.T, strict=True)) / q.shape[1]
    loss = Objective("kd", 2.0, 1.0, False, divergence="dist(3, 2)")(student, signal)
    assert float(loss.mean()) == pytest.approx(3 * rows + 2 * columns, abs=1e-12)


def test_ttm_splits_into_plain_cross_entropy_and_a_renyi_entropy():
    """H(p_T, q) = T H(p_T, q_T) - (T - 1) R_{1/T}(q): Zheng & Yang, with R the Rényi entropy of order 1/T."""
    signal, temperature = signal_of(), 3.0
    student = student_of(signal)
    p = torch.softmax(signal.logits / temperature, 1)
    q, q_tempered = torch.softmax(student, 1), torch.softmax(student / temperature, 1)
    renyi = torch.log((q ** (1 / temperature)).sum(1)) / (1 - 1 / temperature)
    split = temperature * -(p * q_tempered.log()).sum(1) - (temperature - 1) * renyi
    entropy = -(p * p.log()).sum(1)
    torch.testing.assert_close(soft_only("ttm", temperature=temperature)(student, signal), split - entropy)


def test_dkd_with_the_right_weights_is_the_kl():
    signal = signal_of()
    student = student_of(signal)
    torch.testing.assert_close(
        sum(
            Objective("kd", 1.0, 1.0, divergence=f"dkd({1 if k == 0 else 0}, {k})")(student, signal)
            * (1.0 if k == 0 else 1 - signal.confidence)
            for k in (0, 1)
        ),
        Objective("kd", 1.0, 1.0, divergence="forward-kl")(student, signal),
    )


@pytest.mark.parametrize("k", [1, 2, 4, 9])
def test_bucketed_kl_lies_between_zero_and_the_full_kl(k):
    signal = signal_of(batch=40)
    student = student_of(signal)
    full = soft_only("forward-kl")(student, signal)
    short = soft_only(f"bucketed-kl({k})")(student, signal)
    assert bool((short >= -1e-12).all()) and bool((short <= full + 1e-12).all())
    assert k < 4 or torch.allclose(short, full, atol=1e-12)  # all classes but one: nothing is lost
    plain = Objective("kd", 2.5, 1.0, divergence=f"bucketed-kl({k})").plain(student, signal)
    torch.testing.assert_close(short, plain)
    leaf = student.clone().requires_grad_()
    (fast,) = torch.autograd.grad(soft_only(f"bucketed-kl({k})")(leaf, signal).sum(), leaf)
    (slow,) = torch.autograd.grad(soft_only(f"bucketed-kl({k})").plain(leaf, signal).sum(), leaf)
    torch.testing.assert_close(fast, slow, rtol=1e-9, atol=1e-12)


def test_hard_and_smoothed_labels_are_torch_cross_entropy():
    signal = signal_of()
    student = student_of(signal)
    hard = functional.cross_entropy(student, signal.labels, reduction="none")
    smooth = functional.cross_entropy(student, signal.labels, reduction="none", label_smoothing=0.1)
    torch.testing.assert_close(Objective("hard", 1.0, 1.0)(student, signal), hard)
    torch.testing.assert_close(Objective("ls(0.1)", 1.0, 1.0)(student, signal), smooth)


def test_centred_logits_are_the_limit_of_kl_at_high_temperature():
    signal = signal_of(scale=1.0)
    student = student_of(signal, scale=1.0)
    kl_limit = Objective("kd", 3000.0, 1.0, divergence="forward-kl")(student, signal)
    torch.testing.assert_close(2 * kl_limit, soft_only("mse-centred-logits")(student, signal), rtol=1e-2, atol=1e-4)


# -- gradients ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "cell"), PAIRS)
def test_gradient_is_that_of_the_plain_form(name, cell):
    signal = signal_of()
    for temperature in (1.0, 4.0):
        objective = Objective(cell, temperature, 0.7, divergence=name)
        student = student_of(signal).requires_grad_()
        weights = torch.linspace(0.5, 2.0, len(signal), dtype=torch.float64)
        fast, plain = objective(student, signal), objective.plain(student, signal)
        torch.testing.assert_close(fast, plain, rtol=1e-10, atol=1e-12)
        (one,) = torch.autograd.grad((fast * weights).sum(), student)
        (other,) = torch.autograd.grad((plain * weights).sum(), student)
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_gradcheck_and_second_derivative(name):
    signal = signal_of(batch=3, classes=4, scale=1.0)
    student = student_of(signal, scale=1.0).requires_grad_()
    objective = Objective("kd", 2.0, 0.6, divergence=name)
    assert gradcheck(lambda z: objective(z, signal), student)
    if name != "total-variation":  # its second derivative is that of a piecewise smooth function
        assert gradgradcheck(lambda z: objective(z, signal), student)


@pytest.mark.parametrize("name", NAMES)
def test_one_backward_after_another_over_a_retained_graph(name):
    signal = signal_of()
    student = student_of(signal).requires_grad_()
    loss = soft_only(name)(student, signal)
    (first,) = torch.autograd.grad(loss.sum(), student, retain_graph=True)
    first = first.clone()
    (second,) = torch.autograd.grad(3 * loss.sum(), student)
    torch.testing.assert_close(second, 3 * first)


@pytest.mark.parametrize("name", NAMES)
def test_chunks_change_nothing(name, monkeypatch):
    signal = signal_of(batch=11)
    objective = Objective("class-mean" if meets(name, "class-mean") else "kd", 2.0, 0.8, divergence=name)

    def step():
        student = student_of(signal).requires_grad_()
        loss = objective(student, signal)
        loss.mean().backward()
        return loss.detach(), student.grad

    whole = step()
    monkeypatch.setattr("fractionate.losses.kernels.onepass.CHUNK_ELEMENTS", 10)
    for one, other in zip(whole, step(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-14)


# -- precision, masks, extremes -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "cell"), PAIRS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-5), (torch.bfloat16, 1e-3), (torch.float16, 1e-3)])
def test_low_precision_inputs_are_computed_in_float32(name, cell, dtype, tolerance):
    signal = signal_of(batch=16, classes=37, dtype=dtype)
    student = student_of(signal).requires_grad_()
    exact_signal = TeacherSignal(signal.logits.double(), signal.labels)
    exact_student = student.detach().double().requires_grad_()
    objective = soft_only(name, cell)
    loss, exact = objective(student, signal), objective(exact_student, exact_signal)
    loss.sum().backward()
    exact.sum().backward()
    assert loss.dtype == torch.float32 and student.grad.dtype == dtype
    torch.testing.assert_close(loss.double(), exact, rtol=tolerance, atol=tolerance)
    rounding = {torch.float32: 1e-6, torch.float16: 1e-3, torch.bfloat16: 8e-3}[dtype]  # the gradient is rounded once
    worst = (student.grad.double() - exact_student.grad).norm(dim=1) / exact_student.grad.norm(dim=1).clamp_min(1e-6)
    assert float(worst.max()) < 40 * rounding


@pytest.mark.parametrize("name", NAMES)
def test_zero_or_least_at_equality_also_with_padded_classes(name):
    signal = signal_of()
    padded = torch.cat([signal.logits, torch.full((len(signal), 3), -torch.inf, dtype=torch.float64)], dim=1)
    wide = TeacherSignal(padded, signal.labels)
    objective = Objective("kd", 1.0 if name in ("ttm", "wttm") else 2.0, 1.0, divergence=name)
    at_target = objective(signal.logits.clone().requires_grad_(), signal)
    wide_loss = objective(padded.clone().requires_grad_(), wide)
    torch.testing.assert_close(at_target, wide_loss, rtol=1e-12, atol=1e-12)
    if name not in ("cross-entropy", "nkd", "topk-cross-entropy"):
        torch.testing.assert_close(wide_loss, torch.zeros_like(wide_loss), rtol=0, atol=1e-12)
    student = signal.logits.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(Objective("kd", 1.0, 1.0, divergence=name)(student, signal).sum(), student)
    if name not in (
        "nkd",
        "topk-cross-entropy",
    ):  # least elsewhere: the first term of nkd weighs the label by the confidence alone: it has its minimum elsewhere
        assert float(gradient.abs().max()) < 1e-12


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("temperature", [0.05, 1.0, 20.0])
def test_extreme_logits_and_temperatures_stay_finite_or_say_so(name, temperature):
    signal = signal_of(batch=4, classes=6, dtype=torch.float32, scale=2e4)
    student = student_of(signal, scale=2e4).requires_grad_()
    try:
        loss = soft_only(name, temperature=temperature)(student, signal)
    except NumericsError:
        return
    loss.sum().backward()
    assert bool(torch.isfinite(loss).all()) and bool(torch.isfinite(student.grad).all())


def test_a_student_that_masks_what_the_teacher_says_is_a_typed_error():
    signal = signal_of()
    student = student_of(signal)
    student[2, (signal.labels[2] + 1) % 5] = -torch.inf
    with pytest.raises(NumericsError, match="masks a class"):
        soft_only("forward-kl")(student.requires_grad_(), signal)
    assert bool(torch.isfinite(soft_only("skew-forward")(student.detach().requires_grad_(), signal)).all())


# -- transforms ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "cell"), [(n, c) for n, c in PAIRS if c in ("kd", "class-mean")])
def test_students_stacked_with_vmap(name, cell):
    signal = signal_of()
    students = torch.stack([student_of(signal, seed=s) for s in range(3)])
    objective = Objective(cell, 2.0, 0.9, divergence=name)
    gradients = torch.vmap(torch.func.grad(lambda z: objective(z, signal).mean()))(students)
    for student, gradient in zip(students, gradients, strict=True):
        leaf = student.clone().requires_grad_()
        objective(leaf, signal).mean().backward()
        torch.testing.assert_close(gradient, leaf.grad, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_loss_and_gradient_without_autograd(name):
    signal = signal_of()
    student = student_of(signal).requires_grad_()
    objective = Objective("kd", 2.0, 0.9, divergence=name)
    loss, gradient = objective.loss_and_gradient(student.detach(), signal)
    expected = objective.plain(student, signal)
    expected.sum().backward()
    torch.testing.assert_close(loss, expected.detach())
    torch.testing.assert_close(gradient, student.grad, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ["dkd", "jsd", "bucketed-kl(2)", "dist"])
def test_torch_compile_traces_a_loss_without_a_break(name):
    signal = signal_of()
    student = student_of(signal).requires_grad_()
    objective = Objective("kd", 2.0, 0.9, divergence=name)
    traced = torch.compile(lambda z: objective(z, signal), fullgraph=True, backend="eager")
    torch.testing.assert_close(traced(student), objective.plain(student, signal))
    torch.compiler.reset()


# -- the contract and its errors ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_names_go_through_the_contract_and_back(name):
    contract = soft_only(name).describe()
    assert divergences[contract.divergence] == divergences[name] and contract.divergence == name
    assert contract.scale_by_temperature_squared is not own_temperature(divergences[name])
    assert divergences[name].formula.replace("q", "") and "alpha" not in contract.formula


def test_arguments_are_written_out():
    assert written(divergences["jsd(0.1)"]) == "jsd(beta=0.1)"
    assert written(divergences["dkd(1, 2)"]) == "dkd(shape_weight=2)"
    assert Objective(divergence=written(divergences["jsd(0.1)"])) == Objective(divergence="jsd(0.1)")


def test_refusals_name_the_reason():
    with pytest.raises(MismatchError, match="infinite there"):
        Objective("hard", divergence="reverse-kl")
    with pytest.raises(MismatchError, match="up to a constant"):
        Objective("class-mean", divergence="mse-logits")
    with pytest.raises(UnknownNameError, match="forward-kl"):
        Objective(divergence="forwad-kl")
    with pytest.raises(ConfigError, match="between 0 and 1"):
        Objective(divergence="jsd(0)")
    with pytest.raises(ConfigError, match="at least 0"):
        Objective(divergence="dkd(-1, 2)")
    Objective("hard", teacher_weight=0.0, divergence="reverse-kl")  # unused: nothing to refuse


@pytest.mark.wrong_types
@pytest.mark.parametrize("shape", [(6, 1), (1, 5), (5, 6), (6, 5, 1)])
def test_shapes_that_would_broadcast_are_refused(shape):
    with pytest.raises(MismatchError):
        Objective()(torch.zeros(shape), signal_of())


@pytest.mark.wrong_types
def test_integers_are_no_logits():
    with pytest.raises(MismatchError, match="floating point"):
        Objective()(torch.zeros(6, 5, dtype=torch.long), signal_of())


def test_batch_coupling_is_declared():
    assert [name for name in NAMES if couples_batch(divergences[name])] == ["dist"]
    assert not couples_batch(divergences["dist(1, 0)"]) and "kd" in CELLS
