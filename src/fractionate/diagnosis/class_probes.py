"""Probes of single classes as the teacher sees them: present, frequent, distinguished, answered."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fractionate.diagnosis.case import Case, Judgement, Measurement, Need, fine, probes
from fractionate.diagnosis.interval import mean_interval, paired_interval, share_interval
from fractionate.diagnosis.label_mixture import evenly
from fractionate.diagnosis.linear_probe import parts
from fractionate.records import Evidence
from fractionate.theory.teacher_signal import TeacherSignal
from fractionate.theory.topk_signal import CompactSignal, row_logits

MOST_ROWS = 2000  # on which a correction of the prior is tried


@probes.register("class-balance")
@dataclass(frozen=True)
class ClassBalance:
    """Are classes absent, rare, or differently frequent for the teacher?

    Measured: classes without examples, the largest class over the smallest present, and prior shift: the total variation
    between the teacher's mean prediction and the labels' shares. Warning for absent classes, for an imbalance above `imbalance`
    = 20; class-level statistics and gains are then about the frequent classes. For a shift above `shift` = 0.1 beyond sampling
    where correcting the teacher's prior, fitted on one half, makes it right more often on the other, by `gains` = 1 point; else
    information, since neighbours and trees lean to some classes and nothing is won back.
    Of tokens only the shift counts: most of a vocabulary is rare everywhere, and the teacher expects it so.
    """

    imbalance: float = 20.0
    shift: float = 0.1
    gains: float = 0.01
    needs: ClassVar[tuple[Need, ...]] = ()

    def __call__(self, case: Case) -> Measurement:
        reading = case.reading
        present = reading.counts[reading.counts > 0]
        absent = (reading.counts == 0).nonzero().flatten()
        ratio = float(present.max() / present.min())
        counted = (
            Evidence("classes without examples", float(len(absent)), "classes", None, 0.0),
            Evidence("largest class / smallest", ratio, "ratio", None, self.imbalance),
        )
        return Measurement(
            (
                *(() if case.tokens else counted),
                Evidence("classes", float(case.signal.classes), "classes"),
                Evidence("prior shift", max(0.0, reading.prior_shift), "total variation", None, self.shift),
                *(self._corrected(case) if reading.prior_shift > self.shift else ()),
                Evidence("accuracy", reading.accuracy, "share"),
            ),
            about=", ".join(case.name_of(c) for c in absent[:8].tolist()) + (" …" if len(absent) > 8 else ""),
        )

    def _corrected(self, case: Case) -> tuple[Evidence, ...]:
        """How much more often the teacher is right with log(share in the labels / share in its answers) added to its logits.

        Each half is judged with the shares of the other.
        """
        signal, reading = case.signal, case.reading
        rows = evenly(len(signal), MOST_ROWS)
        first = parts(rows if case.data is None else case.data.group[rows], 2) == 0
        if not bool(first.any()) or bool(first.all()):
            return ()
        logits = row_logits(signal)[rows.to(signal.logits.device)].double().cpu()
        labels, after = reading.labels[rows], torch.zeros(len(rows), dtype=torch.float64)
        for fitted in (first, ~first):
            wanted = torch.bincount(labels[fitted], minlength=reading.classes).double() + 0.5
            has = logits[fitted].softmax(1).sum(0) + 0.5
            after[~fitted] = ((logits[~fitted] + (wanted / has).log()).argmax(1) == labels[~fitted]).double()
        before = reading.correct[rows].double()
        gain = float((after - before).mean())
        return (
            Evidence(
                "accuracy gained by correcting the prior", gain, "share", paired_interval(after, before), self.gains
            ),
        )

    def judge(self, measured: Measurement) -> Judgement:
        shift, tokens = measured["prior shift"], not measured.has("classes without examples")
        absent = 0 if tokens else int(measured["classes without examples"])
        ratio = 1.0 if tokens else measured["largest class / smallest"]
        if absent:
            return Judgement(
                "warning", 1 - absent / measured["classes"],
                f"{absent} of {int(measured['classes'])} classes have no examples: {measured.about}",
                "The transfer set covers only some of the teacher's classes; the rest is learned through the teacher alone.",
                "Add examples of these classes, or cut them from both models if they will never come up.",
            )  # fmt: skip
        if ratio > self.imbalance:
            return Judgement(
                "warning", self.imbalance / ratio, f"the largest class has {ratio:.0f} times the examples of the smallest",
                "The classes are imbalanced: the mean over the data is a mean over the frequent classes.",
                "Sample or weigh classes evenly, and check the accuracy of each class.",
            )  # fmt: skip
        if shift > self.shift:
            gain = "accuracy gained by correcting the prior"
            pays = not measured.has(gain) or measured[gain] > self.gains
            return Judgement(
                "warning" if pays else "info", 1 - shift,
                f"the teacher expects other class frequencies than the labels' (shift {shift:.0%})",
                "The teacher was trained on classes in other proportions, sees other inputs, or leans to some, as neighbours do.",
                "Correct the prior: add log(share in this data / share in the teacher's) to its logits.",
            )  # fmt: skip
        if tokens:
            return fine(
                f"tokens are as frequent as the teacher expects (shift {shift:.0%}); rare ones are no fault", 1 - shift
            )
        return fine("classes are present and balanced as the teacher expects", 1 - shift)


@probes.register("duplicate-classes")
@dataclass(frozen=True)
class DuplicateClasses:
    """Are there pairs of classes that the teacher cannot tell apart?

    Of pairs where one class is answered with the other in at least `swapped` = 30 % of the answers within the pair: how often an
    example of the one has the larger difference of the two logits than one of the other (the area under the ROC curve; 50 % is a
    coin). Near duplicates where that is below `apart` = 70 %, surely. Warning where a linear classifier of the inputs, or the
    student's own kind, is right on examples of the pair more often than the teacher, surely by `ahead` = 10 points, and on all
    others not by more than `margin` = 1 point (else the teacher is weak, see weak-teacher); without inputs, where the teacher is
    right on `others` = 75 % of the rest. Else information: the classes may be as alike as that.
    """

    swapped: float = 0.3
    apart: float = 0.7
    ahead: float = 0.1
    margin: float = 0.01
    others: float = 0.75
    least_examples: int = 10
    needs: ClassVar[tuple[Need, ...]] = ()

    def __call__(self, case: Case) -> Measurement:
        reading, classes = case.reading, case.signal.classes
        key, times = torch.unique(reading.labels * classes + reading.predicted, return_counts=True)
        seen = {divmod(int(k), classes): int(t) for k, t in zip(key, times, strict=True)}
        candidates = {
            (min(a, b), max(a, b))
            for (a, b), crossed in seen.items()
            if a != b
            and min(int(reading.counts[a]), int(reading.counts[b])) >= self.least_examples
            and crossed >= self.swapped * (crossed + seen.get((a, a), 0))
        }
        worst, pairs, avoidable = 1.0, [], 0
        by_class = torch.split(reading.labels.argsort(stable=True), reading.labels.bincount(minlength=classes).tolist())
        for a, b in sorted(candidates):
            area, error = self._area(case.signal, a, b, by_class[a], by_class[b])
            worst = min(worst, area)
            if area + 1.96 * error < self.apart:
                pairs.append(f"{case.name_of(a)} and {case.name_of(b)}")
                avoidable += self._avoidable(case, torch.cat([by_class[a], by_class[b]]))
        return Measurement(
            (
                Evidence("how well the closest pair is distinguished", worst, "area under ROC", None, self.apart),
                Evidence("pairs", float(len(pairs)), "pairs"),
                Evidence("pairs that can be distinguished", float(avoidable), "pairs"),
            ),
            about=", ".join(pairs[:8]) + (" …" if len(pairs) > 8 else ""),
        )

    @staticmethod
    def _area(signal: TeacherSignal | CompactSignal, a: int, b: int, of_a: Tensor, of_b: Tensor) -> tuple[float, float]:
        """The area under the ROC curve of logit a - logit b between the rows of the two classes, and its error under chance."""

        def gap(rows: Tensor) -> Tensor:
            pair = row_logits(signal)[rows.to(signal.logits.device)][:, [a, b]].double()
            return (pair[:, 0] - pair[:, 1]).nan_to_num(0.0).cpu()

        own, others = gap(of_a), gap(of_b).sort().values
        n, m = len(own), len(others)
        above = sum(
            int(torch.searchsorted(others, own, right=right).sum()) for right in (False, True)
        )  # ties count half
        return above / (2 * n * m), ((n + m + 1) / (12 * n * m)) ** 0.5

    def _avoidable(self, case: Case, pair: Tensor) -> bool:
        """Whether the inputs, or the teacher's grasp of other classes, say that the pair could be distinguished."""
        right = case.reading.correct
        rivals = [] if case.line is None else [case.line]
        if case.fit is not None:
            rivals.append((case.fit.right, case.fit.places))
        if not rivals:
            others = len(right) - len(pair)
            return others > 0 and int(right.sum() - right[pair].sum()) / others > self.others
        within = torch.zeros_like(right, dtype=torch.bool).index_fill(0, pair, True)
        for theirs, places in rivals:
            some, lead = within[places], theirs.double() - right[places].double()
            if int(some.sum()) > 1 and mean_interval(lead[some]).low > self.ahead:
                return bool((~some).any()) and float(lead[~some].mean()) <= self.margin
        return False

    def judge(self, measured: Measurement) -> Judgement:
        pairs = int(measured["pairs"])
        if not pairs:
            return fine(
                "every two classes can be distinguished", measured["how well the closest pair is distinguished"]
            )
        return Judgement(
            "warning" if measured["pairs that can be distinguished"] else "info",
            0.4, f"the teacher cannot tell apart {measured.about}",
            "These classes are near duplicates, or the teacher never learned the difference.",
            "Merge the classes, or find out by which feature they differ and whether the teacher sees it.",
        )  # fmt: skip


