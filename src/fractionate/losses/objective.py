"""The loss contract: cell + temperature + teacher weight + divergence + T² factor, all explicit, one number per example."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

import fractionate.losses.divergences.correlation
import fractionate.losses.divergences.logit
import fractionate.losses.divergences.mixture
import fractionate.losses.divergences.ranked
import fractionate.losses.divergences.ranking
import fractionate.losses.divergences.split
import fractionate.losses.divergences.transform  # noqa: F401  # each registers its family
from fractionate.errors import ConfigError, MismatchError, NumericsError
from fractionate.losses.divergences.base import (
    Divergence,
    Target,
    couples_batch,
    divergences,
    own_temperature,
    reason_against,
    written,
)
from fractionate.losses.divergences.likelihood import CrossEntropy, ForwardKL, hard_labels
from fractionate.losses.kernels.onepass import (
    OnePass,
    Rows,
    chunks,
    loss_and_gradient,
    transforms_active,
    with_gradient,
)
from fractionate.losses.kernels.sparse import Sums, needs_dense, plain_sparse, sparse_rows, sparse_target, sums_of
from fractionate.records import Contract, Recommendation
from fractionate.theory import confidence as confidence_rules
from fractionate.theory import shape as shape_rules
from fractionate.theory.cells import Cell, as_cell
from fractionate.theory.teacher_signal import TeacherSignal, check_temperature, compute_dtype
from fractionate.theory.topk_signal import CompactSignal

Signal: TypeAlias = TeacherSignal | CompactSignal


class Default(float):
    """A number that was not given, distinguished from the same number given."""


@dataclass(frozen=True)
class Objective:
    """(1 - w) · CE(label, student) + w · T² · D(target_T, softmax(student / T)), one number per example.

    Call it with student logits [batch, classes] and a `TeacherSignal` or `CompactSignal` of the same examples; gradients reach the
    student only. It computes in chunks of rows, in float32 (float64 for float64 students).

    Args:
        cell, divergence: The target, and D.
        temperature: T, of teacher and student alike. Default 4; for `hard` and `ls`, 1.
        teacher_weight: w in [0, 1]. Default 0.9; for `hard` 0 (1 with a divergence other than cross-entropy), for `ls` 1.
        scale_by_temperature_squared: False leaves out T². ttm, wttm and nkd, which have T in their formula, never have it.

    Raises:
        ConfigError: A setting is out of range, or no cell or divergence has this name.
        MismatchError: Shapes or devices differ, or the divergence cannot be used with the cell.
        NumericsError: A loss is not finite (on a GPU the caller checks).

    Source: Hinton et al. 2015 (arXiv 1503.02531); the cells, Tang et al. 2020 (arXiv 2002.03532).

    Example:
        import torch
        from fractionate import Objective, TeacherSignal
        signal = TeacherSignal(torch.randn(4, 3), torch.tensor([0, 1, 2, 0]))
        print(Objective("kd", temperature=2.0, teacher_weight=0.9)(torch.randn(4, 3), signal).mean())
    """

    cell: Cell | str = "kd"
    temperature: float = Default(4.0)
    teacher_weight: float = Default(0.9)
    scale_by_temperature_squared: bool = True
    divergence: Divergence | str = "cross-entropy"

    def __post_init__(self) -> None:
        cell = as_cell(self.cell)
        object.__setattr__(self, "cell", cell)
        if isinstance(self.divergence, str):
            object.__setattr__(self, "divergence", divergences[self.divergence])
        label = isinstance(cell.confidence, confidence_rules.Certain)
        smoothing = isinstance(cell.confidence, (confidence_rules.Smoothed, confidence_rules.Mean))
        without_teacher = label or (smoothing and isinstance(cell.shape, shape_rules.Uniform))
        of_labels = {"temperature": 1.0, "teacher_weight": float(not label or self.divergence != CrossEntropy())}
        for name, value in of_labels.items():
            given = getattr(self, name)
            if isinstance(given, Default):
                object.__setattr__(self, name, value if without_teacher else float(given))
        object.__setattr__(self, "temperature", check_temperature(self.temperature))
        if not (isinstance(self.teacher_weight, (int, float)) and 0 <= self.teacher_weight <= 1):
            raise ConfigError(
                "the teacher weight cannot be used", expected="a number in [0, 1]", got=repr(self.teacher_weight)
            )
        assert isinstance(self.cell, Cell) and not isinstance(self.divergence, str)
        reason = reason_against(self.divergence, self.cell) if self.teacher_weight > 0 else ""
        if reason:
            raise MismatchError(
                f"divergence {written(self.divergence)} cannot meet cell {self.cell}",
                got=reason,
                fix="cross-entropy, forward-kl and jsd meet every cell",
            )

    @classmethod
    def from_recipe(cls, recipe: Recommendation) -> Objective:
        """The objective that a diagnosis recommends; plain cross-entropy on the labels where it advises not to distil.

        Raises `MismatchError` where a fault has to be repaired before anything is trained.
        """
        if recipe.repair:
            raise MismatchError(
                "there is no recipe yet: this teacher, or its data, has a fault that has to be repaired first",
                got=recipe.reason,
                fix=f'repair {recipe.repair} Then diagnose again; Objective("hard") trains on the labels alone meanwhile',
            )
        if not recipe.distil:
            return cls("hard")
        return cls(
            recipe.cell,
            recipe.temperature,
            recipe.teacher_weight,
            recipe.scale_by_temperature_squared,
            recipe.divergence,
        )

    @property
    def scaled(self) -> bool:
        """Whether the soft term carries the factor T²: wanted, and not part of the divergence's own formula."""
        assert not isinstance(self.divergence, str)
        return self.scale_by_temperature_squared and not own_temperature(self.divergence)

    @property
    def soft_scale(self) -> float:
        """The factor of the soft term: w · T², or w."""
        return self.teacher_weight * (self.temperature**2 if self.scaled else 1.0)

    def target(self, signal: TeacherSignal, dtype: torch.dtype = torch.float32) -> Target:
        """The cell's target for a signal, as the divergence reads it."""
        assert isinstance(self.cell, Cell)
        return Target(self.cell, signal.at(self.temperature), dtype)

    def needs_dense(self) -> str:
        """Why a compact signal does not do for this objective; empty where it does."""
        assert isinstance(self.cell, Cell) and not isinstance(self.divergence, str)
        return needs_dense(self.divergence, self.cell) if self.teacher_weight > 0 else ""

    def __call__(self, student_logits: Float[Tensor, "batch classes"], signal: Signal) -> Float[Tensor, "batch"]:
        self._check(student_logits, signal)
        assert not isinstance(self.divergence, str)
        if transforms_active():
            return self.plain(student_logits, signal)
        if len(signal) == 0:
            return student_logits.sum(dim=-1)  # no losses, and still a gradient path
        loss: Tensor
        if torch.is_grad_enabled() and student_logits.requires_grad and not couples_batch(self.divergence):
            loss = OnePass.apply(  # type: ignore[no-untyped-call]
                student_logits,
                lambda logits, scale: self._in_chunks(logits, signal, scale),
                lambda logits: self.plain(logits, signal),
            )
        else:
            loss = self.plain(student_logits, signal)
        # the sum first: one call in place of three
        if not (loss.is_cuda or math.isfinite(loss.detach().sum()) or bool(torch.isfinite(loss).all())):
            raise self._not_finite(loss, student_logits, signal)
        return loss

    def plain(self, student_logits: Float[Tensor, "batch classes"], signal: Signal) -> Float[Tensor, "batch"]:
        """The same numbers by plain differentiable operators on the whole batch: what transforms trace and tests compare with."""
        assert not isinstance(self.divergence, str)
        logits = student_logits.to(compute_dtype(student_logits.dtype))
        loss = torch.zeros(len(logits), dtype=logits.dtype, device=logits.device)
        if self.teacher_weight < 1:
            hard = functional.cross_entropy(logits, signal.labels, reduction="none")
            loss = loss + (1 - self.teacher_weight) * hard
        if self.teacher_weight > 0 and isinstance(signal, CompactSignal):
            assert isinstance(self.cell, Cell)
            target = sparse_target(self.cell, signal.at(self.temperature), logits.dtype)
            loss = loss + self.soft_scale * plain_sparse(self.divergence, logits, target, self.temperature)
        elif self.teacher_weight > 0:
            assert isinstance(signal, TeacherSignal)
            loss = loss + self.soft_scale * self.divergence(logits, self.target(signal, logits.dtype))
        return loss

    def loss_and_gradient(
        self, student_logits: Float[Tensor, "batch classes"], signal: Signal
    ) -> tuple[Float[Tensor, "batch"], Float[Tensor, "batch classes"]]:
        """The losses and d(sum of losses)/d(student logits) without autograd: for fused steps and for many students at once."""
        self._check(student_logits, signal)
        return self._in_chunks(student_logits, signal)

    def _in_chunks(
        self, student_logits: Float[Tensor, "batch classes"], signal: Signal, scale: float = 1.0
    ) -> tuple[Float[Tensor, "batch"], Float[Tensor, "batch classes"]]:
        assert not isinstance(self.divergence, str)
        batch, classes = student_logits.shape
        parts = [slice(0, batch)] if couples_batch(self.divergence) else chunks(batch, classes)
        return loss_and_gradient(student_logits, self._rows(signal), parts, scale)

    def _rows(self, signal: Signal) -> Rows:
        assert isinstance(self.cell, Cell) and not isinstance(self.divergence, str)
        cell, divergence, soft_scale, hard_weight = self.cell, self.divergence, self.soft_scale, 1 - self.teacher_weight
        whole: Signal = signal.at(self.temperature) if self.teacher_weight > 0 else signal
        sums: list[Sums] = []  # of a compact signal, made once for all chunks

        def rows(logits: Tensor, part: slice, scale: float, out: Tensor) -> Tensor:
            all_of_it, labels = part.stop - part.start == len(whole), whole.labels[part]
            if self.teacher_weight == 0:
                return hard_labels(logits, labels, hard_weight, scale, out.zero_())
            if isinstance(whole, CompactSignal):
                if not sums:
                    sums.append(sums_of(divergence, sparse_target(cell, whole, logits.dtype)))
                some_sums = sums[0] if all_of_it else sums[0].take(part)
                loss = sparse_rows(divergence, logits, some_sums, self.temperature, soft_scale * scale, out)
            else:
                some = whole if all_of_it else whole.take(part)
                loss = with_gradient(divergence, logits, Target(cell, some, logits.dtype), soft_scale * scale, out)
            loss = loss.mul(soft_scale)
            return loss if hard_weight == 0 else loss.add_(hard_labels(logits, labels, hard_weight, scale, out))

        return rows

    def check_compact(self, signal: CompactSignal) -> None:
        """Raises `MismatchError` where a compact signal does not do, and `ConfigError` at a temperature it does not know."""
        if reason := self.needs_dense():
            raise MismatchError(
                "this objective cannot be met by a compact signal", got=reason,
                expected="cross-entropy or forward-kl on kd, kd-topk, kd-pt, ls or hard",
                fix=f"signal.at({self.temperature:g}).dense(), where all classes fit into memory",
            )  # fmt: skip
        if self.teacher_weight > 0:
            signal.at(self.temperature)

    def _check(self, student_logits: Tensor, signal: Signal) -> None:
        _check(student_logits, signal)
        if isinstance(signal, CompactSignal):
            self.check_compact(signal)

    def _not_finite(self, loss: Tensor, student_logits: Tensor, signal: Signal) -> NumericsError:
        row = int((~torch.isfinite(loss)).nonzero()[0])
        logits = student_logits[row].detach()
        if bool(torch.isnan(logits).any() | torch.isposinf(logits).any() | torch.isneginf(logits).all()):
            why, fix = "the student's logits are not usable", "lower the learning rate, or check this input"
        elif bool(torch.isneginf(logits).any()):
            why = "the student masks a class to which the label or the target gives mass: the loss is infinite"
            fix = "mask the same classes on both sides, or take jsd, skew-forward or total-variation"
        elif isinstance(signal, TeacherSignal) and bool(torch.isneginf(signal.logits[row]).any()):
            why = "the teacher masks a class to which the student gives mass: the divergence is infinite"
            fix = "mask the same classes on both sides, or take cross-entropy, jsd or skew-reverse"
        else:
            why, fix = "logits or temperature are out of range", "a temperature nearer 1, or smaller logits"
        return NumericsError(
            f"{int((~torch.isfinite(loss)).sum())} of {len(loss)} losses are not finite (first: row {row} of the batch)",
            got=f"{float(loss[row].detach())}: {why}",
            fix=fix,
        )

    def describe(self) -> Contract:
        """What is computed, as a record."""
        assert isinstance(self.cell, Cell) and not isinstance(self.divergence, str)
        squared = f" · {self.temperature:g}²" if self.scaled else ""
        q = "softmax(student)" if self.temperature == 1 else f"softmax(student / {self.temperature:g})"
        formula = self.divergence.formula
        where = f", q = {q}" if " q" in formula or "(q" in formula else ""
        soft = f"{self.teacher_weight:g}{squared} · {formula}{where}"
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
            divergence=written(self.divergence),
            scale_by_temperature_squared=self.scaled,
            uses_teacher=self.teacher_weight > 0,
        )

    def _repr_html_(self) -> str:
        return self.describe()._repr_html_()

    def contract(self) -> str:
        """Print what is computed, and give the text."""
        text = str(self.describe())
        print(text)
        return text


