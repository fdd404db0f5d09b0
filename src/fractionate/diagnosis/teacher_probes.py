"""Probes of the teacher's knowledge: is it good enough, unsure enough, and does it still relate classes?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from fractionate.diagnosis.case import Case, Judgement, Measurement, Need, fine, probes
from fractionate.diagnosis.interval import mean_interval, paired_interval, share_interval
from fractionate.records import Evidence, Interval, Severity
from fractionate.theory.teacher_signal import TeacherSignal


@probes.register("weak-teacher")
@dataclass(frozen=True)
class WeakTeacher:
    """Is the teacher better than the commonest class, than a linear classifier, than the student, trained or as it is?

    Its accuracy is that on held-out data where given, else on the transfer set (which flatters a teacher trained on it); rivals are
    compared on the transfer set. Where it is right on held-out data more often than here, surely and by `drop` = 5 points, and the
    rivals here are not ahead of that, the fault is in the transfer set or its signal (see input-mismatch), not in the teacher.
    Error: not better than the majority class, or behind a rival by at least `margin` with the interval clear of 0 (a student
    copies the teacher's mistakes). Warning: behind a rival by less. `margin` is one point: less is within what seeds do.
    """

    margin: float = 0.01
    drop: float = 0.05
    needs: ClassVar[tuple[Need, ...]] = ()

    def __call__(self, case: Case) -> Measurement:
        reading = case.held_out_reading or case.reading
        hits, n = int(reading.correct.sum()), len(reading)
        majority = float(reading.counts.max()) / n
        evidence = [
            Evidence("accuracy", hits / n, "share", share_interval(hits, n), majority),
            Evidence("majority class", majority, "share"),
        ]
        here = share_interval(int(case.reading.correct.sum()), len(case.reading))
        evidence.append(Evidence("accuracy on the transfer set", case.reading.accuracy, "share", here))
        own = case.reading.correct.double()
        if case.line is not None:
            by_line, judged = case.line
            gap = paired_interval(own[judged], by_line.double())
            middle = float((own[judged] - by_line.double()).mean())
            evidence.append(Evidence("ahead of a linear classifier", middle, "share", gap, 0.0))
        if case.fit is not None:
            theirs = own[case.fit.places]
            gap = paired_interval(theirs, case.fit.right.double())
            middle = float((theirs - case.fit.right.double()).mean())
            evidence.append(
                Evidence("ahead of the student's own kind, trained on half of the labels", middle, "share", gap, 0.0)
            )
        if case.student_logits is not None and case.student_logits.shape == case.signal.logits.shape:
            right = (case.student_logits.argmax(1).cpu() == case.reading.labels).double()
            gap = paired_interval(own, right)
            evidence.append(Evidence("ahead of the student as it is", float((own - right).mean()), "share", gap, 0.0))
        return Measurement(tuple(evidence))

    def judge(self, measured: Measurement) -> Judgement:
        accuracy, majority = measured["accuracy"], measured["majority class"]
        cause = "The student copies the teacher's mistakes along with its knowledge."
        fix = "Train or choose a better teacher, or train the student on the labels alone."
        rivals = [item for item in measured.evidence if item.name.startswith("ahead of")]
        lost = accuracy - measured["accuracy on the transfer set"]
        elsewhere = lost > self.drop and measured.low("accuracy") > measured.high("accuracy on the transfer set")
        rivals = [item for item in rivals if not elsewhere or item.value + lost < 0]
        behind = [r for r in rivals if r.interval is not None and r.interval.high < 0]
        score = min([accuracy, *(0.5 + 5 * r.value for r in rivals)])
        if measured.high("accuracy") <= majority or (behind and min(r.value for r in behind) <= -self.margin):
            worst = behind[0].name.removeprefix("ahead of ") if behind else "the majority class"
            text = f"the teacher ({accuracy:.1%} right) is not as good as {worst}"
            return Judgement("error", min(score, 0.2), text, cause, fix, patch=(("objective.teacher_weight", 0.0),))
        if behind or measured.low("accuracy") <= majority:
            worst = behind[0].name.removeprefix("ahead of ") if behind else "the majority class"
            text = f"the teacher ({accuracy:.1%} right) is not clearly better than {worst}"
            return Judgement("warning", min(score, 0.5), text, cause, fix)
        return fine(f"the teacher is right on {accuracy:.1%} of the examples", score)


@probes.register("over-confident-teacher")
@dataclass(frozen=True)
class OverConfidentTeacher:
    """Does the teacher's doubt differ from example to example enough to rescale gradients?

    At temperature 1 the rescaling factor is 1 - w (1 - p[y]) / (1 - q[y]): where 1 - p[y] is 0 everywhere, distillation is
    plain cross-entropy. Measured on the transfer set, where the student meets the teacher, on the examples whose label it agrees
    with (wrong labels and its own mistakes are other findings). Warning below a `deviation` of p[y] of 0.01 (the factor moves by
    about one percent), error below `gone` = 0.002 (nothing is left off the label); in both cases only with a mean doubt below
    `doubt` = 0.05, since a teacher that doubts everything alike is not over-confident.
    """

    deviation: float = 0.01
    gone: float = 0.002
    doubt: float = 0.05
    needs: ClassVar[tuple[Need, ...]] = ()

    def __call__(self, case: Case) -> Measurement:
        agreed = case.reading.correct
        rest = case.reading.rest[agreed]
        n = len(rest)
        if n < 10:
            return Measurement((), enough=False)
        deviation = float(rest.std(correction=0))
        # the deviation's own error, from the fourth moment
        error = float(((rest - rest.mean()) ** 2).std(correction=0)) / (2 * max(deviation, 1e-300) * n**0.5)
        around = Interval(max(0.0, deviation - 1.96 * error), deviation + 1.96 * error)
        return Measurement(
            (
                Evidence("deviation of confidence", deviation, "probability", around, self.deviation),
                Evidence("mean doubt 1 - p[y]", float(rest.mean()), "probability", mean_interval(rest)),
                Evidence("accuracy on the transfer set", case.reading.accuracy, "share"),
            )
        )

    def judge(self, measured: Measurement) -> Judgement:
        if not measured.enough:
            return fine("not applicable: the teacher agrees with too few labels")
        deviation, doubt = measured["deviation of confidence"], measured["mean doubt 1 - p[y]"]
        score = deviation / (4 * self.deviation)
        if deviation >= self.deviation or doubt >= self.doubt:
            return fine(f"the teacher doubts {doubt:.1%} on average, deviation {deviation:.3f}", 0.5 + score / 2)
        memorised = measured["accuracy on the transfer set"] > 0.995
        cause = (
            "It is right on all of the transfer set and certain everywhere: most likely it was trained on these very examples."
            if memorised
            else "It was trained until almost all of its probability sat on one class."
        )
        fix = (
            "Distil on examples the teacher was not trained on, or take an earlier or regularised checkpoint; at temperature 1 "
            "this teacher says what the label says."
        )
        text = f"hardly any rescaling signal: the teacher doubts {doubt:.2%} on average, deviation {deviation:.2g}"
        severity: Severity = "error" if deviation < self.gone else "warning"
        patch = (("teacher.train.on", "teaching"),) if memorised else ()  # where a run file trains the teacher itself
        return Judgement(severity, min(score, 0.5), text, cause, fix, patch=patch)


@probes.register("memorising-teacher")
@dataclass(frozen=True)
class MemorisingTeacher:
    """Is the transfer set inside the teacher's training set? From the gap to held-out data.

    Warning where the mean log-loss on held-out data is above that on the transfer set by `nats` = 0.05 (interval clear) and
    at least `ratio` = 10 times it, and the doubt that is left hardly differs from example to example: a deviation of p[y] below
    `deviation` = 0.01, as for over-confident-teacher. The student would see a teacher that nobody meets on new data. A ratio of 3,
    common where the transfer set is the training set, is information, and so is one of 10 where doubt is left.
    """

    nats: float = 0.05
    ratio: float = 10.0
    deviation: float = 0.01
    needs: ClassVar[tuple[Need, ...]] = ("held_out",)

    def __call__(self, case: Case) -> Measurement:
        assert case.held_out_reading is not None
        here = -case.reading.confidence.clamp_min(5e-324).log()
        there = -case.held_out_reading.confidence.clamp_min(5e-324).log()
        near, far = mean_interval(here), mean_interval(there)
        gap = float(there.mean() - here.mean())
        half = ((far.high - far.low) ** 2 + (near.high - near.low) ** 2) ** 0.5 / 2
        drop = case.reading.accuracy - case.held_out_reading.accuracy
        left = case.reading.rest[case.reading.correct]
        return Measurement(
            (
                Evidence("log-loss gap to held-out data", gap, "nats", Interval(gap - half, gap + half), self.nats),
                Evidence("log-loss on the transfer set", float(here.mean()), "nats", near),
                Evidence("log-loss on held-out data", float(there.mean()), "nats", far),
                Evidence("accuracy gap", drop, "share"),
                Evidence(
                    "deviation of confidence",
                    float(left.std(correction=0)) if len(left) else 0.0,
                    "probability",
                    None,
                    self.deviation,
                ),
            )
        )

    def judge(self, measured: Measurement) -> Judgement:
        gap, here = measured["log-loss gap to held-out data"], measured["log-loss on the transfer set"]
        there = measured["log-loss on held-out data"]
        if measured.low("log-loss gap to held-out data") <= self.nats or there < 3 * here:
            return fine(f"held-out log-loss {there:.3f} nats against {here:.3f} on the transfer set", 1 - gap)
        return Judgement(
            "warning"
            if there >= self.ratio * here and measured["deviation of confidence"] < self.deviation
            else "info",
            here / there,
            f"the teacher knows the transfer set by heart: log-loss {here:.3g} nats there, {there:.3g} on held-out data",
            "The transfer set lies inside the teacher's training set.",
            "Distil on examples the teacher was not trained on (unlabelled ones will do); of an estimator that can be fitted "
            "again, collect(..., folds=5) gives answers out of fold; or collect the signal under augmentation. The "
            "confidences here are not those of new data.",
        )


@probes.register("smoothed-teacher")
@dataclass(frozen=True)
class SmoothedTeacher:
    """Has label smoothing erased the class relations?

    A smoothed teacher pulls all wrong classes to one logit: the off-label shape is flat (`evenness` near 1) and the others'
    spread is small against the label's lead, at every temperature. Information when the median evenness is above 0.85 and the
    median of spread / lead below 0.2; both, because an untrained teacher is even too but leads by nothing. Students lost nothing
    by it where it was measured (bench/planted.py), and trees and neighbours are so by nature: no warning.
    """

    evenness: float = 0.85
    spread: float = 0.2
    needs: ClassVar[tuple[Need, ...]] = ()

    def __call__(self, case: Case) -> Measurement:
        reading = case.reading
        seen = reading.correct & ~reading.evenness.isnan()
        enough = case.signal.classes >= 3 and int(seen.sum()) >= 10
        if not enough:
            return Measurement((), enough=False)
        evenness = reading.evenness[seen]
        ratio = (reading.spread / reading.lead.clamp_min(1e-12))[seen]
        return Measurement(
            (
                Evidence("evenness of the wrong classes", float(evenness.median()), "of a flat shape",
                         median_interval(evenness), self.evenness),
                Evidence("spread of the wrong classes / lead of the label", float(ratio.median()), "ratio",
                         median_interval(ratio), self.spread),
            )
        )  # fmt: skip

    def judge(self, measured: Measurement) -> Judgement:
        if not measured.enough:
            return fine("not applicable: two classes have no relations, or too few examples are right")
        evenness = measured["evenness of the wrong classes"]
        ratio = measured["spread of the wrong classes / lead of the label"]
        if evenness < self.evenness or ratio > self.spread:
            return fine(f"the wrong classes differ (evenness {evenness:.2f})", 1 - max(0.0, evenness - 0.5))
        return Judgement(
            "info",
            min(0.5, (1 - evenness) / (1 - self.evenness) / 2),
            f"class relations are erased: the wrong classes share the rest almost evenly ({evenness:.2f} of a flat shape)",
            "The teacher was trained with label smoothing, mixup or a similar regulariser.",
            "Do not expect gains from class-level shapes (kd-sim, class-mean) and keep the temperature at 1, where the "
            "teacher is soft enough; its doubt in each example still helps. For class relations retrain without smoothing.",
            patch=(("objective.temperature", 1.0),),
        )


def median_interval(values: torch.Tensor) -> Interval:
    """Interval of a median from order statistics (binomial)."""
    ordered = values.sort().values
    n = len(ordered)
    half = 0.98 * n**0.5
    return Interval(float(ordered[max(0, int(n / 2 - half))]), float(ordered[min(n - 1, int(n / 2 + half))]))


@probes.register("temperature")
@dataclass(frozen=True)
class Temperature:
    """Does the planned temperature suit this signal?

    Too low: the mean off-label mass is below `doubt` = 0.2 %, a target that is the label. Too high: above `most` = 8, where
    students of teachers with large logits lost up to 14 points and hardly one gained; or less than `left` = a fifth of what the
    teacher's mean confidence at temperature 1 has above chance is left. A teacher that is soft by itself is no reason: students
    lost nothing by it at any temperature.
    """

    doubt: float = 0.002
    left: float = 0.2
    most: float = 8.0
    needs: ClassVar[tuple[Need, ...]] = ("objective",)

    def __call__(self, case: Case) -> Measurement:
        assert case.objective is not None
        planned = case.objective.temperature
        soft = case.confidence_at(planned)
        chance, own = 1 / case.signal.classes, float(case.reading.confidence.mean())
        if soft is None:  # compact rows that were kept for other temperatures
            return Measurement((Evidence("planned temperature", planned, ""),), enough=False)
        return Measurement(
            (
                Evidence("mean confidence at the planned temperature", float(soft.mean()), "probability", mean_interval(soft)),
                Evidence("planned temperature", planned, ""),
                Evidence("chance", chance, "probability"),
                Evidence("its confidence above chance that is left", 1.0 if own <= chance else
                         (float(soft.mean()) - chance) / (own - chance), "share", None, self.left),
            ),
            enough=case.objective.teacher_weight > 0,
        )  # fmt: skip

    def judge(self, measured: Measurement) -> Judgement:
        if not measured.enough:
            return fine(
                "not measured: the objective does not read the teacher, or the rows do not know this temperature"
            )
        mean, planned = measured["mean confidence at the planned temperature"], measured["planned temperature"]
        if 1 - mean < self.doubt:
            return Judgement(
                "warning", 0.3, f"temperature {planned:g} is too low: the target is the label ({1 - mean:.2%} off it)",
                "The teacher is far more certain than the temperature spreads.",
                "Raise the temperature until one or more percent are off the label.",
                patch=(("objective.temperature", min(8.0, 2 * planned)),),
            )  # fmt: skip
        kept = measured["its confidence above chance that is left"]
        if planned > self.most or (planned > 1 and kept < self.left):
            return Judgement(
                "warning", 0.3,
                f"temperature {planned:g} is too high: {max(0.0, kept):.0%} of the teacher's confidence above chance is left",
                "The logits are small for this temperature, so the target loses its order of classes; or they are large, and the "
                "student has to learn logits as large.",
                "Lower the temperature: T = 1 lost least in the bench of planted faults.",
                patch=(("objective.temperature", 1.0),),
            )  # fmt: skip
        return fine(f"at temperature {planned:g} the mean confidence is {mean:.1%}")


@probes.register("instance-noise")
@dataclass(frozen=True)
class InstanceNoise:
    """Is what the teacher says about single examples reproducible in another view of them?

    From two views (augmentation, dropout, two checkpoints): reproducible = E (1 - p[y]) Σ shape_a log(shape_b / class shape),
    symmetric, over the instance shape information of the views. Warning when the interval's upper end is below `share` = 0.5:
    less than half of it would be there again. The interval is over ids: rows that are views of one example count as one.
    """

    share: float = 0.5
    needs: ClassVar[tuple[Need, ...]] = ("second_view",)

    def __call__(self, case: Case) -> Measurement:
        assert case.second_view is not None and isinstance(case.signal, TeacherSignal)
        from fractionate.theory.spectrum.views import reproducible

        part = reproducible(case.signal, case.second_view, group=None if case.data is None else case.data.group)
        whole = part.instance_shape_nats
        enough = case.signal.classes >= 3 and whole > 1e-4
        share = part.reproducible_nats / whole if whole > 0 else 0.0
        around = Interval(part.interval.low / whole, part.interval.high / whole) if whole > 0 else None
        return Measurement(
            (
                Evidence("reproducible share of the instance shape", share, "share", around, self.share),
                Evidence("instance shape", whole, "nats"),
                Evidence("reproducible", part.reproducible_nats, "nats", part.interval),
            ),
            enough=enough,
        )

    def judge(self, measured: Measurement) -> Judgement:
        share = measured["reproducible share of the instance shape"]
        if not measured.enough:
            return fine("there is next to no instance shape to reproduce")
        if measured.high("reproducible share of the instance shape") >= self.share:
            return fine(f"{share:.0%} of the instance shape is there again in the second view", share)
        return Judgement(
            "warning",
            max(0.0, share),
            f"instance shape is mostly noise: {max(0.0, share):.0%} of its {measured['instance shape']:.3g} nats come again",
            "The teacher's opinion about the wrong classes changes from view to view.",
            "Average multiple views or checkpoints of the teacher, or use class-level shapes (kd-pt+sim, class-mean).",
            patch=(("objective.cell", "kd-pt+sim"),),
        )
