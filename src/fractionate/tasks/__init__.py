"""Tasks: what is held fixed. Data in splits, how a model is read on a batch, metrics, what an example looks like."""

from __future__ import annotations

from fractionate.tasks.predictions import AttentionStates, Needs, Predictions

__all__ = ["AttentionStates", "Needs", "Predictions"]