@probes.register("lost-class")
@dataclass(frozen=True)
class LostClass:
    """Are there single classes that the teacher misses, although it is right on the others?

    A class counts as lost where its recall, with the interval, is below `share` = 0.6 of the others', and the teacher expects
    fewer than `expected` = 0.8 of its examples in all: one that knows a rare class to be rare answers with it seldom and is still
    calibrated. Of classes with at least `least_examples` = 20; warning, as the student would learn not to answer with it.
    """

    share: float = 0.6
    expected: float = 0.8
    least_examples: int = 20
    needs: ClassVar[tuple[Need, ...]] = ()

    def __call__(self, case: Case) -> Measurement:
        reading = case.reading
        hits = torch.bincount(reading.labels[reading.correct], minlength=reading.classes)
        whole, n = int(hits.sum()), len(reading)
        lost, worst = [], 1.0
        for c in (reading.counts >= self.least_examples).nonzero().flatten().tolist():
            own, count = int(hits[c]), int(reading.counts[c])
            others = (whole - own) / max(1, n - count)
            worst = min(worst, own / count / max(others, 1e-9))
            few = float(reading.prior[c]) * n < self.expected * (count - 2 * count**0.5)
            if few and share_interval(own, count).high < self.share * others:
                lost.append((own / count, c))
        named = [f"{case.name_of(c)} ({recall:.0%} right)" for recall, c in sorted(lost)[:8]]
        examples = torch.isin(reading.labels, torch.tensor([c for _, c in lost])) & ~reading.correct
        return Measurement(
            (
                Evidence("classes lost", float(len(lost)), "classes", None, 0.0),
                Evidence("least recall against the others", worst, "ratio", None, self.share),
                Evidence("accuracy", reading.accuracy, "share"),
            ),
            examples=tuple(case.id_of(i) for i in examples.nonzero().flatten()[:100].tolist()) if lost else (),
            about=", ".join(named) + (" …" if len(lost) > 8 else ""),
        )

    def judge(self, measured: Measurement) -> Judgement:
        if not measured["classes lost"]:
            return fine("no single class is missed", measured["least recall against the others"])
        return Judgement(
            "warning", measured["least recall against the others"],
            f"the teacher misses single classes: {measured.about}; accuracy over all {measured['accuracy']:.1%}",
            "The class was absent or rare in the teacher's training, or two label maps differ in it.",
            "Repair or retrain the teacher for it, or give the labels more weight than the teacher.",
        )  # fmt: skip
