"""Losses on compact signals: the dense loss of even tail mass, without the dense target; and what is refused."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from fractionate import Objective, TeacherSignal, collect
from fractionate.errors import ConfigError, MismatchError, NumericsError
from fractionate.losses.objective import rescaling
from fractionate.store import Store
from fractionate.store.forms import Form
from fractionate.theory.topk_signal import CompactSignal
from fractionate.training import distill
from fractionate.training.distributed import World
from fractionate.training.step import check_coupling
from test_engine import FAST, digits, mlp, same

CELLS = (
    "kd",
    "kd-topk(3)",
    "kd-topk(5)",
    "kd-topk",
    "kd-pt",
    "hard",
    "ls",
    "ls(0.1)",
    "mean * instance",
    "certain * topk(2)",
)
TEMPERATURES = (1.0, 2.5)


def compact(classes=23, batch=9, k=6, seed=0, dtype=torch.float64) -> CompactSignal:
    """A teacher right and wrong, sure and unsure, kept as label, k entries and tail mass."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(batch, classes, generator=generator, dtype=torch.float64)
    labels = torch.randint(classes, (batch,), generator=generator)
    logits[0, labels[0]] += 12.0
    logits[1, (labels[1] + 1) % classes] += 12.0
    entries, indices = logits.scatter(1, labels[:, None], -math.inf).topk(k, dim=1)
    others = logits.scatter(1, labels[:, None], -math.inf).scatter(1, indices, -math.inf)
    rest = torch.stack([torch.logsumexp(others / t, dim=1) for t in TEMPERATURES], dim=1)
    own = logits.gather(1, labels[:, None]).squeeze(1)
    return CompactSignal(labels, own.to(dtype), entries.to(dtype), indices, rest, classes, temperatures=TEMPERATURES)


def student_of(signal: CompactSignal, seed=1, dtype=torch.float64) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (2 * torch.randn(len(signal), signal.classes, generator=generator, dtype=torch.float64)).to(dtype)


def step(objective: Objective, logits: torch.Tensor, signal, weights: torch.Tensor):
    leaf = logits.clone().requires_grad_()
    loss = objective(leaf, signal)
    (loss * weights).sum().backward()
    return loss.detach(), leaf.grad


