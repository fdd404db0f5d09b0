"""What a student says on data, and how good that is."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from fractionate.council import as_signal
from fractionate.feed import Feed, as_feed
from fractionate.outputs import Head, call, logits_of, rows
from fractionate.records import Scores
from fractionate.scores import scores
from fractionate.teacher import TeacherSignal


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

    `examples` is anything `distill` takes. Raises `MismatchError` where outputs, labels and signal do not fit.
    """
    feed = as_feed(examples, "evaluation data")
    teacher = as_signal(signal, feed)
    logits, labels = predictions(model, feed, batch_size=batch_size, head=head, predicts_next=predicts_next)
    return scores(logits, labels, None if teacher is None else teacher.logits.to(logits.device))


def predictions(
    model: nn.Module, feed: Feed, *, batch_size: int = 512, head: Head = None, predicts_next: bool = False
) -> tuple[Float[Tensor, "rows classes"], Int[Tensor, "rows"]]:
    """The model's logits and the labels on all the data, in its order; evaluation mode, no graph, mode restored."""
    device = device_of(model)
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    plan = ((0, index) for index in torch.split(torch.arange(len(feed)), batch_size))
    found: list[tuple[Tensor, Tensor]] = []
    try:
        with torch.no_grad():
            for batch in feed.batches(plan, seed=0):
                batch = batch.to(device)
                logits = logits_of(call(model, batch.inputs), head)
                found.append(rows(logits.float(), batch.labels, predicts_next=predicts_next)[:2])
    finally:
        for module, mode in modes:
            module.training = mode
    return torch.cat([logits for logits, _ in found]), torch.cat([labels for _, labels in found])


def device_of(model: nn.Module) -> torch.device:
    """Where a model's first parameter or buffer lives."""
    for tensor in (*model.parameters(), *model.buffers()):
        return tensor.device
    return torch.device("cpu")
