"""What happened inside a student: rescaling of its gradients, geometry of its logit layer, what it knows in nats."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from fractionate.errors import MismatchError
from fractionate.losses.objective import Objective, rescaling
from fractionate.records import Histogram, Matrix, Spectrum
from fractionate.theory.spectrum.stream import spectrum
from fractionate.theory.teacher_signal import TeacherSignal


@dataclass(frozen=True)
class Rescaling:
    """The rescaling factor over examples: its mean, its spread, its correlation with the teacher's confidence."""

    mean: float
    deviation: float
    correlation: float | None  # None where either does not vary


def correlation(first: Float[Tensor, "examples"], second: Float[Tensor, "examples"]) -> float | None:
    """Pearson's correlation; None where one of the two does not vary."""
    a, b = first.double() - first.double().mean(), second.double() - second.double().mean()
    scale = float(a.norm() * b.norm())
    return float(a @ b) / scale if scale > 1e-12 * len(a) else None


def measure_rescaling(
    student_logits: Float[Tensor, "batch classes"], signal: TeacherSignal, objective: Objective
) -> Rescaling:
    """Mean, spread and correlation of `objective.rescaling` (Tang et al. 2002.03532) over these examples."""
    factor = rescaling(student_logits, signal, objective)
    confidence = signal.at(objective.temperature).confidence
    return Rescaling(float(factor.mean()), float(factor.std(correction=0)), correlation(factor, confidence))


def histogram(values: Float[Tensor, "examples"], *, name: str, bins: int = 30) -> Histogram:
    """Counts between equal steps from the 1st to the 99th percentile, the tails in the outer bins."""
    values = values.double().flatten()
    low, high = (float(torch.quantile(values[:1_000_000], q)) for q in (0.01, 0.99))
    if not high > low:
        low, high = low - 0.5, high + 0.5
    edges = torch.linspace(low, high, bins + 1, dtype=torch.float64)
    counts = torch.histc(values.clamp(low, high), bins=bins, min=low, max=high)
    return Histogram(
        name=name,
        edges=tuple(edges.tolist()),
        counts=tuple(int(c) for c in counts),
        mean=float(values.mean()),
        deviation=float(values.std(correction=0)),
    )


def off_label_means(signal: TeacherSignal, *, temperature: float = 1.0) -> Float[Tensor, "classes classes"]:
    """Row c: how mean predictions for class c spread over the other classes, 0 on the diagonal.

    The off-label shape of m_c; a class that nobody has gets a row of zeros.
    """
    stats = signal.at(temperature).stats
    rows = torch.zeros(signal.classes, signal.classes, dtype=torch.float64)
    means = stats.class_mean.double().cpu()
    present = stats.present.cpu()
    means = means.scatter(1, present[:, None], 0.0)
    rows[present] = means / means.sum(dim=1, keepdim=True).clamp_min(1e-300)
    return rows


def off_label_relation(signal: TeacherSignal, *, temperature: float = 1.0) -> Matrix:
    """`off_label_means` as it stands in a record, [classes, classes]."""
    return tuple(tuple(row) for row in off_label_means(signal, temperature=temperature).tolist())


def teacher_relation(signal: TeacherSignal) -> Float[Tensor, "classes classes"]:
    """The teacher's relations of classes: of its logit layer where known, else of its mean predictions."""
    return off_label_means(signal) if signal.class_relation is None else signal.class_relation.double().cpu()


def absorbed(
    student_logits: Float[Tensor, "examples classes"], labels: Int[Tensor, "examples"], *, temperature: float = 1.0
) -> Spectrum:
    """The spectrum of the student itself: what it knows beyond a uniform guess, level by level, in nats."""
    return spectrum(TeacherSignal(student_logits, labels), temperature)


@dataclass(frozen=True)
class Geometry:
    """Cosines of the rows of a logit layer against class relations and superclasses."""

    relation_correlation: float | None  # cosines of rows against symmetrised relations, over pairs of classes
    within_superclass: float | None  # mean cosine of rows of one superclass
    between_superclasses: float | None


def row_geometry(
    rows: Float[Tensor, "classes features"],
    relation: Float[Tensor, "classes classes"] | None = None,
    superclasses: Sequence[int] = (),
) -> Geometry:
    """How the rows of a logit layer lie: cosines of pairs against relations, within and between superclasses.

    Raises `MismatchError` for a relation or superclasses of another number of classes.
    """
    classes = len(rows)
    if (relation is not None and relation.shape != (classes, classes)) or len(superclasses) not in (0, classes):
        raise MismatchError(
            "relations or superclasses do not fit the logit layer",
            expected=f"{classes} classes",
            got=f"{None if relation is None else list(relation.shape)}, {len(superclasses)} superclasses",
        )
    unit = torch.nn.functional.normalize(rows.double(), dim=1)
    pairs = torch.triu_indices(classes, classes, offset=1)
    cosine = (unit @ unit.T)[pairs[0], pairs[1]]
    linked = None
    if relation is not None:
        linked = correlation(cosine, ((relation + relation.T) / 2).double()[pairs[0], pairs[1]])
    within = between = None
    if len(superclasses):
        group = torch.as_tensor(list(superclasses))
        same = group[pairs[0]] == group[pairs[1]]
        within = float(cosine[same].mean()) if bool(same.any()) else None
        between = float(cosine[~same].mean()) if bool((~same).any()) else None
    return Geometry(linked, within, between)


def distance_order(
    features: Float[Tensor, "batch features"],
    rows: Float[Tensor, "classes features"],
    signal: TeacherSignal,
) -> float:
    """The share of pairs of wrong classes i, j with |h - w_i| < |h - w_j| exactly where the teacher has p_i > p_j.

    The domain proposition of Tang et al. (2002.03532): 1 at a stationary point with rows of equal norm, ½ by chance. Ties of the
    teacher are left out.
    """
    distance = torch.cdist(features.double(), rows.double())
    p = signal.probabilities.double()
    others: Bool[Tensor, "batch classes"] = signal.others
    nearer = distance[:, :, None] < distance[:, None, :]
    likelier = p[:, :, None] > p[:, None, :]
    counted = others[:, :, None] & others[:, None, :] & (p[:, :, None] != p[:, None, :])
    return float((nearer == likelier)[counted].double().mean())
