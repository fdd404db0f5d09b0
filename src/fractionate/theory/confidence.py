"""Confidence rules: how much probability the target gives to the label.

A rule is a frozen dataclass called with a signal; it returns [batch] in [0, 1] and states its `level`, what it is a function
of: nothing (universe), the class (domain), the example (instance).
"""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Integral, Real
from typing import ClassVar, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from fractionate.errors import ConfigError
from fractionate.system.registry import Registry
from fractionate.theory.teacher_signal import SignalStats, TeacherSignal, compute_dtype

Level = Literal["universe", "domain", "instance"]


@runtime_checkable
class ConfidenceRule(Protocol):
    """Called with a signal, gives the label's probability for each example; `level` says what it depends on."""

    level: ClassVar[Level]

    def __call__(self, signal: TeacherSignal) -> Float[Tensor, "batch"]: ...


confidences: Registry[ConfidenceRule] = Registry("confidence rule", "fractionate.confidences")


def _constant(signal: TeacherSignal, value: float | Tensor) -> Float[Tensor, "batch"]:
    dtype = compute_dtype(signal.logits.dtype)
    return torch.as_tensor(value, dtype=dtype, device=signal.logits.device).expand(len(signal))


def _check_epsilon(epsilon: float) -> None:
    if not (isinstance(epsilon, Real) and 0 <= epsilon <= 1):
        raise ConfigError("epsilon cannot be used", expected="a number in [0, 1]", got=repr(epsilon))


@confidences.register("certain")
@dataclass(frozen=True)
class Certain:
    """All mass on the label: 1, the hard label."""

    level: ClassVar[Level] = "universe"

    def __call__(self, signal: TeacherSignal) -> Float[Tensor, "batch"]:
        return _constant(signal, 1.0)


@confidences.register("smoothed")
@dataclass(frozen=True)
class Smoothed:
    """Label smoothing of a fixed strength: 1 - epsilon + epsilon / classes (the convention of torch's cross_entropy)."""

    epsilon: float = 0.1
    level: ClassVar[Level] = "universe"

    def __post_init__(self) -> None:
        _check_epsilon(self.epsilon)

    def __call__(self, signal: TeacherSignal) -> Float[Tensor, "batch"]:
        return _constant(signal, 1 - self.epsilon + self.epsilon / signal.classes)


@confidences.register("mean")
@dataclass(frozen=True)
class Mean:
    """The teacher's mean confidence over the data: label smoothing of matched strength (universe level)."""

    level: ClassVar[Level] = "universe"

    def __call__(self, signal: TeacherSignal) -> Float[Tensor, "batch"]:
        return _constant(signal, signal.stats.mean_confidence)


@confidences.register("class-mean")
@dataclass(frozen=True)
class ClassMean:
    """The teacher's mean confidence over the label's class: m_c[c]."""

    level: ClassVar[Level] = "domain"

    def __call__(self, signal: TeacherSignal) -> Float[Tensor, "batch"]:
        means = signal.stats.class_mean_of(signal.labels)
        return means.gather(1, signal.labels[:, None]).squeeze(1)


@confidences.register("relation")
@dataclass(frozen=True)
class Relation:
    """The label's own share of the class relation (`relation_distribution`), as in kd-sim of Tang et al. 2002.03532."""

    power: float = 0.5
    sharpness: float = 0.3
    level: ClassVar[Level] = "domain"

    def __post_init__(self) -> None:
        check_relation(self.power, self.sharpness)

    def __call__(self, signal: TeacherSignal) -> Float[Tensor, "batch"]:
        rows = relation_distribution(signal, self.power, self.sharpness)
        return rows.gather(1, signal.labels[:, None]).squeeze(1)


@confidences.register("instance")
@dataclass(frozen=True)
class Instance:
    """The teacher's confidence in this example's label: p[y]; rescales the example's gradient (Tang et al. 2002.03532)."""

    level: ClassVar[Level] = "instance"

    def __call__(self, signal: TeacherSignal) -> Float[Tensor, "batch"]:
        return signal.confidence


def check_count(k: int | None) -> None:
    """Raise `ConfigError` for what is no number of classes (None: a quarter of them)."""
    if k is not None and not (isinstance(k, Integral) and k is not True and k >= 1):
        raise ConfigError("k cannot be used", expected="a whole number of at least 1", got=repr(k))


