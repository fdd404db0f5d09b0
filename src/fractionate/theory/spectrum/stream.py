"""The spectrum of dense rows, in one pass over pieces of any size: sums in float64, memory for class statistics and one chunk."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fractionate.errors import ConfigError, MismatchError
from fractionate.records import Spectrum
from fractionate.theory.softmax import LN2, exponents, place
from fractionate.theory.spectrum.compact import compact_spectrum
from fractionate.theory.teacher_signal import TeacherSignal, check_temperature, compute_dtype
from fractionate.theory.topk_signal import CompactSignal

CHUNK_BYTES = 1 << 21  # worked on at once: a few such arrays fit into a core's caches
LONG_ROW = 1 << 15  # classes from which on rows are taken one by one, class after class
TABLE_BYTES = 1 << 25  # single-precision sums of all classes are kept next to the exact ones where they are no larger
MOST_SUMS_BYTES = 1 << 27  # of a whole signal: with more classes their sums are made block by block
ROWS_AT_ONCE = 1 << 16  # whose numbers wait for their sums
ROWS_A_CLASS = 32  # added in single precision, on average, before they join the exact sums
LARGE = 64.0  # a row's largest logit / T from which on single precision would lose digits of its exponents
NO_MASS = -1e4  # the exponent, relative to the largest, at which a power is 0 in every dtype: stands in for -inf


class SpectrumStream:
    """Adds up rows of logits with their labels; `finish()` gives the spectrum at any moment.

    `labels_present`, where known, are the labels that will come, so that only their class means take memory; otherwise all
    classes get a row. Rows of single and half precision are worked on in float32 (relative error about 1e-6 of a term), those of
    float64 and of very large logits in float64; sums are float64, into which single-precision sums of some dozen rows per class go.

    Raises `MismatchError` for rows that do not fit and labels that were not announced.
    """

    def __init__(
        self,
        classes: int,
        *,
        temperature: float = 1.0,
        labels_present: Int[Tensor, "present"] | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        self.classes = classes
        self.temperature = check_temperature(temperature)
        self.present = torch.arange(classes) if labels_present is None else torch.unique(labels_present.cpu())
        self.present = self.present.to(device)
        self._row = torch.full((classes,), -1, dtype=torch.long, device=device)
        self._row[self.present] = torch.arange(len(self.present), device=device)
        rows = len(self.present)
        self.off_sums = torch.zeros(rows, classes, dtype=torch.float64, device=device)  # Σ p_j off the label
        # by class: count, Σ p[y], Σ (1 - p[y]), Σ entropy of the split, Σ off-label p log(p / rest)
        self.sums = torch.zeros(rows, 5, dtype=torch.float64, device=device)

    def add(self, logits: Float[Tensor, "rows classes"], labels: Int[Tensor, "rows"]) -> None:
        """Add some rows."""
        if logits.ndim != 2 or logits.shape[1] != self.classes or labels.shape != logits.shape[:1]:
            raise MismatchError(
                "these rows do not fit the stream", expected=f"logits [rows, {self.classes}], labels [rows]",
                got=f"{list(logits.shape)}, {list(labels.shape)}",
            )  # fmt: skip
        rows = self._row[labels]
        if bool((rows < 0).any()):
            raise MismatchError("a label came that was not announced", got=str(int(labels[rows < 0][0])))
        dtype = compute_dtype(logits.dtype)
        table = dtype == torch.float32 and self.off_sums.numel() * dtype.itemsize <= TABLE_BYTES
        size = max(1, ROWS_A_CLASS * len(self.present)) if table else ROWS_AT_ONCE
        for start in range(0, len(logits), size):
            part = slice(start, start + size)
            if self.classes >= LONG_ROW:
                self._add_long(logits[part], labels[part, None], rows[part], dtype)
            else:
                self._add_short(logits[part], labels[part, None], rows[part], dtype, in_table=table)

    def _add_short(self, logits: Tensor, own: Tensor, rows: Tensor, dtype: torch.dtype, *, in_table: bool) -> None:
        """Chunks of rows, each row added to its class's sums."""
        sums = torch.zeros_like(self.off_sums, dtype=dtype) if in_table else self.off_sums
        step = max(1, CHUNK_BYTES // (dtype.itemsize * self.classes))
        numbers = []
        for start in range(0, len(logits), step):
            part = slice(start, start + step)
            powers, scale, found = self._powers(logits[part], own[part], dtype)
            numbers.append(found)
            powers.mul_(scale[:, None])
            sums.index_add_(0, rows[part], powers.to(sums.dtype))
        if in_table:
            self.off_sums.add_(sums)
        self._tally(logits, own, rows, torch.arange(len(rows)), numbers)

    def _add_long(self, logits: Tensor, own: Tensor, rows: Tensor, dtype: torch.dtype) -> None:
        """Row by row, those of a class one after the other, so that one class's sums stay in the cache."""
        sums = torch.zeros(self.classes, dtype=dtype, device=logits.device)
        order = rows.argsort(stable=True)
        classes, added, numbers = rows[order].tolist(), 0, []
        for number, row in enumerate(order.tolist()):
            part = slice(row, row + 1)
            powers, scale, found = self._powers(logits[part], own[part], dtype)
            numbers.append(found)
            sums.addcmul_(powers[0].to(dtype), scale.to(dtype))
            added += 1
            last = number + 1 == len(classes) or classes[number + 1] != classes[number]
            if last or added == 2 * ROWS_A_CLASS:
                self.off_sums[classes[number]] += sums
                sums.zero_()
                added = 0
        self._tally(logits, own, rows, order, numbers)

    def _powers(
        self, logits: Tensor, own: Tensor, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor, Tensor]]:
        """Powers of two with 0 at the label; what makes probabilities of them; by row the label's power, the sum of the others',
        and Σ power · exponent."""
        if dtype == torch.float32 and bool((logits.amax(dim=1).abs() > LARGE * self.temperature).any()):
            dtype = torch.float64
        z = logits if logits.dtype == dtype else place("spectrum", logits, dtype).copy_(logits)
        z = exponents(z, self.temperature, "spectrum")
        powers = torch.exp2(z, out=place("spectrum powers", z))
        own_power = powers.gather(1, own)[:, 0]
        powers.scatter_(
            1, own, 0.0
        )  # the rest is summed without the label, so that a certain teacher's does not cancel
        off = powers.sum(dim=1)
        energy = torch.dot(powers[0], z[0])[None] if len(z) == 1 else z.mul_(powers).sum(dim=1)
        return powers, torch.reciprocal(own_power + off), (own_power, off, energy)

    def _tally(
        self, logits: Tensor, own: Tensor, rows: Tensor, order: Tensor, numbers: list[tuple[Tensor, Tensor, Tensor]]
    ) -> None:
        """Add what is known of each row, in the order it came, to its class, in float64."""
        own_power, off, energy = (torch.cat(column).double() for column in zip(*numbers, strict=True))
        for number in torch.isnan(energy).nonzero().flatten().tolist():  # 0 · -inf, which is 0 here
            part = slice(int(order[number]), int(order[number]) + 1)
            z = exponents(logits[part].double(), self.temperature, "spectrum").clamp_min_(NO_MASS)
            energy[number] = (torch.exp2(z).scatter_(1, own[part], 0.0) * z).sum()
        scale = own_power + off
        rest, confidence = off / scale, own_power / scale
        # Σ_{j≠y} p_j log(p_j / rest), with log(p_j / rest) = z_j - log Σ_{j≠y} e_j
        shape = torch.where(off > 0, LN2 * energy / scale - torch.xlogy(rest, off), 0.0)
        split = -torch.xlogy(confidence, confidence) - torch.xlogy(rest, rest)
        columns = torch.stack([torch.ones_like(rest), confidence, rest, split, shape], dim=1)
        self.sums.index_add_(0, rows[order.to(rows.device)], columns)

    @property
    def examples(self) -> int:
        """How many rows have come."""
        return int(self.sums[:, 0].sum())

    def finish(self) -> Spectrum:
        """The spectrum of the rows so far. Raises `MismatchError` where there are none."""
        return _terms(self.by_class(), self.classes, self.temperature)

    def by_class(self) -> Float[Tensor, "present 6"]:
        """Of each class: its rows, the sums of p[y], of 1 - p[y], of the entropy of that split and of the off-label
        Σ p log(p / rest), and the last of its mean row."""
        n, shape = self.sums[:, 0].clamp_min(1), torch.empty_like(self.sums[:, 0])
        step = max(1, CHUNK_BYTES // (8 * self.classes))
        for start in range(0, len(n), step):
            part = slice(start, start + step)
            mean, rest = self.off_sums[part] / n[part, None], self.sums[part, 2] / n[part]
            shape[part] = torch.xlogy(mean, mean).sum(1) - torch.xlogy(rest, rest)
        return torch.cat([self.sums, shape[:, None]], dim=1)


def _terms(by_class: Float[Tensor, "present 6"], classes: int, temperature: float) -> Spectrum:
    """The five terms from what is known of each class."""
    counts, of_class_shape = by_class[:, 0], by_class[:, 5]
    if float(counts.sum()) == 0:
        raise MismatchError("no rows have come", fix="add rows before reading the spectrum")
    own, rest, split, shape = (by_class[:, i] / counts.clamp_min(1) for i in (1, 2, 3, 4))
    share = counts / counts.sum()
    mean_own, mean_rest = (share * own).sum(), (share * rest).sum()
    mean_split = -torch.xlogy(mean_own, mean_own) - torch.xlogy(mean_rest, mean_rest)
    class_split = -torch.xlogy(own, own) - torch.xlogy(rest, rest)
    flat = math.log(classes - 1)
    terms = {
        "universe_nats": math.log(classes) - mean_split - mean_rest * flat,
        "domain_confidence_nats": mean_split - (share * class_split).sum(),
        "domain_shape_nats": (share * of_class_shape).sum() + mean_rest * flat,
        "instance_confidence_nats": (share * (class_split - split)).sum(),
        "instance_shape_nats": (share * (shape - of_class_shape)).sum(),
    }
    # each is a divergence, so a negative value can only be rounding
    exact = {name: max(0.0, float(value)) for name, value in terms.items()}
    return Spectrum(temperature=temperature, examples=int(counts.sum()), classes=classes, **exact)


def spectrum(signal: TeacherSignal | CompactSignal, temperature: float | None = None) -> Spectrum:
    """Split the teacher's information log K - E[H(p)] into universe, domain and instance, confidence and shape apart.

    With p the teacher's distribution at the temperature, m_c the class means, π_c the class shares, p̄ = Σ π_c m_c[c] and KL2 the KL
    of two-way splits (label, rest):

    - universe = KL((p̄, rest flat) ‖ uniform)
    - domain.confidence = Σ π_c KL2(m_c[c] ‖ p̄)
    - domain.shape = Σ π_c (1 - m_c[c]) KL(off-label shape of m_c ‖ flat)
    - instance.confidence = E KL2(p[y] ‖ m_y[y])
    - instance.shape = E (1 - p[y]) KL(off-label shape of p ‖ off-label shape of m_y)

    One pass over the rows in chunks, sums in float64; rows of single and half precision are worked on in float32 (about 1e-6 of a
    term) unless their logits are very large. Each term is the information that one step hard → ls → class-mean → kd adds.
    Source: ours (Pythagoras for KL with means, then the chain rule).

    Args:
        signal: Logits [batch, classes] and labels [batch]; or compact rows, never made dense.
        temperature: Of the teacher's distribution; None: that of `signal.at(temperature)`, 1 for a signal as it comes.

    Returns:
        A `Spectrum`: the five terms in nats, with intervals over examples.

    Raises:
        ConfigError: for what is no signal, and for a temperature at which the tail mass of compact rows is not known.

    Example:
        import torch
        from fractionate import TeacherSignal, spectrum

        print(spectrum(TeacherSignal(torch.randn(40, 4), torch.arange(40) % 4)))
    """
    if isinstance(signal, CompactSignal):
        return compact_spectrum(signal, signal.temperature if temperature is None else temperature)
    if not isinstance(signal, TeacherSignal):
        raise ConfigError(
            "this is no teacher's signal", expected="TeacherSignal(logits, labels)", got=type(signal).__name__
        )
    temperature = signal.temperature if temperature is None else temperature
    logits, labels = signal.logits, signal.labels
    present, counts = torch.unique(labels, return_counts=True)
    # blocks of classes: their sums are in memory together
    blocks = torch.split(present, max(1, MOST_SUMS_BYTES // (8 * signal.classes)))
    if len(blocks) == 1:
        stream = SpectrumStream(signal.classes, temperature=temperature, labels_present=present, device=logits.device)
        stream.add(logits, labels)
        return stream.finish()
    found, sizes = [], [int(part.sum()) for part in torch.split(counts, len(blocks[0]))]
    for block, rows in zip(blocks, torch.split(labels.argsort(stable=True), sizes), strict=True):
        stream = SpectrumStream(signal.classes, temperature=temperature, labels_present=block, device=logits.device)
        for part in torch.split(rows, max(1, TABLE_BYTES // (4 * signal.classes))):
            stream.add(logits[part], labels[part])
        found.append(stream.by_class())
    return _terms(torch.cat(found), signal.classes, temperature)
