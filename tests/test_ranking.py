"""The hierarchical ranking term: hand-computed values, a loop-form oracle, gradients of pairs in order and out of order."""

from __future__ import annotations

import math

import pytest
import torch

import oracles
from fractionate import Objective, TeacherSignal
from fractionate.errors import ConfigError, MismatchError
from fractionate.losses.divergences.ranking import Ranking
from fractionate.losses.terms import term_specs, tie_kd
from fractionate.plugins.contracts import check
from fractionate.theory.topk_signal import CompactSignal
from predicted import losses_of, predicted


def loss(student, teacher, part):
    labels = torch.zeros(len(student), dtype=torch.long)
    return Objective("kd", 1.0, 1.0, divergence=part)(student, TeacherSignal(teacher, labels))


def by_loops(student, teacher, k):
    """L_top1 and L_topk of one row, from the formulas."""
    q, p = oracles.softmax(student), oracles.softmax(teacher)
    t = sorted(range(len(p)), key=lambda i: -p[i])[:k]
    s = sorted(range(len(q)), key=lambda i: -q[i])[:k]
    top1 = sum(max(0.0, q[i] - q[t[0]]) for i in t)
    topk = sum(max(0.0, q[j] - q[i]) for i in t for j in s if p[i] > p[j])
    return top1, topk


def test_values_computed_by_hand():
    teacher = torch.tensor([[0.5, 0.3, 0.15, 0.05]], dtype=torch.float64).log()
    student = torch.tensor([[0.2, 0.4, 0.1, 0.3]], dtype=torch.float64).log()
    # k = 2: t = 0, 1 and s = 1, 3. Top-1: 0.4 - 0.2. Pairs with p[t] > p[s]: (0, 1), (0, 3), (1, 3):
    # 0.4 - 0.2, 0.3 - 0.2, and 0.3 - 0.4 below 0
    assert float(loss(student, teacher, Ranking(2, topk_weight=0.0))) == pytest.approx(0.2, abs=1e-12)
    assert float(loss(student, teacher, Ranking(2, top1_weight=0.0))) == pytest.approx(0.2 + 0.1, abs=1e-12)
    assert float(loss(student, teacher, Ranking(2))) == pytest.approx(0.5, abs=1e-12)


@pytest.mark.parametrize("k", [1, 2, 5, 20])
def test_loops_say_the_same(k):
    generator = torch.Generator().manual_seed(k)
    student, teacher = torch.randn(2, 16, 9, generator=generator, dtype=torch.float64) * 2
    for row in range(16):
        top1, topk = by_loops(student[row].tolist(), teacher[row].tolist(), k)
        one = slice(row, row + 1)
        assert float(loss(student[one], teacher[one], Ranking(k, topk_weight=0.0))) == pytest.approx(top1, abs=1e-12)
        assert float(loss(student[one], teacher[one], Ranking(k, top1_weight=0.0))) == pytest.approx(topk, abs=1e-12)


def test_it_is_nothing_where_both_order_the_top_k_alike():
    teacher = torch.tensor([[4.0, 3.0, 2.0, 1.0, 0.0, -1.0]], dtype=torch.float64)
    student = torch.tensor([[9.0, 2.0, 1.5, -3.0, -1.0, -2.0]], dtype=torch.float64).requires_grad_()  # tail disordered
    found = loss(student, teacher, Ranking(3))
    (gradient,) = torch.autograd.grad(found.sum(), student)
    assert float(found.detach()) == 0
    assert not bool(gradient.any())


def test_classes_that_the_teacher_holds_equal_have_no_order():
    teacher = torch.tensor([[3.0, 1.0, 1.0, 0.0]], dtype=torch.float64)
    student = torch.tensor([[3.0, 0.5, 2.0, 0.0]], dtype=torch.float64)
    assert float(loss(student, teacher, Ranking(3))) == 0


def test_pairs_in_order_get_no_gradient():
    teacher = torch.tensor([[0.6, 0.3, 0.1]], dtype=torch.float64).log()
    q = torch.tensor([0.3, 0.5, 0.2], dtype=torch.float64)
    student = q.log()[None].requires_grad_()
    # only (0, 1) is out of order; L = 2 (q1 - q0), once in each part: d/dz_j = 2 (q1 (δ1j - qj) - q0 (δ0j - qj))
    (gradient,) = torch.autograd.grad(loss(student, teacher, Ranking(2)).sum(), student)
    by_hand = [2 * (q[1] * (float(j == 1) - q[j]) - q[0] * (float(j == 0) - q[j])) for j in range(3)]
    assert gradient[0].tolist() == pytest.approx([float(x) for x in by_hand], abs=1e-12)