def agree(objective: Objective, signal: CompactSignal, student: torch.Tensor) -> None:
    dense = signal.at(objective.temperature).dense()
    weights = torch.linspace(0.5, 2.0, len(signal), dtype=torch.float64)
    for one, other in zip(
        step(objective, student, signal, weights), step(objective, student, dense, weights), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-11)
    plain = objective.plain(student, signal)
    torch.testing.assert_close(objective(student, signal), plain)
    torch.testing.assert_close(objective.loss_and_gradient(student, signal)[0], plain, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("divergence", ["cross-entropy", "forward-kl"])
def test_the_sparse_loss_is_the_dense_loss_of_an_even_remainder(cell, divergence):
    signal = compact()
    for temperature in TEMPERATURES:
        for weight in (1.0, 0.6):
            agree(Objective(cell, temperature, weight, divergence=divergence), signal, student_of(signal))


@pytest.mark.parametrize("cell", CELLS)
def test_rows_with_padding_and_nothing_left_out(cell):
    """Sampled forms have fewer entries in some rows and leave classes out altogether; a row may have no entry at all."""
    signal = compact()
    logits, rest = signal.logits.clone(), signal.rest.clone()
    logits[::2, 2:] = -math.inf
    rest[::3] = -math.inf
    logits[3] = -math.inf
    rest[3] = -math.inf
    if "topk" in cell:  # entries must be the largest: the rest of padded rows is small
        rest[::2] -= 30.0
    agree(
        Objective(cell, 2.5, 0.7, divergence="forward-kl"),
        replace(signal, logits=logits, rest=rest),
        student_of(signal),
    )


def test_all_classes_kept_is_the_whole_teacher():
    generator = torch.Generator().manual_seed(3)
    whole = TeacherSignal(torch.randn(5, 8, generator=generator, dtype=torch.float64), torch.tensor([0, 1, 7, 3, 3]))
    entries, indices = whole.logits.scatter(1, whole.labels[:, None], -math.inf).topk(7, dim=1)
    own = whole.logits.gather(1, whole.labels[:, None]).squeeze(1)
    signal = CompactSignal(
        whole.labels, own, entries, indices, torch.full((5, 1), -math.inf), 8, temperatures=(2.0,), temperature=2.0
    )
    objective = Objective("kd", 2.0, 1.0, divergence="forward-kl")
    student = torch.randn(5, 8, generator=generator, dtype=torch.float64)
    torch.testing.assert_close(objective(student.requires_grad_(), signal), objective.plain(student, whole))


def test_statistics_of_a_part_are_those_of_the_whole():
    signal = compact()
    part = signal.take(torch.tensor([4, 2]))
    objective = Objective("ls", 2.5, 1.0)
    whole = objective(student_of(signal).requires_grad_(), signal)
    torch.testing.assert_close(objective(student_of(signal)[[4, 2]].requires_grad_(), part), whole[[4, 2]])


@pytest.mark.parametrize(("dtype", "rounding"), [(torch.float32, 1e-6), (torch.bfloat16, 8e-3)])
def test_low_precision(dtype, rounding):
    signal, exact = compact(dtype=torch.float32), compact()
    student = student_of(signal).to(dtype)
    objective = Objective("kd", 2.5, 0.9, divergence="forward-kl")
    weights = torch.ones(len(signal))
    loss, gradient = step(objective, student, signal, weights)
    exact_loss, exact_gradient = step(objective, student.double(), exact, weights.double())
    torch.testing.assert_close(loss.double(), exact_loss, rtol=2e-5, atol=2e-5)
    worst = (gradient.double() - exact_gradient).norm(dim=1) / exact_gradient.norm(dim=1)
    assert float(worst.max()) < 40 * rounding


def test_chunks_change_nothing_and_the_mean_needs_no_rescaling(monkeypatch):
    signal = compact()
    objective = Objective("kd", 2.5, 0.8)
    even = torch.full((len(signal),), 1 / len(signal), dtype=torch.float64)
    whole = step(objective, student_of(signal), signal, even)
    monkeypatch.setattr("fractionate.losses.kernels.onepass.CHUNK_ELEMENTS", 50)
    for one, other in zip(whole, step(objective, student_of(signal), signal, even), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-14)


def test_extremes_are_finite_or_a_typed_error():
    signal = compact()
    wild = replace(signal, logits=1e4 * signal.logits, label_logits=1e4 * signal.label_logits, rest=1e4 * signal.rest)
    loss, gradient = step(Objective("kd", 2.5, 0.5), 1e4 * student_of(signal), wild, torch.ones(len(signal)))
    assert bool(torch.isfinite(loss).all()) and bool(torch.isfinite(gradient).all())
    student = student_of(signal)
    student[2, signal.labels[2]] = -math.inf
    with pytest.raises(NumericsError, match="masks a class"):
        Objective("kd", 2.5, 1.0)(student.requires_grad_(), signal)


def test_a_class_both_sides_rule_out_costs_nothing():
    signal = compact()
    nothing_left = replace(signal, rest=torch.full_like(signal.rest, -math.inf))
    dense = nothing_left.at(2.5).dense()
    student = student_of(signal).masked_fill(torch.isneginf(dense.logits), -math.inf)
    for name in ("cross-entropy", "forward-kl"):
        objective = Objective("kd", 2.5, 1.0, divergence=name)
        ours = step(objective, student, nothing_left, torch.ones(len(signal), dtype=torch.float64))
        theirs = step(objective, student, dense, torch.ones(len(signal), dtype=torch.float64))
        for one, other in zip(ours, theirs, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-11)


def test_rescaling_is_that_of_the_dense_signal():
    signal = compact()
    for cell in ("kd", "ls", "hard"):
        objective = Objective(cell, 2.5, 0.8)
        dense = signal.at(2.5).dense()
        if cell == "ls":
            assert float(signal.at(2.5).mean_confidence) == pytest.approx(float(dense.at(2.5).stats.mean_confidence))
        torch.testing.assert_close(
            rescaling(student_of(signal), signal, objective),
            rescaling(student_of(signal), dense, objective),
            rtol=1e-6,
            atol=1e-6,
        )


@pytest.mark.parametrize(
    ("cell", "divergence", "reason"),
    [("class-mean", "cross-entropy", "mass of its own for every class"), ("kd", "reverse-kl", "class by class")],
)
def test_what_needs_all_classes_is_refused_with_the_reason(cell, divergence, reason):
    signal = compact()
    objective = Objective(cell, 2.5, 0.5, divergence=divergence)
    with pytest.raises(MismatchError, match=reason):
        objective(student_of(signal), signal)
    assert bool(torch.isfinite(objective(student_of(signal), signal.at(2.5).dense())).all())
    Objective(cell, 2.5, 0.0, divergence=divergence)(student_of(signal), signal)  # unused: nothing to refuse


@pytest.mark.wrong_types
def test_bad_input():
    signal = compact()
    with pytest.raises(MismatchError, match="different classes or examples"):
        Objective("kd", 2.5)(torch.zeros(9, 22), signal)
    with pytest.raises(ConfigError, match="not known at temperature 3"):
        Objective("kd", 3.0)(student_of(signal), signal)
    low = replace(signal, logits=signal.logits - 40.0)
    with pytest.raises(MismatchError, match="not its largest"):
        Objective("kd-topk(3)", 2.5)(student_of(signal), low)


def test_the_forms_of_a_store_are_met():
    signal = TeacherSignal(torch.randn(40, 30, generator=torch.Generator().manual_seed(0)), torch.arange(40) % 30)
    for kind in ("top-k", "sampled"):
        form = Form(kind, 30, "float32", 5, (2.0,))  # type: ignore[arg-type]
        kept = form.compact(form.encode(signal.logits, signal.labels, np.arange(40, dtype=np.uint64) << np.uint64(50)))
        student = torch.randn(40, 30, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        objective = Objective("kd", 2.0, 0.9)
        dense, even = kept.at(2.0).dense(), torch.ones(40)
        for one, other in zip(step(objective, student, kept, even), step(objective, student, dense, even), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)  # the signal is float32


@pytest.fixture
def store(tmp_path) -> Store:
    train, _, _ = digits()
    collect(mlp(), train, tmp_path / "store", form="top-k", k=4, temperatures=(1.0, 2.0))
    return Store.open(tmp_path / "store")


def test_the_engine_trains_from_a_store_of_entries_without_making_it_dense(store, monkeypatch):
    train, _, _ = digits()
    objective = Objective("kd", 2.0, 0.9)
    expected, _ = distill(mlp(seed=1), train, store.signal(temperature=2.0), objective=objective, training=FAST)
    with monkeypatch.context() as patch:
        patch.setattr(Store, "signal", lambda *_, **__: pytest.fail("all classes were made"))
        patch.setattr(CompactSignal, "dense", lambda *_: pytest.fail("all classes were made"))
        ours, run = distill(mlp(seed=1), train, store, objective=objective, training=FAST)
        again, _ = distill(mlp(seed=1), train, store.compact_signal(), objective=objective, training=FAST)
    assert same(ours, again) and run.history
    for one, other in zip(ours.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


def test_the_engine_reads_a_store_dense_where_the_loss_needs_it(store):
    train, _, _ = digits()
    objective = Objective("kd", 2.0, 0.9, divergence="jsd")
    ours, _ = distill(mlp(seed=1), train, store, objective=objective, training=FAST)
    theirs, _ = distill(mlp(seed=1), train, store.signal(), objective=objective, training=FAST)
    assert same(ours, theirs)
    with pytest.raises(MismatchError, match="class by class"):
        distill(mlp(seed=1), train, store.compact_signal(), objective=objective, training=FAST)
    with pytest.raises(ConfigError, match="not known at temperature 3"):
        distill(mlp(seed=1), train, store.compact_signal(), objective=Objective("kd", 3.0), training=FAST)
    with pytest.raises(MismatchError, match="differ in length"):
        distill(
            mlp(seed=1), train, store.compact_signal().take(slice(5)), objective=Objective("kd", 2.0), training=FAST
        )


def test_a_loss_that_couples_the_batch_is_not_cut_into_pieces(store):
    train, _, _ = digits()
    pieces = replace(FAST, micro_batch_size=8)
    with pytest.raises(ConfigError, match=r"dist couples the examples of a batch.*\n.*the whole batch at once"):
        distill(mlp(), train, store.signal(), objective=Objective(divergence="dist"), training=pieces)
    distill(mlp(), train, store.signal(), objective=Objective(divergence="dist(1, 0)"), training=pieces)


def test_a_loss_that_couples_the_batch_is_not_spread_over_processes():
    coupled, alone, two = Objective(divergence="dist"), World(), World(rank=1, size=2)
    with pytest.raises(ConfigError, match=r"dist couples the examples of a batch.*\n.*on one process.*\n.*2 processes"):
        check_coupling(coupled, [], FAST, two)
    check_coupling(coupled, [], FAST, alone)
    check_coupling(Objective(divergence="dist(1, 0)"), [], FAST, two)
    check_coupling(Objective(teacher_weight=0.0, divergence="dist"), [], FAST, two)  # nobody asks the divergence
