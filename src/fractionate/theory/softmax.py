"""Rows of logits as powers of two: what every analytic gradient is made of, in arrays that are kept from call to call.

softmax(z / T) = powers / total with exponents = (z - largest) / T · log2 e, powers = 2^exponents: one exponential per element,
the division left for the last step, where it is one number per row. Torch's exp2 is the fastest exponential it has on a CPU
(three times its softmax, four times its exp), and the change of base costs nothing next to the division by T.

Nothing here is careful about rows that hold infinities or overflow: their loss comes out as NaN or infinite, and the caller
takes the plain form for them (`onepass.with_gradient`).
"""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

KEPT_ELEMENTS = 1 << 20  # larger arrays are not kept
LONG_ROW = 1 << 12  # elements that are worth a call a row
BLOCK_CLASSES = 1 << 15  # classes multiplied at once
FAR = 32.0  # exponents of a row's largest logit from which a product rounded by itself would lose digits
LN2 = math.log(2.0)

Column = Float[Tensor, "batch 1"]
Logits = Float[Tensor, "batch classes"]


class _Kept(threading.local):
    """The arrays of a thread, by what they are for, and views of them by shape."""

    def __init__(self) -> None:
        self.arrays: dict[tuple[str, torch.dtype], Tensor] = {}
        self.views: dict[tuple[str, torch.dtype, int, int], Tensor] = {}


_KEPT = _Kept()


def place(name: str, like: Logits, dtype: torch.dtype | None = None) -> Logits:
    """An array of the shape of another one, kept for the next call that asks for this name: never hand it out.

    On a GPU it is a new one each time: there the allocator keeps the memory, and knows about streams.
    """
    rows, classes = like.shape
    dtype = dtype or like.dtype
    if like.device.type != "cpu" or like.numel() > KEPT_ELEMENTS:
        return torch.empty(like.shape, dtype=dtype, device=like.device)
    key = (name, dtype, rows, classes)
    found = _KEPT.views.get(key)
    if found is None:
        whole = _KEPT.arrays.get(key[:2])
        if whole is None or len(whole) < like.numel():
            whole = _KEPT.arrays[key[:2]] = torch.empty(like.numel(), dtype=dtype)
            _KEPT.views = {k: view for k, view in _KEPT.views.items() if k[:2] != key[:2]}
        if len(_KEPT.views) > 256:  # shapes that come and go
            _KEPT.views.clear()
        found = _KEPT.views[key] = whole[: like.numel()].view(rows, classes)
    return found


@dataclass(frozen=True, eq=False)
class Rows:
    """Distributions not yet normalised: `powers` / `total`. `log2_total` belongs to exponents counted from the same zero."""

    powers: Logits
    total: Column

    @property
    def log2_total(self) -> Column:
        return self.total.log2()

    def share(self, factor: float) -> Column:
        """What the powers are to be multiplied with to give `factor` times the distribution."""
        return torch.reciprocal(self.total).mul_(factor)


def exponents(logits: Logits, temperature: float, name: str) -> Logits:
    """(logits - largest) / T · log2 e in a kept array; all rows counted from about 0 at their largest.

    One operator where it is exact enough; rows far from 0 are shifted first, as not every processor fuses product and sum.
    """
    factor = 1 / (LN2 * temperature)
    largest, out = logits.amax(dim=-1, keepdim=True), place(name, logits)
    zero = largest * -factor
    if not logits.is_cuda and float(torch.linalg.vector_norm(zero, math.inf)) > FAR:
        return torch.sub(logits, largest, out=out).mul_(factor)
    return torch.add(zero, logits, alpha=factor, out=out)


def raised(exponents_of_two: Logits) -> Rows:
    """2^exponents, over the exponents."""
    powers = torch.exp2(exponents_of_two, out=exponents_of_two)
    return Rows(powers, powers.sum(dim=-1, keepdim=True))


def inner(mass: Logits, value: Logits) -> Column:
    """Σ mass · value of each row with 0 · ±inf = 0 (other NaN show in the totals)."""
    if mass.is_cuda:  # nothing may be read back there
        return (mass * value).nansum(dim=-1, keepdim=True)
    if mass.shape[-1] >= LONG_ROW:
        found = torch.stack([torch.dot(m, v) for m, v in zip(mass.unbind(), value.unbind(), strict=True)])[:, None]
    else:
        found = torch.mul(mass, value, out=place("product", mass)).sum(dim=-1, keepdim=True)
    if math.isfinite(found.sum()):
        return found
    blocks = range(0, mass.shape[-1], BLOCK_CLASSES)
    parts = [(mass[:, b : b + BLOCK_CLASSES] * value[:, b : b + BLOCK_CLASSES]).nansum(dim=-1) for b in blocks]
    return torch.stack(parts, dim=1).sum(dim=1, keepdim=True)


def difference(student: Rows, target: Rows, factor: float, out: Logits | None) -> Logits:
    """factor · (student's distribution - target's), into `out` or a new array; overwrites the target's powers."""
    scaled = target.powers.mul_(target.share(-factor))
    return torch.addcmul(scaled, student.powers, student.share(factor), out=fresh(out, scaled))


def fresh(out: Logits | None, like: Logits) -> Logits:
    """Where a gradient goes: the array that was given, or a new one."""
    return torch.empty_like(like) if out is None else out


def back_through_softmax(slope: Logits, mean: Column, student: Rows, factor: float, out: Logits | None) -> Logits:
    """factor · q (slope - mean), q the student's distribution and mean = Σ q slope; overwrites the slope."""
    slope.sub_(mean).mul_(student.share(factor))  # two columns in one addcmul would be three times as slow
    return torch.mul(student.powers, slope, out=fresh(out, slope))
