"""Probes of whether teacher, labels, cache and inputs belong together."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fractionate.diagnosis.case import ANSWERS, LABELS, Case, Judgement, Measurement, Need, fine, probes
from fractionate.diagnosis.interval import share_interval
from fractionate.diagnosis.linear_probe import parts
from fractionate.records import Evidence

MOST_NAMED = 300  # classes that are paired by what a teacher confuses


@probes.register("permuted-classes")
@dataclass(frozen=True)
class PermutedClasses:
    """Are the teacher's classes in another order than the labels?

    The best pairing of the teacher's classes with the labels' is fitted on one half of the examples and judged on the other. A
    circle of the pairing counts where renaming its classes turns more wrong answers right than right ones wrong, by more than
    `beyond` = 3.5 deviations (McNemar), at most one in five of its classes loses, and accuracy comes to `recovered` = 0.8 of that
    on held-out data or of a linear classifier, if they are not renamed too. Error, because the student learns wrong names. Of
    at most `most_classes` = 300 classes, the commonest. Else, with held-out data, the names under which the teacher confuses the
    classes here as it does there: so a weak teacher's are found. Scores of reversed sign are another finding, but with two classes
    they look the same.
    """

    beyond: float = 3.5
    recovered: float = 0.8
    most_classes: int = 300
    needs: ClassVar[tuple[Need, ...]] = ()

    def __call__(self, case: Case) -> Measurement:
        reading = case.reading
        table = renaming(case, self.beyond, self.recovered, self.most_classes)
        if not bool((table != torch.arange(len(table))).any()):
            table = renaming_by_habits(case, self.beyond, self.recovered)
        moved = (table != torch.arange(len(table))).nonzero().flatten()
        after, n = int((reading.predicted == table[reading.labels]).sum()), len(reading)
        pairs = [f"{case.name_of(c)} → {case.name_of(int(table[c]))}" for c in moved.tolist()[:12]]
        there = case.held_out_reading
        return Measurement(
            (
                Evidence("classes renamed", float(len(moved)), "classes"),
                Evidence("accuracy as labelled", reading.accuracy, "share",
                         share_interval(int(reading.correct.sum()), n)),
                Evidence("accuracy after renaming", after / n, "share", share_interval(after, n)),
                *([] if there is None else [Evidence("accuracy on held-out data", there.accuracy, "share")]),
            ),
            about=", ".join(pairs) + (" …" if len(moved) > 12 else ""),
        )  # fmt: skip

    def judge(self, measured: Measurement) -> Judgement:
        count = int(measured["classes renamed"])
        before, after = measured["accuracy as labelled"], measured["accuracy after renaming"]
        if count == 0:
            return fine("teacher and labels name the classes alike")
        apart = measured.has("accuracy on held-out data") and measured["accuracy on held-out data"] > before + 0.1
        return Judgement(
            "error",
            before / max(after, 1e-9) / 4,
            f"{count} classes are named differently: accuracy {before:.1%} as labelled, {after:.1%} after {measured.about}"
            + (" (held-out data are named alike)" if apart else ""),
            "Teacher and data sort their classes differently (alphabetical against numeric order, another label map)"
            + ("; with two classes also: inputs or scores of reversed sign." if count == 2 else "."),
            "Reorder the teacher's columns (logits[:, order]) or map the labels, then collect again.",
        )


def renaming(
    case: Case, beyond: float = 3.5, recovered: float = 0.8, most_classes: int = 300
) -> Int[Tensor, "classes"]:
    """The teacher's class for each label; the label itself where no renaming holds on the half that did not fit it."""
    reading = case.reading
    table = torch.arange(reading.classes)
    frequent = (reading.counts + reading.predicted_counts).argsort(descending=True, stable=True)[:most_classes]
    place = torch.full((reading.classes,), -1).index_put((frequent,), torch.arange(len(frequent)))
    label, answer = place[reading.labels], place[reading.predicted]
    known = (label >= 0) & (answer >= 0)
    group = torch.arange(len(label)) if case.data is None else case.data.group
    first = parts(group, 2) == 0
    size = len(frequent)
    counts = torch.bincount((label * size + answer)[known & first], minlength=size * size).reshape(size, size)
    # ties and what sampling could have made leave the names as they are
    bonus = 0.5 + 1.5 * counts.max(1).values.double().sqrt()
    pairing = best_assignment(counts.double() + bonus.diag())
    judged = ~first & (label >= 0)
    if not bool(judged.any()):
        return table
    label, answer = label[judged], answer[judged]
    after = int((answer == pairing[label]).sum())
    if reading.classes > 2 and int((reading.lowest == reading.labels)[judged].sum()) >= after:
        return table  # the smallest score is right more often than any renaming: a reversed sign
    shift, hits = best_shift(reading.predicted, reading.labels)
    if shift and hits * len(label) > after * len(known):
        return table  # rows in a regular order that are shifted
    if after < recovered * len(label) * expected_accuracy(case):
        return table  # the right names make a teacher as good as it is elsewhere; wrong inputs do not
    for circle in circles(pairing):
        within = torch.isin(label, circle)
        before, after = int((answer == label)[within].sum()), int((answer == pairing[label])[within].sum())
        gained = torch.bincount(label[answer == pairing[label]], minlength=size) - torch.bincount(
            label[answer == label], minlength=size
        )
        # a weak teacher sends two classes to one: then the one loses what the other gains
        few_lose = bool((gained[circle] < 0).double().mean() <= 0.2)
        # a text model that ends with a new line where the data end the text: one class is answered by another, none is renamed
        two_gain = int((gained[circle] > 0).sum()) > 1
        if few_lose and two_gain and after - before > beyond * max(1.0, (after + before) ** 0.5):
            table[frequent[circle]] = frequent[pairing[circle]]
    return table


