"""The transfer set as a diagnosis reads it: once, through its task, with what the student predicts on every row."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn

from fractionate.data.batch import Batch, Places, Split
from fractionate.data.labels import check_same_labels
from fractionate.data.memory import MemorySplit
from fractionate.data.splits import as_split
from fractionate.data.stream import StreamSplit
from fractionate.errors import ConfigError, MismatchError
from fractionate.losses.objective import Objective, Signal
from fractionate.models.outputs import Head, device_of
from fractionate.records import Training
from fractionate.tasks.reader import reading
from fractionate.tasks.task import Task
from fractionate.theory.teacher_signal import TeacherSignal

GRADIENT_EXAMPLES, GRADIENT_ELEMENTS = 256, 1 << 26  # logits of one backward pass


@dataclass(frozen=True, eq=False)
class Transfer:
    """Rows of the transfer set, in its order.

    Args:
        labels: [rows]; numbers [rows, ...] of tasks without classes.
        example: [rows] place of each row's example.
        tokens: Whether a row is a labelled token.
        inputs: [rows, ...] where every row is an example whose input is one tensor; None otherwise.
        logits: [rows, student classes]; None without a student.
    """

    task: Task
    labels: Shaped[Tensor, "rows *numbers"]
    example: Int[Tensor, "rows"]
    tokens: bool
    inputs: Tensor | None = None
    logits: Float[Tensor, "rows *outputs"] | None = None

    @property
    def split(self) -> Split:
        """The data."""
        return self.task.splits.transfer

    @property
    def no_inputs(self) -> str:
        """Why there are no inputs to compare."""
        return (
            "rows are tokens or labels of one"
            if self.tokens
            else "inputs are not one tensor an example, all of one shape"
        )

    def __len__(self) -> int:
        return len(self.labels)

    def id_of(self, row: int) -> str:
        """The id of a row's example; of tokens with the place among its labelled tokens."""
        example = int(self.example[row])
        if not self.tokens:
            return self.split.ids[example]
        first = int(torch.searchsorted(self.example, example))
        return f"{self.split.ids[example]}:{row - first}"

    @cached_property
    def group(self) -> Int[Tensor, "rows"]:
        """A number for each id: views of one example have the same."""
        if isinstance(self.split.ids, Places):
            return self.example
        seen: dict[str, int] = {}
        numbers = torch.tensor([seen.setdefault(name, len(seen)) for name in self.split.ids])
        return numbers[self.example]

    @cached_property
    def offsets(self) -> Int[Tensor, "starts"]:
        """Where each example's rows start, and the end of the last."""
        sizes = torch.bincount(self.example, minlength=len(self.split))
        return torch.cat([sizes.new_zeros(1), sizes.cumsum(0)])


def task_of(
    data: Any, student: Any, *, rows: int | None = None, head: Head = None, predicts_next: bool = False
) -> Task:
    """The task of what a diagnosis is given: a task as it is, else the classification (or next-token) task over the data.

    Args:
        student: A function that makes students takes the place of the task's; a model does not.
        rows: The rows of the signal: as many examples are read of a stream.
    """
    factory = student if callable(student) and not isinstance(student, nn.Module) else None
    if isinstance(data, Task):
        if head is not None or predicts_next:
            raise ConfigError(
                "a task has its own head and kind", got="head or predicts_next with a task", fix="set them in the task"
            )
        task = data if factory is None else replace(data, student=factory)
    else:
        training = None if rows is None else Training(steps=1, batch_size=rows)
        kind = "language-modelling" if predicts_next else "classification"
        task = Task(kind, transfer=as_split(data, training=training), student=factory, head=head)
    return task


