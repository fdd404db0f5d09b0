"""Metrics of examples with several labels each: F1 by label, micro and macro, and the share of examples right as a whole."""

from __future__ import annotations

from typing import Any, Literal

import torch
from jaxtyping import Int
from torch import Tensor

from fractionate.data.labels import IGNORED
from fractionate.errors import MismatchError
from fractionate.tasks.classification_metrics import f1_metric
from fractionate.tasks.metric import metrics
from fractionate.tasks.predictions import Predictions
from fractionate.tasks.summed import Summed, Sums, judged_rows, row_weight, share


def label_of_rows(predictions: Predictions) -> Int[Tensor, "rows"]:
    """Which label each row is about: its column in the batch's labels. Raises `MismatchError` for rows that are no labels."""
    known = predictions.batch.labels.cpu() != IGNORED
    known = known[:, None] if known.ndim == 1 else known  # one label an example
    if known.ndim != 2 or int(known.sum()) != len(predictions) or predictions.reading.classes != 2:
        raise MismatchError(
            "metrics of labels need a two-class row for each label",
            expected="a task of kind multi-label",
            got=f"labels {list(known.shape)}, {len(predictions)} rows of {predictions.reading.classes} classes",
        )
    return known.nonzero()[:, 1]


def _by_label(predictions: Predictions, signal: Any | None) -> Sums:
    column, rows = label_of_rows(predictions), predictions.reading
    count = predictions.batch.labels.flatten(1).shape[1] if predictions.batch.labels.ndim > 1 else 1
    kept, weight = judged_rows(predictions)
    if kept is not None:
        column, rows = column[kept], rows.take(kept)

    def total(which: Tensor) -> Tensor:
        sums = torch.zeros(count, dtype=torch.float64)
        return sums.index_add_(0, column[which], weight[which])

    has, claims = rows.labels == 1, rows.predicted == 1
    return {"weight": weight.sum(), "right": total(has & claims), "labelled": total(has), "predicted": total(claims)}


@metrics.register("label-f1")
def label_f1(average: Literal["macro", "micro"] = "macro") -> Summed:
    """F1 = 2 right / (labelled + predicted) of having a label: mean over the labels that occur, or `'micro'` over all of them."""
    return f1_metric("label-f1", _by_label, average)


def _whole(predictions: Predictions, signal: Any | None) -> Sums:
    label_of_rows(predictions)  # checks the rows
    _, judged = judged_rows(predictions)
    if not len(judged):
        return {}
    place = predictions.by_row(torch.arange(predictions.examples))
    wrong = torch.bincount(place, weights=(~predictions.reading.correct).double(), minlength=predictions.examples)
    rows = torch.bincount(place, minlength=predictions.examples)
    weight = torch.zeros(predictions.examples, dtype=torch.float64)
    weight[place] = row_weight(predictions)
    if predictions.batch.labelled is not None:
        weight *= predictions.batch.labelled.cpu()
    weight *= rows > 0
    return {"weight": weight.sum(), "sum": weight[wrong == 0].sum()}


@metrics.register("exact-match")
def exact_match() -> Summed:
    """Share of examples all of whose known labels are predicted right."""
    return Summed(name="exact-match", counts=True, terms=_whole, finish=share)
