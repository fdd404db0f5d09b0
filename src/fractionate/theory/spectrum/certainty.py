"""How sure a spectrum is: an interval of each term over examples, and what the domain terms would be by chance."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fractionate.records import LEVEL_NAMES, Interval, Level
from fractionate.theory.teacher_signal import ROWS_A_CHUNK_ELEMENTS, TeacherSignal, check_temperature

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
    signal = signal.at(check_temperature(temperature))
    stats, classes = signal.stats, signal.classes
    share = stats.class_share.double()
    own = stats.class_mean.double().gather(1, stats.present[:, None]).squeeze(1)
    off = stats.class_mean.double().scatter(1, stats.present[:, None], 0.0).sum(1)
    middle, middle_rest = (share * own).sum(), (share * off).sum()
    step = max(1, ROWS_A_CHUNK_ELEMENTS // classes)
    found = []
    for start in range(0, len(signal), step):
        part = slice(start, start + step)
        labels = signal.labels[part, None]
        p = torch.softmax(signal.logits[part].double() / temperature, dim=-1)
        sure = p.gather(1, labels).squeeze(1)
        p.scatter_(1, labels, 0.0)
        rest = p.sum(1)
        row = stats.row_of_class[labels.squeeze(1)]
        mean = stats.class_mean[row].double()
        crossed = torch.xlogy(p, mean).sum(1) - torch.xlogy(rest, off[row])
        shape = torch.xlogy(p, p).sum(1) - torch.xlogy(rest, rest)
        found.append(
            shares_of_levels(
                sure, rest, own[row], off[row], (middle, middle_rest), shape=shape, crossed=crossed, classes=classes
            )
        )
    return torch.cat(found).cpu()


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
    signal: TeacherSignal, temperature: float = 1.0, *, draws: int = MOST_DRAWS, seed: int = 0
) -> dict[Level, Null]:
    """The domain terms that class means of so few examples show by chance alone.

    Labels are permuted among (about) equally confident examples and each distribution's label entry is swapped to its new label:
    the confidences of a class stay, its shapes are anybody's. For domain.confidence the confidences are permuted over all examples.
    Empty where the signal is too large for five draws.
    """
    signal = signal.at(check_temperature(temperature))
    examples, classes = signal.logits.shape
    draws = min(draws, MOST_ELEMENTS // max(1, examples * classes))
    if draws < FEWEST_DRAWS:
        return {}
    stats, labels = signal.stats, signal.labels
    draw = torch.Generator().manual_seed(seed)
    rows = stats.row_of_class[labels]
    counts = torch.bincount(rows, minlength=len(stats.present)).double()
    sure, rest = _confidences(signal, temperature)
    order = sure.argsort().cpu()
    bins = max(1, examples // EQUALLY_CONFIDENT)
    block = torch.empty(examples, dtype=torch.long)
    block[order] = torch.arange(examples) * bins // examples
    shapes, confidences = [], []
    for _ in range(draws):
        # a random order within blocks: sort by block, then by a random number
        key = torch.rand(examples, generator=draw, dtype=torch.float64)
        mixed = torch.argsort(block.double() + key)
        place = torch.empty(examples, dtype=torch.long)
        place[torch.argsort(block.double() + torch.rand(examples, generator=draw, dtype=torch.float64))] = mixed
        shapes.append(_domain_shape(signal, temperature, labels[place.to(labels.device)], counts))
        anywhere = torch.randperm(examples, generator=draw).to(labels.device)
        confidences.append(_domain_confidence(sure[anywhere], rest[anywhere], rows, counts))
    return {"domain.confidence": _null(confidences), "domain.shape": _null(shapes)}


def _null(values: list[float]) -> Null:
    found = torch.tensor(values, dtype=torch.float64)
    return Null(float(found.mean()), float(found.quantile(0.95)), len(values))


def _confidences(signal: TeacherSignal, temperature: float) -> tuple[Tensor, Tensor]:
    step = max(1, ROWS_A_CHUNK_ELEMENTS // signal.classes)
    sure, rest = [], []
    for start in range(0, len(signal), step):
        part = slice(start, start + step)
        p = torch.softmax(signal.logits[part].double() / temperature, dim=-1)
        own = signal.labels[part, None]
        sure.append(p.gather(1, own).squeeze(1))
        rest.append(p.scatter_(1, own, 0.0).sum(1))
    return torch.cat(sure), torch.cat(rest)


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
    signal: TeacherSignal, temperature: float, moved: Int[Tensor, "examples"], counts: Float[Tensor, "present"]
) -> float:
    """The term after each example was given another label, its own label's entry swapped with that one's."""
    stats, classes = signal.stats, signal.classes
    sums = torch.zeros(len(stats.present), classes, dtype=torch.float64, device=signal.logits.device)
    step = max(1, ROWS_A_CHUNK_ELEMENTS // classes)
    for start in range(0, len(signal), step):
        part = slice(start, start + step)
        old, new = signal.labels[part, None], moved[part, None]
        p = torch.softmax(signal.logits[part].double() / temperature, dim=-1)
        p.scatter_(1, old, p.gather(1, new))
        p.scatter_(1, new, 0.0)
        sums.index_add_(0, stats.row_of_class[new.squeeze(1)], p)
    means = sums / counts[:, None]
    rest = means.sum(1)
    known = torch.xlogy(means, means).sum(1) - torch.xlogy(rest, rest) + rest * math.log(classes - 1)
    return float((counts / counts.sum() * known).sum())
