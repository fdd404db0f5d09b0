"""Losses of rows with their gradient, in chunks: one pass, little memory, and one place where autograd meets it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor

from fractionate.divergences import Analytic, Divergence, Target
from fractionate.teacher import compute_dtype

CHUNK_ELEMENTS = 1 << 17  # logits touched at once: a few such arrays fit in a core's second-level cache

Loss = Float[Tensor, "batch"]
Logits = Float[Tensor, "batch classes"]
Rows = Callable[[Logits, slice], tuple[Loss, Logits]]
Both = Callable[[Logits], tuple[Loss, Logits]]


def with_gradient(divergence: Divergence, student_logits: Logits, target: Target, scale: float) -> tuple[Loss, Logits]:
    """The divergence of some rows and scale times its gradient: analytic where known, else by autograd of these rows."""
    if hasattr(divergence, "gradient"):  # isinstance of a protocol costs more than a small loss
        return cast(Analytic, divergence).gradient(student_logits, target, scale)
    with torch.enable_grad():
        leaf = student_logits.detach().requires_grad_()
        loss = divergence(leaf, target)
        (gradient,) = torch.autograd.grad(loss.sum(), leaf)
    return loss.detach(), gradient.mul_(scale)


def transforms_active() -> bool:
    """True inside torch.func transforms and torch.compile, where the plain form is traced instead."""
    if torch.compiler.is_compiling():
        return True
    return bool(torch._C._are_functorch_transforms_active())


def chunks(batch: int, classes: int) -> list[slice]:
    """Slices of rows of at most `CHUNK_ELEMENTS` elements each."""
    step = max(1, CHUNK_ELEMENTS // max(1, classes))
    return [slice(start, min(start + step, batch)) for start in range(0, batch, step)]


def loss_and_gradient(student_logits: Logits, rows: Rows, parts: list[slice]) -> tuple[Loss, Logits]:
    """Walk the rows, part by part: losses in the dtype that is computed in, the gradient in the student's own."""
    dtype = compute_dtype(student_logits.dtype)
    with torch.no_grad():
        if len(parts) == 1:
            loss, gradient = rows(student_logits.to(dtype), parts[0])
            return loss, gradient.to(student_logits.dtype)
        gradient = torch.empty(student_logits.shape, dtype=student_logits.dtype, device=student_logits.device)
        losses = []
        for part in parts:
            loss, part_gradient = rows(student_logits[part].to(dtype), part)
            losses.append(loss)
            gradient[part] = part_gradient
            del part_gradient
        return torch.cat(losses), gradient


class OnePass(torch.autograd.Function):
    """Losses [batch] of rows that do not depend on each other; the gradient is computed along with them.

    The first backward pass hands it out; a second one over a retained graph computes it again; a second derivative goes through
    the plain form.
    """

    @staticmethod
    def forward(ctx: Any, student_logits: Logits, both: Both, plain: Callable[[Logits], Loss]) -> Loss:
        loss, gradient = both(student_logits)
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
            _, kept = ctx.both(student_logits)
        return scale_rows(kept, gradient_of_loss), None, None


def scale_rows(gradient: Logits, factor: Loss) -> Logits:
    """gradient · factor in place; half precision in chunks, as an operator of mixed dtypes would copy the whole to float32."""
    if gradient.dtype == factor.dtype:
        return gradient.mul_(factor[:, None])
    for part in chunks(*gradient.shape):
        gradient[part] = gradient[part].to(factor.dtype).mul_(factor[part, None])
    return gradient
