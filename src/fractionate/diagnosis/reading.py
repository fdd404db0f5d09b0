"""One pass over a signal: what probes need of every row, so that no probe walks the logits again."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from fractionate.records import Scores
from fractionate.tasks.classification_metrics import calibration_gaps
from fractionate.theory.teacher_signal import TeacherSignal
from fractionate.theory.topk_signal import CompactSignal, row_logits

CHUNK_ELEMENTS = 1 << 18  # a reading takes some twenty tensors of a chunk's size
PRECISE = ("predicted", "top", "confidence", "rest")  # classes are indices; probabilities may be very close to 0 and 1
SMALLER = {torch.float64: torch.float32, torch.int64: torch.int32}  # of the other numbers of each row


@dataclass(frozen=True, eq=False, repr=False)
class Reading:
    """What a signal says row by row at temperature 1, and of each class overall.

    - `confidence` p[y] and `rest` 1 - p[y] (summed, so that it does not cancel), `predicted` the largest class, `top` its share
    - `evenness`: entropy of the off-label shape over that of a flat one, 1 = no relations; NaN where nothing is off the label
    - `extent`: how far the largest logit lies above the mean of all
    - `lead`: how far the label's logit lies above the mean of the others; `spread`: standard deviation of the others
    - `margin`: how far the largest logit lies above the second; `lowest`: the smallest class; `rank`: how many lie above the label
    - `masked`: how many classes are -inf; `label_masked`: whether the label is; `tied`: how many are equal to the least, or 0
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
    margin: Float[Tensor, "examples"]
    lowest: Int[Tensor, "examples"]
    rank: Int[Tensor, "examples"]
    tied: Int[Tensor, "examples"]
    masked: Int[Tensor, "examples"]
    label_masked: Bool[Tensor, "examples"]
    prior: Float[Tensor, "classes"]
    column_spread: Float[Tensor, "classes"]
    row_sum: Float[Tensor, "examples"]  # of the raw numbers: 1 everywhere gives probabilities away
    least: Float[Tensor, "examples"]
    most: Float[Tensor, "examples"]

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

    @cached_property
    def prior_shift(self) -> float:
        """Total variation between mean prediction and label frequencies, less what drawing the labels from that mean brings."""
        expected = self.prior * len(self.labels)
        apart = float((expected - self.counts).abs().sum())
        return (apart - float(poisson_deviation(expected).sum())) / (2 * len(self.labels))

    @property
    def scores(self) -> Scores:
        """Accuracy, NLL in nats, ECE."""
        # p[y] may underflow to 0 for a certain and wrong teacher: the smallest double keeps the NLL finite
        nll = -self.confidence.clamp_min(5e-324).log().mean()
        rows = len(self.labels)
        ece = float(calibration_gaps(self.top, self.correct).abs().sum()) / rows
        return Scores(rows, rows, {"accuracy": 100 * self.accuracy, "nll": float(nll), "ece": 100 * ece})

    def __len__(self) -> int:
        return len(self.labels)


def poisson_deviation(mean: Float[Tensor, "classes"]) -> Float[Tensor, "classes"]:
    """The mean absolute deviation of a Poisson count: 2 exp(-m) m^(floor(m) + 1) / floor(m)!."""
    whole = mean.floor()
    return 2 * torch.exp((whole + 1) * mean.clamp_min(1e-300).log() - mean - torch.lgamma(whole + 1))


def read(signal: TeacherSignal | CompactSignal) -> Reading:
    """Read a signal once, in chunks of rows, in float64; compact rows are made dense a chunk at a time."""
    examples, classes = len(signal), signal.classes
    step = max(1, CHUNK_ELEMENTS // classes)
    kept: dict[str, Tensor] = {}  # filled chunk by chunk: small arrays kept between large ones would break up the heap
    shift: Tensor | None = None
    totals = torch.zeros(4, classes, dtype=torch.float64, device=signal.logits.device)
    every = row_logits(signal)
    for start in range(0, examples, step):
        part = slice(start, start + step)
        logits = every[part]
        if shift is None:  # moments about the first row's logits: no cancellation for columns far from 0
            shift = torch.where(torch.isneginf(logits[0]), 0.0, logits[0].double())
        row, columns = _rows(logits.double(), signal.labels[part], shift)
        kept = kept or {
            name: values.new_empty(
                examples, dtype=values.dtype if name in PRECISE else SMALLER.get(values.dtype, values.dtype)
            )
            for name, values in row.items()
        }
        for name, values in row.items():
            kept[name][part] = values
        totals += columns
    prior, seen, first, second = totals.cpu()
    seen = seen.clamp_min(1)
    return Reading(
        labels=signal.labels.cpu(), classes=classes, prior=prior / examples,
        column_spread=(second / seen - (first / seen) ** 2).clamp_min(0).sqrt(),
        **{name: values.cpu() for name, values in kept.items()},
    )  # fmt: skip


def _rows(
    logits: Float[Tensor, "chunk classes"], labels: Int[Tensor, "chunk"], shift: Float[Tensor, "classes"]
) -> tuple[dict[str, Tensor], Float[Tensor, "4 classes"]]:
    """What is kept of each row, and sums over the rows by class: p, how many are finite, and two moments about `shift`."""
    own = labels[:, None]
    finite = ~torch.isneginf(logits)
    p = torch.softmax(logits, dim=-1)
    top, predicted = p.max(dim=1)
    others = p.scatter(1, own, 0.0)
    rest = others.sum(dim=1)
    off_label = finite.scatter(1, own, False)
    count = off_label.sum(dim=1)
    # the shape from logits with the label out: exact also where the label takes all the mass
    log_shape = torch.log_softmax(logits.masked_fill(~off_label, -torch.inf), dim=-1)
    entropy = -torch.where(off_label, log_shape.exp() * log_shape, 0.0).sum(dim=1)
    evenness = torch.where(count > 1, entropy / count.clamp_min(2).double().log(), torch.nan)
    kept = torch.where(off_label, logits, 0.0)
    mean = kept.sum(dim=1) / count.clamp_min(1)
    spread = (torch.where(off_label, logits - mean[:, None], 0.0).square().sum(dim=1) / count.clamp_min(1)).sqrt()
    label_logit = logits.gather(1, own).squeeze(1)
    raw = torch.where(finite, logits, 0.0)
    two = logits.topk(min(2, logits.shape[1]), dim=1).values
    extent = two[:, 0] - raw.sum(dim=1) / finite.sum(dim=1)
    low = logits.min(dim=1, keepdim=True)
    tied = torch.maximum((logits == low.values).sum(dim=1), (logits == 0).sum(dim=1))
    moved = torch.where(finite, logits - shift, 0.0)
    rows = {
        "predicted": predicted, "top": top, "confidence": p.gather(1, own).squeeze(1), "rest": rest, "evenness": evenness,
        "extent": extent, "lead": label_logit - mean, "spread": spread, "masked": (~finite).sum(dim=1),
        "label_masked": torch.isneginf(label_logit), "row_sum": raw.sum(dim=1), "least": raw.min(dim=1).values,
        "most": two[:, 0], "margin": two[:, 0] - two[:, -1], "lowest": low.indices.squeeze(1), "tied": tied,
        "rank": (logits > label_logit[:, None]).sum(dim=1),
    }  # fmt: skip
    return rows, torch.stack([p.sum(0), finite.sum(0).double(), moved.sum(0), moved.square().sum(0)])
