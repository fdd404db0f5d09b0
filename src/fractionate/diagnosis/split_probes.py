"""Probes of the splits against each other: examples in two of them, and data that differ."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fractionate.data.batch import Split, leaves
from fractionate.data.memory import MemorySplit
from fractionate.data.stream import StreamSplit
from fractionate.diagnosis.case import Case, Judgement, Measurement, Need, fine, probes
from fractionate.diagnosis.interval import share_interval
from fractionate.diagnosis.linear_probe import MOST_EXAMPLES, MOST_FEATURES, fitted_line
from fractionate.records import Evidence

JUDGED = ("validation", "test")


@probes.register("leaked-examples")
@dataclass(frozen=True)
class LeakedExamples:
    """Do examples of the validation or test data stand in the transfer set?

    Compared by their inputs, of whatever form, padding left out. Warning where more than `share` = 5 % of a split are there (its
    figures are then those of seen examples), information below: short texts and coarse tables repeat by themselves.
    """

    share: float = 0.05
    needs: ClassVar[tuple[Need, ...]] = ("data",)

    def __call__(self, case: Case) -> Measurement:
        assert case.data is not None
        splits = case.data.task.splits
        others = {name: split for name in JUDGED if (split := getattr(splits, name)) is not None}
        if not others:
            return Measurement((), skipped="there are no validation or test data (data=Task(…, test=…))")
        if any(isinstance(split, StreamSplit) for split in (splits.transfer, *others.values())):
            return Measurement((), skipped="streams are not read twice")
        seen = set(keys(splits.transfer))
        evidence, examples = [], []
        for name, split in others.items():
            there = [key in seen for key in keys(split)]
            evidence.append(
                Evidence(f"{name} examples in the transfer set", sum(there) / len(there), "share",
                         share_interval(sum(there), len(there)), self.share)
            )  # fmt: skip
            examples += [f"{name} {split.ids[i]}" for i in range(len(there)) if there[i]]
        return Measurement(tuple(evidence), examples=tuple(examples[:100]))

    def judge(self, measured: Measurement) -> Judgement:
        worst = max(measured.evidence, key=lambda item: item.value)
        if worst.value == 0:
            return fine("no validation or test example stands in the transfer set")
        text = f"{worst.value:.1%} of the {worst.name}"
        return Judgement(
            "warning" if worst.value > self.share else "info", 1 - worst.value, text,
            "Files were divided after they were joined or copied, or examples repeat in the data.",
            "Divide the data by example (or by source), and drop what stands in two parts from the transfer set.",
        )  # fmt: skip


def keys(split: Split) -> Iterator[bytes]:
    """A hash of each example's inputs. Zeros at the end of a row do not count: padding has another length in every batch."""
    for batch in split.batches(((0, index) for index in torch.split(torch.arange(len(split)), 256)), 0):
        parts = [
            leaf.detach().cpu().contiguous()
            for _, leaf in leaves(batch.inputs)
            if isinstance(leaf, Tensor) and leaf.ndim
        ]
        for i in range(len(batch.labels)):
            found = hashlib.blake2b(digest_size=16)
            for part in parts:
                row = part[i].reshape(-1)
                found.update(row.view(torch.uint8).numpy().tobytes().rstrip(b"\0") + b"|")
            yield found.digest()