def renaming_by_habits(case: Case, beyond: float = 3.5, recovered: float = 0.8) -> Int[Tensor, "classes"]:
    """The same from what the teacher confuses on held-out data: it finds the names of a weak teacher, whose best answer is no clue.

    The names under which the answers here are likeliest, given how often it answers a label with each class there; fitted on one
    half. They count where the other half is likelier by `beyond` deviations, and accuracy comes to `recovered` of that there.
    """
    reading, there = case.reading, case.held_out_reading
    table = torch.arange(reading.classes)
    if there is None or there.accuracy < reading.accuracy + 0.05 or reading.classes > MOST_NAMED:
        return table
    size = reading.classes
    habits = torch.bincount(there.labels * size + there.predicted, minlength=size * size).reshape(size, size).double()
    habits = habits + there.predicted_counts.double() / len(there) + 1e-2
    likely = (habits / habits.sum(1, keepdim=True)).log()
    first = parts(torch.arange(len(reading)) if case.data is None else case.data.group, 2) == 0
    if bool(first.all()) or not bool(first.any()):
        return table
    seen = torch.bincount(reading.labels[first] * size + reading.predicted[first], minlength=size * size).reshape(
        size, size
    )
    meant = best_assignment(seen.double().T @ likely + torch.eye(size, dtype=torch.float64))  # of each answer here
    label, answer = reading.labels[~first], reading.predicted[~first]
    gained = likely[label, meant[answer]] - likely[label, answer]
    clear = float(gained.sum()) > beyond * max(1.0, float(gained.square().sum()) ** 0.5)
    if clear and float((meant[answer] == label).double().mean()) >= recovered * there.accuracy:
        table[meant] = torch.arange(size)
    return table


def best_assignment(gain: Float[Tensor, "n n"]) -> Int[Tensor, "n"]:
    """The permutation with the largest sum of gains, one column for each row."""
    from scipy.optimize import linear_sum_assignment

    return torch.from_numpy(linear_sum_assignment(gain.numpy(), maximize=True)[1])


def expected_accuracy(case: Case) -> float:
    """What the teacher's accuracy should be: that on held-out data where it is more than here, else a linear classifier's."""
    if case.held_out_reading is not None and case.held_out_reading.accuracy > case.reading.accuracy + 0.05:
        return case.held_out_reading.accuracy
    return 0.0 if case.line is None else float(case.line[0].double().mean())


def circles(pairing: Int[Tensor, "n"]) -> Iterator[Int[Tensor, "some"]]:
    """The circles of a permutation that are longer than one."""
    left = set((pairing != torch.arange(len(pairing))).nonzero().flatten().tolist())
    while left:
        circle = [min(left)]
        while (following := int(pairing[circle[-1]])) != circle[0]:
            circle.append(following)
        left -= set(circle)
        yield torch.tensor(circle)


