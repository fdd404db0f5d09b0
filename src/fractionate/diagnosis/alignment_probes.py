"""Probes of whether teacher, labels, cache and inputs belong together."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fractionate.diagnosis.case import Case, Judgement, Measurement, Need, fine, probes
from fractionate.diagnosis.interval import share_interval
from fractionate.records import Evidence
from fractionate.theory.teacher_signal import TeacherSignal


@probes.register("permuted-classes")
@dataclass(frozen=True)
class PermutedClasses:
    """Are the teacher's classes in another order than the labels?

    A class is renamed where the teacher answers with one other class on most (`majority` = half, the interval clear of it) of
    its examples and that class is itself renamed, so that the renaming closes to a permutation; a merely weak teacher sends
    several classes to one. Error, because the student is taught wrong names.
    """

    majority: float = 0.5
    least_examples: int = 5
    needs: ClassVar[tuple[Need, ...]] = ()

    def __call__(self, case: Case) -> Measurement:
        reading = case.reading
        renamed = self._renaming(case)
        moved = torch.tensor(sorted(renamed), dtype=torch.long)
        table = torch.arange(case.signal.classes)
        for label, answer in renamed.items():
            table[label] = answer
        after = int((reading.predicted == table[reading.labels]).sum())
        n = len(reading)
        pairs = [f"{case.name_of(c)} → {case.name_of(renamed[c])}" for c in moved.tolist()[:12]]
        return Measurement(
            (
                Evidence("classes renamed", float(len(renamed)), "classes"),
                Evidence("accuracy as labelled", reading.accuracy, "share",
                         share_interval(int(reading.correct.sum()), n)),
                Evidence("accuracy after renaming", after / n, "share", share_interval(after, n)),
            ),
            about=", ".join(pairs) + (" …" if len(renamed) > 12 else ""),
        )  # fmt: skip

    def _renaming(self, case: Case) -> dict[int, int]:
        reading = case.reading
        key, times = torch.unique(reading.labels * case.signal.classes + reading.predicted, return_counts=True)
        answer: dict[int, int] = {}
        for pair, count in zip(key.tolist(), times.tolist(), strict=True):
            label, predicted = divmod(pair, case.signal.classes)
            total = int(reading.counts[label])
            certain = total >= self.least_examples and share_interval(count, total).low > self.majority
            if certain and label != predicted:
                answer[label] = predicted
        # keep what closes to cycles; a label that nobody has may end a chain (its examples are absent)
        while True:
            taken = set(answer.values())
            once = len(taken) == len(answer)
            kept = {
                c: a
                for c, a in answer.items()
                if (a in answer or int(reading.counts[a]) == 0)
                and (c in taken or int(reading.predicted_counts[c]) == 0)
                and (once or sum(v == a for v in answer.values()) == 1)
            }
            if len(kept) == len(answer):
                return kept
            answer = kept

    def judge(self, measured: Measurement) -> Judgement:
        count = int(measured["classes renamed"])
        before, after = measured["accuracy as labelled"], measured["accuracy after renaming"]
        if count == 0:
            return fine("teacher and labels name the classes alike")
        return Judgement(
            "error",
            before / max(after, 1e-9) / 4,
            f"{count} classes are named differently: accuracy {before:.1%} as labelled, {after:.1%} after {measured.about}",
            "Teacher and data sort their classes differently (alphabetical against numeric order, another label map).",
            "Reorder the teacher's columns (logits[:, order]) or map the labels, then collect again.",
        )


@probes.register("misaligned-cache")
@dataclass(frozen=True)
class MisalignedCache:
    """Do the rows of the signal belong to the rows of the labels?

    Three views. Accuracy near chance although the teacher is sure of itself (`certainty`) and its answers are as frequent as the
    labels, as for shuffled rows. A shift of up to `shifts` rows that makes accuracy higher. A stretch of at least `stretch` rows
    whose accuracy falls to chance while the rest is fine. Shift and stretch have to stand out by `beyond` = 5 deviations against
    `permutations` = 99 signals whose rows are permuted within their classes: there too, rows sorted by class make a block of a
    class that the teacher does not know. Error in each case.
    """

    shifts: int = 8
    stretch: int = 30
    certainty: float = 0.4
    moved: float = 0.2
    permutations: int = 99
    beyond: float = 5.0
    needs: ClassVar[tuple[Need, ...]] = ()

    def __call__(self, case: Case) -> Measurement:
        reading = case.reading
        n, chance = len(reading), reading.chance
        hits = int(reading.correct.sum())
        best, best_hits, shift_beyond = self._shift(reading.predicted, reading.labels)
        start, stop, stretch_beyond = self._stretch(reading.correct, reading.labels, chance)
        inside = reading.correct[start:stop]
        outside = torch.cat([reading.correct[:start], reading.correct[stop:]])
        moved = float((reading.counts - reading.predicted_counts).abs().sum()) / (2 * n)
        local = self._chance(reading.labels[start:stop], reading.predicted[start:stop], case.signal.classes)
        return Measurement(
            (
                Evidence("accuracy", hits / n, "share", share_interval(hits, n)),
                Evidence("accuracy on shuffled labels", chance, "share"),
                Evidence("answers moved to other classes", moved, "share"),
                Evidence("mean top probability", float(reading.top.mean()), "probability"),
                Evidence("best shift of rows", float(best), "rows"),
                Evidence("accuracy at the best shift", best_hits / n, "share", share_interval(best_hits, n)),
                Evidence("the shift against rows permuted within classes", shift_beyond, "deviations", None, self.beyond),
                Evidence("first row of the worst stretch", float(start), "row"),
                Evidence("rows in the worst stretch", float(stop - start), "rows"),
                Evidence("accuracy in the worst stretch", float(inside.double().mean()) if len(inside) else 1.0, "share",
                         share_interval(int(inside.sum()), len(inside))),
                Evidence("chance in the worst stretch", local, "share"),
                Evidence("accuracy outside of it", float(outside.double().mean()) if len(outside) else 1.0, "share"),
                Evidence("the stretch against rows permuted within classes", stretch_beyond, "deviations", None, self.beyond),
            ),
            examples=tuple(case.id_of(i) for i in range(start, min(stop, start + 20))),
            enough=n >= self.stretch,
        )  # fmt: skip

    @staticmethod
    def _chance(labels: Tensor, predicted: Tensor, classes: int) -> float:
        if len(labels) == 0:
            return 0.0
        a = torch.bincount(labels, minlength=classes).double() / len(labels)
        b = torch.bincount(predicted, minlength=classes).double() / len(labels)
        return float((a * b).sum())

    def _shift(self, predicted: Tensor, labels: Tensor) -> tuple[int, int, float]:
        """The shift with the most right answers, how many, and by how many deviations it is above permuted rows."""
        best, hits = self._best_shift(predicted, labels)
        if hits <= int((predicted == labels).sum()):
            return best, hits, 0.0
        null = [self._best_shift(other, labels)[1] for other in within_classes(predicted, labels, self.permutations)]
        return best, hits, deviations(hits, null)

    def _best_shift(self, predicted: Tensor, labels: Tensor) -> tuple[int, int]:
        found = {
            shift: int((predicted.roll(-shift) == labels).sum())
            for shift in range(-self.shifts, self.shifts + 1)
            if abs(shift) < len(labels)
        }
        best = max(found, key=lambda shift: (found[shift], -abs(shift)))
        return best, found[best]

    def _stretch(self, correct: Tensor, labels: Tensor, chance: float) -> tuple[int, int, float]:
        """The worst stretch, and by how many deviations its gain is above that of permuted rows; empty where none stands out."""
        least = max(self.stretch, len(correct) // 50)
        blocks = torch.stack([block.double().mean() for block in torch.chunk(correct, 20)])
        rate = float(blocks.quantile(0.75))  # of aligned rows, also where half of them are not
        low = min(max(chance, 1e-3), 0.95)
        if len(correct) < 2 * least or rate <= low + 0.15:
            return 0, 0, 0.0
        start, stop, gain = worst_stretch(correct, low, rate)
        if not least <= stop - start <= len(correct) * 5 // 6 or gain <= 10:
            return 0, 0, 0.0
        null = [worst_stretch(other, low, rate)[2] for other in within_classes(correct, labels, self.permutations)]
        return start, stop, deviations(gain, null)

    def judge(self, measured: Measurement) -> Judgement:
        accuracy, chance = measured["accuracy"], measured["accuracy on shuffled labels"]
        cause = (
            "The cached signal was made from other data, another order (a shuffling loader) or another number of rows."
        )
        fix = "Collect the signal again without shuffling, or check a cached one against the teacher."
        command = "fractionate store verify"
        if not measured.enough:
            return fine("too few rows to tell")
        shift = int(measured["best shift of rows"])
        if shift and measured["the shift against rows permuted within classes"] > self.beyond:
            back = measured["accuracy at the best shift"]
            text = f"the rows are shifted by {shift}: accuracy {accuracy:.1%}, {back:.1%} shifted back"
            return Judgement("error", 0.0, text, cause, fix, command)
        # a teacher that sees wrong inputs is at chance too, but its answers crowd in a few classes; shuffled rows keep them
        kept = measured["answers moved to other classes"] < self.moved
        if (
            kept
            and measured.low("accuracy") <= chance + 0.02
            and measured["mean top probability"] > max(self.certainty, 2 * chance)
        ):
            text = f"labels and signal are unrelated: accuracy {accuracy:.1%}, chance {chance:.1%}, yet the teacher is sure"
            return Judgement("error", 0.0, text, cause, fix, command)
        rows, first = int(measured["rows in the worst stretch"]), int(measured["first row of the worst stretch"])
        inside, local = measured["accuracy in the worst stretch"], measured["chance in the worst stretch"]
        outside = measured["accuracy outside of it"]
        clear = measured["the stretch against rows permuted within classes"] > self.beyond
        if rows and clear and inside <= local + 0.25 * (outside - local) and outside > local + 0.2:
            text = f"rows {first} to {first + rows - 1} belong elsewhere: accuracy {inside:.1%} there, {outside:.1%} outside"
            return Judgement("error", 0.1, text, cause, fix, command)
        return fine(f"rows and labels belong together (accuracy {accuracy:.1%}, chance {chance:.1%})", accuracy)


def worst_stretch(correct: Tensor, low: float, rate: float) -> tuple[int, int, float]:
    """The stretch of rows that most looks like chance (`low`) and least like the better rows (`rate`): start, stop and its gain.

    The largest sum of log-likelihood ratios of "right by chance" against "right as in the better blocks" (Kadane's scan).
    """
    rate = min(rate, 1 - 1e-3)
    ratio = torch.where(correct, math.log(low / rate), math.log((1 - low) / (1 - rate))).double()
    total = torch.cat([torch.zeros(1, dtype=torch.float64), ratio.cumsum(0)])
    lowest, place = total.cummin(0)
    gain = total - lowest
    stop = int(gain.argmax())
    return int(place[stop]), stop, float(gain[stop])


def within_classes(values: Tensor, labels: Tensor, times: int) -> Iterator[Tensor]:
    """The values permuted among the rows of each class, again and again: what the order of rows cannot have made."""
    draw = torch.Generator().manual_seed(0)
    places = labels.argsort(stable=True)
    for _ in range(times):
        mixed = torch.rand(len(labels), generator=draw, dtype=torch.float64).argsort()
        permuted = torch.empty_like(values)
        permuted[places] = values[mixed[labels[mixed].argsort(stable=True)]]
        yield permuted


def deviations(found: float, null: Sequence[float]) -> float:
    """By how many deviations of the null, at least 1 each, a number is above its mean; 0 where one of them reaches it."""
    values = torch.tensor(null, dtype=torch.float64)
    if not len(null) or float(values.max()) >= found:
        return 0.0
    return float((found - values.mean()) / values.std().clamp_min(1.0))


@probes.register("input-mismatch")
@dataclass(frozen=True)
class InputMismatch:
    """Does the teacher see inputs as it was trained to: normalisation, channel order, size, tokenizer?

    Wrongly prepared inputs make a teacher answer with a few classes. Measured: the total variation between the classes it
    answers with and the labels', beside its accuracy; with `expected_accuracy` or a held-out signal also the drop from there.
    Answers alone prove nothing where labels are hard to foretell: a language model that knows the frequency of every word
    answers with the frequent ones, and announces how often it is wrong. Error when a fifth of the answers (`moved`) have gone to
    other classes than the labels', accuracy is below `accuracy` = 0.7 of the expectation, and either a tenth of the mean
    prediction (`prior`, beyond sampling) has moved too or the teacher is right less than `announced` = 0.5 times as often as its
    top probability says. The drop alone, clear of `drop` = 5 points, is a warning.
    """

    moved: float = 0.2
    prior: float = 0.1
    announced: float = 0.5
    accuracy: float = 0.7
    drop: float = 0.05
    needs: ClassVar[tuple[Need, ...]] = ()

    def __call__(self, case: Case) -> Measurement:
        reading = case.reading
        n = len(reading)
        hits = int(reading.correct.sum())
        expected = case.expected_accuracy
        if expected is None and case.held_out_reading is not None:
            expected = case.held_out_reading.accuracy
        excess = float((reading.counts - reading.predicted_counts).abs().sum()) / (2 * n)
        # by chance alone, sampling moves about this much
        noise = float((2 * reading.counts.double() / torch.pi).sqrt().sum()) / (2 * n)
        evidence = [
            Evidence("answers moved to other classes", excess, "share", None, self.moved),
            Evidence("moved by chance alone", noise, "share"),
            Evidence("mean prediction moved beyond sampling", reading.prior_shift, "total variation", None, self.prior),
            Evidence("accuracy", hits / n, "share", share_interval(hits, n), expected),
            Evidence("mean top probability", float(reading.top.mean()), "probability"),
            Evidence("chance", reading.chance, "share"),
        ]
        return Measurement(tuple(evidence))

    def judge(self, measured: Measurement) -> Judgement:
        accuracy = next(item for item in measured.evidence if item.name == "accuracy")
        moved = measured["answers moved to other classes"] - measured["moved by chance alone"]
        expected = accuracy.threshold
        cause = "Inputs are prepared otherwise than in the teacher's training: normalisation, scale, channel order, tokenizer."
        fix = "Use the teacher's own preprocessing; compare the mean and deviation of its inputs with those of its training."
        prior = measured["mean prediction moved beyond sampling"]
        wrong = prior > self.prior or accuracy.value < self.announced * measured["mean top probability"]
        if moved > self.moved and wrong and accuracy.value < self.accuracy * (expected or 1.0):
            text = f"the teacher answers with a few classes: {moved:.0%} of the answers moved, accuracy {accuracy.value:.1%}"
            return Judgement("error", accuracy.value / 2, text, cause, fix)
        if expected is not None and measured.high("accuracy") < expected - self.drop:
            text = f"accuracy {accuracy.value:.1%} here, {expected:.1%} was expected"
            return Judgement("warning", accuracy.value / expected / 2, text, cause, fix)
        return fine(
            f"the teacher answers with the classes that the labels have ({max(0.0, moved):.0%} moved)", 1 - moved
        )


@probes.register("logit-scale")
@dataclass(frozen=True)
class LogitScale:
    """Are the teacher's logits as large here as on held-out data?

    Measured: the median extent (largest logit above the mean) over that of the held-out signal. Warning where one is more than
    `scale` = 1.5 times the other: inputs in 0..255 for a teacher of 0..1, a missing normalisation, a stored temperature. Between a
    teacher's training examples and new ones healthy teachers differed by less than 1.3.
    """

    scale: float = 1.5
    needs: ClassVar[tuple[Need, ...]] = ("held_out",)

    def __call__(self, case: Case) -> Measurement:
        assert case.held_out_reading is not None
        here, there = case.reading.extent.median(), case.held_out_reading.extent.median()
        ratio = float(here / there.clamp_min(1e-12))
        return Measurement((Evidence("logits against held-out ones", ratio, "ratio", None, self.scale),))

    def judge(self, measured: Measurement) -> Judgement:
        ratio = measured["logits against held-out ones"]
        away = max(ratio, 1 / max(ratio, 1e-12))
        if away < self.scale:
            return fine(f"logits are {ratio:.2f} times as large as on held-out data", 1 / away)
        return Judgement(
            "warning",
            1 / away,
            f"the teacher's logits are {ratio:.2g} times as large as on held-out data",
            "Inputs are on another scale here than there, or one of the two signals was divided by a temperature.",
            "Prepare both inputs as in the teacher's training, and store raw logits.",
        )


@probes.register("training-mode")
@dataclass(frozen=True)
class TrainingMode:
    """Does the teacher say the same thing twice about the very same inputs?

    Measured: mean total variation between two passes. Kernels that sum in another order move logits by rounding only, far
    below `tolerance` = 0.001; dropout or batch statistics move them by percents. Error: a cached signal is then one random draw.
    """

    tolerance: float = 1e-3
    needs: ClassVar[tuple[Need, ...]] = ("second_pass",)

    def __call__(self, case: Case) -> Measurement:
        assert case.second_pass is not None and isinstance(case.signal, TeacherSignal)
        apart = torch.cat([
            (torch.softmax(a.double(), 1) - torch.softmax(b.double(), 1)).abs().sum(1) / 2
            for a, b in zip(torch.split(case.signal.logits, 4096), torch.split(case.second_pass.logits, 4096), strict=True)
        ])  # fmt: skip
        flipped = float((case.second_pass.logits.argmax(1).cpu() != case.reading.predicted).double().mean())
        return Measurement(
            (
                Evidence("mean difference of two passes", float(apart.mean()), "total variation", None, self.tolerance),
                Evidence("answers that changed", flipped, "share"),
            )
        )

    def judge(self, measured: Measurement) -> Judgement:
        apart = measured["mean difference of two passes"]
        if apart <= self.tolerance:
            return fine("two passes over the same inputs agree")
        return Judgement(
            "error",
            0.3 * (1 - min(1.0, apart)),
            f"two passes over the same inputs differ by {apart:.1%} of the mass (answers: {measured['answers that changed']:.1%})",
            "The teacher is in training mode: dropout or batch statistics are active.",
            "Call teacher.eval() before collecting.",
        )
