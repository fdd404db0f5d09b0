"""Losses from hidden states and head: equal to the dense loss, by value and gradient, in all that users do to it."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from fractionate import Objective, TeacherSignal
from fractionate.data.labels import IGNORED
from fractionate.errors import ConfigError, MismatchError, NumericsError
from fractionate.losses.divergences import divergences
from fractionate.losses.kernels.vocabulary import HeadSignal, choose_chunks, vocabulary_loss
from fractionate.store.forms import Form
from fractionate.theory.topk_signal import CompactSignal

OBJECTIVES = [
    Objective("kd", 1.0, 1.0, divergence="cross-entropy"),
    Objective("kd", 1.0, 0.5, divergence="forward-kl"),
    Objective("kd", 2.5, 0.7, divergence="forward-kl"),
    Objective("kd", 2.5, 1.0, divergence="reverse-kl"),
    Objective("kd", 1.0, 0.9, divergence="jsd"),
    Objective("kd", 2.0, 1.0, divergence="jsd(0.1)"),
    Objective("kd", 1.0, 1.0, divergence="skew-forward"),
    Objective("kd", 1.0, 1.0, divergence="skew-reverse"),
    Objective("kd", 1.0, 0.5, divergence="topk-cross-entropy(3)"),
    Objective("kd-pt", 1.0, 0.5),
    Objective("hard", 1.0, 0.0),
]
NAMES = [f"{o.divergence} {o.cell} T={o.temperature} w={o.teacher_weight}" for o in OBJECTIVES]


def case(rows=13, width=6, classes=37, theirs=9, dtype=torch.float64, seed=0, bias=True):
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    hidden, weight = draw(rows, width), draw(classes, width)
    signal = HeadSignal(
        draw(rows, theirs), draw(classes, theirs), torch.randint(classes, (rows,), generator=generator),
        draw(classes) if bias else None,
    )  # fmt: skip
    return hidden, weight, draw(classes) if bias else None, signal


def dense(signal: HeadSignal, dtype=torch.float64) -> TeacherSignal:
    logits = signal.hidden.to(dtype) @ signal.weight.to(dtype).T
    if signal.bias is not None:
        logits = logits + signal.bias.to(dtype)
    return TeacherSignal(logits, signal.labels)


def leaves(*tensors: Tensor | None) -> list[Tensor]:
    return [t.clone().requires_grad_() for t in tensors if t is not None]


def both(hidden, weight, bias, signal, trained_teacher, objective, factor=None, **more):
    """Losses and gradients, ours and the dense ones."""
    found = []
    for way in ("bounded", "dense"):
        parts = leaves(hidden, weight, bias)
        if way == "bounded":
            loss = vocabulary_loss(
                parts[0], parts[1], signal, objective, bias=parts[2] if bias is not None else None, **more
            )
        else:
            logits = parts[0] @ parts[1].T + (parts[2] if bias is not None else 0.0)
            loss = objective(logits, trained_teacher)
        (loss.mean() if factor is None else (loss * factor).sum()).backward()
        found.append([loss.detach(), *(p.grad for p in parts)])
    return found


@pytest.mark.parametrize("objective", OBJECTIVES, ids=NAMES)
@pytest.mark.parametrize("bias", [True, False])
def test_equal_to_the_dense_loss(objective: Objective, bias: bool) -> None:
    hidden, weight, offset, signal = case(bias=bias)
    ours, theirs = both(hidden, weight, offset, signal, dense(signal), objective, chunk_tokens=4)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize(("rows", "width", "classes"), [(1, 1, 2), (41, 7, 401), (3, 64, 1271), (70, 3, 5)])
def test_weird_shapes_and_chunks(rows: int, width: int, classes: int) -> None:
    hidden, weight, bias, signal = case(rows, width, classes)
    objective = Objective("kd", 1.0, 0.5, divergence="forward-kl")
    for chunk in (1, 7, None):
        ours, theirs = both(hidden, weight, bias, signal, dense(signal), objective, chunk_tokens=chunk)
        for a, b in zip(ours, theirs, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)
    strided = torch.randn(width, rows, dtype=torch.float64).T  # not contiguous
    ours, theirs = both(strided, weight, bias, signal, dense(signal), objective)
    torch.testing.assert_close(ours[1], theirs[1], rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("name", ["cross-entropy", "reverse-kl", "jsd", "skew-forward"])
def test_factors_that_differ_by_token_and_a_second_backward_pass(name: str) -> None:
    hidden, weight, bias, signal = case()
    objective = Objective("kd", 1.0, 0.8, divergence=name)
    factor = torch.linspace(0, 2, len(hidden), dtype=torch.float64)
    ours, theirs = both(hidden, weight, bias, signal, dense(signal), objective, factor, chunk_tokens=5)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)
    leaf = hidden.clone().requires_grad_()
    loss = vocabulary_loss(leaf, weight, signal, objective, bias=bias).mean()
    (first,) = torch.autograd.grad(loss, leaf, retain_graph=True)
    first = first.clone()
    (second,) = torch.autograd.grad(loss, leaf)
    torch.testing.assert_close(first, second)


@pytest.mark.parametrize("name", ["cross-entropy", "forward-kl", "reverse-kl", "jsd", "skew-forward", "skew-reverse"])
def test_gradcheck(name: str) -> None:
    hidden, weight, bias, signal = case(5, 3, 7)
    objective = Objective("kd", 1.5, 0.6, divergence=name)
    parts = leaves(hidden, weight, bias)
    assert torch.autograd.gradcheck(
        lambda h, w, b: vocabulary_loss(h, w, signal, objective, bias=b, chunk_tokens=2), parts
    )


def test_loop_oracle() -> None:
    """One number at a time, in plain Python."""
    hidden, weight, bias, signal = case(3, 2, 4, 3)
    trained_teacher = dense(signal).logits.tolist()
    found = vocabulary_loss(hidden, weight, signal, Objective("kd", 1.0, 1.0, divergence="forward-kl"), bias=bias)
    for row in range(3):
        z = [sum(h * w for h, w in zip(hidden[row].tolist(), line, strict=True)) for line in weight.tolist()]
        z = [a + b for a, b in zip(z, bias.tolist(), strict=True)]
        log_q = [a - math.log(sum(map(math.exp, z))) for a in z]
        log_p = [a - math.log(sum(map(math.exp, trained_teacher[row]))) for a in trained_teacher[row]]
        expected = sum(math.exp(p) * (p - q) for p, q in zip(log_p, log_q, strict=True))
        assert float(found[row]) == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-5), (torch.bfloat16, 2e-2), (torch.float16, 3e-3)])
def test_low_precision_adds_up_in_float32(dtype: torch.dtype, tolerance: float) -> None:
    hidden, weight, _, signal = case(33, 16, 203, dtype=dtype, bias=False)
    objective = Objective("kd", 1.0, 0.5, divergence="forward-kl")
    ours, _ = both(hidden, weight, None, signal, dense(signal), objective)
    _, exact = both(hidden.double(), weight.double(), None, signal, dense(signal), objective)
    torch.testing.assert_close(ours[0].double(), exact[0], rtol=1e-5, atol=1e-5)  # only the gradients are rounded
    assert ours[1].dtype == ours[2].dtype == dtype
    for a, b in zip(ours[1:], exact[1:], strict=True):
        assert float((a.double() - b).norm() / b.norm()) < tolerance


@pytest.mark.parametrize("form", ["head", "compact", "dense"])
def test_masked_rows_count_for_nothing(form: str) -> None:
    hidden, weight, bias, signal = case()
    full = dense(signal)
    labels = signal.labels.clone()
    labels[[0, 5, 12]] = IGNORED
    masked = {
        "head": lambda: HeadSignal(signal.hidden, signal.weight, labels, signal.bias),
        "compact": lambda: replace(compact_of(full, 30), labels=labels),
        "dense": lambda: TeacherSignal(full.logits, labels, population=full.population, rows=full.rows),
    }[form]()  # fmt: skip
    objective = Objective("kd", 1.0, 0.5, divergence="forward-kl")
    leaf = hidden.clone().requires_grad_()
    loss = vocabulary_loss(leaf, weight, masked, objective, bias=bias, chunk_tokens=4)
    loss.sum().backward()
    gone = labels == IGNORED
    assert bool((loss[gone] == 0).all()) and bool((leaf.grad[gone] == 0).all())
    kept = objective(hidden @ weight.T + bias, full)[~gone]
    if form != "compact":
        torch.testing.assert_close(loss[~gone], kept)


@pytest.mark.parametrize("form", ["head", "compact"])
def test_all_masked_is_zero_with_a_gradient_path(form: str) -> None:
    hidden, weight, bias, signal = case()
    labels = torch.full_like(signal.labels, IGNORED)
    masked = HeadSignal(signal.hidden, signal.weight, labels, signal.bias)
    if form == "compact":
        part = compact_of(dense(signal), 4)
        masked = replace(part, labels=labels)
    parts = leaves(hidden, weight)
    loss = vocabulary_loss(*parts, masked, OBJECTIVES[0], bias=bias)
    assert loss.shape == labels.shape and float(loss.detach().sum()) == 0
    loss.sum().backward()
    assert all(bool((p.grad == 0).all()) for p in parts)


def test_padded_entries_are_ruled_out_on_both_sides() -> None:
    """Heads padded to different sizes: as if the padding were not there, and no gradient to it."""
    hidden, weight, _, signal = case(bias=False)
    real = 37
    wide = torch.cat([weight, torch.full((3, weight.shape[1]), 50.0, dtype=torch.float64)])
    theirs = torch.cat([signal.weight, torch.full((8, signal.weight.shape[1]), 50.0, dtype=torch.float64)])
    padded = HeadSignal(signal.hidden, theirs, signal.labels)
    for objective in OBJECTIVES[:5]:
        h, w = leaves(hidden, wide)
        loss = vocabulary_loss(h, w, padded, objective, classes=real)
        loss.sum().backward()
        torch.testing.assert_close(loss, objective(hidden @ weight.T, dense(signal)), rtol=1e-9, atol=1e-11)
        assert bool((w.grad[real:] == 0).all()) and bool((w.grad[:real] != 0).any())
        same = HeadSignal(hidden, wide, signal.labels)
        if objective.divergence == divergences["forward-kl"] and objective.teacher_weight == 1:
            assert float(vocabulary_loss(hidden, wide, same, objective, classes=real).abs().max()) < 1e-12
    with pytest.raises(MismatchError, match="different vocabularies") as error:
        vocabulary_loss(hidden, wide, padded, OBJECTIVES[0])
    assert (
        "45 classes, as the teacher" in str(error.value) and "40" in str(error.value) and "classes=" in str(error.value)
    )


def test_the_sum_does_not_depend_on_the_split_into_micro_batches() -> None:
    hidden, weight, bias, signal = case(24)
    objective = Objective("kd", 1.0, 0.5, divergence="jsd")
    whole = leaves(hidden, weight)
    vocabulary_loss(*whole, signal, objective, bias=bias).sum().div(24).backward()
    split = leaves(hidden, weight)
    for part in (slice(0, 5), slice(5, 6), slice(6, 24)):
        vocabulary_loss(split[0][part], split[1], signal.take(part), objective, bias=bias).sum().div(24).backward()
    for a, b in zip(whole, split, strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-10, atol=1e-13)


# -- compact signals -----------------------------------------------------------------------------------------------------------


def compact_of(signal: TeacherSignal, k: int, temperatures=(1.0, 2.5)) -> CompactSignal:
    form = Form("top-k", signal.classes, "float64", k, temperatures)
    import numpy as np

    return form.compact(form.encode(signal.logits, signal.labels, np.zeros(len(signal), np.uint64)))


@pytest.mark.parametrize(
    "objective", OBJECTIVES[:3] + OBJECTIVES[4:5] + OBJECTIVES[-1:], ids=NAMES[:3] + NAMES[4:5] + NAMES[-1:]
)
@pytest.mark.parametrize("k", [1, 5, 35])
def test_compact_rows_are_the_dense_loss_of_an_even_remainder(objective: Objective, k: int) -> None:
    hidden, weight, bias, signal = case()
    part = compact_of(dense(signal), k)
    trained_teacher = part.at(objective.temperature if objective.teacher_weight else 1.0).dense()
    ours, theirs = both(hidden, weight, bias, part, trained_teacher, objective, chunk_tokens=4)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)  # the rest is kept in float32


def test_compact_rows_with_padding_are_met_exactly() -> None:
    """Sampled rows have fewer entries in some rows: padded with -inf."""
    hidden, weight, bias, signal = case()
    full = dense(signal)
    part = compact_of(full, 3)
    logits = part.logits.clone()
    logits[::2, 1:] = -math.inf
    part = CompactSignal(part.labels, part.label_logits, logits, part.indices, part.rest[:, :1], 37)
    for name in ("cross-entropy", "forward-kl"):
        objective = Objective("kd", 1.0, 0.5, divergence=name)
        ours, theirs = both(hidden, weight, bias, part, part.dense(), objective)
        for a, b in zip(ours, theirs, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)


# -- memory and errors ---------------------------------------------------------------------------------------------------------


def peak_bytes(step) -> int:
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        step()
    now = peak = 0
    for event in profile.profiler.kineto_results.events():
        if event.name() == "[memory]":
            now += event.nbytes()
            peak = max(peak, now)
    return peak


def test_memory_does_not_grow_with_the_tokens() -> None:
    peaks = []
    for rows in (256, 1024):
        hidden, weight, _, signal = case(rows, 256, 8192, 64, torch.float32, bias=False)
        h, w = leaves(hidden, weight)
        peaks.append(peak_bytes(lambda h=h, w=w, s=signal: vocabulary_loss(h, w, s, OBJECTIVES[0]).mean().backward()))
    gradient = 8192 * 256 * 4
    assert peaks[0] < 1.5 * gradient  # the gradient of the head and about a quarter of it
    assert peaks[1] - peaks[0] < 768 * 256 * 4 * 1.5  # the gradient of the hidden states alone


def test_chunks_follow_from_the_sizes() -> None:
    plan = choose_chunks(512, 512, 151_936)
    assert plan.tokens == 64 and plan.rows == 1
    assert choose_chunks(4096, 512, 151_936).tokens <= 0.27 * 512 / 2 + 1
    assert choose_chunks(512, 512, 151_936, online=False).tokens == 128
    assert choose_chunks(3, 512, 50).tokens == 3
    assert choose_chunks(4096, 8, 100, chunk_tokens=16).tokens == 16
    assert choose_chunks(8192, 4096, 151_936, device="cuda").rows > 1


@pytest.mark.wrong_types
def test_what_cannot_be_meant_is_refused() -> None:
    hidden, weight, bias, signal = case()
    with pytest.raises(MismatchError, match="do not fit"):
        vocabulary_loss(hidden[:3], weight, signal, OBJECTIVES[0])
    with pytest.raises(MismatchError, match="bias does not fit"):
        vocabulary_loss(hidden, weight, signal, OBJECTIVES[0], bias=bias[:5])
    with pytest.raises(ConfigError, match="needs statistics of all the data"):
        vocabulary_loss(hidden, weight, signal, Objective("class-mean", 1.0, 0.5))
    with pytest.raises(ConfigError, match="cannot be cut into chunks"):
        vocabulary_loss(hidden, weight, signal, Objective("kd", 1.0, 0.5, divergence="dist"))
    with pytest.raises(ConfigError, match="classes cannot be used"):
        vocabulary_loss(hidden, weight, signal, OBJECTIVES[0], classes=38)
    labels = signal.labels.clone()
    labels[2] = 37
    with pytest.raises(MismatchError, match=r"labels are no token \(first: row 2\)"):
        vocabulary_loss(hidden, weight, HeadSignal(signal.hidden, signal.weight, labels), OBJECTIVES[0])
    with pytest.raises(MismatchError, match="do not fit its head"):
        HeadSignal(signal.hidden, signal.weight[:, 1:], signal.labels)
    broken = hidden.clone()
    broken[4] = math.nan
    with pytest.raises(NumericsError, match="first: token 4"):
        vocabulary_loss(broken, weight, signal, OBJECTIVES[0])
