"""Shape rules: how the off-label mass is spread over the other classes.

A rule is a frozen dataclass called with a signal; it returns [batch, classes], rows that sum to 1 with 0 at the label and at
classes the teacher masks with -inf, and states its `level`. A shape is built with the label at -inf, never by dividing by
1 - confidence, which is NaN for a certain teacher.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from fractionate.errors import ConfigError
from fractionate.system.registry import Registry
from fractionate.theory.confidence import (
    Level,
    check_count,
    check_relation,
    check_seed,
    largest,
    relation_distribution,
    shuffle_within_class,
)
from fractionate.theory.teacher_signal import TeacherSignal, compute_dtype


@runtime_checkable
class ShapeRule(Protocol):
    """Called with a signal, gives a distribution over the classes other than the label; `level` says what it depends on."""

    level: ClassVar[Level]

    def __call__(self, signal: TeacherSignal) -> Float[Tensor, "batch classes"]: ...


shapes: Registry[ShapeRule] = Registry("shape rule", "fractionate.shapes")


def spread(signal: TeacherSignal, mass: Float[Tensor, "batch classes"]) -> Float[Tensor, "batch classes"]:
    """Any non-negative masses, made a shape: 0 at the label and at masked classes, rows sum to 1.

    Args:
        signal: Whose labels and masked classes.
        mass: [batch, classes] of at least 0.

    Returns:
        [batch, classes]; flat where nothing is left.

    Example:
        import torch
        from fractionate import TeacherSignal
        from fractionate.theory import spread

        print(spread(TeacherSignal(torch.randn(1, 4), torch.tensor([2])), torch.ones(1, 4)))
    """
    others = signal.others
    kept = torch.where(others, mass, 0.0)
    total = kept.sum(dim=1, keepdim=True)
    flat = others.to(kept.dtype) / others.sum(dim=1, keepdim=True)
    # the smallest normal number: below it a quotient loses its digits, and a row that underflowed has no shape to keep
    tiny = torch.finfo(kept.dtype).tiny
    return torch.where(total > tiny, kept / total.clamp_min(tiny), flat)


@shapes.register("uniform")
@dataclass(frozen=True)
class Uniform:
    """Flat over the other classes: no information about which are similar."""

    level: ClassVar[Level] = "universe"

    def __call__(self, signal: TeacherSignal) -> Float[Tensor, "batch classes"]:
        return spread(signal, torch.ones_like(signal.logits, dtype=compute_dtype(signal.logits.dtype)))


@shapes.register("class-mean")
@dataclass(frozen=True)
class ClassMean:
    """The teacher's average distribution over the other classes for the label's class: the off-label shape of m_c."""

    level: ClassVar[Level] = "domain"

    def __call__(self, signal: TeacherSignal) -> Float[Tensor, "batch classes"]:
        return spread(signal, signal.stats.class_mean_of(signal.labels))


@shapes.register("relation")
@dataclass(frozen=True)
class Relation:
    """The class relation of the label (`confidence.relation_distribution`), as in kd-sim of Tang et al. 2002.03532."""

    power: float = 0.5
    sharpness: float = 0.3
    level: ClassVar[Level] = "domain"

    def __post_init__(self) -> None:
        check_relation(self.power, self.sharpness)

    def __call__(self, signal: TeacherSignal) -> Float[Tensor, "batch classes"]:
        return spread(signal, relation_distribution(signal, self.power, self.sharpness))


@shapes.register("permuted")
@dataclass(frozen=True)
class Permuted:
    """Placebo: a class-level shape with classes renamed at random: consistent within each class, and wrong.

    With a cyclic permutation r of the classes: shape[y, j] = other[r(y), r(j)], `of` naming the class-level rule.
    """

    of: str = "relation"
    seed: int = 0
    level: ClassVar[Level] = "domain"

    def __post_init__(self) -> None:
        check_seed(self.seed)
        rule = shapes[self.of]
        if rule.level == "instance" or hasattr(rule, "seed"):
            raise ConfigError("only class-level shapes can be permuted", expected="class-mean or relation", got=self.of)

    def __call__(self, signal: TeacherSignal) -> Float[Tensor, "batch classes"]:
        rule = shapes[self.of]
        order = torch.randperm(signal.classes, generator=torch.Generator().manual_seed(self.seed))
        renamed = torch.empty_like(order)
        renamed[order] = order.roll(1)  # one cycle through all classes: no class keeps its name
        renamed = renamed.to(signal.logits.device)
        assert signal.population is not None
        # the rule reads only the label, so an example of the renamed label stands for the class
        other = TeacherSignal(
            torch.zeros_like(signal.logits), renamed[signal.labels], signal.class_relation,
            temperature=signal.temperature, population=signal.population, rows=signal.rows,
        )  # fmt: skip
        return spread(signal, rule(other)[:, renamed])


@shapes.register("instance")
@dataclass(frozen=True)
class Instance:
    """The teacher's distribution over the other classes for this example: softmax(logits / temperature) with the label at -inf."""

    level: ClassVar[Level] = "instance"

    def __call__(self, signal: TeacherSignal) -> Float[Tensor, "batch classes"]:
        # NaN where the teacher masks every other class: spread then makes the row flat
        return spread(signal, torch.softmax(signal.tempered_logits.masked_fill(~signal.others, -torch.inf), dim=-1))


