"""Comparisons of logits rather than of probabilities."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from fractionate.errors import ConfigError
from fractionate.losses.divergences.base import (
    Divergence,
    Target,
    couples_batch,
    divergences,
    is_whole_teacher,
    needs_mass_everywhere,
    own_temperature,
    reason_against,
)
from fractionate.theory.cells import Cell
from fractionate.theory.softmax import fresh
from fractionate.theory.teacher_signal import TeacherSignal

Loss = Float[Tensor, "batch"]
Logits = Float[Tensor, "batch classes"]


def kept(
    student_logits: Logits, target_logits: Logits
) -> tuple[Bool[Tensor, "batch classes"], Float[Tensor, "batch 1"]]:
    """Which classes are compared (those that both sides do not mask), and how many a row has."""
    keep = ~(torch.isneginf(student_logits) & torch.isneginf(target_logits))
    return keep, keep.sum(dim=-1, keepdim=True).clamp_min(1).to(student_logits.dtype)


@divergences.register("mse-logits")
@dataclass(frozen=True)
class SquaredLogits:
    """Mean over the classes of (student - teacher)² on logits / T; with the factor T² the temperature drops out.

    Needs the teacher's own logits: other targets fix logits only up to a constant for each example (mse-centred-logits compares
    those). Classes that both sides mask are left out. Source: Ba & Caruana (arXiv 1312.6184), eq. 1, as a mean.
    """

    formula: ClassVar[str] = "mean (student / T - teacher / T)²"

    def refuses(self, cell: Cell) -> str:
        return (
            "" if is_whole_teacher(cell) else f"the target of cell {cell} fixes logits only up to a constant an example"
        )

    def __call__(self, student_logits: Logits, target: Target) -> Loss:
        keep, count = kept(student_logits, target.logits)
        difference = torch.where(keep, student_logits, 0.0) - torch.where(keep, target.logits, 0.0)
        return (difference / target.temperature).square().sum(dim=-1) / count.squeeze(1)

    def gradient(
        self, student_logits: Logits, target: Target, scale: float = 1.0, *, out: Logits | None = None
    ) -> tuple[Loss, Logits]:
        """d/dz = 2 (z - v) / (T² K)."""
        keep, count = kept(student_logits, target.logits)
        difference = (student_logits - target.logits).masked_fill_(~keep, 0.0).div_(target.temperature)
        loss = difference.square().sum(dim=-1) / count.squeeze(1)
        return loss, torch.mul(difference, 2 * scale / (target.temperature * count), out=fresh(out, difference))


@divergences.register("mse-centred-logits")
@dataclass(frozen=True)
class SquaredCentredLogits:
    """mse-logits after taking each example's mean off both sides: the limit of T² · KL · 2 at high temperature.

    Meets every cell whose target has mass on every class: log(target) stands for the logits / T, exactly so up to the mean.
    """

    formula: ClassVar[str] = "mean (centred student / T - centred log target)²"

    def refuses(self, cell: Cell) -> str:
        return needs_mass_everywhere(cell)

    def __call__(self, student_logits: Logits, target: Target) -> Loss:
        other = target.logits / target.temperature if target.is_whole_teacher else target.log_probabilities
        keep, count = kept(student_logits, other)
        difference = torch.where(keep, student_logits, 0.0) / target.temperature - torch.where(keep, other, 0.0)
        mean = difference.sum(dim=-1, keepdim=True) / count
        return torch.where(keep, difference - mean, 0.0).square().sum(dim=-1) / count.squeeze(1)


def standardise(logits: Logits) -> Logits:
    """(logits - mean) / (standard deviation + 1e-7) over the classes that are not masked (n - 1 in the variance)."""
    keep = logits > -torch.inf
    count = keep.sum(dim=-1, keepdim=True)
    largest = logits.detach().amax(dim=-1, keepdim=True)
    values = torch.where(keep, logits - largest, 0.0)
    centred = torch.where(keep, values - values.sum(dim=-1, keepdim=True) / count, 0.0)
    squares = centred.square().sum(dim=-1, keepdim=True) / (count - 1).clamp_min(1)
    flat = squares == 0  # a flat row has no direction: its deviation counts as 0, with gradient 0
    deviation = torch.where(flat, 0.0, torch.where(flat, 1.0, squares).sqrt())
    return torch.where(keep, centred / (deviation + 1e-7), -torch.inf)


_STANDARDISED: dict[int, tuple[object, TeacherSignal]] = {}


@divergences.register("logit-standardised")
@dataclass(frozen=True)
class LogitStandardised:
    """Any divergence after standardising each example's logits on both sides: only the teacher's relative logits are learned.

    The same as a temperature of T · deviation for each example and side. Statistics of the target (means over classes and data) are
    those of the standardised teacher. The paper uses T = 2 and a weight of 9 on KL. Source: Sun et al. (arXiv 2403.01427).
    """

    of: str = "forward-kl"

    def __post_init__(self) -> None:
        if isinstance(self.inner, LogitStandardised):
            raise ConfigError("logits are standardised once", expected="another divergence", got=self.of)

    @property
    def inner(self) -> Divergence:
        """The divergence that compares the standardised logits."""
        return divergences[self.of]

    @property
    def own_temperature(self) -> bool:
        return own_temperature(self.inner)

    @property
    def couples_batch(self) -> bool:
        return couples_batch(self.inner)

    @property
    def formula(self) -> str:
        return f"{self.inner.formula} of standardised logits"

    def refuses(self, cell: Cell) -> str:
        return reason_against(self.inner, cell)

    def __call__(self, student_logits: Logits, target: Target) -> Loss:
        return self.inner(standardise(student_logits), replace(target, signal=standardised(target.signal)))


def standardised(signal: TeacherSignal) -> TeacherSignal:
    """The signal with standardised logits; its statistics are those of the standardised whole, computed once."""
    population = signal.population
    assert population is not None and signal.rows is not None
    known = _STANDARDISED.get(id(population))
    if known is None or known[0] is not population:
        logits = population.logits.to(torch.promote_types(population.logits.dtype, torch.float32))
        whole = TeacherSignal(standardise(logits), population.labels, signal.class_relation)
        _STANDARDISED.clear()  # one population at a time: a whole signal is held here
        _STANDARDISED[id(population)] = known = (population, whole)
    return known[1].at(signal.temperature).take(signal.rows)
