"""Online teachers: a model that is run on the very batch the student sees, for data whose views change from epoch to epoch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from fractionate.data.batch import Split
from fractionate.data.memory import MemorySplit
from fractionate.losses.objective import Objective, needs_whole
from fractionate.models.outputs import check_not_probabilities
from fractionate.tasks.predictions import Needs
from fractionate.tasks.task import Task
from fractionate.teachers.cached import OpenCache, numbers_of
from fractionate.teachers.model import LEAVE_OUT, OpenModel, model_fingerprint, open_model
from fractionate.theory.teacher_signal import TeacherSignal


@dataclass(frozen=True, eq=False)
class Online:
    """A model run on every batch, or once where the data are the same in every epoch (in memory) and no term reads inside.

    Class-level cells need the teacher's statistics: one pass over all the data comes first.

    Args:
        model: The teacher; it runs in evaluation mode without gradients.
        view: The inputs that it reads, where the data have views.
        holds_after: Changes of the data after which its outputs still hold.

    Example:
        import torch
        from fractionate.teachers import Online
        teacher = Online(torch.nn.Linear(4, 3))  # of distill(student, data, teacher)
    """

    model: nn.Module
    view: str = "teacher"
    holds_after: frozenset[str] = frozenset({"inputs", "labels", "examples"})

    def fingerprint(self) -> str:
        """A hash of all parameters and buffers."""
        return model_fingerprint(self.model)

    @contextmanager
    def open(
        self, task: Task, split: Split, objective: Objective | None, needs: Needs
    ) -> Iterator[OpenModel | OpenCache]:
        """Hooks for the needs, and the signal on all data where it is needed."""
        with open_model(task, self.model, needs, split, view=self.view) as model:
            if isinstance(split, MemorySplit) and _one_row(task, split) and not needs:
                yield OpenCache(numbers_of(self.signal(task, split), split), checked=True, inside=model)
            else:
                if objective is not None and needs_whole(objective):
                    model.whole = self.signal(task, split)
                yield model

    def signal(self, task: Task, split: Split) -> Any:
        """The model's signal on a whole split, in memory. Raises `NumericsError` where it is not finite."""
        found = list(task.predictions(self.model, split, head=task.teacher_head, view=self.view))
        logits, labels = torch.cat([each.required_logits for each in found]), torch.cat([each.labels for each in found])
        signal = task.reader.signal(logits, labels)
        if isinstance(signal, TeacherSignal):
            check_not_probabilities(signal.logits, LEAVE_OUT)
        return signal


def _one_row(task: Task, split: MemorySplit) -> bool:
    """Whether every example is one row, known by its place."""
    return not task.reader.tokens and (not task.reader.distributions or split.labels.ndim == 1)
