"""Doubt or wrong labels: a teacher's temperature and the share of labels drawn at random, fitted together."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from fractionate.records import Interval
from fractionate.theory.teacher_signal import TeacherSignal
from fractionate.theory.topk_signal import CompactSignal

TEMPERATURES = tuple(2 ** (k / 4) for k in range(-16, 17))  # a sixteenth to sixteen
SHARES = 51  # of random labels: 0, 0.02 … 1
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
    """Fit P(label) = (1 - s) softmax(z / T)[label] + s / K over T and s, by likelihood on a grid.

    A teacher of too large or too small logits, or one that sees other inputs, has another T; labels that are wrong at random, in
    whatever data, have an s: they are as wrong where it is sure as where it is not. The interval of s holds all shares whose best
    log-likelihood is within 1.92 of the largest. Of at most 2,000 rows and 8 million logits, evenly spaced. A label that the
    teacher rules out (-inf) counts for s; it costs the same at every T, so `temperature` leaves it out.
    """
    rows = max(1, min(MOST_ROWS, MOST_ELEMENTS // signal.classes))
    some = signal.take(evenly(len(signal), rows).to(signal.logits.device))
    dense = some.dense() if isinstance(some, CompactSignal) else some
    z = (dense.logits - dense.logits.max(dim=1, keepdim=True).values).double()
    own = z.gather(1, dense.labels[:, None].to(z.device)).squeeze(1)
    ruled_out = torch.isneginf(own)
    shares = torch.linspace(0, 1, SHARES, dtype=torch.float64, device=z.device)[:, None]
    alone, together = [], []
    for temperature in TEMPERATURES:
        log_p = own / temperature - torch.logsumexp(z / temperature, dim=1)
        alone.append(log_p[~ruled_out].mean())
        together.append(((1 - shares) * log_p.exp() + shares / signal.classes).clamp_min(1e-300).log().sum(dim=1))
    losses = torch.stack(alone).nan_to_num(-torch.inf).cpu()
    best = int(losses.argmax())
    gained = float(losses[best] - losses[TEMPERATURES.index(1.0)])
    profile = torch.stack(together).max(dim=0).values.cpu()
    near = (profile > profile.max() - 1.92).nonzero().flatten()
    grid = shares.flatten().cpu()
    return LabelMixture(
        TEMPERATURES[best],
        gained if 0 <= gained < float("inf") else 0.0,
        float(grid[int(profile.argmax())]),
        Interval(float(grid[int(near[0])]), float(grid[int(near[-1])])),
    )
