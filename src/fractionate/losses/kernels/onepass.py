"""Losses of rows with their gradient, in chunks: one pass, little memory, and one place where autograd meets it."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from inspect import signature
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor

from fractionate.losses.divergences.base import Analytic, Divergence, Target
from fractionate.theory.softmax import place
from fractionate.theory.teacher_signal import compute_dtype

CHUNK_ELEMENTS = 1 << 19  # logits touched at once: the calls are few, and a few such arrays fit in the caches

Loss = Float[Tensor, "batch"]
Logits = Float[Tensor, "batch classes"]
Rows = Callable[[Logits, slice, float, Logits], Loss]
Both = Callable[[Logits, float], tuple[Loss, Logits]]


@cache
def _takes_out(kind: type) -> bool:
    return "out" in signature(kind.gradient).parameters  # type: ignore[attr-defined]  # read of analytic ones


def with_gradient(divergence: Divergence, student_logits: Logits, target: Target, scale: float, out: Logits) -> Loss:
    """The divergence of some rows, and scale times its gradient into `out`: analytic where known and finite, else by autograd."""
    kind = type(divergence)
    if hasattr(kind, "gradient"):  # isinstance of a protocol costs more than a small loss
        loss: Loss
        if _takes_out(kind):
            loss, _ = divergence.gradient(student_logits, target, scale, out=out)  # type: ignore[attr-defined]
        else:
            loss, gradient = cast(Analytic, divergence).gradient(student_logits, target, scale)
            out.copy_(gradient)
        if loss.is_cuda or math.isfinite(loss.sum()):
            return loss
    with torch.enable_grad():
        leaf = student_logits.detach().requires_grad_()
        loss = divergence(leaf, target)
        (gradient,) = torch.autograd.grad(loss.sum(), leaf)
    torch.mul(gradient, scale, out=out)
    return loss.detach()


def transforms_active() -> bool:
    """True inside torch.func transforms and torch.compile, where the plain form is traced instead."""
    if torch.compiler.is_compiling():
        return True
    return bool(torch._C._are_functorch_transforms_active())


def chunks(batch: int, classes: int) -> list[slice]:
    """Slices of rows of at most `CHUNK_ELEMENTS` elements each."""
    step = max(1, CHUNK_ELEMENTS // max(1, classes))
    return [slice(start, min(start + step, batch)) for start in range(0, batch, step)]


def loss_and_gradient(
    student_logits: Logits, rows: Rows, parts: list[slice], scale: float = 1.0
) -> tuple[Loss, Logits]:
    """Walk the rows, part by part: losses in the dtype that is computed in, scale times the gradient in the student's own."""
    dtype = compute_dtype(student_logits.dtype)
    own = student_logits.dtype == dtype
    with torch.no_grad():
        gradient = torch.empty(student_logits.shape, dtype=student_logits.dtype, device=student_logits.device)
        losses = []
        for part in parts:
            logits, out = student_logits[part], gradient[part]
            if own:
                losses.append(rows(logits, part, scale, out))
            else:
                wide = place("gradient", logits, dtype)
                losses.append(rows(place("logits", logits, dtype).copy_(logits), part, scale, wide))
                out.copy_(wide)
        return losses[0] if len(losses) == 1 else torch.cat(losses), gradient


class OnePass(torch.autograd.Function):
    """Losses [batch] of rows that do not depend on each other; the gradient is computed along with them.

    It is made for the mean over the batch, so that this commonest reduction needs no further pass over it. The first backward pass
    hands it out; a second one over a retained graph computes it again; a second derivative goes through the plain form.
    """

    @staticmethod
    def forward(ctx: Any, student_logits: Logits, both: Both, plain: Callable[[Logits], Loss]) -> Loss:
        # float16 would underflow: there the scaler of losses has to come first
        ctx.made_for = 1.0 if student_logits.dtype == torch.float16 else 1.0 / len(student_logits)
        loss, gradient = both(student_logits, ctx.made_for)
        ctx.save_for_backward(student_logits)
        ctx.both, ctx.plain, ctx.kept = both, plain, gradient
        return loss

    @staticmethod
    def backward(ctx: Any, gradient_of_loss: Loss) -> tuple[Logits, None, None]:
        if torch.is_grad_enabled():  # create_graph: a derivative of the gradient is wanted
            (student_logits,) = ctx.saved_tensors
            (gradient,) = torch.autograd.grad(
                ctx.plain(student_logits), student_logits, gradient_of_loss, create_graph=True
            )
            return gradient, None, None
        kept, ctx.kept = ctx.kept, None
        if kept is None:
            (student_logits,) = ctx.saved_tensors
            _, kept = ctx.both(student_logits, ctx.made_for)
        if not kept.is_cuda and bool((gradient_of_loss == ctx.made_for).all()):  # nothing is read back from a GPU
            return kept, None, None
        return scale_rows(kept, gradient_of_loss / ctx.made_for), None, None


def scale_rows(gradient: Logits, factor: Loss) -> Logits:
    """gradient · factor in place; half precision in chunks, as an operator of mixed dtypes would copy the whole to float32."""
    if gradient.dtype == factor.dtype:
        return gradient.mul_(factor[:, None])
    for part in chunks(*gradient.shape):
        gradient[part] = gradient[part].to(factor.dtype).mul_(factor[part, None])
    return gradient
