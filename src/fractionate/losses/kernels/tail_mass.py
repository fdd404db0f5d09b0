"""Cross-entropy and forward KL against label, entries and even tail mass, from sums over each row: no dense target is made.

`losses.kernels.sparse` computes the same for every cell that a compact signal can meet; this second form stays because it works in
place and shares one softmax between both parts at T = 1, where the other takes a tenth to a half longer on each chunk of
`vocabulary_loss`, and a second array of its size.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from fractionate.losses.divergences.base import is_whole_teacher
from fractionate.losses.divergences.likelihood import CrossEntropy, ForwardKL
from fractionate.losses.objective import Objective
from fractionate.theory.topk_signal import CompactSignal

Loss = Float[Tensor, "rows"]
Rows = Float[Tensor, "rows classes"]


def has_closed_form(objective: Objective) -> bool:
    """Whether an objective can be met without the dense target: the whole teacher by cross-entropy or forward KL, or no teacher."""
    assert not isinstance(objective.cell, str)
    return objective.teacher_weight == 0 or (
        is_whole_teacher(objective.cell) and type(objective.divergence) in (CrossEntropy, ForwardKL)
    )


def closed_form(logits: Rows, signal: CompactSignal, objective: Objective) -> Loss:
    """Cross-entropy or forward KL against label, entries and even tail mass, from sums of the row; overwrites the logits with
    d loss / d logits = w s (q_T - even - (p - even) at label and entries) + (1 - w)(q - label)."""
    weight, temperature = objective.teacher_weight, objective.temperature
    labels = signal.labels[:, None]
    loss = torch.zeros(len(logits), dtype=logits.dtype, device=logits.device)
    hard = None
    if weight < 1 and (temperature != 1 or weight == 0):
        q, log_sum = _softmax(logits, 1.0, torch.softmax)
        loss += (1 - weight) * (log_sum - logits.gather(1, labels).squeeze(1))
        hard = q.scatter_add_(1, labels, q.new_full(labels.shape, -1.0)).mul_(1 - weight)
        if weight == 0:
            logits.copy_(hard)
            return loss
    part = signal.at(temperature)
    log_z = part.normaliser.to(logits.dtype)
    known = torch.isfinite(part.logits)
    entries = torch.where(known, part.indices, labels)  # padding points at the label, with no mass
    left = (part.classes - 1 - known.sum(dim=1)).clamp_min(1).to(logits.dtype)
    own = torch.exp(part.label_logits.to(logits.dtype) / temperature - log_z)
    masses = torch.exp(part.logits.to(logits.dtype) / temperature - log_z[:, None])
    rest = torch.exp(part.rest_at.to(logits.dtype) - log_z)
    even = rest / left
    z_own, z_entries = logits.gather(1, labels).squeeze(1), logits.gather(1, entries)
    z_known = z_own + torch.where(known, z_entries, 0.0).sum(dim=1)
    z_rest = logits.sum(dim=1) - z_known
    cross = (own * z_own + (masses * torch.where(known, z_entries, 0.0)).sum(dim=1) + even * z_rest) / temperature
    _, log_sum = _softmax(logits, temperature, lambda rows, dim: torch.softmax(rows, dim=dim, out=rows))
    soft = log_sum - cross
    if isinstance(objective.divergence, ForwardKL):
        soft = soft + torch.xlogy(own, own) + torch.xlogy(masses, masses).sum(dim=1) + torch.xlogy(rest, even)
    loss += objective.soft_scale * soft
    slope = objective.soft_scale / temperature
    plain = (1 - weight) if hard is None else 0.0  # at temperature 1 both parts share one softmax
    if plain:
        loss += plain * (log_sum - z_own)
    logits.mul_(slope + plain).sub_((slope * even)[:, None])
    logits.scatter_add_(1, entries, torch.where(known, masses - even[:, None], 0.0).mul_(-slope))
    logits.scatter_add_(1, labels, (-slope * (own - even) - plain)[:, None])
    if hard is not None:
        logits.add_(hard)
    return loss


def _softmax(logits: Rows, temperature: float, softmax: Callable[..., Tensor]) -> tuple[Rows, Loss]:
    """softmax(logits / temperature) and log Σ exp, with one exponential an element; `softmax` may write over its input."""
    largest = logits.amax(dim=1)
    if temperature != 1:
        logits.sub_(largest[:, None]).mul_(1 / temperature)
    q = softmax(logits, dim=1)
    return q, largest / temperature - q.amax(dim=1).log()
