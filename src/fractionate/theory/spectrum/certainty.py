"""How sure a spectrum is: an interval of each term over examples, and what the domain terms would be by chance."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fractionate.records import LEVEL_NAMES, Interval, Level
from fractionate.theory.teacher_signal import ROWS_A_CHUNK_ELEMENTS, TeacherSignal, check_temperature
from fractionate.theory.topk_signal import CompactSignal, RowsOnDemand, row_logits

NORMAL_95 = 1.959964
MOST_DRAWS = 20
FEWEST_DRAWS = 5
MOST_ELEMENTS = 1 << 28  # rows · classes · draws that a null may walk: seconds
EQUALLY_CONFIDENT = 20  # examples in a bin of confidences within which labels are permuted


@dataclass(frozen=True)
class Null:
    """What a term is when labels and shapes have nothing to do with each other: mean and 95th percentile over draws, in nats."""

    mean_nats: float
    high_nats: float
    draws: int


def contributions(signal: TeacherSignal, temperature: float = 1.0) -> Float[Tensor, "examples levels"]:
    """What each example adds to each of the five terms, in nats: the means over examples are the terms, exactly.

    With p its distribution, m the mean of its class, p̄ the mean confidence, r = 1 - p[y] and S_j(a) = Σ_{j≠y} p_j log a_j:

    - universe: p[y] log p̄ + r log((1 - p̄)/(K - 1)) + log K
    - domain.confidence: p[y] log(m[y]/p̄) + r log((1 - m[y])/(1 - p̄))
    - domain.shape: S(m) - r log(1 - m[y]) + r log(K - 1)
    - instance.confidence: KL2(p[y] ‖ m[y]); instance.shape: r KL(off-label shape of p ‖ that of m)

    Means minimise the KL to them, so each line is also the influence of an example on its term, and the spread of a column over
    the root of the examples is the term's standard error (delta method). Source: ours.
    """
    check_temperature(temperature)
    classes, device = signal.classes, signal.logits.device
    by_row = torch.empty(4, len(signal), dtype=torch.float64, device=device)  # p[y], 1 - p[y], shape, crossed
    present, row, counts = torch.unique(signal.labels, return_inverse=True, return_counts=True)
    own, off = torch.zeros(2, len(present), dtype=torch.float64, device=device)
    step = max(1, ROWS_A_CHUNK_ELEMENTS // classes)
    for rows in whole_classes(signal.labels, step):
        first, last = int(row[rows[0]]), int(row[rows[-1]]) + 1
        sums = torch.zeros(last - first, classes, dtype=torch.float64, device=device)
        chunks = torch.split(rows, step)
        for chunk in chunks:
            p, by_row[0, chunk] = _off_label(signal.logits[chunk], signal.labels[chunk], temperature)
            sums.index_add_(0, row[chunk] - first, p)
            by_row[1, chunk] = p.sum(1)
        means = sums.div_(counts[first:last, None])
        off[first:last] = means.sum(1)
        log_means = means.clamp_min_(1e-300).log_()
        for chunk in chunks:
            if len(chunks) > 1:
                p, _ = _off_label(signal.logits[chunk], signal.labels[chunk], temperature)
            rest = by_row[1, chunk]
            by_row[2, chunk] = torch.xlogy(p, p).sum(1) - torch.xlogy(rest, rest)
            by_row[3, chunk] = p.mul_(log_means[row[chunk] - first]).sum(1) - torch.xlogy(rest, off[row[chunk]])
    sure, rest, shape, crossed = by_row
    own = own.index_add(0, row, sure) / counts
    return shares_of_levels(
        sure, rest, own[row], off[row], (sure.mean(), rest.mean()), shape=shape, crossed=crossed, classes=classes
    ).cpu()


def whole_classes(labels: Int[Tensor, "examples"], room: int) -> Iterator[Int[Tensor, "some"]]:
    """Places of the rows class by class: as many whole classes at once as have no more than `room` rows, or one larger class."""
    order = labels.argsort(stable=True)
    counts = torch.unique_consecutive(labels[order], return_counts=True)[1]
    start = stop = 0
    for count in counts.tolist():
        if stop > start and stop + count - start > room:
            yield order[start:stop]
            start = stop
        stop += count
    yield order[start:stop]


def _off_label(
    logits: Float[Tensor, "rows classes"], labels: Int[Tensor, "rows"], temperature: float
) -> tuple[Float[Tensor, "rows classes"], Float[Tensor, "rows"]]:
    """softmax(logits / T) with 0 at the label, and what stood there."""
    p = torch.softmax(
        logits.double().div_(temperature) if logits.dtype != torch.float64 else logits / temperature, dim=-1
    )
    own = labels[:, None]
    sure = p.gather(1, own).squeeze(1)
    return p.scatter_(1, own, 0.0), sure


def shares_of_levels(
    confidence: Float[Tensor, "batch"],
    rest: Float[Tensor, "batch"],
    class_confidence: Float[Tensor, "batch"],
    class_rest: Float[Tensor, "batch"],
    mean: tuple[Float[Tensor, ""], Float[Tensor, ""]],
    *,
    shape: Float[Tensor, "batch"],
    crossed: Float[Tensor, "batch"],
    classes: int,
) -> Float[Tensor, "batch levels"]:
    """Nats each example adds to universe, domain.confidence, domain.shape, instance.confidence and instance.shape.

    `confidence`, `rest`: p[y] and 1 - p[y] of the example, of its class and of all (`mean`). With r = rest and S(a) = Σ_{j≠y}
    p_j log a_j, `shape` is S(p) - r log r and `crossed` S(class mean) - r log(class rest). Each line is a step of a chain, so
    the five add up to log K - H(p). Source: ours (docs/theory/theory.md).
    """
    split = torch.xlogy(confidence, confidence) + torch.xlogy(rest, rest)
    by_class = torch.xlogy(confidence, class_confidence) + torch.xlogy(rest, class_rest)
    by_all = torch.xlogy(confidence, mean[0]) + torch.xlogy(rest, mean[1])
    flat = rest * math.log(classes - 1)
    terms = (
        by_all - flat + math.log(classes),
        by_class - by_all,
        crossed + flat,
        split - by_class,
        shape - crossed,
    )
    return torch.stack(terms, 1)


def intervals(parts: Float[Tensor, "examples levels"]) -> dict[Level, Interval]:
    """95 % intervals of the five terms over examples, from `contributions`; never below 0."""
    mean, n = parts.mean(0), len(parts)
    half = NORMAL_95 * parts.std(0) / n**0.5 if n > 1 else torch.full_like(mean, math.inf)
    return {
        level: Interval(max(0.0, float(mean[i] - half[i])), float(mean[i] + half[i]))
        for i, level in enumerate(LEVEL_NAMES)
    }


def chance(
    signal: TeacherSignal | CompactSignal, temperature: float = 1.0, *, draws: int = MOST_DRAWS, seed: int = 0
) -> dict[Level, Null]:
    """The domain terms that class means of so few examples show by chance alone.

    Labels are permuted among (about) equally confident examples and each distribution's label entry is swapped to its new label:
    the confidences of a class stay, its shapes are anybody's. For domain.confidence the confidences are permuted over all examples.
    Empty where the signal is too large for five draws.
    """
    check_temperature(temperature)
    examples, classes = len(signal), signal.classes
    draws = min(draws, MOST_ELEMENTS // max(1, examples * classes))
    if draws < FEWEST_DRAWS:
        return {}
    labels, logits = signal.labels, row_logits(signal.at(temperature))
    draw = torch.Generator().manual_seed(seed)
    rows, counts = torch.unique(labels, return_inverse=True, return_counts=True)[1:]
    row_of_class = torch.empty(classes, dtype=torch.long, device=labels.device).scatter_(0, labels, rows)
    sure, rest = confidences(signal, temperature)
    order = sure.argsort().cpu()
    bins = max(1, examples // EQUALLY_CONFIDENT)
    block = torch.empty(examples, dtype=torch.long)
    block[order] = torch.arange(examples) * bins // examples
    shapes, splits = [], []
    for _ in range(draws):
        # a random order within blocks: sort by block, then by a random number
        key = torch.rand(examples, generator=draw, dtype=torch.float64)
        mixed = torch.argsort(block.double() + key)
        place = torch.empty(examples, dtype=torch.long)
        place[torch.argsort(block.double() + torch.rand(examples, generator=draw, dtype=torch.float64))] = mixed
        shapes.append(_domain_shape(logits, labels, temperature, labels[place.to(labels.device)], row_of_class, counts))
        anywhere = torch.randperm(examples, generator=draw).to(labels.device)
        splits.append(_domain_confidence(sure[anywhere], rest[anywhere], rows, counts))
    return {"domain.confidence": _null(splits), "domain.shape": _null(shapes)}


def _null(values: list[float]) -> Null:
    found = torch.tensor(values, dtype=torch.float64)
    return Null(float(found.mean()), float(found.quantile(0.95)), len(values))


def confidences(signal: TeacherSignal | CompactSignal, temperature: float) -> tuple[Tensor, Tensor]:
    """p[y] and 1 - p[y] of each row at a temperature, in float64; the second is summed, so that it does not cancel."""
    logits, step = row_logits(signal.at(temperature)), max(1, ROWS_A_CHUNK_ELEMENTS // signal.classes)
    found = torch.empty(2, len(signal), dtype=torch.float64, device=logits.device)
    for start in range(0, len(signal), step):
        part = slice(start, start + step)
        p, found[0, part] = _off_label(logits[part], signal.labels[part], temperature)
        found[1, part] = p.sum(1)
    return found[0], found[1]


def _domain_confidence(
    sure: Float[Tensor, "examples"], rest: Float[Tensor, "examples"], rows: Int[Tensor, "examples"], counts: Tensor
) -> float:
    zero = torch.zeros(len(counts), dtype=torch.float64, device=sure.device)
    own, off = zero.index_add(0, rows, sure) / counts, zero.index_add(0, rows, rest) / counts
    share = counts / counts.sum()
    middle, middle_rest = (share * own).sum(), (share * off).sum()
    apart = torch.xlogy(own, own / middle) + torch.xlogy(off, off / middle_rest)
    return float((share * apart).sum())


def _domain_shape(
    logits: Tensor | RowsOnDemand,
    labels: Int[Tensor, "examples"],
    temperature: float,
    moved: Int[Tensor, "examples"],
    row_of_class: Int[Tensor, "classes"],
    counts: Int[Tensor, "present"],
) -> float:
    """The term after each example was given another label, its own label's entry swapped with that one's."""
    classes = logits.shape[1]
    sums = torch.zeros(len(counts), classes, dtype=torch.float64, device=labels.device)
    step = max(1, ROWS_A_CHUNK_ELEMENTS // classes)
    for start in range(0, len(labels), step):
        part = slice(start, start + step)
        old, new = labels[part, None], moved[part, None]
        p = torch.softmax(logits[part].double() / temperature, dim=-1)
        p.scatter_(1, old, p.gather(1, new))
        p.scatter_(1, new, 0.0)
        sums.index_add_(0, row_of_class[new.squeeze(1)], p)
    means = sums.div_(counts[:, None])
    rest = means.sum(1)
    known = torch.xlogy(means, means).sum(1) - torch.xlogy(rest, rest) + rest * math.log(classes - 1)
    return float((counts / counts.sum() * known).sum())