@probes.register("misaligned-cache")
@dataclass(frozen=True)
class MisalignedCache:
    """Do the rows of the signal belong to the rows of the labels?

    Four views. Accuracy at chance although the teacher is surer than that by `boast` = 0.15 and its answers (within `moved` =
    0.2) or its mean prediction (within `prior` = 0.05) are as frequent as the labels, as for shuffled rows. What a linear
    classifier predicts from the inputs, on examples it was not fitted on: the labels but not the answers (rows of the signal
    belong elsewhere), the answers but not the labels (the labels do), or neither although both agree (the inputs do); "not" is a
    skill below `unread` = 0.25 of the other's, or of the agreement's. A shift of up to `shifts` rows that makes accuracy higher.
    A stretch of at least `stretch` rows whose accuracy falls to chance while the rest is fine. Shift and stretch have to stand
    out by `beyond` = 5 deviations against `permutations` = 99 signals whose rows are permuted within their classes: there too,
    rows sorted by class make a block of a class that the teacher does not know. Error in each case; warning for inputs that
    predict neither, which may be hard to read instead.
    """

    shifts: int = 8
    stretch: int = 30
    boast: float = 0.15
    unread: float = 0.25
    moved: float = 0.2
    prior: float = 0.05
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
                Evidence("mean prediction moved", reading.prior_shift, "total variation"),
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
                *case.predicted,
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
        best, hits = best_shift(predicted, labels, self.shifts)
        if hits <= int((predicted == labels).sum()):
            return best, hits, 0.0
        null = [
            best_shift(other, labels, self.shifts)[1] for other in within_classes(predicted, labels, self.permutations)
        ]
        return best, hits, deviations(hits, null)

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
        unrelated = (
            measured.low("accuracy") <= chance + 0.02 and measured["mean top probability"] > accuracy + self.boast
        )
        # a teacher that sees wrong inputs is at chance too: its answers crowd in a few classes, or follow from the inputs
        sides = self._sides(measured)
        kept = measured["answers moved to other classes"] < self.moved or measured["mean prediction moved"] < self.prior
        if unrelated and (sides if sides is not None else kept):
            text = f"labels and signal are unrelated: accuracy {accuracy:.1%}, chance {chance:.1%}, yet the teacher is sure"
            return Judgement("error", 0.0, text + (f" ({sides})" if sides else ""), cause, fix, command)
        rows, first = int(measured["rows in the worst stretch"]), int(measured["first row of the worst stretch"])
        inside, local = measured["accuracy in the worst stretch"], measured["chance in the worst stretch"]
        outside = measured["accuracy outside of it"]
        clear = measured["the stretch against rows permuted within classes"] > self.beyond
        if rows and clear and inside <= local + 0.25 * (outside - local) and outside > local + 0.2:
            text = f"rows {first} to {first + rows - 1} belong elsewhere: accuracy {inside:.1%} there, {outside:.1%} outside"
            return Judgement("error", 0.1, text, cause, fix, command)
        if measured.has(LABELS) and accuracy > chance + 0.2:
            labels, answers = measured[LABELS], measured[ANSWERS]
            agreed = (accuracy - chance) / max(1e-9, 1 - chance)
            if (
                max(labels, answers) < self.unread * agreed
                and max(measured.high(LABELS), measured.high(ANSWERS)) < agreed / 2
            ):
                return Judgement(
                    "warning", 0.3,
                    f"the inputs predict neither the labels nor the teacher's answers, which agree ({accuracy:.1%})",
                    "The inputs belong to other rows than labels and signal, or they are hard to read for a line.",
                    "Check that the data's inputs and labels stand in one order.",
                )  # fmt: skip
        return fine(f"rows and labels belong together (accuracy {accuracy:.1%}, chance {chance:.1%})", accuracy)

    def _sides(self, measured: Measurement) -> str | None:
        """Which side the inputs predict, where it is one of the two; "" where both or neither, None without inputs."""
        if not measured.has(LABELS):
            return None
        labels, answers = measured[LABELS], measured[ANSWERS]
        if measured.low(LABELS) > max(0.05, measured.high(ANSWERS)) and answers < self.unread * labels:
            return "the inputs predict the labels, not the answers: the rows of the signal belong to other inputs"
        if measured.low(ANSWERS) > max(0.05, measured.high(LABELS)) and labels < self.unread * answers:
            return "the inputs predict the answers, not the labels: the labels belong to other inputs"
        return ""


def best_shift(predicted: Tensor, labels: Tensor, shifts: int = 8) -> tuple[int, int]:
    """The shift of up to `shifts` rows with the most right answers, and how many."""
    found = {
        shift: int((predicted.roll(-shift) == labels).sum())
        for shift in range(-shifts, shifts + 1)
        if abs(shift) < len(labels)
    }
    best = max(found, key=lambda shift: (found[shift], -abs(shift)))
    return best, found[best]


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
