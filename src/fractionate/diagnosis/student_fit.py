"""The student's own architecture, trained briefly on half of the labels: what it can learn here, and a rival of the teacher."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn

from fractionate.data.memory import MemorySplit
from fractionate.diagnosis.linear_probe import parts
from fractionate.diagnosis.transfer import Transfer
from fractionate.errors import NumericsError
from fractionate.models.outputs import device_of
from fractionate.records import Training
from fractionate.training.distillation import distill
from fractionate.training.distributed import alone
from fractionate.training.recipe import Recipe

MOST_PARAMETERS, MOST_EXAMPLES, FEWEST_EXAMPLES = 200_000, 2000, 100
BRIEFLY = Training(steps=300, batch_size=64, learning_rate=5e-3, weight_decay=0.01, schedule="constant")


@dataclass(frozen=True, eq=False)
class StudentFit:
    """A copy of the student after 300 steps on the labels of one half.

    Args:
        right: Of the other half, which labels it gets right; `places` are their rows.
        fitted: Its accuracy on the half it was trained on.
    """

    right: Bool[Tensor, "judged"]
    places: Int[Tensor, "judged"]
    fitted: float


def student_fit(student: nn.Module, transfer: Transfer) -> StudentFit | None:
    """Train a copy by `distill` on labels alone (`BRIEFLY`); the student and the random stream are left as they were.

    None for students of more than 200,000 parameters, for rows that are no examples, inputs that are no tensor of floating-point
    numbers, fewer than 100 examples, and a run that diverged. Views of one example go to one half.
    """
    inputs, labels = transfer.inputs, transfer.labels
    if inputs is None or not inputs.is_floating_point() or len(labels) < FEWEST_EXAMPLES:
        return None
    if sum(p.numel() for p in student.parameters()) > MOST_PARAMETERS or not any(
        p.requires_grad for p in student.parameters()
    ):
        return None
    half = parts(transfer.group, 2) == 0
    some = torch.arange(0, len(labels), -(-len(labels) // MOST_EXAMPLES))
    own, other = some[half[some]], some[~half[some]]
    if not len(own) or not len(other):
        return None
    halves = [MemorySplit(inputs[rows], labels[rows]) for rows in (own, other)]
    task = replace(
        transfer.task, transfer=halves[0], validation=None, test=None, student=lambda: copy.deepcopy(student),
        device=str(device_of(student)),
    )  # fmt: skip
    leaves_one = len(own) % BRIEFLY.batch_size == 1  # batch normalisation needs two examples in a batch
    training = replace(BRIEFLY, batch_size=BRIEFLY.batch_size - leaves_one)
    try:
        with alone():
            model, _ = distill(task, recipe=Recipe(training=training), show="nothing")
    except NumericsError:
        return None

    def right(split: MemorySplit) -> Bool[Tensor, "rows"]:
        found = task.predictions(model, split, head=task.head)
        return torch.cat([rows.required_logits.argmax(1) == rows.labels for rows in found]).cpu()

    return StudentFit(right(halves[1]), other, float(right(halves[0]).double().mean()))
