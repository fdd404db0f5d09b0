"""The loss contract: cell + temperature + teacher weight + divergence + T² factor, all explicit, one number an example."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from fractionate.cells import Cell, as_cell
from fractionate.errors import ConfigError, MismatchError
from fractionate.records import Contract
from fractionate.registry import Registry
from fractionate.teacher import TeacherSignal, check_temperature, compute_dtype


class Divergence(Protocol):
    """How far the student is from the target: tempered student logits and target in, one number an example out."""

    formula: str

    def __call__(
        self, tempered_logits: Float[Tensor, "batch classes"], target: Float[Tensor, "batch classes"]
    ) -> Float[Tensor, "batch"]: ...


divergences: Registry[Divergence] = Registry("divergence", "fractionate.divergences")


@divergences.register("cross-entropy")
@dataclass(frozen=True)
class CrossEntropy:
    """H(target, q) = -Σ target log q. The soft term of Tang et al. (2002.03532); its least value is the target's entropy."""

    formula: str = "H(target, q)"

    def __call__(
        self, tempered_logits: Float[Tensor, "batch classes"], target: Float[Tensor, "batch classes"]
    ) -> Float[Tensor, "batch"]:
        log_q = functional.log_softmax(tempered_logits, dim=-1)
        # a class that the target rules out costs nothing, also where the student masks it: 0 · -inf is 0 here
        return -torch.where(target > 0, target * log_q, 0.0).sum(dim=-1)


@divergences.register("forward-kl")
@dataclass(frozen=True)
class ForwardKL:
    """KL(target ‖ q) = Σ target log(target / q): cross-entropy less the target's entropy, 0 where they agree."""

    formula: str = "KL(target ‖ q)"

    def __call__(
        self, tempered_logits: Float[Tensor, "batch classes"], target: Float[Tensor, "batch classes"]
    ) -> Float[Tensor, "batch"]:
        return CrossEntropy()(tempered_logits, target) + torch.xlogy(target, target).sum(dim=-1)


@dataclass(frozen=True)
class Objective:
    """(1 - w) · CE(label, student) + w · T² · D(target_T, softmax(student / T)), one number an example.

    `cell` names the target, `temperature` T tempers teacher and student alike, `teacher_weight` w mixes, `divergence` is D,
    and `scale_by_temperature_squared = False` leaves the factor T² out. Call it with student logits [batch, classes] and a
    `TeacherSignal` of the same examples; gradient reaches the student only.

    Raises `ConfigError` for settings out of range, `UnknownNameError` for unknown names and `MismatchError` for shapes that
    differ. Following Tang et al. (arXiv 2002.03532) and Hinton et al. (arXiv 1503.02531).
    """

    cell: Cell | str = "kd"
    temperature: float = 4.0
    teacher_weight: float = 0.9
    scale_by_temperature_squared: bool = True
    divergence: Divergence | str = "cross-entropy"

    def __post_init__(self) -> None:
        object.__setattr__(self, "cell", as_cell(self.cell))
        object.__setattr__(self, "temperature", check_temperature(self.temperature))
        if isinstance(self.divergence, str):
            object.__setattr__(self, "divergence", divergences[self.divergence])
        if not (isinstance(self.teacher_weight, (int, float)) and 0 <= self.teacher_weight <= 1):
            raise ConfigError(
                "the teacher weight cannot be used", expected="a number in [0, 1]", got=repr(self.teacher_weight)
            )

    @property
    def soft_scale(self) -> float:
        """The factor of the soft term: w · T², or w."""
        return self.teacher_weight * (self.temperature**2 if self.scale_by_temperature_squared else 1.0)

    def __call__(self, student_logits: Float[Tensor, "batch classes"], signal: TeacherSignal) -> Float[Tensor, "batch"]:
        if student_logits.shape != signal.logits.shape:
            raise MismatchError(
                "student and teacher speak of different classes or examples",
                expected=f"student logits {list(signal.logits.shape)}, as the teacher's",
                got=f"{list(student_logits.shape)}",
                fix="give the student the teacher's classes, or map the teacher's classes onto the student's",
            )
        if student_logits.device != signal.logits.device:
            raise MismatchError(
                "student and teacher signal live on different devices",
                got=f"{student_logits.device} and {signal.logits.device}",
                fix="signal.to(student_logits.device)",
            )
        assert isinstance(self.cell, Cell) and not isinstance(self.divergence, str)
        logits = student_logits.to(compute_dtype(student_logits.dtype))
        loss = torch.zeros(len(logits), dtype=logits.dtype, device=logits.device)
        if self.teacher_weight < 1:
            hard = functional.cross_entropy(logits, signal.labels, reduction="none")
            loss = loss + (1 - self.teacher_weight) * hard
        if self.teacher_weight > 0:
            target = self.cell.target(signal, self.temperature).to(logits.dtype)
            loss = loss + self.soft_scale * self.divergence(logits / self.temperature, target)
        return loss

    def describe(self) -> Contract:
        """What is computed, as a record."""
        assert isinstance(self.cell, Cell) and not isinstance(self.divergence, str)
        squared = f" · {self.temperature:g}²" if self.scale_by_temperature_squared else ""
        q = "softmax(student)" if self.temperature == 1 else f"softmax(student / {self.temperature:g})"
        soft = f"{self.teacher_weight:g}{squared} · {self.divergence.formula}, q = {q}"
        hard = f"{1 - self.teacher_weight:g} · H(label, softmax(student))"
        parts = [hard] * (self.teacher_weight < 1) + [soft] * (self.teacher_weight > 0)
        return Contract(
            formula=" + ".join(parts),
            cell=self.cell.name,
            confidence=repr(self.cell.confidence),
            shape=repr(self.cell.shape),
            level=self.cell.level,
            temperature=self.temperature,
            teacher_weight=self.teacher_weight,
            divergence=next(
                (n for n in divergences if divergences.factory(n) is type(self.divergence)), repr(self.divergence)
            ),
            scale_by_temperature_squared=self.scale_by_temperature_squared,
        )

    def contract(self) -> str:
        """Print what is computed, and give the text."""
        text = str(self.describe())
        print(text)
        return text


def rescaling(
    student_logits: Float[Tensor, "batch classes"], signal: TeacherSignal, objective: Objective
) -> Float[Tensor, "batch"]:
    """How an objective rescales each example's cross-entropy gradient, on the label and on the sum of the others alike.

    rescaling = (1 - w) + s (target[y] - q_T[y]) / (1 - q[y]), s = w·T with the T² factor, w/T without; at T = 1 it is
    1 - w (1 - target[y]) / (1 - q[y]). Not class by class. In float64, as 1 - q[y] gets very small; it stays finite.
    Source: Tang et al. (arXiv 2002.03532), exact before the expectation; holds for the cross-entropy and forward-KL divergences.
    """
    assert isinstance(objective.cell, Cell)
    with torch.no_grad():
        labels = signal.labels[:, None]
        logits = student_logits.detach().double()
        label_mass = objective.cell.target(signal, objective.temperature).double().gather(1, labels).squeeze(1)
        tempered = torch.softmax(logits / objective.temperature, dim=-1)
        rest_tempered = tempered.scatter(1, labels, 0.0).sum(dim=1)  # 1 - q_T[y] without cancellation
        rest = torch.softmax(logits, dim=-1).scatter(1, labels, 0.0).sum(dim=1)
        strength = objective.soft_scale / objective.temperature
        ratio = (rest_tempered - (1 - label_mass)) / rest.clamp_min(1e-300)
        limit = torch.finfo(torch.float64).max
        return ((1 - objective.teacher_weight) + strength * ratio).clamp(-limit, limit)
