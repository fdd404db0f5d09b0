"""The knowledge spectrum: what a teacher knows beyond a uniform guess, split exactly into five terms, in nats."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from fractionate.records import Spectrum
from fractionate.teacher import ROWS_A_CHUNK_ELEMENTS, TeacherSignal, check_temperature


def _split_entropy(c: Float[Tensor, "*n"], rest: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """Entropy of the two-way split (c, rest), in nats."""
    return -torch.xlogy(c, c) - torch.xlogy(rest, rest)


def spectrum(signal: TeacherSignal, temperature: float = 1.0) -> Spectrum:
    """Split the teacher's information log K - E[H(p)] into universe, domain and instance, confidence and shape apart.

    With p the teacher's distribution at the temperature, m_c the class means, π_c the class shares, p̄ = Σ π_c m_c[c] and KL2 the KL
    of two-way splits (label, rest):

    - universe = KL((p̄, rest flat) ‖ uniform)
    - domain.confidence = Σ π_c KL2(m_c[c] ‖ p̄)
    - domain.shape = Σ π_c (1 - m_c[c]) KL(off-label shape of m_c ‖ flat)
    - instance.confidence = E KL2(p[y] ‖ m_y[y])
    - instance.shape = E (1 - p[y]) KL(off-label shape of p ‖ off-label shape of m_y)

    One pass over the rows in chunks, float64 sums. Each term is the information that one step hard → ls → class-mean → kd adds.
    Source: ours (Pythagoras for KL with means, then the chain rule).
    """
    check_temperature(temperature)
    examples, classes = signal.logits.shape
    present, row, counts = torch.unique(signal.labels, return_inverse=True, return_counts=True)
    device = signal.logits.device
    sums = torch.zeros(len(present), classes, dtype=torch.float64, device=device)
    rest_sums = torch.zeros(len(present), dtype=torch.float64, device=device)
    # sums over examples: entropy of the split, and the off-label part Σ_{j≠y} p_j log(p_j / (1 - p_y))
    split_entropy = torch.zeros((), dtype=torch.float64, device=device)
    shape_information = torch.zeros((), dtype=torch.float64, device=device)
    step = max(1, ROWS_A_CHUNK_ELEMENTS // classes)
    for start in range(0, examples, step):
        part = slice(start, start + step)
        labels = signal.labels[part, None]
        p = torch.softmax(signal.logits[part].double() / temperature, dim=-1)
        confidence = p.gather(1, labels).squeeze(1)
        others = p.scatter(1, labels, 0.0)
        rest = others.sum(dim=1)
        split_entropy += _split_entropy(confidence, rest).sum()
        shape_information += torch.xlogy(others, others).sum() - torch.xlogy(rest, rest).sum()
        sums.index_add_(0, row[part], p)
        rest_sums.index_add_(0, row[part], rest)

    share = counts.double() / examples
    means = sums / counts[:, None]
    own = means.gather(1, present[:, None]).squeeze(1)
    own_rest = rest_sums / counts
    off = means.scatter(1, present[:, None], 0.0)
    mean_own, mean_rest = (share * own).sum(), (share * own_rest).sum()
    # Σ_c π_c Σ_{j≠c} m_c[j] log(m_c[j] / (1 - m_c[c])): minus the mean entropy of the class shapes, by their mass
    class_shape_information = (share * (torch.xlogy(off, off).sum(1) - torch.xlogy(own_rest, own_rest))).sum()
    flat_information = -mean_rest * math.log(classes - 1)
    class_split_entropy = (share * _split_entropy(own, own_rest)).sum()
    terms = {
        "universe_nats": math.log(classes) - _split_entropy(mean_own, mean_rest) + flat_information,
        "domain_confidence_nats": _split_entropy(mean_own, mean_rest) - class_split_entropy,
        "domain_shape_nats": class_shape_information - flat_information,
        "instance_confidence_nats": class_split_entropy - split_entropy / examples,
        "instance_shape_nats": shape_information / examples - class_shape_information,
    }
    # each is a divergence, so a negative value can only be rounding
    exact = {name: max(0.0, float(value)) for name, value in terms.items()}
    return Spectrum(temperature=float(temperature), examples=examples, classes=classes, **exact)
