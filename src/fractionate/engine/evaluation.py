"""What a student says on data, and how good that is."""

from __future__ import annotations

from typing import Any

from torch import nn

from fractionate.data.splits import as_split
from fractionate.engine.council import as_signal, predictions
from fractionate.outputs import Head
from fractionate.records import Scores
from fractionate.tasks import scores
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
    feed = as_split(examples, "evaluation data")
    teacher = as_signal(signal, feed)
    logits, labels = predictions(model, feed, batch_size=batch_size, head=head, predicts_next=predicts_next)
    return scores(logits, labels, teacher)
