"""How the probabilities of two classes move together over examples: superclasses show as blocks at high temperatures.

Source: Tang et al. (2020), arXiv 2002.03532 v1: correlations of CIFAR-100's classes are block-diagonal at high temperatures.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from fractionate.records import ClassCorrelation
from fractionate.theory.teacher_signal import TeacherSignal
from fractionate.theory.topk_signal import CompactSignal, row_logits

TEMPERATURES = (1.0, 10.0)
MOST_CLASSES = 200  # a larger matrix is not drawn
MOST_NUMBERS = 1 << 24  # logits that are read: every k-th row of more
CHUNK_NUMBERS = 1 << 20  # at once


def class_correlations(
    signal: TeacherSignal | CompactSignal, groups: Sequence[str] = (), temperatures: Sequence[float] = TEMPERATURES
) -> tuple[ClassCorrelation, ...]:
    """Pearson correlations of softmax(logits / T), class by class, at each temperature.

    Args:
        signal: Rows [examples, classes]; nothing is made of compact rows that are not read at other temperatures.
        groups: The superclass of each class; none: the means within and between them are left out.
        temperatures: One matrix each.

    Returns:
        Matrices [classes, classes]; empty for fewer than 3 or more than 200 classes. A class that never changes correlates by 0.
    """
    known = isinstance(signal, TeacherSignal) or signal.estimated
    if not known or not 3 <= signal.classes <= MOST_CLASSES:
        return ()
    rows = torch.arange(0, len(signal), -(-len(signal) * signal.classes // MOST_NUMBERS), device=signal.labels.device)
    parts, logits = torch.split(rows, max(1, CHUNK_NUMBERS // signal.classes)), row_logits(signal)
    names = sorted(set(groups))
    group = torch.tensor([names.index(name) for name in groups]) if len(groups) == signal.classes else None
    found = []
    for temperature in temperatures:
        total, moved = (
            torch.zeros(size, dtype=torch.float64) for size in (signal.classes, (signal.classes, signal.classes))
        )
        first = torch.softmax(
            logits[rows[:1]].double().cpu() / temperature, dim=1
        )  # a constant class is 0 about it, exactly
        for part in parts:
            total += (torch.softmax(logits[part].double().cpu() / temperature, dim=1) - first).sum(dim=0)
        for part in parts:  # about the mean, so that nothing cancels
            around = torch.softmax(logits[part].double().cpu() / temperature, dim=1) - first - total / len(rows)
            moved += around.T @ around
        length = moved.diagonal().sqrt()
        correlation = moved / (length[:, None] * length).clamp_min(1e-300)
        correlation = correlation.where(length[:, None] * length > 0, 0.0)
        within = between = None
        if group is not None:
            off = ~torch.eye(signal.classes, dtype=torch.bool)
            same = (group[:, None] == group) & off
            within, between = float(correlation[same].mean()), float(correlation[~same & off].mean())
        found.append(ClassCorrelation(temperature, tuple(map(tuple, correlation.tolist())), within, between))
    return tuple(found)
