"""Metrics of tokens, for tasks whose rows are tokens: NLL a token, perplexity, TA rate."""

from __future__ import annotations

import math

from fractionate.tasks.classification_metrics import same_top_one, surprise
from fractionate.tasks.metric import metrics
from fractionate.tasks.summed import Summed, Sums, mean, share


@metrics.register("token-nll")
def token_nll() -> Summed:
    """Mean negative log-likelihood of a labelled token, in nats."""
    return Summed(name="token-nll", unit="nats", better="less", margin=0.02, terms=surprise, finish=mean)


def _perplexity(sums: Sums) -> float:
    found = mean(sums)
    return math.exp(found) if found < 709 else math.inf  # above it a float has no exp


@metrics.register("perplexity")
def perplexity() -> Summed:
    """exp of the mean negative log-likelihood of a token: as unsure as between so many tokens."""
    return Summed(name="perplexity", unit="", better="less", margin=0.5, terms=surprise, finish=_perplexity)


@metrics.register("ta-rate")
def ta_rate() -> Summed:
    """Share of tokens, under teacher forcing, on which student and teacher have the same top-1 (arXiv 2305.08096)."""
    return Summed(name="ta-rate", counts=True, reads_teacher=True, terms=same_top_one, finish=share)
