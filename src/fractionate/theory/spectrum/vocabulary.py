"""Class means of tokens from compact rows: what rules read of all tokens, never a [classes, classes] table.

A class mean over a vocabulary is an even height plus what its rows' entries stand out by: kept as (label, token) pairs. Exact for
the rows as they are kept, the tail mass spread evenly.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fractionate.theory.spectrum.compact import masses
from fractionate.theory.topk_signal import CompactSignal, RowsOnDemand

ROWS_A_STEP = 1 << 14


class ClassMeans:
    """The class means of compact rows at one of their temperatures: float64 sums, one for each (label, token) that occurs."""

    def __init__(self, whole: CompactSignal, temperature: float) -> None:
        self.classes = whole.classes
        self.counts, self.own, self.even = (torch.zeros(self.classes, dtype=torch.float64) for _ in range(3))
        self.pairs = torch.empty(0, dtype=torch.long)  # label · classes + token, sorted
        self.excess = torch.empty(0, dtype=torch.float64)  # Σ over rows of p[token] less the row's even height
        signal = whole.at(temperature)
        for start in range(0, len(signal), ROWS_A_STEP):
            self._add(signal.take(torch.arange(start, min(start + ROWS_A_STEP, len(signal)))))

    def _add(self, part: CompactSignal) -> None:
        entries, even, _, _ = masses(part)
        known = torch.isfinite(part.logits)
        self.counts.index_add_(0, part.labels, torch.ones_like(even))
        self.own.index_add_(0, part.labels, part.confidence.double())
        self.even.index_add_(0, part.labels, even)
        keys = (part.labels[:, None] * self.classes + part.indices)[known]
        values = (entries - even[:, None])[known]
        self.pairs, place = torch.unique(torch.cat([self.pairs, keys]), return_inverse=True)
        total = torch.zeros(len(self.pairs), dtype=torch.float64)
        self.excess = total.index_add_(0, place, torch.cat([self.excess, values]))

    def of(self, labels: Int[Tensor, "rows"]) -> Float[Tensor, "rows classes"]:
        """m_c of each label, made dense for these rows alone; for an absent class the mean confidence and a flat rest."""
        n = self.counts.clamp_min(1)
        wanted = labels.cpu()
        rows = (self.even[wanted] / n[wanted])[:, None].repeat(1, self.classes)
        first = torch.searchsorted(self.pairs, wanted * self.classes)
        last = torch.searchsorted(self.pairs, (wanted + 1) * self.classes)
        for row, (start, stop) in enumerate(zip(first.tolist(), last.tolist(), strict=True)):
            tokens = self.pairs[start:stop] % self.classes
            rows[row, tokens] += self.excess[start:stop] / n[wanted[row]]
        own = self.own[wanted] / n[wanted]
        mean = float(self.own.sum() / self.counts.sum().clamp_min(1))
        absent = self.counts[wanted] == 0
        rows[absent] = (1 - mean) / (self.classes - 1)
        own[absent] = mean
        rows.scatter_(1, wanted[:, None], own[:, None])
        return rows.clamp_min_(0).float().to(labels.device)


@dataclass(eq=False)
class VocabularyStats:
    """Statistics of all tokens that rules read (as `SignalStats`), the class means made row by row on demand."""

    means: ClassMeans
    temperature: float
    labels: Int[Tensor, "examples"]
    confidence: Float[Tensor, "examples"]
    mean_confidence: Float[Tensor, ""]
    shuffles: dict[tuple[str, int], Tensor] = field(default_factory=dict)

    def class_mean_of(self, labels: Int[Tensor, "batch"]) -> Float[Tensor, "batch classes"]:
        """The mean prediction of each label's class."""
        return self.means.of(labels)


class VocabularyPopulation:
    """The teacher's outputs on all tokens: what a `TeacherSignal` keeps as its population, from compact rows."""

    def __init__(self, whole: CompactSignal) -> None:
        self.whole = whole
        self.logits = RowsOnDemand(whole)
        self._stats: dict[float, VocabularyStats] = {}

    def stats(self, temperature: float, device: torch.device | None = None) -> VocabularyStats:
        """The statistics at one of the stored temperatures (cached, on the CPU)."""
        if temperature not in self._stats:
            confidence = self.whole.at(temperature).confidence
            self._stats[temperature] = VocabularyStats(
                ClassMeans(self.whole, temperature), temperature, self.whole.labels, confidence, confidence.mean()
            )
        return self._stats[temperature]
