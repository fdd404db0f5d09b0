"""Teacher sources: where the teacher's signal of a batch comes from; a model is run at most once per batch."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Protocol, runtime_checkable

import torch
from torch import nn

from fractionate.data.batch import Batch, Split
from fractionate.losses.objective import Objective, Signal
from fractionate.losses.targets import Targets
from fractionate.tasks.predictions import Needs, Predictions
from fractionate.tasks.task import Task
from fractionate.theory.teacher_signal import TeacherSignal
from fractionate.theory.topk_signal import CompactSignal


class OpenTeacher(Protocol):
    """A source in use by one run."""

    def signal_for(self, predictions: Predictions) -> Signal:
        """The teacher's signal of the student's rows, in their order."""
        ...

    def predictions_for(self, batch: Batch) -> Predictions | None:
        """The teacher's own predictions on a batch, for terms that read inside it; None where there is no inside."""
        return None

    def targets(self, objective: Objective) -> Targets | None:
        """The targets of all rows made once, where they fit into memory; None: they are made batch by batch."""
        return None

    def check_unchanged(self) -> None:
        """Raise `MismatchError` if the teacher is not what it was when it was opened."""
        ...


@runtime_checkable
class TeacherSource(Protocol):
    """A teacher: cached outputs, a model that is run on every batch, or many as one.

    `view` names the inputs of a batch that it reads ("" the student's); `holds_after` which changes of the data by a transform
    it stays true under: of "inputs", "labels", "examples".
    """

    @property
    def view(self) -> str: ...

    @property
    def model(self) -> nn.Module | None: ...

    @property
    def holds_after(self) -> frozenset[str]: ...

    def fingerprint(self) -> str:
        """What tells this teacher from others."""
        ...

    def signal(self, task: Task, split: Split) -> TeacherSignal:
        """The dense signal on a whole split, in memory."""
        ...

    def open(
        self, task: Task, split: Split, objective: Objective | None, needs: Needs
    ) -> AbstractContextManager[OpenTeacher]:
        """Check it against the data and hold what a run needs of it."""
        ...


def no_better_than_chance(signal: Signal) -> str:
    """A remark where the teacher names the label no more often than chance would, within three deviations; else nothing.

    Most often its classes are in another order than the data's. At most 2,048 examples, evenly spaced, are checked, and fewer
    where there are more than 2,048 classes.
    """
    most = min(2048, len(signal), max(64, (1 << 22) // signal.classes))
    chosen = torch.linspace(0, len(signal) - 1, min(most, len(signal))).long().to(signal.labels.device)
    if isinstance(signal, CompactSignal):  # nothing left out is above what was kept
        named = signal.label_logits[chosen] >= signal.logits[chosen].amax(dim=1)
    else:
        named = signal.logits[chosen].argmax(dim=1) == signal.labels[chosen]
    right = named.double().mean().item()
    chance = 1 / signal.classes
    if right > chance + 3 * (chance * (1 - chance) / len(chosen)) ** 0.5:
        return ""
    return f"the teacher names the label of {right:.1%} of {len(chosen)} examples, chance is {chance:.1%}: check its class order"
