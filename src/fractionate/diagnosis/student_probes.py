"""Probes of the student against the teacher, before any step: sizes, scales, directions."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from fractionate.diagnosis.case import Case, Judgement, Measurement, Need, fine, probes
from fractionate.diagnosis.interval import share_interval
from fractionate.records import Evidence


@probes.register("vocabulary-mismatch")
@dataclass(frozen=True)
class VocabularyMismatch:
    """Do teacher, student and names speak of the same classes? Are some of the teacher's padding?

    Error where the student's outputs are not as many as the teacher's, and where two of teacher, student and data (the
    `config.id2label` of transformers models, the names of the data) have the same names in another order. A column is padding
    where its logit never moves (deviation 0) although others do, and no label uses it: warning, as its probability is no
    judgement.
    """

    needs: ClassVar[tuple[Need, ...]] = ()

    def __call__(self, case: Case) -> Measurement:
        reading, classes = case.reading, case.signal.classes
        named = len(case.class_names) or classes
        still = (reading.column_spread == 0) & (reading.counts == 0) & (reading.predicted_counts == 0)
        padding = int(still.sum()) if float(reading.column_spread.max()) > 0 else 0
        outputs = classes if case.student_logits is None else case.student_logits.shape[1]
        elsewhere = renamed(case.label_maps)
        return Measurement(
            (
                Evidence("the teacher's classes", float(classes), "classes"),
                Evidence("the student's classes", float(outputs), "classes"),
                Evidence("class names", float(named), "names"),
                Evidence("columns that never move", float(padding), "classes"),
                Evidence("mass on these columns", float(reading.prior[still].sum()) if padding else 0.0, "probability"),
                Evidence("names that stand in another place", float(len(elsewhere)), "names"),
            ),
            about="; ".join(elsewhere[:3]) + (" …" if len(elsewhere) > 3 else ""),
        )

    def judge(self, measured: Measurement) -> Judgement:
        teacher, student = int(measured["the teacher's classes"]), int(measured["the student's classes"])
        cause = "The vocabularies differ: another tokenizer or label map, or a padded output layer."
        if student != teacher:
            return Judgement(
                "error", 0.0, f"the student has {student:,} outputs, the teacher {teacher:,} classes", cause,
                "Give the student the teacher's classes, or cut both to the classes they share before collecting.",
            )  # fmt: skip
        if measured["names that stand in another place"]:
            return Judgement(
                "error", 0.0, f"the label maps differ: {measured.about}", "The label maps have the same names in another order.",
                "Map the labels by name (label2id of the teacher), or reorder the teacher's columns, and collect again.",
            )  # fmt: skip
        padding, named = int(measured["columns that never move"]), int(measured["class names"])
        if padding:
            return Judgement(
                "warning", 0.5,
                f"{padding:,} of the teacher's {teacher:,} columns never move and no label uses them: padding",
                cause, "Set these columns to -inf on both sides, or cut them.",
            )  # fmt: skip
        if named != teacher:
            return Judgement(
                "warning", 0.5, f"{named:,} class names for {teacher:,} classes", cause,
                "Name every class the teacher has, in its order.",
            )  # fmt: skip
        return fine(f"all speak of the same {teacher:,} classes")


def renamed(maps: Mapping[str, tuple[str, ...]]) -> list[str]:
    """Where two label maps have the same names in another order: class 0 is "neg" for the teacher, "pos" for the data."""
    plain = {who: [name.strip().casefold() for name in names] for who, names in maps.items() if names}
    for i, (one, ours) in enumerate(plain.items()):
        for other, theirs in list(plain.items())[i + 1 :]:
            if ours != theirs and sorted(ours) == sorted(theirs):
                apart = [place for place, (a, b) in enumerate(zip(ours, theirs, strict=True)) if a != b]
                return [f"class {c} is {maps[one][c]} for the {one}, {maps[other][c]} for the {other}" for c in apart]
    return []


@probes.register("loss-scale")
@dataclass(frozen=True)
class LossScale:
    """Do the label's and the teacher's parts of the planned loss pull the student about as hard, and the same way?

    At the student's initial weights: ratio of the gradients' norms (teacher's part over label's, with their weights and T²) and
    their cosine. Warning outside `smallest` = 1/30 to `largest` = 30 (one part is then an afterthought), or with a
    cosine below `opposed` = -0.1 (they pull apart). An objective with one part has no ratio.
    """

    smallest: float = 1 / 30
    largest: float = 30.0
    opposed: float = -0.1
    needs: ClassVar[tuple[Need, ...]] = ("student", "data", "objective")

    def __call__(self, case: Case) -> Measurement:
        if case.gradients is None:  # other classes than the teacher: another finding
            return Measurement((), enough=False)
        hard, soft = case.gradients
        norms = float(hard.norm()), float(soft.norm())
        both = min(norms) > 0
        return Measurement(
            (
                Evidence("gradient of the teacher's part / of the label's", norms[1] / norms[0] if norms[0] else math.inf,
                         "ratio"),
                Evidence("cosine of the two gradients", float(hard @ soft) / (norms[0] * norms[1]) if both else 1.0, "cosine"),
                Evidence("gradient of the label's part", norms[0], "norm"),
                Evidence("gradient of the teacher's part", norms[1], "norm"),
            ),
            enough=both,
        )  # fmt: skip

    def judge(self, measured: Measurement) -> Judgement:
        if not measured.enough:
            return fine("not measured: the planned objective has one part only, or the student has other classes")
        ratio = measured["gradient of the teacher's part / of the label's"]
        cosine = measured["cosine of the two gradients"]
        if not self.smallest <= ratio <= self.largest:
            small, other = ("teacher's", "label's") if ratio < 1 else ("label's", "teacher's")
            return Judgement(
                "warning", min(ratio, 1 / ratio) * 15,
                f"loss scales are out of balance: the {small} part pulls {max(ratio, 1 / ratio):.0f} times less than the {other}",
                "The weight, the temperature and the factor T² together make one part vanish.",
                "Change the teacher weight, or turn the T² factor on.",
                patch=(("objective.scale_by_temperature_squared", True),),
            )  # fmt: skip
        if cosine < self.opposed:
            return Judgement(
                "warning", 0.5 + cosine / 2, f"label and teacher pull the student apart (cosine {cosine:.2f})",
                "The teacher contradicts the labels: noisy labels, permuted classes, a misaligned cache.",
                "See the other findings; with sound labels lower the teacher weight.",
            )  # fmt: skip
        return fine(f"the teacher's part pulls {ratio:.2g} times as hard as the label's (cosine {cosine:.2f})")


@probes.register("initial-loss")
@dataclass(frozen=True)
class InitialLoss:
    """Is the student's first loss sane? An untrained student should know as much as a uniform guess.

    Measured: its mean cross-entropy over log K. Warning above `worse` = 2: it starts with confident mistakes (inputs on a
    wrong scale, a head trained for other classes), and distillation first has to undo them.
    """

    worse: float = 2.0
    needs: ClassVar[tuple[Need, ...]] = ("student", "data")

    def __call__(self, case: Case) -> Measurement:
        assert case.student_logits is not None
        fits = case.student_logits.shape == case.signal.logits.shape
        if not fits:
            return Measurement((), enough=False)
        labels = case.signal.labels.to(case.student_logits.device)
        loss = float(nn.functional.cross_entropy(case.student_logits.float(), labels))
        flat = math.log(case.signal.classes)
        return Measurement((Evidence("first loss / log K", loss / flat, "ratio", None, self.worse),
                            Evidence("first loss", loss, "nats")))  # fmt: skip

    def judge(self, measured: Measurement) -> Judgement:
        if not measured.enough:
            return fine("not measured: the student has other classes (see vocabulary-mismatch)")
        ratio = measured["first loss / log K"]
        if ratio <= self.worse:
            return fine(f"the student starts at {measured['first loss']:.2f} nats, {ratio:.2f} times a uniform guess")
        bad = math.isnan(ratio) or math.isinf(ratio)
        return Judgement(
            "error" if bad else "warning", 1 / ratio if not bad else 0.0,
            f"the student's first loss is {measured['first loss']:.3g} nats, {ratio:.1f} times that of a uniform guess",
            "Its inputs are on a wrong scale, or its head was trained for other classes.",
            "Normalise the inputs, or start the head afresh.",
        )  # fmt: skip


@probes.register("capacity-gap")
@dataclass(frozen=True)
class CapacityGap:
    """Can the student hold what the teacher knows, and are there classes enough to relate?

    A copy of the student is trained for 300 steps on half of the labels. Warning where it fits even that half worse than the
    teacher or a linear classifier predicts examples new to them, surely and by `behind` = 5 points: it is too small, or its inputs
    are on a wrong scale. Of up to `most_classes` = 100 classes: more are not learned in 300 steps. Two classes are information:
    there are no wrong classes to relate, so only the teacher's confidence can help.
    """

    behind: float = 0.05
    most_classes: int = 100
    needs: ClassVar[tuple[Need, ...]] = ("student", "data")

    def __call__(self, case: Case) -> Measurement:
        if case.fit is None or case.line is None:
            return Measurement((), skipped="students of up to 200,000 parameters over inputs of numbers are tried")
        hits = round(case.fit.fitted * (len(case.line[1]) - len(case.fit.places)))
        count = max(1, len(case.line[1]) - len(case.fit.places))
        right, judged = case.line
        new = case.held_out_reading or case.reading
        return Measurement(
            (
                Evidence("the student's accuracy on what it was trained on", case.fit.fitted, "share", share_interval(hits, count)),
                Evidence("its accuracy on the other half", float(case.fit.right.double().mean()), "share"),
                Evidence("accuracy of a linear classifier", float(right.double().mean()), "share",
                         share_interval(int(right.sum()), len(judged))),
                Evidence("the teacher's accuracy", new.accuracy, "share", share_interval(int(new.correct.sum()), len(new))),
                Evidence("classes", float(case.signal.classes), "classes"),
            )
        )  # fmt: skip

    def judge(self, measured: Measurement) -> Judgement:
        own, fitted = (
            "the student's accuracy on what it was trained on",
            measured["the student's accuracy on what it was trained on"],
        )
        rival = max("accuracy of a linear classifier", "the teacher's accuracy", key=measured.__getitem__)
        surely = fitted < measured[rival] - self.behind and measured.high(own) < measured.low(rival)
        if surely and measured["classes"] <= self.most_classes:
            return Judgement(
                "warning", 0.3,
                f"the student is too small: {fitted:.1%} right on examples it was trained on, where "
                f"{'the teacher' if 'teacher' in rival else 'a linear classifier'} gets {measured[rival]:.1%} of new ones",
                "The student is too small for these classes, or its inputs are on a wrong scale for it.",
                "Widen the student (its narrowest layer first), normalise its inputs, or train it longer than 300 steps.",
            )  # fmt: skip
        if measured["classes"] == 2:
            return Judgement(
                "info", 0.8, "two classes: there are no wrong classes to relate, so only the teacher's confidence can help",
                "With two classes the shape of the other classes is empty.",
                "Prefer cells of confidence (kd-pt), and expect small gains.",
            )  # fmt: skip
        return fine(f"the student fits {fitted:.1%} of what it was trained on for a moment", fitted)
