"""Probes of the teacher's certainty on data that are new to it, and of labels that are its own answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from fractionate.diagnosis.case import Case, Judgement, Measurement, Need, fine, probes
from fractionate.diagnosis.interval import mean_interval
from fractionate.records import Evidence


@probes.register("held-out-calibration")
@dataclass(frozen=True)
class HeldOutCalibration:
    """Is the teacher as sure of itself on new data as it is right?

    Measured on the held-out signal: mean top probability less accuracy, and the temperature with the least log-loss there. Too
    sure: ahead of its accuracy by `sure` = 8 points (interval clear of 0), or a best temperature above `hot` = 1.6. Warning where
    the best temperature gains `costly` = 0.1 nats (where it gained less, students of the divided logits gained less than a point);
    else information where it is ahead. Too soft: behind by `soft` = 20 points, or a best temperature below `cold` = 0.5 that gains
    `gain` = 0.02 nats. Information, since forests and smoothed teachers are so and students gained by it; warning where `flat` =
    85 % of the way from its accuracy to a uniform answer is gone.
    """

    sure: float = 0.08
    soft: float = 0.2
    hot: float = 1.6
    cold: float = 0.5
    flat: float = 0.85
    gain: float = 0.02
    costly: float = 0.1
    needs: ClassVar[tuple[Need, ...]] = ("held_out",)

    def __call__(self, case: Case) -> Measurement:
        reading, mixture = case.held_out_reading, case.held_out_mixture
        assert reading is not None and mixture is not None
        ahead = reading.top - reading.correct.double()
        evidence = [
            Evidence("top probability above accuracy", float(ahead.mean()), "share", mean_interval(ahead), self.sure),
            Evidence("accuracy on held-out data", reading.accuracy, "share"),
            Evidence("chance", 1 / reading.classes, "share"),
            Evidence("temperature of the least log-loss", mixture.temperature, "", None, self.hot),
            Evidence("gained by it", mixture.gained, "nats", None, self.costly),
        ]
        return Measurement(tuple(evidence), enough=len(reading) >= 30)

    def judge(self, measured: Measurement) -> Judgement:
        if not measured.enough:
            return fine("too few held-out examples to tell")
        name = "top probability above accuracy"
        ahead, right = measured[name], measured["accuracy on held-out data"]
        gained = measured["gained by it"]
        known = gained > self.gain
        best = measured["temperature of the least log-loss"] if known else 1.0
        surer = ahead > self.sure and measured.low(name) > 0
        hot = best > self.hot and gained > self.costly
        message = f"mean top probability {right + ahead:.1%}, accuracy {right:.1%}" + (
            f"; its best temperature is {best:.2g}" if known else ""
        )
        if surer or hot:
            return Judgement(
                "warning" if gained > self.costly else "info", 0.5 / best if hot else 1 - max(0.0, ahead),
                f"the teacher is too sure of itself on held-out data: {message}",
                "It was trained too long or on too few examples, its logits were multiplied, or many held-out labels are wrong.",
                "Divide its logits by that temperature, take an earlier checkpoint, or leave the labels more weight.",
                patch=(("objective.temperature", round(best, 1)),) if hot else (),
            )  # fmt: skip
        if ahead < -self.soft or best < self.cold:
            return Judgement(
                "warning" if -ahead > self.flat * (right - measured["chance"]) else "info",
                1 + ahead if best >= self.cold else best,
                f"the teacher is less sure of held-out data than it is right: {message}",
                "It was trained with much smoothing or wrong labels, or its logits were divided by a temperature or by their norm.",
                "Multiply its logits back (divide by that temperature), and plan with no higher temperature than 1 until then.",
            )
        return fine(f"as sure as it is right on held-out data: {message}", 1 - abs(ahead))


@probes.register("answers-as-labels")
@dataclass(frozen=True)
class AnswersAsLabels:
    """Are the labels the teacher's own answers?

    Where the two largest logits nearly tie, a teacher is right about every other time, however well it is calibrated. Measured: the
    rows whose margin is below `near` = 0.1 of the median margin, and how many of them are right. Warning where all rows are right,
    near ties are at least `ties` = 8 and the teacher expects `errors` = 3 errors or more: accuracy then says nothing.
    """

    near: float = 0.1
    ties: float = 8.0
    errors: float = 3.0
    needs: ClassVar[tuple[Need, ...]] = ()

    def __call__(self, case: Case) -> Measurement:
        reading = case.reading
        close = (reading.margin > 0) & (reading.margin < self.near * reading.margin.median())
        return Measurement(
            (
                Evidence("near ties", float(close.sum()), "rows", None, self.ties),
                Evidence("errors", float((~reading.correct).sum()), "rows"),
                Evidence("errors that its doubt announces", float((1 - reading.top).sum()), "rows", None, self.errors),
            )
        )

    def judge(self, measured: Measurement) -> Judgement:
        ties, wrong = measured["near ties"], measured["errors"]
        if wrong or ties < self.ties or measured["errors that its doubt announces"] < self.errors:
            return fine(
                "labels and answers differ as those of a teacher do"
                if wrong
                else "no sign that the labels are its answers"
            )
        return Judgement(
            "warning", 0.3,
            f"the labels are the teacher's own answers: all are right, also {ties:.0f} near ties, of which half would be wrong",
            "The labels were made by this teacher (pseudo-labels): they add nothing to its signal, and its accuracy here is 100 % "
            "by construction.",
            "Judge teacher and students on true labels, and give the labels no weight next to the teacher.",
            patch=(("objective.teacher_weight", 1.0),),
        )  # fmt: skip
