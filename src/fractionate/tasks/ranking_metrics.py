"""Metrics of rows whose classes are ranked: the mean reciprocal rank of the label."""

from __future__ import annotations

from typing import Any

from fractionate.tasks.metric import metrics
from fractionate.tasks.predictions import Predictions
from fractionate.tasks.summed import Summed, Sums, judged_rows, share


def _reciprocal(predictions: Predictions, signal: Any | None) -> Sums:
    kept, weight = judged_rows(predictions)
    logits, labels = predictions.required_logits.detach(), predictions.reading.labels  # labels and numbers are checked
    own = logits.gather(1, labels.to(logits.device)[:, None])
    above = (logits > own).sum(dim=1).double()
    equal = (logits == own).sum(dim=1).double() - 1
    ranks = (1 + above + equal / 2).cpu()  # the mean place among equals: a constant model gets no credit for an order
    return {"weight": weight.sum(), "sum": (weight / (ranks if kept is None else ranks[kept])).sum()}


@metrics.register("mrr")
def mrr() -> Summed:
    """Mean over rows of 1 / rank of the label among the classes (candidates), in points; equal ones share their mean rank."""
    return Summed(name="mrr", terms=_reciprocal, finish=share)
