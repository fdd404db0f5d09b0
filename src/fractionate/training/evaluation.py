"""How good a model is on data that are no task yet."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from fractionate.data.splits import as_split
from fractionate.models.outputs import Head
from fractionate.records import Scores
from fractionate.tasks.predictions import Needs
from fractionate.tasks.task import Task
from fractionate.teachers.given import as_source
from fractionate.theory.teacher_signal import TeacherSignal, check_finite


def short_task(data: Any, *, head: Head = None, predicts_next: bool = False, batch_size: int = 512) -> Task:
    """The classification (or next-token) task over some data."""
    kind = "language-modelling" if predicts_next else "classification"
    return Task(kind, transfer=as_split(data), head=head, teacher_head=head, batch_size=batch_size)


def evaluate(
    model: nn.Module,
    examples: Any,
    *,
    signal: TeacherSignal | Any | None = None,
    batch_size: int = 512,
    head: Head = None,
    predicts_next: bool = False,
) -> Scores:
    """Accuracy, NLL, ECE and, with a teacher signal of these examples, agreement. The model's mode is left as it was.

    Args:
        model: The model to evaluate.
        examples: What `distill` takes as data.
        signal: The teacher, in any form that `distill` takes; None: no agreement.
        batch_size: Examples at once.
        head: Where the logits are in the model's output.
        predicts_next: The logits at a token predict the next one.

    Returns:
        `Scores`.

    Raises:
        MismatchError: where outputs, labels and signal do not fit.

    Example:
        import torch
        from torch import nn
        from fractionate.training import evaluate

        print(evaluate(nn.Linear(8, 4), (torch.randn(40, 8), torch.arange(40) % 4)))
    """
    split = as_split(examples, "evaluation data")
    task = short_task(split, head=head, predicts_next=predicts_next, batch_size=batch_size)
    source = as_source(signal)
    if source is None:
        return task.evaluate(model, split)
    with source.open(task, split, None, Needs()) as teacher:
        return task.evaluate(model, split, teacher)


def predictions(
    model: nn.Module, data: Any, *, batch_size: int = 512, head: Head = None, predicts_next: bool = False
) -> tuple[Float[Tensor, "rows classes"], Int[Tensor, "rows"]]:
    """A model's logits and the labels on all the data, in its order; evaluation mode, no gradients, mode put back."""
    task = short_task(data, head=head, predicts_next=predicts_next, batch_size=batch_size)
    found = list(task.predictions(model, task.splits.transfer, head=head))
    return torch.cat([each.required_logits.float() for each in found]), torch.cat([each.labels for each in found])


def signal_on(
    teacher: nn.Module, data: Any, *, batch_size: int = 512, head: Head = None, predicts_next: bool = False
) -> TeacherSignal:
    """A teacher model's signal on all the data, in memory.

    Args:
        teacher: The model.
        data: What `distill` takes as data.
        batch_size: Examples at once.
        head: Where the logits are in the model's output.
        predicts_next: The logits at a token predict the next one.

    Returns:
        A `TeacherSignal`, one row per example or a labelled token.

    Raises:
        NumericsError: where it is not finite.

    Example:
        import torch
        from torch import nn
        from fractionate.training import signal_on

        print(signal_on(nn.Linear(8, 4), (torch.randn(40, 8), torch.arange(40) % 4)).logits.shape)
    """
    logits, labels = predictions(teacher, data, batch_size=batch_size, head=head, predicts_next=predicts_next)
    check_finite(logits, torch.arange(len(logits)))
    return TeacherSignal(logits, labels)