def needs_whole(objective: Objective) -> bool:
    """True where the target depends on more than the example: on statistics of all the data."""
    assert isinstance(objective.cell, Cell)
    alone_confidences = (
        confidence_rules.Certain,
        confidence_rules.Smoothed,
        confidence_rules.SmoothedOthers,
        confidence_rules.Instance,
        confidence_rules.TopK,
        confidence_rules.WithTopOne,
    )
    alone_shapes = (
        shape_rules.Uniform,
        shape_rules.Instance,
        shape_rules.TopK,
        shape_rules.TopOne,
        shape_rules.WithoutTopOne,
    )
    return not (
        isinstance(objective.cell.confidence, alone_confidences) and isinstance(objective.cell.shape, alone_shapes)
    )


def _check(student_logits: Tensor, signal: Signal) -> None:
    shape = signal.logits.shape if isinstance(signal, TeacherSignal) else (len(signal), signal.classes)
    if student_logits.shape != shape:
        raise MismatchError(
            "student and teacher speak of different classes or examples",
            expected=f"student logits {list(shape)}, as the teacher's",
            got=f"{list(student_logits.shape)}",
            fix="give the student the teacher's classes, or map the teacher's classes onto the student's",
        )
    if student_logits.device != signal.logits.device:
        raise MismatchError(
            "student and teacher signal live on different devices",
            got=f"{student_logits.device} and {signal.logits.device}",
            fix="signal.to(student_logits.device)",
        )
    if not student_logits.is_floating_point():
        raise MismatchError("these are not student logits", expected="floating point", got=str(student_logits.dtype))


