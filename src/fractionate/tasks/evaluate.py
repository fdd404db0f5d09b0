"""From predictions to scores: every metric added up batch by batch, nothing held but the metrics' own states."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fractionate.data.batch import Batch
from fractionate.errors import MismatchError
from fractionate.records import Scores
from fractionate.tasks.classification_metrics import accuracy, agreement, ece, nll
from fractionate.tasks.metric import Metric
from fractionate.tasks.predictions import Predictions
from fractionate.theory.teacher_signal import TeacherSignal
from fractionate.theory.topk_signal import CompactSignal

CLASSIFICATION: tuple[Metric, ...] = (accuracy(), nll(), ece(), agreement())  # the first decides


def evaluate_metrics(
    batches: Iterable[tuple[Predictions, Any | None]], metrics: Sequence[Metric], *, final: bool = False
) -> Scores:
    """Scores of predictions that come batch by batch.

    Args:
        batches: Predictions of a batch and the teacher's signal on the same rows, None without a teacher.
        metrics: What is evaluated, in this order.
        final: Whether metrics that are too expensive during training (`final_only`) are evaluated too.

    Returns:
        `Scores`: a value of each metric, and the number of rows.

    Raises:
        MismatchError: No rows, or predictions that a metric does not fit. A metric without a value is left out.
        NumericsError: Predictions that are not finite, by example.

    Example:
        import torch
        from fractionate.data import Batch
        from fractionate.tasks import CLASSIFICATION, Predictions, evaluate_metrics

        labels = torch.arange(4)
        batch = Batch(inputs=None, labels=labels, index=torch.arange(4))
        rows = Predictions(logits=torch.randn(4, 4), labels=labels, place=None, batch=batch)
        print(evaluate_metrics([(rows, None)], CLASSIFICATION))
    """
    used = [(metric, metric.start()) for metric in metrics if final or not metric.final_only]
    examples = rows = 0
    for predictions, signal in batches:
        plain = predictions.detached()
        for metric, state in used:
            metric.add(state, plain, signal)
        examples, rows = examples + predictions.examples, rows + len(predictions)
    if not rows:
        raise MismatchError(
            "there is nothing to evaluate", expected="at least one labelled row", got=f"{examples} examples"
        )
    values = {metric.name: metric.value(state) for metric, state in used}
    return Scores(examples, rows, {name: value for name, value in values.items() if value is not None})


def scores(
    logits: Float[Tensor, "rows classes"],
    labels: Int[Tensor, "rows"],
    signal: TeacherSignal | CompactSignal | None = None,
    *,
    metrics: Sequence[Metric] = CLASSIFICATION,
) -> Scores:
    """Scores of logits in memory: accuracy, NLL, ECE and, with a teacher's signal on the same rows, agreement.

    Args:
        logits: [rows, classes].
        labels: [rows] class numbers.
        signal: The teacher's on the same rows.
        metrics: What is evaluated.

    Returns:
        `Scores`.

    Raises:
        MismatchError: where logits, labels and signal do not fit.
        NumericsError: for logits that are not finite.

    Example:
        import torch
        from fractionate.tasks import scores

        print(scores(torch.eye(4), torch.arange(4)))
    """
    batch = Batch(inputs=None, labels=labels, index=torch.arange(len(labels)))
    predictions = Predictions(logits=logits, labels=labels, place=None, batch=batch)
    return evaluate_metrics([(predictions, signal)], metrics, final=True)
