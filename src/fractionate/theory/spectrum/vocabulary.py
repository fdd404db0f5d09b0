"""What a vocabulary's teacher knows, from compact rows in bounded memory: spectrum and class means of tokens.

A class mean over a vocabulary is an even height plus what its rows' entries stand out by: kept as (label, token) pairs, never as a
[classes, classes] table. Exact for the rows as they are kept, the tail mass spread evenly.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fractionate.errors import ConfigError, MismatchError
from fractionate.records import Spectrum
from fractionate.theory.spectrum.stream import spectrum
from fractionate.theory.teacher_signal import TeacherSignal, check_temperature
from fractionate.theory.topk_signal import CompactSignal

ROWS_A_STEP = 1 << 14
COUNT, OWN, REST, SPLIT, SHAPE, EVEN = range(6)


class VocabularyStream:
    """Adds up compact rows; `finish()` gives the spectrum, `class_mean_of` the class means of some labels.

    Memory: six numbers a class and one for each pair (label, token) that occurred. `keep` bounds these to so many tokens a label:
    those that stand out least so far are spread evenly over what is not listed. The sum of the terms stays exact then; how shape is
    split between domain and instance becomes an estimate. Sums are float64. Raises `MismatchError` for rows of another vocabulary.

    Args:
        classes: The size of the vocabulary.
        temperature: Of the teacher's distribution.
        keep: Tokens kept for each label; None: all.
    """

    def __init__(self, classes: int, *, temperature: float = 1.0, keep: int | None = None) -> None:
        if keep is not None and keep < 1:
            raise ConfigError(
                "keep cannot be used", expected="at least one token a label, or None for all", got=str(keep)
            )
        self.classes, self.temperature, self.keep = classes, check_temperature(temperature), keep
        self.sums = torch.zeros(classes, 6, dtype=torch.float64)
        self.pairs = torch.empty(0, dtype=torch.long)  # label · classes + token, sorted
        self.excess = torch.empty(0, dtype=torch.float64)  # Σ over rows of p[token] less the row's even height

    def add(self, signal: CompactSignal) -> None:
        """Add some rows."""
        if signal.classes != self.classes:
            raise MismatchError(
                "rows of another vocabulary", expected=f"{self.classes:,} classes", got=f"{signal.classes:,}"
            )
        signal = signal.at(self.temperature)
        for start in range(0, len(signal), ROWS_A_STEP):
            self._add(signal.take(torch.arange(start, min(start + ROWS_A_STEP, len(signal)))))

    def _add(self, part: CompactSignal) -> None:
        p = masses(part)
        log_heights = torch.xlogy(p.even, p.even)
        shape = torch.xlogy(p.entries, p.entries).sum(1) + p.left * log_heights - torch.xlogy(p.others, p.others)
        split = -torch.xlogy(p.label, p.label) - torch.xlogy(p.others, p.others)
        columns = torch.stack([torch.ones_like(p.label), p.label, p.others, split, shape, p.even], dim=1)
        self.sums.index_add_(0, part.labels, columns)
        keys = (part.labels[:, None] * self.classes + part.indices)[p.known]
        values = (p.entries - p.even[:, None])[p.known]
        self.pairs, place = torch.unique(torch.cat([self.pairs, keys]), return_inverse=True)
        total = torch.zeros(len(self.pairs), dtype=torch.float64)
        self.excess = total.index_add_(0, place, torch.cat([self.excess, values]))
        if self.keep is not None:
            self._fold(self.keep)

    def _fold(self, keep: int) -> None:
        """Leave each label its `keep` pairs of most excess; the others' mass becomes even."""
        labels = self.pairs // self.classes
        order = torch.argsort(self.excess, descending=True, stable=True)
        order = order[torch.argsort(labels[order], stable=True)]  # label by label, most excess first
        counts = torch.bincount(labels, minlength=self.classes)
        first = (counts.cumsum(0) - counts)[labels[order]]
        fine = torch.arange(len(order)) - first < keep
        gone = order[~fine]
        kept = order[fine].sort().values
        listed = torch.bincount(labels[kept], minlength=self.classes)
        raised = torch.zeros(self.classes, dtype=torch.float64).index_add_(0, labels[gone], self.excess[gone])
        raised /= (self.classes - 1 - listed).clamp_min(1)  # the mass goes to the tokens that are not listed
        self.sums[:, EVEN] += raised
        self.pairs, self.excess = self.pairs[kept], self.excess[kept] - raised[labels[kept]]

    @property
    def examples(self) -> int:
        """How many rows have come."""
        return int(self.sums[:, COUNT].sum())

    def finish(self) -> Spectrum:
        """The spectrum of the rows so far: that of the same rows made dense, term by term."""
        counts = self.sums[:, COUNT]
        if float(counts.sum()) == 0:
            raise MismatchError("no rows have come", fix="add rows before reading the spectrum")
        n = counts.clamp_min(1)
        own, rest, split, shape, even = (self.sums[:, i] / n for i in (OWN, REST, SPLIT, SHAPE, EVEN))
        labels = self.pairs // self.classes
        heights = (even[labels] + self.excess / n[labels]).clamp_min(0)
        listed = torch.bincount(labels, minlength=self.classes)
        of_class = (self.classes - 1 - listed) * torch.xlogy(even, even)
        of_class.index_add_(0, labels, torch.xlogy(heights, heights))
        of_class -= torch.xlogy(rest, rest)
        share = counts / counts.sum()
        mean_own, mean_rest = (share * own).sum(), (share * rest).sum()

        def entropy(a: Tensor, b: Tensor) -> Tensor:
            return -torch.xlogy(a, a) - torch.xlogy(b, b)

        flat = math.log(self.classes - 1)
        class_split = (share * entropy(own, rest)).sum()
        terms = {
            "universe_nats": math.log(self.classes) - entropy(mean_own, mean_rest) - mean_rest * flat,
            "domain_confidence_nats": entropy(mean_own, mean_rest) - class_split,
            "domain_shape_nats": (share * of_class).sum() + mean_rest * flat,
            "instance_confidence_nats": class_split - (share * split).sum(),
            "instance_shape_nats": (share * (shape - of_class)).sum(),
        }
        exact = {name: max(0.0, float(value)) for name, value in terms.items()}
        return Spectrum(temperature=self.temperature, examples=self.examples, classes=self.classes, **exact)

    def class_mean_of(self, labels: Int[Tensor, "rows"]) -> Float[Tensor, "rows classes"]:
        """m_c of each label, made dense for these rows alone; for an absent class the mean confidence and a flat rest."""
        counts = self.sums[:, COUNT]
        n = counts.clamp_min(1)
        wanted = labels.cpu()
        rows = (self.sums[wanted, EVEN] / n[wanted])[:, None].repeat(1, self.classes)
        first = torch.searchsorted(self.pairs, wanted * self.classes)
        last = torch.searchsorted(self.pairs, (wanted + 1) * self.classes)
        for row, (start, stop) in enumerate(zip(first.tolist(), last.tolist(), strict=True)):
            tokens = self.pairs[start:stop] % self.classes
            rows[row, tokens] += self.excess[start:stop] / n[wanted[row]]
        own = self.sums[wanted, OWN] / n[wanted]
        mean = float(self.sums[:, OWN].sum() / counts.sum().clamp_min(1))
        absent = counts[wanted] == 0
        rows[absent] = (1 - mean) / (self.classes - 1)
        own[absent] = mean
        rows.scatter_(1, wanted[:, None], own[:, None])
        return rows.clamp_min_(0).float().to(labels.device)


