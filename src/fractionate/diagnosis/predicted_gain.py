"""What distillation will bring, predicted: from the signal, the student and a pilot, as far as there are, with an interval.

Gains are roots in the fit: they are skewed, and their noise grows with them. The constants are those of bench/predicted_gain.py,
which says how well they predict data sets that they have not seen.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from fractionate.diagnosis.case import Case
from fractionate.records import Interval, Pilot, PredictedGain

EXAMPLES = (100, 2000)  # transfer sets of the bench: beyond them nothing was measured
SHAPE = (0.0, 0.5)  # nats of domain.shape there
MOST_LEAD = 0.3  # of the teacher over the student's own kind: beyond it no gain grew


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


OF_SIGNAL = Fit(2.204, (-0.3367, 3.472, 0.7114), 1.274)
OF_STUDENT = Fit(1.658, (-0.2257, 2.255, 2.445), 1.407)
OF_PILOT = Fit(1.83, (-0.2583, 1.736, 0.5935), 1.382)


@dataclass(frozen=True)
class Known:
    """What a diagnosis knows of a gain before any training.

    Args:
        examples: Of the transfer set.
        domain_shape_nats: The spectrum's.
        skill: The teacher's accuracy above the commonest class, as a share of what is left above it; on held-out data where given.
        lead: Its accuracy above that of the student's own kind, trained on half of the labels; None: not known.
    """

    examples: int
    domain_shape_nats: float
    skill: float
    lead: float | None = None

    @classmethod
    def of(cls, case: Case) -> Known:
        """What a case tells."""
        reading, spectrum = case.held_out_reading or case.reading, case.spectrum
        commonest = float(reading.counts.max()) / len(reading)
        skill = (reading.accuracy - commonest) / (1 - commonest) if commonest < 1 else 0.0
        lead = None if case.fit is None else reading.accuracy - float(case.fit.right.double().mean())
        return cls(spectrum.examples, spectrum.domain_shape_nats, max(0.0, skill), lead)

    @property
    def features(self) -> tuple[float, float]:
        """The log of the number of examples, and the root of the nats between the classes, as far as the teacher has skill."""
        count = min(max(self.examples, EXAMPLES[0]), EXAMPLES[1])
        return math.log(count), math.sqrt(self.skill * min(max(self.domain_shape_nats, SHAPE[0]), SHAPE[1]))

    @property
    def of_signal(self) -> tuple[float, ...]:
        """These, and the root of the skill: a teacher without any has nothing to teach."""
        return (*self.features, math.sqrt(self.skill))

    @property
    def of_student(self) -> tuple[float, ...]:
        """These, and the root of the teacher's lead over the student's own kind."""
        return (*self.features, math.sqrt(min(max(self.lead or 0.0, 0.0), MOST_LEAD)))

    def of_pilot(self, best_gain_points: float) -> tuple[float, ...]:
        """These, and the root of what the pilot's best arm gained over all its seeds."""
        return (*self.features, math.sqrt(max(0.0, best_gain_points)))


def predict_gain(known: Known, pilot: Pilot | None, *, tokens: bool = False) -> PredictedGain | None:
    """The gain of the best distillation over no teacher, each at its best learning rate.

    Of tokens and of tasks that likelihood decides what a pilot measured, since nothing else was calibrated there; without one None.
    """
    if tokens or (pilot is not None and pilot.decided_by == "likelihood"):
        if pilot is None:
            return None
        if pilot.decided_by == "likelihood" and pilot.nll_gain_nats is not None and pilot.nll_interval is not None:
            return PredictedGain(pilot.nll_gain_nats, pilot.nll_interval, "nats", "pilot", "what the pilot measured")
        return PredictedGain(pilot.gain_points, pilot.interval, "points", "pilot", "what the pilot measured")
    inside = EXAMPLES[0] <= known.examples <= EXAMPLES[1]
    note = "" if inside else f"calibrated on {EXAMPLES[0]} to {EXAMPLES[1]:,} examples only"
    if pilot is not None:
        best = next(trial for trial in pilot.trials if trial.arm == pilot.chosen)
        return PredictedGain(*OF_PILOT.gain(known.of_pilot(best.gain_points)), "points", "signal and pilot", note)
    if known.lead is not None:
        return PredictedGain(*OF_STUDENT.gain(known.of_student), "points", "signal and student", note)
    return PredictedGain(*OF_SIGNAL.gain(known.of_signal), "points", "signal", note)