def _label_mass(signal: Signal, objective: Objective) -> Float[Tensor, "batch"]:
    assert isinstance(objective.cell, Cell)
    if objective.teacher_weight == 0:
        return torch.ones(len(signal), dtype=torch.float64, device=signal.labels.device)  # of no weight
    if isinstance(signal, CompactSignal):
        return sparse_target(objective.cell, signal.at(objective.temperature)).label_mass.double().squeeze(1)
    return objective.cell.target(signal, objective.temperature).double().gather(1, signal.labels[:, None]).squeeze(1)


def rescaling(
    student_logits: Float[Tensor, "batch classes"], signal: Signal, objective: Objective
) -> Float[Tensor, "batch"]:
    """How an objective rescales each example's cross-entropy gradient on the label, in float64.

    With the cross-entropy and forward-KL divergences this is, on the label and on the sum of the others alike,
    rescaling = (1 - w) + s (target[y] - q_T[y]) / (1 - q[y]), s = w·T with the T² factor, w/T without; at T = 1 it is
    1 - w (1 - target[y]) / (1 - q[y]). Not class by class. As 1 - q[y] gets very small it stays finite. For other divergences it is
    the same ratio, d objective / d z[y] over d cross-entropy / d z[y] = q[y] - 1, from their gradient.

    Args:
        student_logits: [batch, classes].
        signal: The teacher's, of the same examples.
        objective: Whose gradient is compared with cross-entropy's.

    Returns:
        [batch], 1 where the objective's gradient is cross-entropy's.

    Raises:
        MismatchError: for shapes that differ.

    Source: Tang et al. (arXiv 2002.03532), exact before the expectation.

    Example:
        import torch
        from fractionate import Objective, TeacherSignal, rescaling

        signal = TeacherSignal(torch.randn(8, 4), torch.arange(8) % 4)
        print(rescaling(torch.randn(8, 4), signal, Objective("kd", 1.0, 0.9)))
    """
    _check(student_logits, signal)
    assert isinstance(objective.cell, Cell) and not isinstance(objective.divergence, str)
    with torch.no_grad():
        labels = signal.labels[:, None]
        logits = student_logits.detach().double()
        rest = torch.softmax(logits, dim=-1).scatter(1, labels, 0.0).sum(dim=1).clamp_min(1e-300)  # 1 - q[y]
        if isinstance(objective.divergence, (CrossEntropy, ForwardKL)):
            label_mass = _label_mass(signal, objective)
            tempered = torch.softmax(logits / objective.temperature, dim=-1)
            rest_tempered = tempered.scatter(1, labels, 0.0).sum(dim=1)  # 1 - q_T[y] without cancellation
            strength = objective.soft_scale / objective.temperature
            ratio = (1 - objective.teacher_weight) + strength * (rest_tempered - (1 - label_mass)) / rest
        else:
            _, gradient = objective.loss_and_gradient(logits, signal)
            ratio = -gradient.gather(1, labels).squeeze(1) / rest
        limit = torch.finfo(torch.float64).max
        return ratio.clamp(-limit, limit)
