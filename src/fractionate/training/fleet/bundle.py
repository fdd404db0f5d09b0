"""The losses of many students at once, as gradients of their logits.

With the cross-entropy or forward KL divergence the gradient of an objective is a difference of distributions,
(1 - w)(q - label) + s (q_T - target), s = w·T with the T² factor and w/T without; targets are made once and only looked up. Other
divergences, and targets too large to keep, are computed student by student.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from fractionate.losses.divergences.likelihood import CrossEntropy, ForwardKL
from fractionate.losses.objective import Objective
from fractionate.theory.cells import Cell
from fractionate.theory.teacher_signal import TeacherSignal

STORED_BYTES = 1 << 30  # more targets than this are not kept but made batch by batch


class Bundle:
    """Objectives of students side by side: `gradient` of the batch mean with respect to the logits, and the `loss`.

    `objectives[i]` is the objective of student i, None for the labels alone; `signal` the teacher's signal on the examples, in
    the order of the labels.
    """

    def __init__(
        self,
        objectives: Sequence[Objective | None],
        signal: TeacherSignal | None,
        labels: Int[Tensor, "examples"],
        classes: int,
        *,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.objectives = list(objectives)
        self.signal = signal
        self.labels = labels
        self.classes = classes
        self.dtype = dtype
        self.device = self.labels.device
        students, examples = len(self.objectives), len(labels)
        analytic = [o is None or isinstance(o.divergence, (CrossEntropy, ForwardKL)) for o in self.objectives]
        fits = students * examples * classes * dtype.itemsize <= STORED_BYTES
        self.apart = [i for i, known in enumerate(analytic) if not (known and fits)]
        self.tempered = [i for i, o in enumerate(self.objectives) if i not in self.apart and _tempered(o)]
        self._plain = torch.zeros(0)
        if fits:
            self._store()

    def _store(self) -> None:
        """Targets of all examples: `plain` for softmax(z), `soft` for softmax(z / T) of the tempered students."""
        students, examples = len(self.objectives), len(self.labels)
        plain = functional.one_hot(self.labels, self.classes).to(self.dtype).repeat(students, 1, 1)
        hard = torch.ones(students, dtype=self.dtype, device=self.device)
        soft = torch.zeros(len(self.tempered), examples, self.classes, dtype=self.dtype, device=self.device)
        strength = torch.zeros(len(self.tempered), dtype=self.dtype, device=self.device)
        temperature = torch.ones(len(self.tempered), dtype=self.dtype, device=self.device)
        for i, objective in enumerate(self.objectives):
            signal = self.signal
            if objective is None or i in self.apart:
                continue
            assert isinstance(objective.cell, Cell) and signal is not None
            target = objective.cell.target(signal, objective.temperature).to(self.dtype)
            weight = objective.teacher_weight
            if i in self.tempered:
                place = self.tempered.index(i)
                hard[i], soft[place], temperature[place] = 1 - weight, target, objective.temperature
                strength[place] = objective.soft_scale / objective.temperature
            else:
                plain[i] = (1 - weight) * plain[i] + weight * target
        self._plain = plain
        self._hard = None if not self.tempered else hard[:, None, None]
        self._soft = soft
        self._strength, self._temperature = strength[:, None, None], temperature[:, None, None]
        self._which = torch.tensor(self.tempered, dtype=torch.long, device=self.device)

    def gradient(
        self, logits: Float[Tensor, "students batch classes"], index: Int[Tensor, "batch"]
    ) -> Float[Tensor, "students batch classes"]:
        """The gradient of each student's mean loss over its batch; `index` are the places of the batch's examples."""
        logits = logits.detach()
        batch = logits.shape[1]
        if len(self._plain):
            computed = logits.to(self.dtype)
            gradient = torch.softmax(computed, dim=-1).sub_(self._plain.index_select(1, index))
            if self._hard is not None:
                gradient.mul_(self._hard)
                chosen = computed.index_select(0, self._which)
                soft = torch.softmax(chosen / self._temperature, dim=-1)
                soft.sub_(self._soft.index_select(1, index))
                gradient.index_add_(0, self._which, soft.mul_(self._strength))
            gradient = gradient.div_(batch).to(logits.dtype)
        else:
            gradient = torch.zeros_like(logits)
        for i in self.apart:
            objective, signal = self.objectives[i], self.signal
            if objective is None or signal is None:
                own = torch.softmax(logits[i], dim=-1) - functional.one_hot(self.labels[index], self.classes)
            else:
                _, own = objective.loss_and_gradient(logits[i], signal.take(index))
            gradient[i] = own / batch
        return gradient

    def loss(
        self, logits: Float[Tensor, "students batch classes"], index: Int[Tensor, "batch"]
    ) -> Float[Tensor, "students"]:
        """Each student's mean loss over its batch."""
        with torch.no_grad():
            return torch.stack([self._loss_of(i, logits[i], index).mean() for i in range(len(self.objectives))])

    def _loss_of(
        self, student: int, logits: Float[Tensor, "batch classes"], index: Int[Tensor, "batch"]
    ) -> Float[Tensor, "batch"]:
        objective, signal = self.objectives[student], self.signal
        if objective is None:
            return functional.cross_entropy(logits, self.labels[index], reduction="none")
        assert signal is not None
        return objective.plain(logits, signal.take(index))


def _tempered(objective: Objective | None) -> bool:
    return objective is not None and objective.temperature != 1 and objective.teacher_weight > 0