def largest(signal: TeacherSignal, k: int | None) -> Bool[Tensor, "batch classes"]:
    """The teacher's k largest classes of each example, the label counted where it is among them; None: a quarter of the classes."""
    count = min(k if k is not None else -(-signal.classes // 4), signal.classes)
    places = signal.tempered_logits.topk(count, dim=1).indices
    return torch.zeros_like(signal.logits, dtype=torch.bool).scatter(1, places, True)


@confidences.register("topk")
@dataclass(frozen=True)
class TopK:
    """p[y] where the label is among the teacher's k largest classes, else its even share of all that these leave.

    With left = 1 - Σ of the k largest, the share is left / (classes without the k largest); goes with the shape `topk`.
    Source: Tang et al. (arXiv 2002.03532, v1, KD-topk).
    """

    k: int | None = None
    level: ClassVar[Level] = "instance"

    def __post_init__(self) -> None:
        check_count(self.k)

    def __call__(self, signal: TeacherSignal) -> Float[Tensor, "batch"]:
        top = largest(signal, self.k)
        rest = signal.others & ~top
        left = torch.where(rest, signal.probabilities, 0.0).sum(dim=1) + signal.confidence
        inside = top.gather(1, signal.labels[:, None]).squeeze(1)
        return torch.where(inside, signal.confidence, left / (rest.sum(dim=1) + 1))


@confidences.register("with-top1")
@dataclass(frozen=True)
class WithTopOne:
    """p[y] + p[m], m the teacher's top-1: the label also gets the probability of the teacher's top-1 (Zhang et al. 2305.08096).

    Where the label is the top-1 this is p[y]. See the shape `without-top1`.
    """

    level: ClassVar[Level] = "instance"

    def __call__(self, signal: TeacherSignal) -> Float[Tensor, "batch"]:
        p = signal.probabilities
        top, place = p.max(dim=1)
        return (signal.confidence + torch.where(place == signal.labels, 0.0, top)).clamp_max(1.0)


@confidences.register("smoothed-others")
@dataclass(frozen=True)
class SmoothedOthers:
    """Label smoothing of a fixed strength in the convention of fairseq: 1 - epsilon, the others epsilon / (classes - 1) each."""

    epsilon: float = 0.1
    level: ClassVar[Level] = "universe"

    def __post_init__(self) -> None:
        _check_epsilon(self.epsilon)

    def __call__(self, signal: TeacherSignal) -> Float[Tensor, "batch"]:
        return _constant(signal, 1 - self.epsilon)


@confidences.register("shuffled")
@dataclass(frozen=True)
class Shuffled:
    """Placebo: the same confidences, assigned to other examples at random. A gain here is not knowledge about the example."""

    seed: int = 0
    level: ClassVar[Level] = "universe"

    def __post_init__(self) -> None:
        check_seed(self.seed)

    def __call__(self, signal: TeacherSignal) -> Float[Tensor, "batch"]:
        return signal.stats.confidence[shuffle(signal.stats, self.seed)[_rows(signal)]]


@confidences.register("shuffled-within-class")
@dataclass(frozen=True)
class ShuffledWithinClass:
    """Placebo: the same confidences, assigned at random within each class. Keeps the mean of every class."""

    seed: int = 0
    level: ClassVar[Level] = "domain"

    def __post_init__(self) -> None:
        check_seed(self.seed)

    def __call__(self, signal: TeacherSignal) -> Float[Tensor, "batch"]:
        return signal.stats.confidence[shuffle_within_class(signal.stats, self.seed)[_rows(signal)]]


def _rows(signal: TeacherSignal) -> Int[Tensor, "batch"]:
    assert signal.rows is not None
    return signal.rows


def check_seed(seed: int) -> None:
    """Raises `ConfigError` unless a seed is a whole number that a generator takes."""
    if not (isinstance(seed, Integral) and 0 <= seed < 1 << 63):
        raise ConfigError("the seed cannot be used", expected="a whole number from 0", got=repr(seed))


def check_relation(power: float, sharpness: float) -> None:
    """Raises `ConfigError` unless the two settings of `relation_distribution` are finite and above 0."""
    if not all(isinstance(value, Real) and 0 < value < float("inf") for value in (power, sharpness)):
        raise ConfigError(
            "the class relation cannot be used",
            expected="power and sharpness above 0, for example 0.5 and 0.3",
            got=f"power={power!r}, sharpness={sharpness!r}",
        )


def shuffle(stats: SignalStats, seed: int) -> Int[Tensor, "examples"]:
    """For each example of the data another one, each used once, drawn from a seed."""
    if ("all", seed) not in stats.shuffles:
        generator = torch.Generator().manual_seed(seed)
        stats.shuffles["all", seed] = torch.randperm(len(stats.labels), generator=generator).to(stats.labels.device)
    return stats.shuffles["all", seed]


def shuffle_within_class(stats: SignalStats, seed: int) -> Int[Tensor, "examples"]:
    """For each example of the data another example of its class, each used once, drawn from a seed."""
    if ("class", seed) not in stats.shuffles:
        labels = stats.labels.cpu()
        generator = torch.Generator().manual_seed(seed)
        order = torch.randperm(len(labels), generator=generator)
        donors = order[torch.argsort(labels[order], stable=True)]  # grouped by class, random within
        places = torch.argsort(labels, stable=True)
        partner = torch.empty_like(places)
        partner[places] = donors
        stats.shuffles["class", seed] = partner.to(stats.labels.device)
    return stats.shuffles["class", seed]


def relation_distribution(signal: TeacherSignal, power: float, sharpness: float) -> Float[Tensor, "batch classes"]:
    """What the label's class says of all classes, one row per example; two estimators of the same thing.

    With `class_relation` C given (cosines of the teacher's logit-layer rows): softmax(max(C[y], 0)^power / sharpness), our
    reconstruction of kd-sim (negative cosines count as unrelated; not tempered again by the signal's temperature). Without
    it: the class mean of the teacher's predictions m_y, which needs no weights and works for black-box teachers.
    """
    if signal.class_relation is None:
        return signal.stats.class_mean_of(signal.labels)
    few = len(signal) < signal.classes  # work on the rows of the examples or of the classes, whichever are fewer
    relation = signal.class_relation[signal.labels] if few else signal.class_relation
    # float64 and the largest entry taken off before the division: finite for any sharpness
    related = (relation.double().clamp_min(0) ** power).clamp_max(1e300)
    rows = torch.softmax((related - related.amax(dim=1, keepdim=True)) / sharpness, dim=-1)
    return (rows if few else rows[signal.labels]).to(compute_dtype(signal.logits.dtype))
