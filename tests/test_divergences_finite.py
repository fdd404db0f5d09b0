"""Any finite logits, any masks, any temperature: loss and gradient are finite, or a typed error comes before the step."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.drawn import draws

from fractionate import Objective
from fractionate.errors import FractionateError
from fractionate.losses.divergences import divergences

NAMES = list(divergences)
CELLS_TRIED = ("kd", "hard", "ls", "class-mean", "kd-pt", "kd-topk", "kd-sim")


@given(draw=draws(max_examples=5), name=st.sampled_from(NAMES), cell=st.sampled_from(CELLS_TRIED), also=st.booleans())
@settings(max_examples=1200)
def test_finite_or_a_typed_error(draw, name, cell, also):
    signal, student = draw.signal(), draw.student()
    if also:  # the student masks what the teacher masks
        student = student.masked_fill(torch.isneginf(signal.logits), -torch.inf)
    student.requires_grad_()
    try:
        loss = Objective(cell, draw.temperature, 0.5, divergence=name)(student, signal)
    except FractionateError:
        return
    loss.mean().backward()
    assert bool(torch.isfinite(loss).all()), (name, cell)
    assert bool(torch.isfinite(student.grad).all()), (name, cell)


@pytest.mark.parametrize("name", NAMES)
def test_large_vocabulary(name):
    generator = torch.Generator().manual_seed(0)
    from fractionate import TeacherSignal

    logits, student = 4 * torch.randn(2, 2, 50_257, generator=generator)
    signal = TeacherSignal(logits, torch.tensor([3, 50_256]))
    student.requires_grad_()
    loss = Objective("kd", 2.0, 1.0, divergence=name)(student, signal)
    loss.sum().backward()
    exact = Objective("kd", 2.0, 1.0, divergence=name)(
        student.detach().double(), TeacherSignal(logits.double(), signal.labels)
    )
    torch.testing.assert_close(loss.detach().double(), exact, rtol=1e-5, atol=1e-6)
    assert bool(torch.isfinite(student.grad).all())
