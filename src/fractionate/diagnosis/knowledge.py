"""What a diagnosis tells of the spectrum beyond five numbers: intervals, chance, what comes again, class by class."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from fractionate.data.labels import superclass_names
from fractionate.diagnosis.case import Case
from fractionate.errors import MismatchError
from fractionate.records import LEVEL_NAMES, ClassPart, Term
from fractionate.theory.spectrum.certainty import chance, contributions, intervals
from fractionate.theory.spectrum.compact import compact_contributions
from fractionate.theory.spectrum.views import reproducible
from fractionate.theory.teacher_signal import TeacherSignal
from fractionate.theory.topk_signal import CompactSignal

MOST_CLASSES = 200  # a longer list is not read
MOST_ELEMENTS = (
    1 << 30
)  # rows · classes beyond which every k-th row gives the intervals, and no list of classes is made


def knowledge(
    case: Case, superclasses: Sequence[str] = ()
) -> tuple[tuple[Term, ...], tuple[ClassPart, ...], tuple[ClassPart, ...]]:
    """The five terms with their uncertainty, the classes, and the superclasses (named one a class; "group.class" names tell them).

    Raises `MismatchError` for superclasses that do not name every class.
    """
    signal, found = case.signal, case.spectrum
    if superclasses and len(superclasses) != signal.classes:
        raise MismatchError("the superclasses do not fit", expected=f"one name for each of {signal.classes} classes",
                            got=f"{len(superclasses)} names")  # fmt: skip
    step = -(-signal.logits.numel() // MOST_ELEMENTS)
    rows = torch.arange(0, len(signal), step, device=signal.logits.device)
    if isinstance(signal, CompactSignal):  # entries are few: all rows
        step, rows, parts = 1, torch.arange(len(signal)), compact_contributions(signal)
    else:
        parts = contributions(signal if step == 1 else signal.take(rows))
    null, around = chance(signal), intervals(parts)
    widths = (len(rows) / len(signal)) ** 0.5  # the terms are of all rows, only their spread is of some
    terms = []
    for level in LEVEL_NAMES:
        nats, interval = found.nats[level], around[level]
        middle = float(parts.mean(0)[LEVEL_NAMES.index(level)])
        shifted = type(interval)(
            max(0.0, nats + (interval.low - middle) * widths), nats + (interval.high - middle) * widths
        )
        again = (
            reproducible(signal, case.second_view, group=None if case.data is None else case.data.group)
            if level == "instance.shape" and case.second_view is not None and isinstance(signal, TeacherSignal)
            else None
        )
        terms.append(
            Term(
                level, nats, shifted,
                chance_nats=null[level].mean_nats if level in null else None,
                chance_high_nats=null[level].high_nats if level in null else None,
                reproducible_nats=None if again is None else again.reproducible_nats,
                reproducible_interval=None if again is None else again.interval,
            )
        )  # fmt: skip
    if step > 1:
        return tuple(terms), (), ()
    labels = signal.labels.cpu()
    groups = list(superclasses) or superclass_names(case.class_names, signal.classes)
    by_class = (
        _by(parts, labels, [case.name_of(c) for c in range(signal.classes)]) if signal.classes <= MOST_CLASSES else ()
    )
    if not groups:
        return tuple(terms), by_class, ()
    names = sorted(set(groups))
    place = torch.tensor([names.index(name) for name in groups])
    return tuple(terms), by_class, _by(parts, place[labels], names) if len(names) <= MOST_CLASSES else ()


def _by(parts: Float[Tensor, "examples levels"], group: Tensor, names: Sequence[str]) -> tuple[ClassPart, ...]:
    counts = torch.bincount(group, minlength=len(names))
    sums = torch.zeros(len(names), parts.shape[1], dtype=torch.float64).index_add_(0, group, parts)
    means = sums / counts.clamp_min(1)[:, None]
    return tuple(
        ClassPart(name, int(counts[i]), {level: float(means[i, k]) for k, level in enumerate(LEVEL_NAMES)})
        for i, name in enumerate(names)
        if counts[i] > 0
    )
