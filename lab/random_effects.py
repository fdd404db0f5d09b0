"""Effects of studies joined over data sets."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite
from typing import NamedTuple

import numpy as np

LEAST_VARIANCE = 1e-6


class Joined(NamedTuple):
    """A mean over data sets, the ends of its 95 % interval, the p value of no effect, the number of data sets."""

    mean: float
    low: float
    high: float
    p: float
    sets: int


def joined(gains: Sequence[float], variances: Sequence[float]) -> Joined:
    """The mean effect over at least two data sets, each with the variance of its own effect.

    Random effects (DerSimonian and Laird 1986) with the interval of Hartung, Knapp, Sidik and Jonkman, which allows for few sets. A
    variance between sets that comes out below 0 is 0, as their paper has it: statsmodels takes it as it comes.
    """
    from scipy import stats
    from statsmodels.stats.meta_analysis import combine_effects

    known = np.maximum(np.asarray(variances, float), LEAST_VARIANCE)
    with np.errstate(invalid="ignore"):
        found = combine_effects(np.asarray(gains, float), known, method_re="dl", use_t=True)
    between = found.tau2 > 0
    mean = float(found.mean_effect_re if between else found.mean_effect_fe)
    error = float(found.sd_eff_w_re_hksj if between else found.sd_eff_w_fe_hksj)
    half = float(stats.t.ppf(0.975, len(gains) - 1)) * error
    p = 2 * float(stats.t.sf(abs(mean) / error, len(gains) - 1)) if error else 1.0
    return Joined(mean, mean - half, mean + half, p if isfinite(p) else 1.0, len(gains))


def holm(values: Sequence[float]) -> list[float]:
    """p values corrected together (Holm 1979)."""
    from statsmodels.stats.multitest import multipletests

    return multipletests(values, method="holm")[1].tolist() if values else []
