"""Tasks: what is held fixed. Data in splits, how a model is read on a batch, metrics, what an example looks like."""

from __future__ import annotations

from fractionate.tasks import (  # they register their metrics and kinds
    area_metrics,
    classification,
    classification_metrics,
    language_modelling,
    number_metrics,
    text_metrics,
    token_classification,
    token_metrics,
    translation,
)
from fractionate.tasks.evaluate import CLASSIFICATION, evaluate_metrics, scores
from fractionate.tasks.kinds import Kind, kinds
from fractionate.tasks.metrics import Metric, info, infos, metrics
from fractionate.tasks.predictions import AttentionStates, Needs, Predictions
from fractionate.tasks.reader import Reader, reading
from fractionate.tasks.task import Splits, Task

__all__ = [
    "CLASSIFICATION",
    "AttentionStates",
    "Kind",
    "Metric",
    "Needs",
    "Predictions",
    "Reader",
    "Splits",
    "Task",
    "area_metrics",
    "classification",
    "classification_metrics",
    "evaluate_metrics",
    "info",
    "infos",
    "kinds",
    "language_modelling",
    "metrics",
    "number_metrics",
    "reading",
    "scores",
    "text_metrics",
    "token_classification",
    "token_metrics",
    "translation",
]
