"""The teacher's signal on a part that it is not distilled on."""

from __future__ import annotations

import torch
from torch import nn

from fractionate.data.batch import Split
from fractionate.data.parts import subset
from fractionate.tasks.task import Task
from fractionate.teachers.online import Online
from fractionate.theory.teacher_signal import TeacherSignal

HELD_OUT_BYTES = 1 << 28  # logits of held-out rows that a diagnosis holds


def held_out_signal(task: Task, teacher: nn.Module, split: Split) -> TeacherSignal | None:
    """The teacher's signal on a part, of as many examples as memory takes; None where it gives no distributions."""
    if not task.reader.distributions:
        return None
    found = next(iter(task.predictions(teacher, split, head=task.teacher_head, view="teacher")))
    row = max(1, len(found)) / max(1, found.examples) * found.required_logits.shape[-1] * 4
    most = max(2, int(HELD_OUT_BYTES // row))
    signal: TeacherSignal = Online(teacher).signal(task, subset(split, torch.arange(min(most, len(split)))))
    return signal
