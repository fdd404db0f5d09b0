"""An objective over a cached signal: the targets of all rows made once, then a loss in closed form, batch by batch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fractionate.losses.divergences.likelihood import CrossEntropy, ForwardKL
from fractionate.losses.objective import Objective
from fractionate.theory.cells import Cell
from fractionate.theory.teacher_signal import TeacherSignal

MOST_BYTES = 1 << 25  # more targets than this are made batch by batch


class _Loss(torch.autograd.Function):
    """(1 - w) · CE(label, q) + s · (Σ t log t - Σ t log q_T) of each row, with its gradient in closed form."""

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, labels: Tensor, target: Tensor, entropy: Tensor | None, numbers: tuple[float, ...]
    ) -> Tensor:
        weight, temperature, scale = numbers
        log_q = torch.log_softmax(logits, 1)
        log_t = log_q if temperature == 1 else torch.log_softmax(logits / temperature, 1)
        soft: Tensor = torch.linalg.vecdot(target, log_t).mul_(-scale)
        if entropy is not None:
            soft.add_(entropy, alpha=scale)
        if weight != 1:
            soft.add_(log_q.gather(1, labels[:, None]).squeeze(1), alpha=weight - 1)
        if ctx.needs_input_grad[0]:
            gradient = log_t.exp().sub_(target).mul_(scale / temperature)
            if weight != 1:
                gradient.add_(log_q.exp_() if temperature != 1 else log_q.exp(), alpha=1 - weight)
                gradient.scatter_add_(1, labels[:, None], gradient.new_full((len(labels), 1), weight - 1))
            ctx.save_for_backward(gradient)
        return soft

    @staticmethod
    def backward(ctx: Any, *given: Tensor) -> Any:
        (gradient,) = ctx.saved_tensors
        return given[0][:, None] * gradient, None, None, None, None


@dataclass(frozen=True, eq=False)
class Targets:
    """Losses of rows by their place in the data. `entropy` is Σ t log t of each target where the divergence has it."""

    objective: Objective
    signal: TeacherSignal
    target: Float[Tensor, "examples classes"]
    entropy: Float[Tensor, "examples"] | None

    def __call__(
        self, logits: Float[Tensor, "rows classes"], labels: Int[Tensor, "rows"], index: Int[Tensor, "rows"]
    ) -> Float[Tensor, "rows"]:
        own = self.objective
        index = index.to(self.target.device)
        if logits.dtype == torch.float64 or logits.shape[1:] != self.target.shape[1:]:
            return own(logits, self.signal.take(index))
        entropy = None if self.entropy is None else self.entropy.index_select(0, index)
        numbers = (own.teacher_weight, own.temperature, own.soft_scale)
        target = self.target.index_select(0, index)
        found: Tensor = _Loss.apply(logits.float(), labels, target, entropy, numbers)  # type: ignore[no-untyped-call]
        if not found.is_cuda and not math.isfinite(found.detach().sum()):
            return own(logits, self.signal.take(index))  # masked classes, or an error that says why
        return found


def make_targets(objective: Objective, signal: TeacherSignal) -> Targets | None:
    """The targets of all rows of a dense signal; None where the divergence has no closed form here, or they are too large."""
    assert isinstance(objective.cell, Cell)
    if not isinstance(objective.divergence, (CrossEntropy, ForwardKL)) or signal.logits.numel() * 4 > MOST_BYTES:
        return None
    if signal.logits.dtype == torch.float64:
        return None
    target = objective.cell.target(signal, objective.temperature).float()
    entropy = torch.special.entr(target).sum(1).neg() if isinstance(objective.divergence, ForwardKL) else None
    return Targets(objective, signal, target, entropy)
