"""Powers of two against softmax; the arrays that are kept; and what a loss does with a gradient made for the mean."""

from __future__ import annotations

import math
import threading

import pytest
import torch

from fractionate import Objective, TeacherSignal
from fractionate.theory.softmax import difference, exponents, inner, place, raised


@pytest.mark.parametrize("offset", [0.0, 1e4])
@pytest.mark.parametrize("temperature", [0.25, 1.0, 4.0])
def test_powers_over_their_total_are_the_softmax(temperature, offset):
    logits = 3 * torch.randn(7, 37, generator=torch.Generator().manual_seed(0)) + offset
    logits[:, 5] = -math.inf
    q = raised(exponents(logits, temperature, "student"))
    exact = torch.softmax(logits.double() / temperature, dim=1)
    torch.testing.assert_close((q.powers * q.share(1.0)).double(), exact, rtol=2e-5, atol=1e-9)
    assert bool((q.powers[:, 5] == 0).all())


def test_a_row_with_nothing_but_masks_shows():
    q = raised(exponents(torch.full((1, 4), -math.inf), 1.0, "student"))
    assert bool(torch.isnan(q.total).all())


def test_kept_arrays_are_used_again_and_belong_to_a_thread():
    first = place("here", torch.zeros(4, 6))
    assert place("here", torch.zeros(3, 8)).data_ptr() == first.data_ptr()
    assert place("there", torch.zeros(4, 6)).data_ptr() != first.data_ptr()
    assert place("here", torch.zeros(4, 6), torch.float64).dtype == torch.float64
    place("here", torch.zeros(40, 60))  # grown: views of the smaller array are forgotten
    assert place("here", torch.zeros(4, 6)).data_ptr() == place("here", torch.zeros(40, 60)).data_ptr()
    others: list[int] = []
    thread = threading.Thread(target=lambda: others.append(place("here", torch.zeros(4, 6)).data_ptr()))
    thread.start()
    thread.join()
    assert others[0] != place("here", torch.zeros(4, 6)).data_ptr()


def test_no_mass_times_infinity_is_nothing():
    mass = torch.tensor([[0.0, 1.0, 2.0], [0.0, 0.0, 1.0]])
    value = torch.tensor([[-math.inf, 2.0, 3.0], [math.nan, math.inf, -1.0]])
    assert inner(mass, value).flatten().tolist() == [8.0, -1.0]
    assert inner(torch.ones(1, 2), torch.tensor([[math.inf, 1.0]])).item() == math.inf


def test_difference_writes_where_it_is_told_to():
    p, q = (raised(exponents(torch.randn(3, 5, dtype=torch.float64), 1.0, name)) for name in ("target", "student"))
    expected = 2 * (q.powers / q.total - p.powers / p.total)
    out = torch.empty(3, 5, dtype=torch.float64)
    assert difference(q, p, 2.0, out) is out
    torch.testing.assert_close(out, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize(
    "reduce", [torch.mean, torch.sum, lambda x: 3 * x.mean(), lambda x: (x * torch.arange(5)).sum()]
)
def test_every_reduction_gets_its_gradient(reduce, dtype):
    generator = torch.Generator().manual_seed(0)
    signal = TeacherSignal(torch.randn(5, 9, generator=generator).to(dtype), torch.arange(5))
    student = torch.randn(5, 9, generator=generator).to(dtype)
    objective, found = Objective("kd", 2.0, 0.7), []
    for loss in (objective, objective.plain):
        leaf = student.clone().requires_grad_()
        reduce(loss(leaf, signal)).backward()
        found.append(leaf.grad)
    torch.testing.assert_close(
        *found, rtol=2e-3 if dtype == torch.float16 else 2e-6, atol=1e-3 if dtype == torch.float16 else 1e-7
    )


def test_a_loss_scale_comes_before_the_rounding_to_half():
    """4,096 rows: a gradient of the mean alone would vanish in float16."""
    generator = torch.Generator().manual_seed(0)
    signal = TeacherSignal(torch.randn(4096, 4, generator=generator).half(), torch.zeros(4096, dtype=torch.long))
    student = (signal.logits + 0.01 * torch.randn(4096, 4, generator=generator)).half().requires_grad_()
    (Objective("kd", 1.0, 1.0)(student, signal).mean() * 65536).backward()
    exact = torch.softmax(student.detach().double(), 1) - torch.softmax(signal.logits.double(), 1)
    assert float((student.grad.double() / 16 - exact).norm() / exact.norm()) < 2e-3
