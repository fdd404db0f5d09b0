"""Tasks: what is held fixed. Data in splits, how a model is read on a batch, metrics, what an example looks like."""

from __future__ import annotations

from fractionate.tasks import (  # they register their metrics
    area_metrics,
    classification_metrics,
    number_metrics,
    text_metrics,
    token_metrics,
)
from fractionate.tasks.evaluate import CLASSIFICATION, evaluate_metrics, scores
from fractionate.tasks.metrics import Metric, info, infos, metrics
from fractionate.tasks.predictions import AttentionStates, Needs, Predictions

__all__ = [
    "CLASSIFICATION",
    "AttentionStates",
    "Metric",
    "Needs",
    "Predictions",
    "area_metrics",
    "classification_metrics",
    "evaluate_metrics",
    "info",
    "infos",
    "metrics",
    "number_metrics",
    "scores",
    "text_metrics",
    "token_metrics",
]
