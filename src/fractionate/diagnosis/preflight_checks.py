"""Preflight: a handful of real steps with the student at hand, to know what the long run will do and cost."""

from __future__ import annotations

import copy
import math
import time
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from fractionate.data.batch import leaves
from fractionate.data.parts import first_batch
from fractionate.diagnosis.transfer import check_transfer, first_gradients, read_transfer, task_of
from fractionate.errors import ConfigError
from fractionate.losses.objective import Objective
from fractionate.models.outputs import Head
from fractionate.records import Point, Preflight, Training
from fractionate.teachers.cached import Cached
from fractionate.teachers.shared import CachedRows
from fractionate.theory.teacher_signal import TeacherSignal
from fractionate.training.distillation import distill
from fractionate.training.memory import OPTIMIZER_COPIES, estimate_memory
from fractionate.training.recipe import Recipe


@dataclass(eq=False)
class _Clock:
    """Notes the loss of every step and when it ended."""

    steps: frozenset[int]
    losses: list[float] = field(default_factory=list)
    ends: list[float] = field(default_factory=list)
    fitted: bool = False

    def stepped(self) -> None:
        self.ends.append(time.perf_counter())

    def measure(self, step: int, loss: float, student: nn.Module) -> Point:
        self.losses.append(loss)
        return Point(step, loss)


def preflight(
    student: nn.Module,
    data: Any,
    signal: TeacherSignal,
    *,
    objective: Objective | None = None,
    training: Training | None = None,
    head: Head = None,
    predicts_next: bool = False,
    steps: int = 8,
    seed: int = 0,
) -> Preflight:
    """Take a few steps of `distill` on a copy of the student and measure: gradients, first losses, seconds, bytes.

    The student and the global random stream are left as they were. Time is the estimate from the median step without the first;
    memory from what a step on one batch holds at its peak, weights, one batch of data and the signal.

    Args:
        student: As it will be trained.
        data: What `distill` takes, a task among it, in the order of the signal.
        signal: One row an example, or one a labelled token.
        objective: The loss; None: the default.
        training: Steps, batch size, learning rate of the real training.
        head: Where the logits are in the student's output.
        predicts_next: The logits at a token predict the next one.
        steps: How many are taken.
        seed: Of the training.

    Returns:
        A `Preflight`.

    Raises:
        ConfigError: for fewer than 2 steps.
        MismatchError: where student, data and signal do not fit.
        NumericsError: where the loss is not finite at once.

    Example:
        import torch
        from torch import nn
        from fractionate import TeacherSignal
        from fractionate.diagnosis import preflight

        inputs, labels = torch.randn(40, 8), torch.arange(40) % 4
        print(preflight(nn.Linear(8, 4), (inputs, labels), TeacherSignal(torch.randn(40, 4), labels), steps=2))
    """
    objective, training = objective or Objective(), training or Training()
    if steps < 2:
        raise ConfigError("a preflight needs at least 2 steps", got=str(steps))
    task = task_of(data, None, rows=len(signal), head=head, predicts_next=predicts_next)
    transfer = read_transfer(task, student)
    check_transfer(transfer, signal)
    assert transfer.logits is not None
    first = float(nn.functional.cross_entropy(transfer.logits, transfer.labels))
    hard, soft = first_gradients(student, transfer, signal, objective)
    both = float(hard.norm()) > 0 and float(soft.norm()) > 0
    clock = _Clock(frozenset(range(1, steps + 1)))
    few = replace(training, steps=steps, epochs=None, patience=None, keep="last", evaluate_every=None)
    small = replace(task, student=lambda: copy.deepcopy(student), validation=None, test=None)
    rows = CachedRows(signal, transfer.offsets) if transfer.tokens else signal
    with torch.random.fork_rng(devices=[]):
        distill(small, teacher=Cached(rows), recipe=Recipe(objective=objective, training=few), seed=seed,
                show="nothing", observer=clock)  # fmt: skip
    apart = sorted(after - before for before, after in zip(clock.ends, clock.ends[1:], strict=False))
    step_seconds = apart[len(apart) // 2]
    total = training.steps_for(len(transfer.split))
    weights = sum(p.numel() * p.element_size() for p in student.parameters())
    batch = first_batch(transfer.split, min(training.batch_size, len(transfer.split)), seed)
    memory_estimate = estimate_memory(student, task.inputs_of(student, batch), training, head=task.head)
    held = (
        (1 + OPTIMIZER_COPIES[training.optimizer]) * weights if memory_estimate is None else memory_estimate.total_bytes
    )
    inputs = sum(leaf.numel() * leaf.element_size() for _, leaf in leaves(batch.inputs) if isinstance(leaf, Tensor))
    return Preflight(
        first_loss_nats=first,
        first_loss_of_uniform=first / math.log(signal.classes),
        gradient_ratio=float(soft.norm() / hard.norm()) if both else None,
        gradient_cosine=float(hard @ soft / (hard.norm() * soft.norm())) if both else None,
        losses=tuple(clock.losses),
        parameters=sum(p.numel() for p in student.parameters()),
        step_seconds=step_seconds,
        steps=total,
        wall_seconds=step_seconds * total,
        memory_bytes=weights + held + inputs + signal.logits.numel() * signal.logits.element_size(),
    )
