"""The spectrum of compact rows (label, k entries, tail mass), never made dense: memory goes with entries, not with classes."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from fractionate.records import LEVEL_NAMES, Spectrum
from fractionate.theory.spectrum.certainty import shares_of_levels, whole_classes
from fractionate.theory.topk_signal import CompactSignal

MOST_ENTRIES = 1 << 18  # entries of whole classes worked on at once; a class with more gets one dense row of its own


def compact_spectrum(signal: CompactSignal, temperature: float = 1.0) -> Spectrum:
    """The spectrum of `signal.dense()` at one of the signal's temperatures, without making it dense.

    Exact where the mass left out is even, as `dense()` takes it; with all classes among the entries it is the dense spectrum.
    Raises `ConfigError` for a temperature at which the mass left out is not known. float64 sums; memory goes with the entries.
    """
    mean = compact_contributions(signal, temperature).mean(0)
    universe, class_confidence, class_shape, confidence, shape = (max(0.0, v) for v in mean.tolist())
    return Spectrum(
        float(temperature), len(signal), signal.classes, universe, class_confidence, class_shape, confidence, shape
    )


def compact_contributions(signal: CompactSignal, temperature: float = 1.0) -> Float[Tensor, "examples levels"]:
    """What each row adds to each of the five terms, in nats, as `certainty.contributions` of `signal.dense()`.

    A row has p_j at its entries and an even e elsewhere, so the mean of a class is (Σ e + Σ_entries (p_j - e)) / n: one number for
    all classes that no row names, and a few others. Σ_j p_j log m_j is then e Σ_j log m_j + Σ_entries (p_j - e) log m_j.
    """
    signal = signal.at(temperature)
    sure = signal.confidence.double()
    rest = _rest(signal)
    middle, middle_rest = sure.mean(), rest.mean()
    found = torch.empty(len(signal), len(LEVEL_NAMES), dtype=torch.float64)
    for rows in whole_classes(signal.labels, _step(signal)):
        found[rows] = _of_classes(signal.take(rows), middle, middle_rest)
    return found


def _rest(signal: CompactSignal) -> Float[Tensor, "batch"]:
    """1 - p[y], summed, so that a certain teacher's does not cancel."""
    step = _step(signal)
    return torch.cat([masses(signal.take(slice(s, s + step)))[2] for s in range(0, len(signal), step)])


def _step(signal: CompactSignal) -> int:
    """How many rows are worked on at once."""
    return max(1, MOST_ENTRIES // max(1, signal.logits.shape[1]))


def masses(signal: CompactSignal) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Of each row: p of the entries, the even p elsewhere, all p off the label, and over how many classes e is spread."""
    scale = signal.normaliser.double()
    p = torch.exp(signal.logits.double() / signal.temperature - scale[:, None])
    left = signal.classes - 1 - torch.isfinite(signal.logits).sum(1)
    out = torch.where(left > 0, torch.exp(signal.rest_at.double() - scale), 0.0)
    return p, out / left.clamp_min(1), p.sum(1) + out, left


def _of_classes(signal: CompactSignal, middle: Tensor, middle_rest: Tensor) -> Float[Tensor, "batch levels"]:
    classes = signal.classes
    present, row, counts = torch.unique(signal.labels, return_inverse=True, return_counts=True)
    step = _step(signal)
    chunks = [slice(s, min(s + step, len(signal))) for s in range(0, len(signal), step)]

    def per_class(values: Tensor, rows: Tensor) -> Tensor:
        return torch.zeros(len(present), dtype=torch.float64).index_add_(0, rows, values)

    even, own, off = (torch.zeros(len(present), dtype=torch.float64) for _ in range(3))
    entry = row[:, None] * classes + torch.where(torch.isfinite(signal.logits), signal.indices, signal.labels[:, None])
    if len(chunks) == 1:
        keys, place = torch.unique(entry, return_inverse=True)
    else:  # one class with very many rows: a dense row of sums
        keys, place = torch.arange(classes), entry
    sums = torch.zeros(len(keys), dtype=torch.float64)
    for chunk in chunks:
        part = signal.take(chunk)
        p, e, rest, _ = masses(part)
        value = torch.where(torch.isfinite(part.logits), p - e[:, None], 0.0)
        sums.index_add_(0, place[chunk].flatten(), value.flatten())
        even += per_class(e, row[chunk])
        own += per_class(part.confidence.double(), row[chunk])
        off += per_class(rest, row[chunk])
    owner = keys // classes
    named = keys % classes != present[owner]  # the label's own column takes the padding and stands for nothing
    mean = ((even[owner] + sums) / counts[owner]).clamp_min(1e-300)
    log_mean = torch.where(named, mean.log(), 0.0)
    log_even = torch.where(even > 0, (even / counts).clamp_min(1e-300).log(), 0.0)
    unnamed = classes - 1 - per_class(named.double(), owner)
    log_all = per_class(log_mean, owner) + unnamed * log_even
    own, off = own / counts, off / counts
    found = []
    for chunk in chunks:
        part, c = signal.take(chunk), row[chunk]
        p, e, rest, left = masses(part)
        sure = part.confidence.double()
        value = torch.where(torch.isfinite(part.logits), p - e[:, None], 0.0)
        crossed = (
            torch.where(e > 0, e * log_all[c], 0.0)
            + (value * log_mean[place[chunk]]).sum(1)
            - torch.xlogy(rest, off[c])
        )
        shape = torch.xlogy(p, p).sum(1) + left * torch.xlogy(e, e) - torch.xlogy(rest, rest)
        found.append(
            shares_of_levels(
                sure, rest, own[c], off[c], (middle, middle_rest), shape=shape, crossed=crossed, classes=classes
            )
        )
    return torch.cat(found)
