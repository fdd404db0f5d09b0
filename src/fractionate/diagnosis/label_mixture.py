"""Doubt or wrong labels: a teacher's temperature and the share of labels drawn at random, fitted together."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from fractionate.records import Interval
from fractionate.theory.teacher_signal import TeacherSignal
from fractionate.theory.topk_signal import CompactSignal, row_logits

TEMPERATURES = tuple(2 ** (k / 4) for k in range(-16, 17))  # a sixteenth to sixteen
SHARES = 51  # of random labels: 0, 0.02 … 1
FLOORS = (1e-3, 0.01, 0.03, 0.07, 0.15, 0.3, 0.5)  # what all classes at a row's floor may have together
MOST_ROWS, MOST_ELEMENTS = 2000, 1 << 23


@dataclass(frozen=True)
class LabelMixture:
    """The likeliest explanations of the labels by a teacher's answers.

    `temperature` is that of the least log-loss and `gained` what it gains over 1, in nats, with all labels from the teacher;
    `random` is the likeliest share of labels drawn at random from all classes, with `interval`, whatever the temperature.
    """

    temperature: float
    gained: float
    random: float
    interval: Interval


def evenly(examples: int, count: int) -> Int[Tensor, "count"]:
    """At most `count` places among the examples, evenly spaced, the first and the last among them."""
    # in float32 the last of 2^25 would be rounded up, beyond the end
    return torch.linspace(0, examples - 1, min(examples, count), dtype=torch.float64).long()


def label_mixture(signal: TeacherSignal | CompactSignal) -> LabelMixture:
    """Fit P(label) = (1 - s) p[label] + s / K over p's temperature T and s, by likelihood on a grid.

    A teacher of too large or too small logits, or one that sees other inputs, has another T; labels that are wrong at random, in
    whatever data, have an s: they are as wrong where it is sure as where it is not. The interval of s holds all shares whose best
    log-likelihood is within 1.92 of the largest. Of at most 2,000 rows and 8 million logits, evenly spaced.

    Classes that share a row's least logit (two or more, or -inf) were counted zero times by a tree or by neighbours, or cut: the
    number that stands there is no probability. With s, p is softmax(z / T) of the others, times 1 - f, and f spread evenly over
    those, with one f for all rows that is fitted too. `temperature` is fitted without: it leaves out labels that are -inf only.
    """
    rows = max(1, min(MOST_ROWS, MOST_ELEMENTS // signal.classes))
    places = evenly(len(signal), rows).to(signal.logits.device)
    logits, labels = row_logits(signal)[places], signal.labels[places, None]
    z = (logits - logits.max(dim=1, keepdim=True).values).double()
    own = z.gather(1, labels).squeeze(1)
    ruled_out = torch.isneginf(own)
    least = z.min(dim=1, keepdim=True).values
    floor = (z == least) & (((z == least).sum(dim=1, keepdim=True) > 1) | torch.isneginf(least)) & (least < 0)
    above, below = z.masked_fill(floor, -torch.inf), floor.sum(dim=1)
    floored, on_floor = below > 0, floor.gather(1, labels).squeeze(1)
    shares = torch.linspace(0, 1, SHARES, dtype=torch.float64, device=z.device)[:, None]
    alone, profile = [], torch.full((SHARES,), -torch.inf, dtype=torch.float64, device=z.device)
    for temperature in TEMPERATURES:
        log_p = own / temperature - torch.logsumexp(z / temperature, dim=1)
        alone.append(log_p[~ruled_out].mean())
        named = (own / temperature - torch.logsumexp(above / temperature, dim=1)).exp()
        for mass in FLOORS if bool(floored.any()) else (0.0,):
            p = torch.where(on_floor, mass / below.clamp_min(1), torch.where(floored, 1 - mass, 1.0) * named)
            likelihood = ((1 - shares) * p + shares / signal.classes).clamp_min(1e-300).log().sum(dim=1)
            profile = torch.maximum(profile, likelihood)
    losses = torch.stack(alone).nan_to_num(-torch.inf).cpu()
    best = int(losses.argmax())
    gained = float(losses[best] - losses[TEMPERATURES.index(1.0)])
    profile = profile.cpu()
    near = (profile > profile.max() - 1.92).nonzero().flatten()
    grid = shares.flatten().cpu()
    return LabelMixture(
        TEMPERATURES[best],
        gained if 0 <= gained < float("inf") else 0.0,
        float(grid[int(profile.argmax())]),
        Interval(float(grid[int(near[0])]), float(grid[int(near[-1])])),
    )
