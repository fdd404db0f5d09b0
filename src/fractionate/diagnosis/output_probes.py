"""Probes of the numbers themselves: logits at all, and whole rows or what was kept of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from fractionate.diagnosis.alignment_probes import renaming
from fractionate.diagnosis.case import Case, Judgement, Measurement, Need, fine, probes
from fractionate.diagnosis.interval import share_interval
from fractionate.models.outputs import SUM_TOLERANCE
from fractionate.records import Evidence
from fractionate.theory.topk_signal import CompactSignal

KINDS = ("dense", "top-k", "sampled")


@probes.register("unusable-numbers")
@dataclass(frozen=True)
class UnusableNumbers:
    """Are these logits at all: probabilities, percentages, costs, sigmoids, masked labels, constant answers?

    Error where all rows are numbers in 0..1 that sum to 1 (softmax would be taken twice); where no number is negative and all rows
    have one sum, within `same_sum` = 2 % (percentages, votes, ranks); where all numbers lie in 0..1 (sigmoids, scores); where the
    smallest number names the label more often than the largest, surely and by `backwards` = 1.5 times what shuffled labels bring
    (costs, distances, a lost sign; of three or more classes); where the label is masked (-inf) as often as any class (a mask of
    other labels: a teacher that rules classes out is right about most); and where all rows are the same. Classes masked next to the
    label are information only.
    """

    same_sum: float = 0.02
    backwards: float = 1.5
    needs: ClassVar[tuple[Need, ...]] = ()

    def __call__(self, case: Case) -> Measurement:
        reading = case.reading
        n, classes = len(reading), case.signal.classes
        hidden = reading.label_masked
        whole = int(reading.masked.sum()) == 0
        positive = bool((reading.least >= 0).all()) and whole
        # half precision rounds sums; rows that are flat by themselves (1/K each) count as probabilities too
        probable = (
            float((((reading.row_sum - 1).abs() < SUM_TOLERANCE) & (reading.least >= 0)).double().mean())
            if whole
            else 0.0
        )
        usual = reading.row_sum.median()
        summed = float(((reading.row_sum - usual).abs() <= self.same_sum * usual.abs()).double().mean())
        # one-hot answers, multiplied: see stored-form
        hard = bool(reading.most.max() == reading.most.min() and (reading.tied == classes - 1).all())
        least_hits = int((reading.lowest == reading.labels).sum())
        if least_hits > int(reading.correct.sum()) and bool((renaming(case) != torch.arange(classes)).any()):
            least_hits = 0  # the classes have other names: the largest number is right after renaming
        there = case.held_out_reading
        if there is not None and there.accuracy > float((there.lowest == there.labels).double().mean()):
            least_hits = 0  # not the numbers have the other sign but these inputs: see input-mismatch
        shares = torch.bincount(reading.lowest, minlength=classes).double() / n
        at_random = float((reading.counts.double() / n * shares).sum())
        elsewhere = float(reading.masked.sum() - hidden.sum()) / (n * max(1, classes - 1))
        return Measurement(
            (
                Evidence("rows whose label is masked", float(hidden.double().mean()), "share", None, elsewhere),
                Evidence("masked entries", float(reading.masked.sum()) / (n * classes), "share"),
                Evidence("rows that are probabilities", probable, "share"),
                Evidence("rows of one sum, no number negative", summed if positive and usual > 0 and not hard else 0.0, "share"),
                Evidence("rows within 0..1", float((reading.most <= 1).double().mean()) if positive else 0.0, "share"),
                Evidence("accuracy of the smallest number", least_hits / n, "share", share_interval(least_hits, n)),
                Evidence("that on shuffled labels", at_random, "share"),
                Evidence("accuracy of the largest number", reading.accuracy, "share",
                         share_interval(int(reading.correct.sum()), n)),
                Evidence("classes", float(classes), "classes"),
                Evidence("largest deviation of a class's logit", float(reading.column_spread.max()), "logits"),
            ),
            examples=tuple(case.id_of(i) for i in hidden.nonzero().flatten()[:100].tolist()),
            enough=n >= 2,
        )  # fmt: skip

    def judge(self, measured: Measurement) -> Judgement:
        if measured["rows that are probabilities"] > 0.99:
            return Judgement(
                "error", 0.0, "these are probabilities, not logits: softmax would be taken twice",
                "The teacher's outputs were stored after softmax.",
                "Pass logits, or the logarithm of the probabilities.",
                command="fractionate diagnose FILE --outputs probabilities",
            )  # fmt: skip
        hidden = next(item for item in measured.evidence if item.name == "rows whose label is masked")
        if hidden.value > 0.5 * (hidden.threshold or 0.0):
            return Judgement(
                "error", 1 - hidden.value,
                f"the teacher masks the label with -inf in {hidden.value:.1%} of the rows, as often as other classes",
                "The mask belongs to other labels, or the label map is off.",
                "Leave these examples out, or unmask the label.",
            )  # fmt: skip
        if measured.enough and measured["largest deviation of a class's logit"] == 0:
            return Judgement(
                "error", 0.0, "the teacher says the same of every example",
                "It does not see its inputs (constant inputs, dead units), or the signal is a constant.",
                "Check the inputs and one forward pass.",
            )  # fmt: skip
        if measured["rows of one sum, no number negative"] > 0.99 and measured["classes"] > 1:
            return Judgement(
                "error", 0.0, "all rows have one sum and no number is negative: percentages, votes or ranks, not logits",
                "The teacher's outputs were stored after softmax and multiplied, or counted.",
                "Divide by the sum and take the logarithm; of votes with a little added to each class.",
            )  # fmt: skip
        if measured["rows within 0..1"] > 0.99:
            return Judgement(
                "error", 0.1, "all numbers lie in 0..1: sigmoids or scores, not logits",
                "The teacher's outputs were stored after a sigmoid, or scaled to 0..1.",
                "Pass what stood before it: log(p / (1 - p)) of a sigmoid.",
            )  # fmt: skip
        chance, least = measured["that on shuffled labels"], "accuracy of the smallest number"
        if measured["classes"] > 2 and measured.low(least) > max(
            self.backwards * chance, measured.high("accuracy of the largest number")
        ):
            return Judgement(
                "error", 0.0,
                f"the sign is reversed: the smallest number names the label in {measured[least]:.1%} of the rows, the largest in "
                f"{measured['accuracy of the largest number']:.1%}",
                "The numbers are costs, distances or negative log-likelihoods, or the teacher's inputs have the other sign.",
                "Pass them with the other sign.",
            )  # fmt: skip
        masked = measured["masked entries"]
        return fine(f"numbers are usable ({masked:.1%} masked)" if masked else "numbers are usable")


@probes.register("stored-form")
@dataclass(frozen=True)
class StoredForm:
    """Are these the teacher's rows, or what a store kept of them?

    Sampled rows hold random draws of the classes other than the label: unbiased for training, but the shape of a row is then
    mostly the draw, and instance.shape counts that noise as knowledge. Warning. Of the k largest entries the rest is spread evenly;
    information where it is above `left_out` = 2 % on average, since shapes are then understated. The k largest entries given as
    whole rows: in nearly all rows (`alike` = 95 %) the same number of classes, at least two and a fifth of all (`filled`), share
    one number, other classes in other rows. Warning: the number takes part in softmax as if the teacher had computed it.
    """

    left_out: float = 0.02
    alike: float = 0.95
    filled: float = 0.2
    needs: ClassVar[tuple[Need, ...]] = ()

    def __call__(self, case: Case) -> Measurement:
        signal = case.signal
        evidence = [Evidence("form", float(KINDS.index(case.stored)), "0 dense, 1 top-k, 2 sampled")]
        if isinstance(signal, CompactSignal):
            evidence.append(Evidence("entries a row", float(signal.logits.shape[1]), "entries"))
            out = float((1 - signal.captured.double()).mean())
            evidence.append(Evidence("mass left out", out, "probability", None, self.left_out))
        elif case.stored == "dense":  # a store of form top-k says so itself
            evidence += self._filled(case)
        return Measurement(tuple(evidence), about=f"{case.spectrum.instance_shape_nats:.3g}")

    def _filled(self, case: Case) -> list[Evidence]:
        reading = case.reading
        often, times = torch.unique(reading.tied, return_counts=True)
        tied = int(often[times.argmax()])
        alike = float(times.max()) / len(reading)
        moving = int((reading.column_spread > 0).sum()) if tied > 1 else 0
        padding = reading.classes - moving
        return [
            Evidence(
                "classes that share one number in a row",
                float(tied - padding),
                "classes",
                None,
                max(2.0, self.filled * moving),
            ),
            Evidence("rows that have as many", alike, "share", None, self.alike),
            Evidence("entries a row that differ", float(reading.classes - tied), "entries"),
        ]

    def judge(self, measured: Measurement) -> Judgement:
        kind = KINDS[int(measured["form"])]
        if kind == "sampled":
            return Judgement(
                "warning", 0.5, f"these rows are random draws: instance.shape ({measured.about} nats) counts their noise",
                "The store was collected with form=sampled, which is made for training, not for reading.",
                "Train with it as it is; for a spectrum collect a few thousand rows with form=top-k or dense.",
            )  # fmt: skip
        shared = next(
            (item for item in measured.evidence if item.name == "classes that share one number in a row"), None
        )
        if (
            shared is not None
            and shared.value >= (shared.threshold or 0.0)
            and measured["rows that have as many"] > self.alike
            and measured["entries a row that differ"] > 0
        ):
            k = int(measured["entries a row that differ"])
            return Judgement(
                "warning", 0.4,
                f"only {k} {'entry' if k == 1 else 'entries'} a row are the teacher's: the other {shared.value:.0f} are one number",
                "The largest entries of each row were kept and the rest filled with a constant"
                + (", or answers were made one-hot rows." if k == 1 else "."),
                "Collect whole rows, or a store of form top-k, whose loss knows what was left out.",
            )  # fmt: skip
        out = next((item.value for item in measured.evidence if item.name == "mass left out"), 0.0)
        if out > self.left_out:
            return Judgement(
                "info", 1 - out, f"{out:.1%} of the teacher's mass is not among the stored entries and counts as even",
                "The store keeps the largest entries only.", "Collect with more entries where shapes matter.",
            )  # fmt: skip
        return fine(f"{kind} rows, {out:.1%} of the mass left out", 1 - out)
