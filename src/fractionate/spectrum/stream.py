"""The spectrum as a stream: rows come in pieces of any size, sums are float64, memory is the class statistics and one chunk."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fractionate.errors import MismatchError
from fractionate.powers import LN2, exponents, place
from fractionate.records import Spectrum
from fractionate.teacher import check_temperature, compute_dtype

CHUNK_BYTES = 1 << 21  # worked on at once: a few such arrays fit into a core's caches
LONG_ROW = 1 << 15  # classes from which on rows are taken one by one, class after class
TABLE_BYTES = 1 << 25  # single-precision sums of all classes are kept beside the exact ones where they are no larger
ROWS_AT_ONCE = 1 << 16  # whose numbers wait for their sums
ROWS_A_CLASS = 32  # added in single precision, on average, before they join the exact sums
NO_MASS = -1e4  # the exponent, relative to the largest, at which a power is 0 in every dtype: stands in for -inf


@dataclass(frozen=True, eq=False)
class Breakdown:
    """The spectrum class by class: each term in nats an example of that class; shares times terms sum to the spectrum's terms.

    Rows in the order of `classes`, the labels present. `examples` counts them.
    """

    classes: Int[Tensor, "present"]
    examples: Int[Tensor, "present"]
    domain_confidence_nats: Float[Tensor, "present"]
    domain_shape_nats: Float[Tensor, "present"]
    instance_confidence_nats: Float[Tensor, "present"]
    instance_shape_nats: Float[Tensor, "present"]

    def grouped(self, group_of_class: Int[Tensor, "classes"]) -> Breakdown:
        """The same by superclass: means over the examples of each group; `classes` then holds the groups."""
        groups, row = torch.unique(group_of_class[self.classes], return_inverse=True)
        weight = self.examples.double()
        counts = torch.zeros(len(groups), dtype=torch.float64).index_add_(0, row, weight)

        def mean(values: Tensor) -> Tensor:
            return torch.zeros(len(groups), dtype=torch.float64).index_add_(0, row, weight * values) / counts

        return Breakdown(
            groups, counts.long(), mean(self.domain_confidence_nats), mean(self.domain_shape_nats),
            mean(self.instance_confidence_nats), mean(self.instance_shape_nats),
        )  # fmt: skip


class SpectrumStream:
    """Adds up rows of logits with their labels; `finish()` gives the spectrum at any moment.

    `labels_present`, where known, are the labels that will come, so that only their class means take memory; otherwise all
    classes get a row. `with_squares` keeps Σ p² too, which doubles that memory, for the correction of finite samples. float32 and
    half precision rows are worked on in float32 (relative error about 1e-6 of a term), float64 rows in float64; sums are float64,
    into which single-precision sums of some dozen rows a class are taken.

    Raises `MismatchError` for rows that do not fit and labels that were not announced.
    """

    def __init__(
        self,
        classes: int,
        *,
        temperature: float = 1.0,
        labels_present: Int[Tensor, "present"] | None = None,
        with_squares: bool = False,
        device: torch.device | str = "cpu",
    ) -> None:
        self.classes = classes
        self.temperature = check_temperature(temperature)
        self.present = torch.arange(classes) if labels_present is None else torch.unique(labels_present.cpu())
        self.present = self.present.to(device)
        self._row = torch.full((classes,), -1, dtype=torch.long, device=device)
        self._row[self.present] = torch.arange(len(self.present), device=device)
        rows = len(self.present)
        self.off_sums = torch.zeros(rows, classes, dtype=torch.float64, device=device)  # Σ p_j beside the label
        self.off_squares = torch.zeros_like(self.off_sums) if with_squares else None
        # by class: count, Σ p[y], Σ (1 - p[y]), Σ (1 - p[y])², Σ entropy of the split, Σ off-label p log(p / rest)
        self.sums = torch.zeros(rows, 6, dtype=torch.float64, device=device)

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
        sums, squares = self.off_sums, self.off_squares
        if in_table:
            sums = torch.zeros(sums.shape, dtype=dtype, device=sums.device)
            squares = None if squares is None else torch.zeros_like(sums)
        step = max(1, CHUNK_BYTES // (dtype.itemsize * self.classes))
        numbers = []
        for start in range(0, len(logits), step):
            part = slice(start, start + step)
            powers, scale, found = self._powers(logits[part], own[part], dtype)
            numbers.append(found)
            powers.mul_(scale[:, None])
            sums.index_add_(0, rows[part], powers.to(sums.dtype))
            if squares is not None:
                squares.index_add_(0, rows[part], powers.square_().to(sums.dtype))
        if in_table:
            self.off_sums.add_(sums)
            if self.off_squares is not None and squares is not None:
                self.off_squares.add_(squares)
        self._tally(logits, own, rows, torch.arange(len(rows)), numbers)

    def _add_long(self, logits: Tensor, own: Tensor, rows: Tensor, dtype: torch.dtype) -> None:
        """Row by row, those of a class one after the other, so that one class's sums stay in the cache."""
        sums = torch.zeros(self.classes, dtype=dtype, device=logits.device)
        squares = torch.zeros_like(sums) if self.off_squares is not None else None
        order = rows.argsort(stable=True)
        classes, added, numbers = rows[order].tolist(), 0, []
        for number, row in enumerate(order.tolist()):
            part = slice(row, row + 1)
            powers, scale, found = self._powers(logits[part], own[part], dtype)
            numbers.append(found)
            sums.addcmul_(powers[0], scale)
            if squares is not None:
                squares.add_(powers[0].mul_(scale).square_())
            added += 1
            last = number + 1 == len(classes) or classes[number + 1] != classes[number]
            if last or added == 2 * ROWS_A_CLASS:
                self.off_sums[classes[number]] += sums
                sums.zero_()
                if self.off_squares is not None and squares is not None:
                    self.off_squares[classes[number]] += squares
                    squares.zero_()
                added = 0
        self._tally(logits, own, rows, order, numbers)

    def _powers(
        self, logits: Tensor, own: Tensor, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor, Tensor]]:
        """Powers of two with 0 at the label; what makes probabilities of them; by row the label's power, the sum of the others',
        and Σ power · exponent."""
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
        columns = torch.stack([torch.ones_like(rest), confidence, rest, rest.square(), split, shape], dim=1)
        self.sums.index_add_(0, rows[order.to(rows.device)], columns)

    @property
    def examples(self) -> int:
        """How many rows have come."""
        return int(self.sums[:, 0].sum())

    def finish(self) -> Spectrum:
        """The spectrum of the rows so far."""
        counts, parts = self._parts()
        share = counts / counts.sum()
        terms = {name: max(0.0, float((share * values).sum())) for name, values in parts.items()}
        return Spectrum(temperature=self.temperature, examples=self.examples, classes=self.classes, **terms)

    def corrected(self) -> Spectrum:
        """The spectrum with the noise of the class means moved from the domain back to the instance level.

        Class means of n examples differ from the true ones; to second order (Σ_j Var(p_j) / 2 n m_j for a KL to a mean, Miller's
        correction) that adds to the domain terms what it takes from the instance terms, and leaves universe and total alone.
        Needs `with_squares`.
        """
        if self.off_squares is None:
            raise MismatchError("the correction needs squares", fix="SpectrumStream(..., with_squares=True)")
        plain = self.finish()
        counts = self.sums[:, 0]
        seen = counts > 1
        n = counts.clamp_min(2)
        own, rest = self.sums[:, 1] / n, self.sums[:, 2] / n
        variance = (self.sums[:, 3] / n - rest**2).clamp_min(0) * n / (n - 1)
        tiny = 1e-300
        confidence = variance / (2 * n) * (1 / own.clamp_min(tiny) + 1 / rest.clamp_min(tiny))
        confidence = torch.where((own > 0) & (rest > 0), confidence, 0.0)
        bias_of_shape = torch.zeros_like(rest)
        step = max(1, CHUNK_BYTES // (8 * self.classes))
        for start in range(0, len(n), step):
            part = slice(start, start + step)
            k = n[part, None]
            mean = self.off_sums[part] / k
            spread = (self.off_squares[part] / k - mean**2).clamp_min(0) * k / (k - 1)
            chi = torch.where(mean > 0, spread / mean.clamp_min(tiny), 0.0).sum(1) / (2 * n[part])
            bias_of_shape[part] = chi
        bias_of_shape = (
            bias_of_shape - torch.where(rest > 0, variance / rest.clamp_min(tiny), 0.0) / (2 * n)
        ).clamp_min(0)
        share = counts / counts.sum()
        moved_confidence = min(float((share * confidence)[seen].sum()), plain.domain_confidence_nats)
        moved_shape = min(float((share * bias_of_shape)[seen].sum()), plain.domain_shape_nats)
        return Spectrum(
            temperature=plain.temperature, examples=plain.examples, classes=plain.classes,
            universe_nats=plain.universe_nats,
            domain_confidence_nats=plain.domain_confidence_nats - moved_confidence,
            domain_shape_nats=plain.domain_shape_nats - moved_shape,
            instance_confidence_nats=plain.instance_confidence_nats + moved_confidence,
            instance_shape_nats=plain.instance_shape_nats + moved_shape,
        )  # fmt: skip

    def breakdown(self) -> Breakdown:
        """The spectrum class by class."""
        counts, parts = self._parts()
        return Breakdown(
            self.present[counts > 0].cpu(), counts[counts > 0].long().cpu(),
            *(parts[name][counts > 0].cpu() for name in (
                "domain_confidence_nats", "domain_shape_nats", "instance_confidence_nats", "instance_shape_nats")),
        )  # fmt: skip

    def _parts(self) -> tuple[Float[Tensor, "present"], dict[str, Float[Tensor, "present"]]]:
        """Counts, and the five terms of each class."""
        counts = self.sums[:, 0]
        if float(counts.sum()) == 0:
            raise MismatchError("no rows have come", fix="add rows before asking for the spectrum")
        n = counts.clamp_min(1)
        own, rest, split, shape = (self.sums[:, i] / n for i in (1, 2, 4, 5))
        share = counts / counts.sum()
        mean_own, mean_rest = (share * own).sum(), (share * rest).sum()
        mean_split = -torch.xlogy(mean_own, mean_own) - torch.xlogy(mean_rest, mean_rest)
        class_split = -torch.xlogy(own, own) - torch.xlogy(rest, rest)
        of_class_shape = torch.empty_like(rest)
        step = max(1, CHUNK_BYTES // (8 * self.classes))
        for start in range(0, len(n), step):
            part = slice(start, start + step)
            mean = self.off_sums[part] / n[part, None]
            of_class_shape[part] = torch.xlogy(mean, mean).sum(1) - torch.xlogy(rest[part], rest[part])
        flat = math.log(self.classes - 1)
        # KL2(m_c ‖ p̄) class by class, so that the terms of a class are its own
        cross = -own * mean_own.clamp_min(1e-300).log() - rest * mean_rest.clamp_min(1e-300).log()
        universe = math.log(self.classes) - mean_split - mean_rest * flat
        return counts, {
            "universe_nats": universe.expand_as(rest),
            "domain_confidence_nats": cross - class_split,
            "domain_shape_nats": of_class_shape + rest * flat,
            "instance_confidence_nats": class_split - split,
            "instance_shape_nats": shape - of_class_shape,
        }
