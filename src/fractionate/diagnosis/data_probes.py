"""Probes of the transfer set as the teacher sees it: labels, classes, numbers."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool
from torch import Tensor

from fractionate.diagnosis.case import Case, Judgement, Measurement, Need, fine, probes
from fractionate.diagnosis.interval import share_interval
from fractionate.diagnosis.label_mixture import LabelMixture
from fractionate.diagnosis.reading import Reading
from fractionate.records import Evidence, Interval

SHARED = "random in held-out data too, not subtracted"
THERE = "random labels in held-out data"
AHEAD = "ahead of what can be learned from these labels"


@probes.register("label-noise")
@dataclass(frozen=True)
class LabelNoise:
    """Which labels does the teacher confidently contradict?

    An example counts when the teacher's answer is not the label and it gives the answer at least the confidence it has, on
    average, in examples so labelled, as in confident learning (Northcutt et al., arXiv 1911.00068). A teacher has errors of its
    own: what it contradicts on held-out data where they are given, else what its own doubt announces (the sum of 1 - top
    probability over equally confident examples). Warning where the excess is clear of `rate` = 1 %, error where it is clear of
    `many` = 15 %; neither where another temperature explains the labels: random labels have to be the likelier explanation of at
    least `explained` = half of the excess. Wrong labels are as frequent where a teacher is sure, and wrong inputs are not.

    Labels that are wrong in held-out data too are not the teacher's errors: what random labels surely explain in both, the smaller
    of the lower ends of their shares, is not subtracted where it is at least `explained` of what the teacher contradicts in
    held-out data. It counts where the teacher is right more often, by `lead` = 1 point, than
    classifiers that learned from these labels and were judged on others (a line, the student's own kind): random labels cannot be
    learned, so a teacher behind those has errors of its own. Warning too where that holds, the teacher is right beyond chance and
    the share in held-out data alone is clear of `common` = 15 %. Not of tokens, whose labels are the text itself.
    """

    rate: float = 0.01
    many: float = 0.15
    explained: float = 0.5
    common: float = 0.15
    lead: float = 0.01
    needs: ClassVar[tuple[Need, ...]] = ()

    def __call__(self, case: Case) -> Measurement:
        confident, against = self._against(case.reading)
        n, count = len(against), int(against.sum())
        views = n if case.data is None or case.tokens else int(torch.unique(case.data.group).numel())
        around = share_interval(round(count * views / n), views)
        if case.held_out_reading is not None:
            own, other = "held-out labels confidently contradicted", self._against(case.held_out_reading)[1]
            theirs = share_interval(int(other.sum()), len(other))
            expected = float(other.double().mean())
        else:
            own = "contradictions that its doubt announces"
            expected = float(torch.where(confident, 1 - case.reading.top, 0.0).mean())
            theirs = Interval(expected, expected)
        random, there = self._random("random labels", case.mixture, case.signal.classes), self._held_out(case)
        shared = self._in_both(random, there, expected)
        excess = count / n - max(0.0, expected - shared)
        # Newcombe's interval of a difference, from the two Wilson intervals
        low = excess - math.hypot(count / n - around.low, theirs.high - expected)
        high = excess + math.hypot(around.high - count / n, expected - theirs.low)
        order = torch.argsort(torch.where(against, case.reading.top, -1.0), descending=True)[: min(count, 100)]
        pairs = [
            f"{case.id_of(i)}: {case.name_of(int(case.reading.labels[i]))} → {case.name_of(int(case.reading.predicted[i]))}"
            for i in order[:3].tolist()
        ]
        return Measurement(
            (
                Evidence(
                    "labels contradicted beyond the teacher's own errors",
                    excess,
                    "share",
                    Interval(low, high),
                    self.rate,
                ),
                Evidence("labels confidently contradicted", count / n, "share", around),
                Evidence(own, expected, "share", theirs),
                *[Evidence(SHARED, shared, "share")] * bool(there),
                random,
                *there,
                Evidence("accuracy", case.reading.accuracy, "share"),
                Evidence("chance", case.reading.chance, "share"),
            ),
            examples=tuple(case.id_of(i) for i in order.tolist()),
            about="; ".join(pairs),
        )

    def _held_out(self, case: Case) -> tuple[Evidence, ...]:
        """What tells of labels that are as wrong in held-out data."""
        if case.tokens or case.held_out_reading is None or case.held_out_mixture is None:
            return ()
        own, rivals = case.reading.correct.double(), [case.line] if case.line is not None else []
        rivals += [(case.fit.right, case.fit.places)] if case.fit is not None else []
        leads = [float((own[places] - right.double()).mean()) for right, places in rivals]
        ahead = [Evidence(AHEAD, min(leads), "share", None, self.lead)] if leads else []
        return (
            self._random(THERE, case.held_out_mixture, case.signal.classes, self.common),
            Evidence("accuracy on held-out data", case.held_out_reading.accuracy, "share"),
            Evidence("chance on held-out data", case.held_out_reading.chance, "share"),
            *ahead,
        )

    def _in_both(self, here: Evidence, there: tuple[Evidence, ...], contradicted: float) -> float:
        """The share of labels that are surely random in transfer set and held-out data.

        0 where the teacher does not lead, and where most of what it contradicts in held-out data has to be errors of its own.
        """
        known = {one.name: one for one in there}
        if THERE not in known or AHEAD not in known or known[AHEAD].value <= self.lead:
            return 0.0
        shared = min(one.interval.low for one in (here, known[THERE]) if one.interval is not None)
        return shared if shared >= self.explained * contradicted else 0.0

    @staticmethod
    def _random(name: str, found: LabelMixture, classes: int, threshold: float | None = None) -> Evidence:
        wrong = 1 - 1 / classes  # a label drawn at random may be the right one
        around = Interval(found.interval.low * wrong, found.interval.high * wrong)
        return Evidence(name, found.random * wrong, "share", around, threshold)

    @staticmethod
    def _against(reading: Reading) -> tuple[Bool[Tensor, "examples"], Bool[Tensor, "examples"]]:
        total = torch.zeros(reading.classes, dtype=torch.float64).index_add_(0, reading.labels, reading.confidence)
        own = total / reading.counts.clamp_min(1)
        confident = (reading.top >= own[reading.predicted]) & (reading.counts[reading.predicted] > 0)
        return confident, confident & ~reading.correct

    def judge(self, measured: Measurement) -> Judgement:
        excess = measured["labels contradicted beyond the teacher's own errors"]
        low = measured.low("labels contradicted beyond the teacher's own errors")
        leads = not measured.has(AHEAD) or measured[AHEAD] > self.lead
        if measured.has(THERE) and measured.low(THERE) > self.common and leads:
            right, chance = measured["accuracy on held-out data"], measured["chance on held-out data"]
            if right > chance + 0.2 * (1 - chance):
                return Judgement(
                    "warning", 1 - measured["random labels"],
                    f"{measured['random labels']:.0%} of the labels look random, and {measured[THERE]:.0%} of the held-out labels, "
                    f"first {measured.about}",
                    "Labels are noisy in all of the data: they come from one source.",
                    "Correct the listed examples; until then give the teacher more weight than the labels. Judge on clean data.",
                    patch=(("objective.teacher_weight", 1.0),),
                )  # fmt: skip
        if low <= self.rate or measured["random labels"] < self.explained * excess:
            text = f"the teacher confidently contradicts {max(0.0, excess):.1%} of the labels beyond its own errors"
            more = "; its doubt explains them" if low > self.rate else ""
            if leads and measured.has(THERE) and measured.low(THERE) > self.rate:
                more += f"; {measured[THERE]:.0%} of the held-out labels look random too"
            return fine(text + more, 1 - 5 * max(0.0, excess))
        too = (
            f", and {measured[THERE]:.0%} of the held-out labels random"
            if measured.has(SHARED) and measured[SHARED]
            else ""
        )
        useless = measured["accuracy"] <= 2 * measured["chance"]
        return Judgement(
            "error" if low > self.many and not useless else "warning",
            1 - 2 * excess,
            f"{excess:.1%} of the labels look wrong beyond the teacher's own errors{too}, first {measured.about}",
            "Labels are noisy, or rows of a cached signal belong to other examples (the teacher cannot tell which; check those "
            "listed).",
            "Correct or drop the listed examples; until then give the teacher more weight than the labels.",
            patch=(("objective.teacher_weight", 1.0),),
        )


@probes.register("too-few-examples")
@dataclass(frozen=True)
class TooFewExamples:
    """Are there enough examples for class-level statistics to mean something?

    Class means of n examples hold noise worth about (K - 1) / 2n nats at most a class; measured as the median number of examples a
    class present. Warning below `each` = 5 (no class mean to speak of), or below `all` = 50 examples. Most tokens of a vocabulary
    are rare in any text, so of tokens only their number counts.
    """

    each: float = 5.0
    all: float = 50.0
    needs: ClassVar[tuple[Need, ...]] = ()

    def __call__(self, case: Case) -> Measurement:
        present = case.reading.counts[case.reading.counts > 0].double()
        return Measurement(
            (
                Evidence("examples", float(len(case.reading)), "examples", None, self.all),
                Evidence("median examples a class", float(present.median()), "examples", None, self.each),
                Evidence("classes present", float(len(present)), "classes"),
                Evidence("rows are tokens", float(case.tokens), "1 yes, 0 no"),
            )
        )

    def judge(self, measured: Measurement) -> Judgement:
        examples, each = measured["examples"], measured["median examples a class"]
        if measured["classes present"] < 2:
            return Judgement(
                "error", 0.0, "all examples have one class: there is nothing to tell apart",
                "The labels are constant.", "Check the label column; a transfer set needs at least two classes.",
            )  # fmt: skip
        if measured["rows are tokens"] and examples >= self.all:
            return fine(f"{examples:.0f} tokens, {each:g} of each word")
        if examples >= self.all and each >= self.each:
            return fine(f"{each:.0f} examples a class", 1 - self.each / each / 2)
        return Judgement(
            "warning", min(examples / self.all, each / self.each, 1.0) / 2,
            f"too few examples to tell: {examples:.0f} in all, {each:g} a class",
            "Class means and intervals of so few examples are mostly noise.",
            "Collect more examples (unlabelled ones will do for the teacher), or use cells without class means: kd, kd-pt.",
        )  # fmt: skip


@probes.register("duplicate-examples")
@dataclass(frozen=True)
class DuplicateExamples:
    """Do examples come more than once, perhaps under different labels?

    Warning where an example comes again under its own id, where inputs repeat under different labels, or where more than `share`
    = 5 % of the inputs are copies: repeated rows count more than once in every statistic, and leak from the transfer set into
    test data. Views of one example (one id, other inputs) are no copies. Of inputs that are one tensor an example.
    """

    share: float = 0.05
    needs: ClassVar[tuple[Need, ...]] = ("data",)

    def __call__(self, case: Case) -> Measurement:
        assert case.data is not None
        if case.data.inputs is None:
            return Measurement((), skipped=case.data.no_inputs)
        n, group = len(case.data), case.data.group.tolist()
        rows = case.data.inputs.reshape(n, -1).cpu().contiguous()
        seen: dict[bytes, int] = {}
        copies, repeated_ids, torn = 0, 0, []
        for i in range(n):
            key = hashlib.blake2b(rows[i].view(torch.uint8).numpy().tobytes(), digest_size=16).digest()
            first = seen.setdefault(key, i)
            if first != i:
                copies += 1
                repeated_ids += group[i] == group[first]
                if not torch.equal(case.data.labels[i], case.data.labels[first]):
                    torn.append(i)
        return Measurement(
            (
                Evidence("repeated ids", float(repeated_ids), "ids", None, 0.0),
                Evidence("inputs that are copies", copies / n, "share", None, self.share),
                Evidence("copies under another label", float(len(torn)), "examples", None, 0.0),
            ),
            examples=tuple(case.id_of(i) for i in torn[:100]),
        )

    def judge(self, measured: Measurement) -> Judgement:
        ids, copies = int(measured["repeated ids"]), measured["inputs that are copies"]
        torn = int(measured["copies under another label"])
        if not ids and not torn and copies <= self.share:
            return fine("ids and inputs are distinct", 1 - copies)
        faults = [f"{ids} ids repeat"] * bool(ids) + [f"{torn} copies carry another label"] * bool(torn)
        return Judgement(
            "warning", 0.5, ", ".join(faults) or f"{copies:.1%} of the inputs are copies of others",
            "Files were joined twice, or examples were oversampled before the signal was collected.",
            "Drop the copies; where they are wanted, weigh examples in place of repeating them.",
        )  # fmt: skip
