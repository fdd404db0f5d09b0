"""One pass over a signal: what probes need of every row, so that no probe walks the logits again."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from fractionate.records import Scores
from fractionate.scores import expected_calibration_error
from fractionate.teacher import ROWS_A_CHUNK_ELEMENTS, TeacherSignal


@dataclass(frozen=True, eq=False, repr=False)
class Reading:
    """What a signal says row by row at temperature 1, and of each class overall.

    - `confidence` p[y] and `rest` 1 - p[y] (summed, so that it does not cancel), `predicted` the largest class, `top` its share
    - `evenness`: entropy of the off-label shape over that of a flat one, 1 = no relations; NaN where nothing is beside the label
    - `extent`: how far the largest logit lies above the mean of all
    - `lead`: how far the label's logit lies above the mean of the others; `spread`: standard deviation of the others
    - `masked`: how many classes are -inf; `label_masked`: whether the label is
    - `prior`: the mean prediction over the data; `column_spread`: standard deviation of each class's logit over the data
    """

    labels: Int[Tensor, "examples"]
    classes: int
    predicted: Int[Tensor, "examples"]
    top: Float[Tensor, "examples"]
    confidence: Float[Tensor, "examples"]
    rest: Float[Tensor, "examples"]
    evenness: Float[Tensor, "examples"]
    extent: Float[Tensor, "examples"]
    lead: Float[Tensor, "examples"]
    spread: Float[Tensor, "examples"]
    masked: Int[Tensor, "examples"]
    label_masked: Bool[Tensor, "examples"]
    prior: Float[Tensor, "classes"]
    column_spread: Float[Tensor, "classes"]
    row_sum: Float[Tensor, "examples"]  # of the raw numbers: 1 everywhere gives probabilities away
    least: Float[Tensor, "examples"]

    @cached_property
    def correct(self) -> Bool[Tensor, "examples"]:
        """Whether the largest class is the label."""
        return self.predicted == self.labels

    @cached_property
    def counts(self) -> Int[Tensor, "classes"]:
        """How many examples each class has."""
        return torch.bincount(self.labels, minlength=self.classes)

    @cached_property
    def predicted_counts(self) -> Int[Tensor, "classes"]:
        """How often each class is the largest."""
        return torch.bincount(self.predicted, minlength=self.classes)

    @property
    def accuracy(self) -> float:
        """The share of examples whose largest class is the label."""
        return float(self.correct.double().mean())

    @property
    def chance(self) -> float:
        """The accuracy that these predictions would have on shuffled labels: Σ share(label c) · share(predicted c)."""
        n = len(self.labels)
        return float((self.counts.double() / n * (self.predicted_counts.double() / n)).sum())

    @property
    def scores(self) -> Scores:
        """Accuracy, NLL in nats, ECE."""
        # p[y] may underflow to 0 for a certain and wrong teacher: the smallest double keeps the NLL finite
        nll = -self.confidence.clamp_min(5e-324).log().mean()
        return Scores(len(self.labels), self.accuracy, float(nll), expected_calibration_error(self.top, self.correct))

    def __len__(self) -> int:
        return len(self.labels)


def read(signal: TeacherSignal) -> Reading:
    """Read a signal once, in chunks of rows, in float64."""
    examples, classes = signal.logits.shape
    step = max(1, ROWS_A_CHUNK_ELEMENTS // classes)
    rows = [
        _rows(signal.logits[start : start + step].double(), signal.labels[start : start + step])
        for start in range(0, examples, step)
    ]
    columns: dict[str, Tensor] = {}
    for name in ("predicted", "top", "confidence", "rest", "evenness", "extent", "lead", "spread", "masked", "label_masked",
                 "row_sum", "least"):  # fmt: skip
        columns[name] = torch.cat([r[name] for r in rows]).cpu()
    prior = torch.stack([r["prior"] for r in rows]).sum(0) / examples
    seen = torch.stack([r["seen"] for r in rows]).sum(0).clamp_min(1)
    shift = rows[0]["shift"]
    # moments about the first row's logits: no cancellation for columns far from 0
    first = torch.stack([(r["first"] + (r["shift"] - shift) * r["seen"]) for r in rows]).sum(0) / seen
    second = torch.stack(
        [r["second"] + 2 * (r["shift"] - shift) * r["first"] + (r["shift"] - shift) ** 2 * r["seen"] for r in rows]
    ).sum(0)
    column_spread = (second / seen - first**2).clamp_min(0).sqrt()
    return Reading(
        labels=signal.labels.cpu(), classes=classes, prior=prior.cpu(), column_spread=column_spread.cpu(), **columns
    )


def _rows(logits: Float[Tensor, "chunk classes"], labels: Int[Tensor, "chunk"]) -> dict[str, Tensor]:
    own = labels[:, None]
    finite = ~torch.isneginf(logits)
    p = torch.softmax(logits, dim=-1)
    top, predicted = p.max(dim=1)
    others = p.scatter(1, own, 0.0)
    rest = others.sum(dim=1)
    beside = finite.scatter(1, own, False)
    count = beside.sum(dim=1)
    # the shape from logits with the label out: exact also where the label takes all the mass
    log_shape = torch.log_softmax(logits.masked_fill(~beside, -torch.inf), dim=-1)
    entropy = -torch.where(beside, log_shape.exp() * log_shape, 0.0).sum(dim=1)
    evenness = torch.where(count > 1, entropy / count.clamp_min(2).double().log(), torch.nan)
    kept = torch.where(beside, logits, 0.0)
    mean = kept.sum(dim=1) / count.clamp_min(1)
    spread = (torch.where(beside, logits - mean[:, None], 0.0).square().sum(dim=1) / count.clamp_min(1)).sqrt()
    label_logit = logits.gather(1, own).squeeze(1)
    raw = torch.where(finite, logits, 0.0)
    shift = raw[0]
    extent = logits.max(dim=1).values - raw.sum(dim=1) / finite.sum(dim=1)
    moved = torch.where(finite, logits - shift, 0.0)
    return {
        "predicted": predicted, "top": top, "confidence": p.gather(1, own).squeeze(1), "rest": rest, "evenness": evenness,
        "extent": extent, "lead": label_logit - mean, "spread": spread, "masked": (~finite).sum(dim=1),
        "label_masked": torch.isneginf(label_logit), "prior": p.sum(dim=0), "row_sum": raw.sum(dim=1),
        "least": raw.min(dim=1).values, "seen": finite.sum(dim=0), "shift": shift, "first": moved.sum(dim=0),
        "second": moved.square().sum(dim=0),
    }  # fmt: skip
