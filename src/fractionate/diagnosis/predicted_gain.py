"""What distillation will bring, predicted: from the spectrum alone, and from a pilot where there is one, with an interval.

Gains are roots in the fit: they are skewed, and their noise grows with them. The constants are those of bench/predicted_gain.py,
which says how well they predict data sets that they have not seen.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from fractionate.records import Interval, Pilot, PredictedGain, Spectrum

EXAMPLES = (100, 2000)  # transfer sets of the bench: beyond them nothing was measured
SHAPE = (0.0, 0.5)  # nats of domain.shape there


@dataclass(frozen=True)
class Fit:
    """root of the gain in points = intercept + Σ slope · feature, ± `half` in 95 of 100 data sets that were left out."""

    intercept: float
    slopes: tuple[float, ...]
    half: float

    def gain(self, features: Sequence[float]) -> tuple[float, Interval]:
        """The gain in points and its interval; not below 0, since one may train without the teacher."""
        root = self.intercept + sum(slope * value for slope, value in zip(self.slopes, features, strict=True))
        low, middle, high = (max(0.0, root + side * self.half) ** 2 for side in (-1, 0, 1))
        return middle, Interval(low, high)


OF_SIGNAL = Fit(3.383, (-0.4326, 2.927), 1.221)
OF_PILOT = Fit(1.762, (-0.2489, 1.119, 0.6421), 1.295)


def signal_features(examples: int, domain_shape_nats: float) -> tuple[float, ...]:
    """What is known before any training: the log of the number of examples, and the root of the nats between the classes."""
    count = min(max(examples, EXAMPLES[0]), EXAMPLES[1])
    return math.log(count), math.sqrt(min(max(domain_shape_nats, SHAPE[0]), SHAPE[1]))


def pilot_features(examples: int, domain_shape_nats: float, best_gain_points: float) -> tuple[float, ...]:
    """The same, and the root of what the pilot's best arm gained over all its seeds."""
    return (*signal_features(examples, domain_shape_nats), math.sqrt(max(0.0, best_gain_points)))


def predict_gain(spectrum: Spectrum, pilot: Pilot | None, *, tokens: bool = False) -> PredictedGain | None:
    """The gain of the best distillation over no teacher, each at its best learning rate.

    Of tokens and of tasks that likelihood decides what a pilot measured, since nothing else was calibrated there; without one None.
    """
    if tokens or (pilot is not None and pilot.decided_by == "likelihood"):
        if pilot is None:
            return None
        if pilot.decided_by == "likelihood" and pilot.nll_gain_nats is not None and pilot.nll_interval is not None:
            return PredictedGain(pilot.nll_gain_nats, pilot.nll_interval, "nats", "pilot", "what the pilot measured")
        return PredictedGain(pilot.gain_points, pilot.interval, "points", "pilot", "what the pilot measured")
    inside = EXAMPLES[0] <= spectrum.examples <= EXAMPLES[1]
    note = "" if inside else f"calibrated on {EXAMPLES[0]} to {EXAMPLES[1]:,} examples only"
    if pilot is None:
        gain, interval = OF_SIGNAL.gain(signal_features(spectrum.examples, spectrum.domain_shape_nats))
        return PredictedGain(gain, interval, "points", "signal", note)
    best = next(trial for trial in pilot.trials if trial.arm == pilot.chosen)
    features = pilot_features(spectrum.examples, spectrum.domain_shape_nats, best.gain_points)
    gain, interval = OF_PILOT.gain(features)
    return PredictedGain(gain, interval, "points", "signal and pilot", note)
