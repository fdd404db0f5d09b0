"""The student's own architecture, trained briefly on half of the labels: what it can learn here, and a rival of the teacher."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn

from fractionate.diagnosis.linear_probe import parts
from fractionate.diagnosis.transfer import Transfer
from fractionate.tasks.reader import reading

MOST_PARAMETERS, MOST_EXAMPLES = 200_000, 2000
STEPS, BATCH, RATE = 300, 64, 5e-3
FEWEST_EXAMPLES = 100


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
    """Train a copy (AdamW, learning rate 0.005, batches of 64); the student and the random stream are left as they were.

    None for students of more than 200,000 parameters, for rows that are no examples, inputs that are no tensor of floating-point
    numbers, and fewer than 100 examples. Views of one example go to one half.
    """
    inputs, labels = transfer.inputs, transfer.labels
    if inputs is None or not inputs.is_floating_point() or len(labels) < FEWEST_EXAMPLES:
        return None
    if sum(p.numel() for p in student.parameters()) > MOST_PARAMETERS or not any(
        p.requires_grad for p in student.parameters()
    ):
        return None
    draw = torch.Generator().manual_seed(0)
    half = parts(transfer.group, 2) == 0
    some = torch.arange(0, len(labels), -(-len(labels) // MOST_EXAMPLES))
    own, other = some[half[some]], some[~half[some]]
    if not len(own) or not len(other):
        return None
    model, task, split = copy.deepcopy(student), transfer.task, transfer.split
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=RATE)

    def logits(rows: Tensor) -> Tensor:
        batch = next(iter(split.batches([(0, transfer.example[rows])], 0)))
        with reading(model) as reader:
            output, captured = reader(reader.inputs_of(batch))
            return task.rows(output, captured, batch, head=task.head).required_logits

    def accurate(rows: Tensor) -> Bool[Tensor, "rows"]:
        with torch.no_grad():
            return torch.cat([logits(part).argmax(1) == labels[part] for part in torch.split(rows, 512)])

    with torch.enable_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model.train()
        for _ in range(STEPS):
            rows = own[torch.randint(len(own), (min(BATCH, len(own)),), generator=draw)]
            loss = nn.functional.cross_entropy(logits(rows).float(), labels[rows])
            if not bool(loss.isfinite()):
                return None
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        model.eval()
        return StudentFit(accurate(other), other, float(accurate(own).double().mean()))
