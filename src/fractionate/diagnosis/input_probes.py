"""Probes of what the teacher sees: its inputs, their scale, its mode."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from fractionate.diagnosis.case import ANSWERS, LABELS, Case, Judgement, Measurement, Need, fine, probes
from fractionate.diagnosis.interval import share_interval
from fractionate.records import Evidence
from fractionate.theory.teacher_signal import TeacherSignal
from fractionate.theory.topk_signal import CompactSignal

UNEXPECTED = "token that is not expected"


@probes.register("input-mismatch")
@dataclass(frozen=True)
class InputMismatch:
    """Does the teacher see inputs as it was trained to: normalisation, channel order, size, tokenizer?

    Wrongly prepared inputs make a teacher answer with a few classes. Measured: the total variation between the classes it answers
    with and the labels', next to its accuracy; with `expected_accuracy` or a held-out signal also the drop from there. Answers
    alone prove nothing where labels are hard to predict: a language model that knows the frequency of every word answers with
    the frequent ones, and announces how often it is wrong. Error when a fifth of the answers (`moved`) have gone to other classes
    than the labels', accuracy is below `accuracy` = 0.7 of the expectation, and either a tenth of the mean prediction (`prior`,
    beyond sampling) has moved too or the teacher is right less than `announced` = 0.5 times as often as its top probability says.
    Also where a linear classifier predicts labels and answers from the inputs and is itself right more often than the teacher,
    by `line` = 10 points: labels and inputs are sound, and the answers follow from the inputs. A line that is so far ahead, with
    labels predicted surely better than answers, is a warning without any expectation. The drop alone, clear of `drop` = 5 points,
    is a warning. Error too where the smallest number names the label more often than the largest, surely and by `backwards` = 1.5
    times chance, of three or more classes, but not on held-out data: inputs of reversed sign. Of tokens a single one that has
    `frequent` = 2 % of the labels or more and not a tenth of that in the mean prediction is a warning by itself, and does not
    count as moved: a chat model never expects the end of a text that has no template.
    """

    moved: float = 0.2
    prior: float = 0.1
    announced: float = 0.5
    accuracy: float = 0.7
    drop: float = 0.05
    line: float = 0.1
    backwards: float = 1.5
    frequent: float = 0.02
    needs: ClassVar[tuple[Need, ...]] = ()

    def __call__(self, case: Case) -> Measurement:
        reading, there = case.reading, case.held_out_reading
        n = len(reading)
        hits = int(reading.correct.sum())
        expected = case.expected_accuracy
        if expected is None and there is not None:
            expected = there.accuracy
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
            *case.predicted,
        ]
        if case.tokens:
            token = int((reading.counts.double() / n - reading.prior).argmax())
            share, expected_share = float(reading.counts[token]) / n, float(reading.prior[token])
            if share >= self.frequent and expected_share < share / 10:
                evidence += [
                    Evidence(UNEXPECTED, float(token), "class"),
                    Evidence("its share of the labels", share, "share", None, self.frequent),
                    Evidence("its share of the mean prediction", expected_share, "share"),
                ]
        if (
            there is not None
            and there.accuracy > float((there.lowest == there.labels).double().mean())
            and reading.classes > 2
        ):
            least = int((reading.lowest == reading.labels).sum())
            shares = torch.bincount(reading.lowest, minlength=reading.classes).double() / n
            evidence += [
                Evidence("accuracy of the smallest number", least / n, "share", share_interval(least, n)),
                Evidence("that on shuffled labels", float((reading.counts.double() / n * shares).sum()), "share"),
            ]
        if case.predicted and case.line is not None:
            evidence.append(Evidence("accuracy of a linear classifier", float(case.line[0].double().mean()), "share"))
        return Measurement(tuple(evidence))

    def judge(self, measured: Measurement) -> Judgement:
        accuracy = next(item for item in measured.evidence if item.name == "accuracy")
        moved = measured["answers moved to other classes"] - measured["moved by chance alone"]
        expected = accuracy.threshold
        cause = "Inputs are prepared otherwise than in the teacher's training: normalisation, scale, channel order, tokenizer."
        fix = "Use the teacher's own preprocessing; compare the mean and deviation of its inputs with those of its training."
        least = "accuracy of the smallest number"
        if measured.has(least) and measured.low(least) > max(
            self.backwards * measured["that on shuffled labels"], measured.high("accuracy")
        ):
            text = (
                f"inputs of reversed sign: the smallest number names the label in {measured[least]:.1%} of the rows, the largest "
                f"in {accuracy.value:.1%}, and not so on held-out data"
            )
            return Judgement(
                "error", accuracy.value / 2, text, "The inputs, or this signal's numbers, have the other sign.", fix
            )
        prior = measured["mean prediction moved beyond sampling"]
        if measured.has(UNEXPECTED):
            share = measured["its share of the labels"] - measured["its share of the mean prediction"]
            moved, prior = moved - share, prior - share
        wrong = prior > self.prior or accuracy.value < self.announced * measured["mean top probability"]
        if moved > self.moved and wrong and accuracy.value < self.accuracy * (expected or 1.0):
            text = f"the teacher answers with a few classes: {moved:.0%} of the answers moved, accuracy {accuracy.value:.1%}"
            return Judgement("error", accuracy.value / 2, text, cause, fix)
        if measured.has(UNEXPECTED):
            text = (
                f"the teacher does not expect token {measured[UNEXPECTED]:.0f}: {measured['its share of the labels']:.1%} of the "
                f"labels, {measured['its share of the mean prediction']:.2%} of its predictions"
            )
            return Judgement(
                "warning", 1 - share, text, "The token, often one that ends a text, was not there in the teacher's training.",
                "Leave it out of the labels (-100), or prepare the texts with the teacher's own template.",
            )  # fmt: skip
        read = "accuracy of a linear classifier"
        sound = (
            measured.has(read) and measured.low(LABELS) > 0.05 and measured[ANSWERS] > max(0.05, 0.8 * measured[LABELS])
        )
        low = expected is not None and accuracy.value < self.accuracy * expected
        if low and sound and measured[read] > accuracy.value + self.line:
            text = (
                f"the teacher misreads these inputs: accuracy {accuracy.value:.1%}, {expected:.1%} was expected; its answers "
                f"follow from the inputs, and a linear classifier is right on {measured[read]:.1%}"
            )
            return Judgement("error", accuracy.value / 2, text, cause, fix)
        behind = measured.has(read) and measured[read] > measured.high("accuracy") + self.line
        if behind and measured.low(LABELS) > measured.high(ANSWERS):
            text = (
                f"the inputs predict the labels better than the teacher's answers: a linear classifier gets {measured[read]:.1%} "
                f"right, the teacher {accuracy.value:.1%}"
            )
            return Judgement("warning", accuracy.value / 2, text, f"{cause} Or some rows belong elsewhere.", fix)
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
        if bool((case.reading.masked > 0).any()) or bool((case.held_out_reading.masked > 0).any()):
            return Measurement((), skipped="classes are ruled out (-inf), so that logits have no mean")
        if isinstance(case.signal, CompactSignal) != isinstance(case.held_out, CompactSignal):
            return Measurement(
                (), skipped="one signal was kept without some of its classes, whose logits count in the mean"
            )
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
