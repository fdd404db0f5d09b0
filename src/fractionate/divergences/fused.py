"""Losses as one compiled kernel: two reads and one write, no temporaries. For large vocabularies, and only where asked for.

    with compiled_losses():
        distill(student, data, signal, objective=Objective("kd", 2.0))

The first call of a kind compiles (about ten seconds; a C++ compiler or Triton is needed). The kernels serve the cell kd with the
cross-entropy, forward KL and Jensen-Shannon divergences and a teacher weight of 1; everything else goes the usual way. Off by
default: a short training never earns its compilation back.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from fractionate.divergences import Divergence, Target
from fractionate.divergences.likelihood import CrossEntropy, ForwardKL
from fractionate.divergences.mixture import JensenShannon

Loss = Float[Tensor, "batch"]
Logits = Float[Tensor, "batch classes"]
Kernel = Callable[..., tuple[Loss, Logits]]

_ENABLED: ContextVar[bool] = ContextVar("compiled_losses", default=False)


@contextmanager
def compiled_losses() -> Iterator[None]:
    """Compile the losses that can be compiled, within this block."""
    token = _ENABLED.set(True)
    try:
        yield
    finally:
        _ENABLED.reset(token)


def _statistics(logits: Logits, factor: float, dtype: torch.dtype) -> tuple[Logits, Logits]:
    """Logits / T less their largest, and their log Σ exp."""
    wide = logits.to(dtype)
    centred = (wide - wide.amax(dim=-1, keepdim=True)) * factor
    return centred, torch.log(torch.exp(centred).sum(dim=-1, keepdim=True))


def _cross_entropy(
    student: Logits, teacher: Logits, factor: float, scale: Tensor, dtype: torch.dtype
) -> tuple[Loss, Logits]:
    (a, log_a), (b, log_b) = (_statistics(x, factor, dtype) for x in (student, teacher))
    p = torch.exp(b - log_b)
    loss = torch.where(p > 0, p * (log_a - a), 0.0).sum(dim=-1)
    return loss, ((torch.exp(a - log_a) - p) * (scale * factor)).to(student.dtype)


def _forward_kl(
    student: Logits, teacher: Logits, factor: float, scale: Tensor, dtype: torch.dtype
) -> tuple[Loss, Logits]:
    (a, log_a), (b, log_b) = (_statistics(x, factor, dtype) for x in (student, teacher))
    p = torch.exp(b - log_b)
    loss = torch.where(p > 0, p * ((b - a) - (log_b - log_a)), 0.0).sum(dim=-1)
    return loss, ((torch.exp(a - log_a) - p) * (scale * factor)).to(student.dtype)


def _jensen_shannon(
    student: Logits, teacher: Logits, factor: float, scale: Tensor, dtype: torch.dtype, beta: float
) -> tuple[Loss, Logits]:
    (a, log_a), (b, log_b) = (_statistics(x, factor, dtype) for x in (student, teacher))
    q, p = torch.exp(a - log_a), torch.exp(b - log_b)
    log_m = torch.log(beta * p + (1 - beta) * q)
    ratio = torch.where(q > 0, a - log_a - log_m, 0.0)
    from_student = (q * ratio).sum(dim=-1, keepdim=True)
    from_target = torch.where(p > 0, p * (b - log_b - log_m), 0.0).sum(dim=-1)
    gradient = q * (ratio - from_student) * ((1 - beta) * scale * factor)
    return beta * from_target + (1 - beta) * from_student.squeeze(-1), gradient.to(student.dtype)


KERNELS: dict[type, tuple[Kernel, Callable[[Any], tuple[float, ...]]]] = {
    CrossEntropy: (_cross_entropy, lambda divergence: ()),
    ForwardKL: (_forward_kl, lambda divergence: ()),
    JensenShannon: (_jensen_shannon, lambda divergence: (divergence.beta,)),
}


@cache
def _compiled(kind: type) -> Kernel:
    kernel: Kernel = torch.compile(KERNELS[kind][0])
    return kernel


def fusing() -> bool:
    """Whether compiled kernels are wanted here."""
    return _ENABLED.get()


def can_be_fused(divergence: Divergence, target: Target) -> bool:
    """Whether a compiled kernel is known, and in range (extreme temperatures go the careful way)."""
    known = type(divergence) in KERNELS and target.is_whole_teacher
    return known and target.temperature >= 0.5 and math.isfinite(target.temperature)


def fused(divergence: Divergence, student_logits: Logits, target: Target, scale: float) -> tuple[Loss, Logits]:
    """The losses, and scale times their gradient in the student's dtype, by a compiled kernel."""
    _, settings = KERNELS[type(divergence)]
    with torch.no_grad():
        return _compiled(type(divergence))(
            student_logits.detach(),
            target.signal.logits,
            1 / target.temperature,
            torch.tensor(scale, dtype=target.dtype, device=student_logits.device),  # a number would be compiled in
            target.dtype,
            *settings(divergence),
        )
