"""Losses on compact signals (label, entries, even tail mass): sums of the student's row stand in for the dense target.

Σ_j target_j z_j = label mass · z[y] + Σ_k mass_k z_k + even · (Σ_j z_j - z[y] - Σ_k z_k), and the gradient is the student's
distribution less `even` everywhere, put right at label and entries. One exponential an element, and no array of the target's.
`losses.kernels.tail_mass` holds a second form of the two simplest cases, which overwrites the logits it is given: chunks of a
vocabulary gain by that, and a loss that autograd differentiates must not.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from fractionate.errors import MismatchError
from fractionate.losses.divergences.base import Divergence, product, tempered, written
from fractionate.losses.divergences.likelihood import CrossEntropy, ForwardKL
from fractionate.losses.kernels.onepass import transforms_active
from fractionate.theory import confidence as confidence_rules
from fractionate.theory import shape as shape_rules
from fractionate.theory.cells import Cell
from fractionate.theory.softmax import LN2, exponents, raised
from fractionate.theory.topk_signal import CompactSignal

Loss = Float[Tensor, "batch"]
Logits = Float[Tensor, "batch classes"]
CONFIDENCES = (
    confidence_rules.Certain,
    confidence_rules.Smoothed,
    confidence_rules.Mean,
    confidence_rules.Instance,
    confidence_rules.TopK,
)
SHAPES = (shape_rules.Uniform, shape_rules.Instance, shape_rules.TopK)


def needs_dense(divergence: Divergence, cell: Cell) -> str:
    """Why a divergence and a cell cannot be met by a compact signal; empty where they can."""
    if type(divergence) not in (CrossEntropy, ForwardKL):
        return f"divergence {written(divergence)} reads the target class by class"
    if not _is_met(cell):
        return f"the target of cell {cell} has a mass of its own for every class"
    return ""


@dataclass(frozen=True, eq=False)
class SparseTarget:
    """A target of label mass, entry masses and one mass `even` for each of the `left` other classes.

    `known` says which entries are none (False: padding, which points at the label, with mass 0).
    """

    labels: Int[Tensor, "batch 1"]
    label_mass: Float[Tensor, "batch 1"]
    places: Int[Tensor, "batch k"]
    masses: Float[Tensor, "batch k"]
    known: Bool[Tensor, "batch k"]
    even: Float[Tensor, "batch 1"]
    left: Float[Tensor, "batch 1"]


def sparse_target(cell: Cell, signal: CompactSignal, dtype: torch.dtype = torch.float32) -> SparseTarget:
    """The cell's target for a compact signal at its temperature: that of the dense signal with even tail mass.

    Raises `MismatchError` for cells that cannot be met.
    """
    if not _is_met(cell):
        raise MismatchError(f"cell {cell} needs a dense signal", fix="signal.dense()")
    known = torch.isfinite(signal.logits)
    labels = signal.labels[:, None]
    entries = signal.logits.to(dtype) / signal.temperature
    rest = signal.rest_at.to(dtype)[:, None]
    left = (signal.classes - 1 - known.sum(dim=1, keepdim=True)).to(dtype)
    rest = torch.where(left > 0, rest, -torch.inf)
    off = torch.logsumexp(torch.cat([entries, rest], dim=1), dim=1, keepdim=True)
    own = signal.label_logits.to(dtype)[:, None] / signal.temperature
    label_mass = _label_mass(cell, signal, own - torch.logaddexp(own, off))
    whole = isinstance(cell.confidence, (confidence_rules.Instance, confidence_rules.TopK))
    others = torch.exp(off - torch.logaddexp(own, off)) if whole else 1 - label_mass
    if isinstance(cell.shape, shape_rules.Uniform):
        masses, even = _flat(known, rest, left)
    else:
        masses, mass_left = torch.exp(entries - off), torch.exp(rest - off)
        nothing = torch.isneginf(off)  # the label alone is not masked: any shape will do
        # nothing is read back from a GPU, or within a trace
        unmasked = not (nothing.is_cuda or transforms_active() or bool(nothing.any()))
        if not unmasked:
            masses, mass_left = masses.nan_to_num(0.0), mass_left.nan_to_num(0.0)
        if isinstance(cell.shape, shape_rules.TopK):
            masses, mass_left, known, left, inside = _largest(
                cell.shape, signal, masses, mass_left, known, left, rest, own
            )
            # the label outside takes an even share of what is left, its own mass in it; the k largest keep theirs
            share = (mass_left * others + label_mass) / (left + 1)
            scale = torch.where(inside, 1.0, others / (1 - share).clamp_min(torch.finfo(dtype).tiny))
            mass_left = torch.where(inside, mass_left, left * share / (1 - share).clamp_min(torch.finfo(dtype).tiny))
            masses = masses * scale
            if isinstance(cell.confidence, confidence_rules.TopK):
                label_mass = torch.where(inside, label_mass, share)
                others = torch.where(inside, others, 1 - share)
        even = mass_left / left.clamp_min(1)
        if not unmasked:
            flat = _flat(known, rest, left)
            masses, even = torch.where(nothing, flat[0], masses), torch.where(nothing, flat[1], even)
    places = torch.where(known, signal.indices, labels)
    return SparseTarget(labels, label_mass, places, masses * others, known, even * others, left)


def _is_met(cell: Cell) -> bool:
    """Whether a compact signal holds what this cell is made of; the confidence `topk` is that of its own shape."""
    alike = not isinstance(cell.confidence, confidence_rules.TopK) or cell.shape == shape_rules.TopK(cell.confidence.k)
    return type(cell.confidence) in CONFIDENCES and type(cell.shape) in SHAPES and alike


def _label_mass(cell: Cell, signal: CompactSignal, log_own: Tensor) -> Tensor:
    rule = cell.confidence
    if isinstance(rule, (confidence_rules.Instance, confidence_rules.TopK)):
        return torch.exp(log_own)
    if isinstance(rule, confidence_rules.Mean):
        return torch.full_like(log_own, float(signal.mean_confidence))
    if isinstance(rule, confidence_rules.Smoothed):
        return torch.full_like(log_own, 1 - rule.epsilon + rule.epsilon / signal.classes)
    return torch.ones_like(log_own)


def _flat(known: Tensor, rest: Tensor, left: Tensor) -> tuple[Tensor, Tensor]:
    """The uniform shape over the classes the teacher does not mask; over all others where it masks all of them."""
    open_left = torch.where(torch.isneginf(rest), 0.0, left)
    count = known.sum(dim=1, keepdim=True) + open_left
    nothing = count == 0
    share = 1 / torch.where(nothing, left, count).clamp_min(1)
    return torch.where(known, share, 0.0), torch.where((open_left > 0) | nothing, share, 0.0)


def _largest(
    rule: shape_rules.TopK, signal: CompactSignal, masses: Tensor, mass_left: Tensor, known: Tensor, left: Tensor,
    rest: Tensor, own: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Entries beyond the k largest classes join the tail; the last says whether the label is one of the k.

    Entries below the tail would not be the largest: refused.
    """
    entries = signal.logits.to(own.dtype) / signal.temperature
    level = torch.where(left > 0, rest - left.clamp_min(1).log(), -torch.inf)
    if bool((known & (entries < level - 1e-3)).any()):
        raise MismatchError(
            "the entries of this signal are not its largest classes", expected='a signal kept form="top-k"',
            fix="take another cell, or signal.dense()",
        )  # fmt: skip
    k = min(rule.k if rule.k is not None else -(-signal.classes // 4), signal.classes)
    both = torch.cat([own, entries], dim=1)
    places = both.topk(min(k, both.shape[1]), dim=1).indices
    kept = torch.zeros_like(both, dtype=torch.bool).scatter(1, places, True)[:, 1:] & known
    # classes of the even tail mass are alike: none of them is among the largest, and a label below them is not either
    larger = (known & (entries > own)).sum(dim=1, keepdim=True) + torch.where(level > own, left, 0.0)
    inside = larger < k
    dropped = torch.where(kept, 0.0, masses).sum(dim=1, keepdim=True)
    more = (known & ~kept).sum(dim=1, keepdim=True)
    return torch.where(kept, masses, 0.0), mass_left + dropped, kept, left + more, inside


def plain_sparse(divergence: Divergence, student_logits: Logits, target: SparseTarget, temperature: float) -> Loss:
    """The same by plain differentiable operators, the target written out: what transforms trace and infinities get."""
    masses = torch.where(target.known, target.masses, target.even)
    dense = target.even.expand(student_logits.shape).scatter(1, target.places, masses)
    dense = dense.scatter(1, target.labels, target.label_mass)
    log_q = torch.log_softmax(tempered(student_logits, temperature), dim=-1)
    log_target = dense.log() if isinstance(divergence, ForwardKL) else torch.zeros_like(dense)
    return product(dense, log_target - log_q).sum(dim=-1)


@dataclass(frozen=True, eq=False)
class Sums:
    """A target as chunks of rows need it: what label and entries have beyond `even`, and the target's own part of the loss.

    Σ_j target_j z_j = even · Σ_j z_j + Σ extra · z[places]; `places` holds label and entries.
    """

    target: SparseTarget
    places: Int[Tensor, "batch places"]
    extra: Float[Tensor, "batch places"]
    own_nats: Float[Tensor, "batch 1"]

    def take(self, part: slice) -> Sums:
        """Some of the rows."""
        target = SparseTarget(**{name: value[part] for name, value in vars(self.target).items()})
        return Sums(target, self.places[part], self.extra[part], self.own_nats[part])


def sums_of(divergence: Divergence, target: SparseTarget) -> Sums:
    """What does not depend on the student, for all rows at once."""
    places = torch.cat([target.labels, target.places], dim=1)
    beyond = torch.where(target.known, target.masses - target.even, 0.0)
    extra = torch.cat([target.label_mass - target.even, beyond], dim=1)
    own = torch.zeros_like(target.even)
    if isinstance(divergence, ForwardKL):  # less the target's entropy
        own = torch.xlogy(target.label_mass, target.label_mass) + target.left * torch.xlogy(target.even, target.even)
        own += torch.xlogy(target.masses, target.masses).sum(dim=1, keepdim=True)
    return Sums(target, places, extra, own)


def sparse_rows(
    divergence: Divergence, student_logits: Logits, sums: Sums, temperature: float, scale: float, out: Logits
) -> Loss:
    """Cross-entropy or forward KL of some rows, and scale times the gradient into `out`; without autograd.

    Equal to the dense loss; near equality of student and target the KL keeps the digits of a sum, not of its terms.
    """
    target = sums.target
    student = exponents(student_logits, temperature, "student")
    cross = student.sum(dim=1, keepdim=True).mul_(target.even)
    cross.add_((student.gather(1, sums.places) * sums.extra).sum(dim=1, keepdim=True))
    q = raised(student)
    loss = q.log2_total.sub_(cross).mul_(LN2).add_(sums.own_nats)
    factor = scale / temperature
    torch.sub(q.powers.mul_(q.share(factor)), target.even * factor, out=out)
    out.scatter_add_(1, sums.places, sums.extra * -factor)
    if loss.is_cuda or math.isfinite(loss.sum()):
        return loss.squeeze(1)
    with torch.enable_grad():
        leaf = student_logits.detach().requires_grad_()
        careful = plain_sparse(divergence, leaf, target, temperature)
        (gradient,) = torch.autograd.grad(careful.sum(), leaf)
    torch.mul(gradient, scale, out=out)
    return careful.detach()