@dataclass(frozen=True, eq=False)
class Masses:
    """The probabilities of compact rows: label, entries, all off-label mass, the even height of those left out, their number."""

    label: Float[Tensor, "rows"]
    entries: Float[Tensor, "rows k"]
    others: Float[Tensor, "rows"]
    even: Float[Tensor, "rows"]
    left: Float[Tensor, "rows"]
    known: Tensor


def masses(part: CompactSignal) -> Masses:
    """Probabilities of compact rows at their temperature, in float64."""
    scale = part.normaliser.double()
    known = torch.isfinite(part.logits)
    label = torch.exp(part.label_logits.double() / part.temperature - scale)
    entries = torch.exp(part.logits.double() / part.temperature - scale[:, None])
    rest = torch.exp(part.rest[:, part.temperatures.index(part.temperature)].double() - scale)
    left = (part.classes - 1 - known.sum(dim=1)).double()
    even = torch.where(left > 0, rest / left.clamp_min(1), 0.0)
    return Masses(label, entries, entries.sum(1) + even * left, even, left, known)


@dataclass(eq=False)
class VocabularyStats:
    """Statistics of all tokens that rules read (as `SignalStats`), the class means made row by row on demand."""

    stream: VocabularyStream
    temperature: float
    labels: Int[Tensor, "examples"]
    confidence: Float[Tensor, "examples"]
    mean_confidence: Float[Tensor, ""]
    shuffles: dict[tuple[str, int], Tensor] = field(default_factory=dict)

    def class_mean_of(self, labels: Int[Tensor, "batch"]) -> Float[Tensor, "batch classes"]:
        """The mean prediction of each label's class."""
        return self.stream.class_mean_of(labels)


class VocabularyPopulation:
    """The teacher's outputs on all tokens: what a `TeacherSignal` keeps as its population, from compact rows."""

    def __init__(self, whole: CompactSignal, *, keep: int | None = None) -> None:
        self.whole, self.keep = whole, keep
        self.logits = _Rows(whole)
        self._stats: dict[float, VocabularyStats] = {}

    def stats(self, temperature: float, device: torch.device | None = None) -> VocabularyStats:
        """The statistics at one of the stored temperatures (cached, on the CPU)."""
        if temperature not in self._stats:
            stream = VocabularyStream(self.whole.classes, temperature=temperature, keep=self.keep)
            stream.add(self.whole)
            confidence = self.whole.at(temperature).confidence
            self._stats[temperature] = VocabularyStats(
                stream, temperature, self.whole.labels, confidence, confidence.mean()
            )
        return self._stats[temperature]


class _Rows:
    """The logits of compact rows, made dense for the rows that are requested."""

    def __init__(self, whole: CompactSignal) -> None:
        self.whole, self.device, self.dtype = whole, whole.labels.device, torch.float32

    def __getitem__(self, index: Int[Tensor, "some"]) -> Float[Tensor, "some classes"]:
        return self.whole.take(index).dense().logits.float()


def spectrum_of(
    signal: TeacherSignal | CompactSignal, *, temperature: float = 1.0, keep: int | None = None
) -> Spectrum:
    """The spectrum of tokens, dense or compact.

    Args:
        signal: Rows of all tokens.
        temperature: Of the teacher's distribution.
        keep: Tokens kept for each label of a compact signal; None: all. Fewer make the split of shape an estimate.

    Returns:
        A `Spectrum`.

    Example:
        import torch
        from fractionate import TeacherSignal
        from fractionate.theory.spectrum import spectrum_of

        print(spectrum_of(TeacherSignal(torch.randn(40, 4), torch.arange(40) % 4)))
    """
    if isinstance(signal, TeacherSignal):
        return spectrum(signal, temperature)
    stream = VocabularyStream(signal.classes, temperature=temperature, keep=keep)
    stream.add(signal)
    return stream.finish()
