"""Tasks: what is held fixed. Data in splits, how a model is read on a batch, metrics, what an example looks like."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fractionate.system.lazy import exports

if TYPE_CHECKING:
    from fractionate.tasks.evaluate import CLASSIFICATION as CLASSIFICATION
    from fractionate.tasks.evaluate import evaluate_metrics as evaluate_metrics
    from fractionate.tasks.evaluate import scores as scores
    from fractionate.tasks.fit import check_fit as check_fit
    from fractionate.tasks.kind import Kind as Kind
    from fractionate.tasks.kind import kinds as kinds
    from fractionate.tasks.metric import Metric as Metric
    from fractionate.tasks.metric import info as info
    from fractionate.tasks.metric import infos as infos
    from fractionate.tasks.metric import metrics as metrics
    from fractionate.tasks.predictions import AttentionStates as AttentionStates
    from fractionate.tasks.predictions import Needs as Needs
    from fractionate.tasks.predictions import Predictions as Predictions
    from fractionate.tasks.reader import Reader as Reader
    from fractionate.tasks.reader import reading as reading
    from fractionate.tasks.task import Splits as Splits
    from fractionate.tasks.task import Task as Task
else:
    __getattr__, __dir__, __all__ = exports(__name__)