def read_transfer(task: Task, student: nn.Module | None) -> Transfer:
    """Read all of a task's transfer set once, in evaluation mode without gradients; the student is left as it was."""
    split = task.splits.transfer
    labels, examples, logits, tokens = [], [], [], False
    parts: list[Tensor] = []
    for batch, found, gold, example in _rows(task, split, student):
        labels.append(gold.cpu())
        examples.append(example.cpu())
        tokens = tokens or (task.reader.distributions and task.reader.labels(batch).ndim > 1)
        if found is not None:
            logits.append(found.float().cpu())
        if isinstance(batch.inputs, Tensor) and not tokens:
            parts.append(batch.inputs.cpu())
    example = torch.cat(examples)
    whole = None
    if not tokens and len(parts) == len(labels) and len({part.shape[1:] for part in parts}) == 1:
        whole = split.inputs if isinstance(split, MemorySplit) else torch.cat(parts)
        whole = whole if len(example) == len(whole) else whole[example]
    return Transfer(task, torch.cat(labels), example, tokens, whole, torch.cat(logits) if logits else None)


def _rows(task: Task, split: Split, student: nn.Module | None) -> Any:
    """Batch by batch: the batch, the student's logits or None, labels and examples of the rows."""
    if student is not None:
        for found in task.predictions(student, split, head=task.head):
            yield found.batch, found.required_logits, found.labels, found.example
        return
    plan = ((0, index) for index in torch.split(torch.arange(len(split)), task.batch_size))
    for batch in split.batches(plan, 0):
        gold, place = task.reader.label_rows(batch)
        yield batch, None, gold, batch.index if place is None else batch.index[place.cpu()]


def check_transfer(transfer: Transfer, signal: Signal) -> None:
    """Raise `MismatchError` where the data and the signal are not of the same rows."""
    if len(transfer) != len(signal):
        raise MismatchError(
            f"the data and the signal have different numbers of {'labelled tokens' if transfer.tokens else 'examples'}",
            expected=f"{len(signal)}", got=f"{len(transfer)}",
            fix="pass the very data that the signal was collected on, in the same order",
        )  # fmt: skip
    check_same_labels(signal.labels.cpu(), transfer.labels, transfer.example)


def first_gradients(
    student: nn.Module, transfer: Transfer, signal: TeacherSignal, objective: Objective
) -> tuple[Tensor, Tensor]:
    """The gradients of the label's part and of the teacher's part of the loss in the student's parameters, each a vector.

    On up to 256 examples drawn with a fixed seed (the first of a stream), in evaluation mode; the student's own gradients are
    not touched.
    """
    task, split, device = transfer.task, transfer.split, device_of(student)
    per_example = max(1, len(transfer) // len(split)) * signal.classes
    count = max(1, min(GRADIENT_EXAMPLES, GRADIENT_ELEMENTS // per_example))
    order = torch.randperm(len(split), generator=torch.Generator().manual_seed(0))[:count].sort().values
    if isinstance(split, StreamSplit):
        order = torch.arange(len(order))
    rows = torch.isin(transfer.example, order).nonzero().flatten()
    training = {module: module.training for module in student.modules()}
    student.eval()
    parameters = [p for p in student.parameters() if p.requires_grad]
    try:
        with torch.enable_grad(), reading(student) as reader:
            batch: Batch = next(iter(split.batches([(0, order)], 0))).to(device)
            output, captured = reader(reader.inputs_of(batch))
            found = task.rows(output, captured, batch, head=task.head)
            rows_signal = signal.take(rows.to(signal.logits.device)).to(device)
            logits = found.required_logits.float()
            loss = objective(logits, rows_signal).mean()
            label = (1 - objective.teacher_weight) * nn.functional.cross_entropy(logits, rows_signal.labels)
            grads = [
                torch.autograd.grad(part, parameters, retain_graph=True, allow_unused=True) for part in (label, loss)
            ]
    finally:
        for module, mode in training.items():
            module.training = mode
    hard, both = (
        torch.cat([(torch.zeros_like(p) if g is None else g).flatten() for g, p in zip(part, parameters, strict=True)])
        for part in grads
    )
    return hard.double().cpu(), (both - hard).double().cpu()