def test_with_one_class_there_is_no_top1_part():
    student, teacher = torch.randn(2, 20, 7, generator=torch.Generator().manual_seed(0))
    assert not bool(loss(student, teacher, Ranking(1, topk_weight=0.0)).any())


def test_gradients_are_those_of_finite_differences():
    generator = torch.Generator().manual_seed(4)
    student, teacher = torch.randn(2, 6, 8, generator=generator, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda z: loss(z, teacher, Ranking(4)), student.requires_grad_())


def test_it_keeps_the_contract_of_a_divergence():
    check(Ranking())


def test_tie_kd_is_kl_and_ranking():
    student, teacher = torch.randn(2, 12, 10, generator=torch.Generator().manual_seed(6), dtype=torch.float64)
    signal = TeacherSignal(teacher, torch.zeros(12, dtype=torch.long))
    whole = sum(part(student, signal) for part in tie_kd(3))
    for row in range(12):
        p, log_q = oracles.softmax(teacher[row].tolist()), oracles.log_softmax(student[row].tolist())
        kl = math.fsum(x * (math.log(x) - y) for x, y in zip(p, log_q, strict=True))
        assert float(whole[row]) == pytest.approx(
            kl + sum(by_loops(student[row].tolist(), teacher[row].tolist(), 3)), abs=1e-12
        )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [({"k": 0}, "at least 1"), ({"k": True}, "at least 1"), ({"top1_weight": -1.0}, "at least 0")],
)
def test_settings_that_cannot_be_meant(arguments, said):
    with pytest.raises(ConfigError, match=said):
        Ranking(**arguments)


def test_only_the_teachers_own_ranking_is_taught():
    with pytest.raises(MismatchError, match="not the teacher's own ranking"):
        Objective("class-mean", 1.0, 1.0, divergence=Ranking())


# -- as a term ----------------------------------------------------------------------------------------------------------


def rows(count=16, classes=9):
    generator = torch.Generator().manual_seed(8)
    student, teacher = torch.randn(2, count, classes, generator=generator, dtype=torch.float64) * 2
    return student, TeacherSignal(teacher, torch.arange(count) % classes)


@pytest.mark.parametrize("text", ["ranking", "ranking(3)", "ranking(2, top1_weight=0.5, topk_weight=2.0)"])
def test_the_term_is_the_divergence_on_the_signal(text):
    student, signal = rows()
    spec = term_specs[text]
    found = losses_of(spec, predicted(student), None, signal)
    part = Ranking(spec.k, spec.top1_weight, spec.topk_weight)
    assert torch.equal(found, loss(student, signal.logits, part))
    for row in range(16):
        top1, topk = by_loops(student[row].tolist(), signal.logits[row].tolist(), spec.k)
        assert float(found[row]) == pytest.approx(spec.top1_weight * top1 + spec.topk_weight * topk, abs=1e-12)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_a_signal_of_the_largest_classes_has_the_same_order(temperature):
    student, signal = rows()
    wide = signal.logits.scatter(1, signal.labels[:, None], -torch.inf)
    logits, indices = wide.topk(5, dim=1)
    rest = wide.scatter(1, indices, -torch.inf).div(temperature).logsumexp(1, keepdim=True)
    label = signal.logits.gather(1, signal.labels[:, None]).squeeze(1)
    compact = CompactSignal(
        signal.labels, label, logits, indices, rest, 9, temperatures=(temperature,), temperature=temperature
    )
    found = losses_of(term_specs["ranking(3)"], predicted(student), None, compact)
    torch.testing.assert_close(found, losses_of(term_specs["ranking(3)"], predicted(student), None, signal))


def test_the_term_refuses():
    with pytest.raises(ConfigError, match="at least 1"):
        term_specs["ranking(0)"]
    with pytest.raises(ConfigError, match="at least 0"):
        term_specs["ranking(topk_weight=-1.0)"]
    with pytest.raises(ConfigError, match="teacher's signal"):
        losses_of(term_specs["ranking"], predicted(rows()[0]))
    with pytest.raises(MismatchError, match="needs logits"):
        losses_of(term_specs["ranking"], predicted(None, size=16), None, rows()[1])
