"""Intervals of shares, means and differences: closed forms, so that a probe costs no resampling."""

from __future__ import annotations

import math

from jaxtyping import Float
from torch import Tensor

from fractionate.records import Interval

NORMAL_95 = 1.959964  # the two-sided 95 % point of the normal distribution


def share_interval(hits: int, trials: int) -> Interval:
    """Wilson's score interval of a share, in 0..1 (Wilson, 1927); right for shares of 0 and 1 too."""
    if trials == 0:
        return Interval(0.0, 1.0)
    z2 = NORMAL_95**2
    share = hits / trials
    middle = (share + z2 / (2 * trials)) / (1 + z2 / trials)
    half = NORMAL_95 / (1 + z2 / trials) * math.sqrt(share * (1 - share) / trials + z2 / (4 * trials**2))
    # rounding must not push the interval off its own share
    return Interval(max(0.0, min(middle - half, share)), min(1.0, max(middle + half, share)))


def mean_interval(values: Float[Tensor, "n"]) -> Interval:
    """Normal interval of a mean."""
    mean = float(values.double().mean())
    if len(values) < 2:
        return Interval(-math.inf, math.inf)
    half = NORMAL_95 * float(values.double().std()) / math.sqrt(len(values))
    return Interval(mean - half, mean + half)


def paired_interval(first: Float[Tensor, "n"], second: Float[Tensor, "n"]) -> Interval:
    """Normal interval of the mean of first - second, example by example."""
    return mean_interval(first.double() - second.double())