@shapes.register("topk")
@dataclass(frozen=True)
class TopK:
    """The teacher's k largest classes (the label counted where it is among them), the rest of the mass flat, also the label's.

    `k = None` takes a quarter of the classes, the best share on CIFAR-100 reported for KD-topk (Tang et al., v1). With the
    confidence `topk` the k largest keep the teacher's own mass.
    """

    k: int | None = None
    level: ClassVar[Level] = "instance"

    def __post_init__(self) -> None:
        check_count(self.k)

    def __call__(self, signal: TeacherSignal) -> Float[Tensor, "batch classes"]:
        shape, top = Instance()(signal), largest(signal, self.k)
        rest = signal.others & ~top
        count = rest.sum(dim=1, keepdim=True)
        tail = torch.where(rest, shape, 0.0).sum(dim=1, keepdim=True)
        flat = torch.where(rest, tail / count.clamp_min(1), shape)
        # the label outside: what it has lies in the tail, of which it takes an even share itself
        inside, own = top.gather(1, signal.labels[:, None]), signal.confidence[:, None]
        share = (tail * (1 - own) + own) / (count + 1)
        outside = torch.where(rest, share, shape * (1 - own)) / (1 - share).clamp_min(torch.finfo(shape.dtype).tiny)
        return torch.where(inside, flat, outside)


@shapes.register("top1")
@dataclass(frozen=True)
class TopOne:
    """All mass on the teacher's most likely class other than the label (Zhang et al. 2305.08096)."""

    level: ClassVar[Level] = "instance"

    def __call__(self, signal: TeacherSignal) -> Float[Tensor, "batch classes"]:
        best = signal.logits.masked_fill(~signal.others, -torch.inf).argmax(dim=1, keepdim=True)
        mass = torch.zeros_like(signal.logits, dtype=compute_dtype(signal.logits.dtype)).scatter_(1, best, 1.0)
        return spread(signal, mass)


@shapes.register("without-top1")
@dataclass(frozen=True)
class WithoutTopOne:
    """The teacher's distribution for this example without the label and its top-1 (Zhang et al., arXiv 2305.08096).

    With the confidence `with-top1`: p'(top-1) = 0, p'(label) = p(label) + p(top-1)."""

    level: ClassVar[Level] = "instance"

    def __call__(self, signal: TeacherSignal) -> Float[Tensor, "batch classes"]:
        top = signal.logits.argmax(dim=1, keepdim=True)
        others = signal.others
        kept = others.scatter(1, top, False)
        kept = torch.where(kept.any(dim=1, keepdim=True), kept, others)  # two classes: nothing else is left
        return spread(signal, torch.softmax(signal.tempered_logits.masked_fill(~kept, -torch.inf), dim=-1))


@shapes.register("shuffled-within-class")
@dataclass(frozen=True)
class ShuffledWithinClass:
    """Placebo: the shape of another example of the same class. Right class relations, wrong example."""

    seed: int = 0
    level: ClassVar[Level] = "domain"

    def __post_init__(self) -> None:
        check_seed(self.seed)

    def __call__(self, signal: TeacherSignal) -> Float[Tensor, "batch classes"]:
        assert signal.population is not None and signal.rows is not None
        partner = shuffle_within_class(signal.stats, self.seed)[signal.rows]
        whole = signal.population.logits
        donor = (
            whole[partner.to(whole.device)].to(signal.logits.device, compute_dtype(whole.dtype)) / signal.temperature
        )
        return spread(signal, torch.softmax(donor.scatter(1, signal.labels[:, None], -torch.inf), dim=-1))