@probes.register("split-shift")
@dataclass(frozen=True)
class SplitShift:
    """Do validation and test data resemble each other, and the transfer set?

    Two views of every pair. Labels: the total variation of the shares of classes beyond sampling, warning above `labels` = 0.15.
    Inputs and labels together, where inputs are numbers: a linear classifier fitted on the transfer set is right on one split
    more often than on the other, surely and by `accuracy` = 10 points.
    """

    labels: float = 0.15
    accuracy: float = 0.1
    needs: ClassVar[tuple[Need, ...]] = ("data",)

    def __call__(self, case: Case) -> Measurement:
        assert case.data is not None
        here = case.reading.labels  # of tasks without classes the probe is skipped here
        splits = {"transfer": case.data.split} | {
            name: split for name in JUDGED if (split := getattr(case.data.task.splits, name)) is not None
        }
        if len(splits) < 2 or case.data.tokens:
            reason = (
                "rows are tokens" if case.data.tokens else "there are no validation or test data (data=Task(…, test=…))"
            )
            return Measurement((), skipped=reason)
        known = {
            name: split.labels for name, split in splits.items() if split.labels is not None and split.labels.ndim == 1
        }
        known["transfer"] = here
        classes = max(case.signal.classes, *(int(gold.max()) + 1 for gold in known.values()))
        shares = {
            name: torch.bincount(gold.cpu()[gold.cpu() >= 0], minlength=classes).double()
            for name, gold in known.items()
        }
        names, evidence = list(shares), []
        for i, one in enumerate(names):
            for other in names[i + 1 :]:
                evidence.append(Evidence(f"classes of {one} against {other}", beyond_sampling(shares[one], shares[other]),
                                         "total variation", None, self.labels))  # fmt: skip
        evidence += self._line(case, splits)
        return Measurement(tuple(evidence))

    @staticmethod
    def _line(case: Case, splits: dict[str, Split]) -> list[Evidence]:
        """How often a line fitted on the transfer set is right on each other split."""
        assert case.data is not None
        if case.line is None or case.data.inputs is None or case.data.inputs[0].numel() > MOST_FEATURES:
            return []
        right, judged = case.line
        found = [Evidence("a line is right on transfer", float(right.double().mean()), "share",
                          share_interval(int(right.sum()), len(judged)))]  # fmt: skip
        predict = fitted_line(case.data.inputs, case.signal.labels, case.signal.classes)
        for name, split in splits.items():
            if name == "transfer" or not isinstance(split, MemorySplit) or not isinstance(split.inputs, Tensor):
                continue
            if (
                split.inputs.shape[1:] != case.data.inputs.shape[1:]
            ):  # padded to another length: the line does not apply
                continue
            inputs, gold = split.inputs[:MOST_EXAMPLES].cpu(), split.labels[:MOST_EXAMPLES].cpu()
            hits = int((predict(inputs.reshape(len(inputs), -1).double()) == gold).sum())
            found.append(
                Evidence(f"a line is right on {name}", hits / len(gold), "share", share_interval(hits, len(gold)))
            )
        return found

    def judge(self, measured: Measurement) -> Judgement:
        apart = [item for item in measured.evidence if item.name.startswith("classes of") and item.value > self.labels]
        lines = sorted(
            (item for item in measured.evidence if item.name.startswith("a line")), key=lambda item: item.value
        )
        if lines and not lines[-1].name.endswith("transfer"):
            # on the transfer set the line is judged by fits of fewer examples, so it may be less often right there
            lines = [item for item in lines if not item.name.endswith("transfer")]
        fix = "Divide the data at random (or by source) into parts alike, or say that they differ on purpose."
        cause = (
            "The splits come from other sources or times, are sorted, or one of them is prepared or labelled otherwise."
        )
        if apart:
            worst = max(apart, key=lambda item: item.value)
            text = f"{worst.name}: the shares differ by {worst.value:.0%} beyond sampling"
            return Judgement("warning", 1 - worst.value, text, cause, fix)
        if len(lines) > 1:
            low, high = lines[0], lines[-1]
            assert low.interval is not None and high.interval is not None
            if high.value - low.value > self.accuracy and high.interval.low > low.interval.high:
                one, other = (item.name.removeprefix("a line is right on ") for item in (low, high))
                text = f"{one} and {other} differ: a line fitted on the transfer set gets {low.value:.1%} and {high.value:.1%}"
                return Judgement("warning", 1 - (high.value - low.value), text, cause, fix)
        return fine("transfer, validation and test resemble each other")


def beyond_sampling(one: Tensor, other: Tensor) -> float:
    """The total variation of two samples' shares less what drawing both from their mean brings on average, at least 0."""
    n, m = float(one.sum()), float(other.sum())
    if not n or not m:
        return 0.0
    mean = (one + other) / (n + m)
    by_chance = float((2 / torch.pi * mean * (1 - mean) * (1 / n + 1 / m)).sqrt().sum()) / 2
    return max(0.0, float((one / n - other / m).abs().sum()) / 2 - by_chance)
