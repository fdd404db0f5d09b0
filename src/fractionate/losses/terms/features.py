"""Feature terms: FitNets, attention transfer, relational KD, similarity-preserving KD and CKA. CRD is in contrastive.py.

Each compares what one module of the student gives with what one of the teacher gives, and gives one number per example. Those that
relate the examples of a batch to each other (rkd, similarity, cka) give each example its share, so that the mean over the batch is
the paper's loss.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar, Protocol

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from fractionate.errors import MismatchError
from fractionate.losses.terms.base import Binding, BoundTerm, TermSpec, Unit, term_specs
from fractionate.tasks.predictions import Needs, Predictions

Features = Float[Tensor, "batch ..."]
Loss = Float[Tensor, "batch"]


class FeatureTerm(TermSpec, Protocol):
    """A comparison of two modules' outputs, found by dotted path; "" is the model's own output.

    A subclass has `compare`, or `trained_part` where something is trained with the student.
    """

    student: str
    teacher: str
    unit: ClassVar[Unit] = "example"

    @property
    def needs(self) -> tuple[Needs, Needs]:
        """One module of each."""
        return Needs(features=frozenset({self.student})), Needs(features=frozenset({self.teacher}))

    def compare(self, student: Features, teacher: Features) -> Loss:
        """The loss of each example; the gradient reaches the student only."""
        ...

    def trained_part(self, student: Features, teacher: Features, examples: int) -> nn.Module | None:
        """The module that compares, called with both features and the examples' places in the data; None: `compare` does."""
        return None

    @contextmanager
    def bind(self, at: Binding) -> Iterator[BoundTerm]:
        """Raises `MismatchError` for features that are not one per example, or that cannot be compared."""
        assert at.student is not None and at.teacher is not None
        ours, theirs = self._features(at.student, at.teacher)
        part = self.trained_part(ours, theirs, at.examples)
        if part is not None:
            at.parts[at.name] = part.to(ours.device, ours.dtype)
        else:
            with torch.no_grad():  # what cannot be compared is refused before the first step
                self.compare(ours, theirs)

        def term(student: Predictions, teacher: Predictions | None, signal: Any | None) -> Loss:
            assert teacher is not None
            ours, theirs = self._features(student, teacher)
            if part is None:
                return self.compare(ours, theirs)
            loss: Loss = at.parts[at.name](ours, theirs, student.batch.index.to(ours.device))
            return loss

        yield term

    def _features(self, student: Predictions, teacher: Predictions) -> tuple[Features, Features]:
        """Both sides in the student's precision, float32 at least; the teacher's without a graph."""
        ours, theirs = student.features[self.student], teacher.features[self.teacher]
        if len(ours) != len(theirs) or len(ours) != student.examples:
            raise MismatchError(
                f"{self.formula}: features are not one per example",
                expected=f"{student.examples} on both sides",
                got=f"student {list(ours.shape)}, teacher {list(theirs.shape)}",
                fix="choose modules whose output has the batch as its first dimension",
            )
        ours = ours.to(torch.promote_types(ours.dtype, torch.float32))
        return ours, theirs.detach().to(ours.dtype)


def same_size(one: Features, other: Features) -> tuple[Features, Features]:
    """Average-pool the larger of two maps to the size of the smaller."""
    size = (min(one.shape[2], other.shape[2]), min(one.shape[3], other.shape[3]))
    return functional.adaptive_avg_pool2d(one, size), functional.adaptive_avg_pool2d(other, size)


class Regressor(nn.Module):
    """Maps the student's features onto the teacher's and gives the mean squared error of each example."""

    def __init__(self, student: Features, teacher: Features) -> None:
        super().__init__()
        if student.ndim != teacher.ndim or student.ndim < 2:
            raise MismatchError(
                "these features cannot be regressed on each other",
                expected="[batch, features], [batch, tokens, features] or [batch, channels, height, width] on both sides",
                got=f"student {list(student.shape)}, teacher {list(teacher.shape)}",
            )
        if student.ndim == 4:
            self.map: nn.Module = nn.Conv2d(student.shape[1], teacher.shape[1], 1)
        else:
            self.map = nn.Linear(student.shape[-1], teacher.shape[-1])

    def forward(self, student: Features, teacher: Features, index: Tensor) -> Loss:
        mapped = self.map(student)
        if mapped.ndim == 4:
            mapped, teacher = same_size(mapped, teacher)
        loss: Tensor = (mapped - teacher).square().flatten(1).mean(dim=1)
        return loss


@term_specs.register("fitnets")
@dataclass(frozen=True)
class FitNets(FeatureTerm):
    """Mean squared error of regressed hints. The regressor (linear, or 1 × 1 convolution) is trained with the student.

    Source: Romero et al. (arXiv 1412.6550), eq. 3, in one stage with the other losses.

    Args:
        student: Path of the student's module.
        teacher: Path of the teacher's.
        weight: Of the term in the loss.

    Example:
        from fractionate.losses.terms import FitNets
        print(FitNets("layer1", "layer2").formula)
    """

    student: str
    teacher: str
    _: KW_ONLY
    weight: float = 1.0

    @property
    def formula(self) -> str:
        return f"mean (regressor({self.student}) - {self.teacher})²"

    def trained_part(self, student: Features, teacher: Features, examples: int) -> nn.Module:
        """The regressor."""
        return Regressor(student, teacher)


@term_specs.register("attention")
@dataclass(frozen=True)
class AttentionTransfer(FeatureTerm):
    """Mean over positions of (A_student - A_teacher)², A = mean over channels of |F|^power, at length 1.

    Maps are [batch, channels, height, width]; the larger is average-pooled. Source: Zagoruyko & Komodakis (arXiv 1612.03928).

    Args:
        student: Path of the student's module.
        teacher: Path of the teacher's.
        weight: Of the term in the loss.
        power: Of the activations.

    Example:
        from fractionate.losses.terms import AttentionTransfer
        print(AttentionTransfer("layer1", "layer2").formula)
    """

    student: str
    teacher: str
    _: KW_ONLY
    weight: float = 1.0
    power: float = 2.0

    @property
    def formula(self) -> str:
        return f"mean (A({self.student}) - A({self.teacher}))², A = |F|^{self.power:g} over channels, at length 1"

    def compare(self, student: Features, teacher: Features) -> Loss:
        """The loss of each example."""
        if student.ndim != 4 or teacher.ndim != 4:
            raise MismatchError(
                "attention transfer compares maps",
                expected="[batch, channels, height, width] on both sides",
                got=f"student {list(student.shape)}, teacher {list(teacher.shape)}",
            )
        student, teacher = same_size(student, teacher)
        maps = [functional.normalize(f.abs().pow(self.power).mean(1).flatten(1), dim=1) for f in (student, teacher)]
        return (maps[0] - maps[1]).square().mean(dim=1)


def distances(features: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch batch"]:
    """Euclidean distances divided by their mean over pairs of different examples; the gradient at distance 0 is 0."""
    squares = (features[:, None] - features[None]).square().sum(dim=-1)
    apart = squares > 0
    length = torch.where(apart, torch.where(apart, squares, 1.0).sqrt(), 0.0)
    mean = length.sum() / apart.sum().clamp_min(1).to(length.dtype)
    return length / torch.where(mean > 0, mean, 1.0)


def angles(features: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch batch batch"]:
    """cos of the angle at example i between the ways to j and to k."""
    ways = functional.normalize(features[None] - features[:, None], dim=2)
    return torch.bmm(ways, ways.transpose(1, 2))


@term_specs.register("rkd")
@dataclass(frozen=True)
class Relational(FeatureTerm):
    """distance_weight · Huber of mean-normalised distances + angle_weight · Huber of the angles of triples.

    An example's share is its row of pairs and the triples it is the corner of. Weights 25 and 50 are the paper's; couples the
    batch. Source: Park et al. (arXiv 1904.05068), eqs. 4-10.

    Args:
        student: Path of the student's module.
        teacher: Path of the teacher's.
        weight: Of the term in the loss.
        distance_weight: Of the distances within it.
        angle_weight: Of the angles; 0 leaves them out.

    Example:
        from fractionate.losses.terms import Relational
        print(Relational("", "").formula)
    """

    student: str
    teacher: str
    _: KW_ONLY
    weight: float = 1.0
    distance_weight: float = 25.0
    angle_weight: float = 50.0
    couples_batch: ClassVar[bool] = True

    @property
    def formula(self) -> str:
        pair = f"({self.student}, {self.teacher})"
        return f"[{self.distance_weight:g} · Huber(distances{pair}) + {self.angle_weight:g} · Huber(angles{pair})]"

    def compare(self, student: Features, teacher: Features) -> Loss:
        """The share of each example."""
        ours, theirs = student.flatten(1), teacher.flatten(1)
        pairs = functional.smooth_l1_loss(distances(ours), distances(theirs), reduction="none").mean(dim=1)
        if self.angle_weight == 0:
            return self.distance_weight * pairs
        triples = functional.smooth_l1_loss(angles(ours), angles(theirs), reduction="none").mean(dim=(1, 2))
        return self.distance_weight * pairs + self.angle_weight * triples


@term_specs.register("similarity")
@dataclass(frozen=True)
class SimilarityPreserving(FeatureTerm):
    """Squared difference of the row-normalised Gram matrices, over batch². An example's share is its row; couples the batch.

    Source: Tung & Mori (arXiv 1907.09682), eqs. 2-4.

    Args:
        student: Path of the student's module.
        teacher: Path of the teacher's.
        weight: Of the term in the loss.

    Example:
        from fractionate.losses.terms import SimilarityPreserving
        print(SimilarityPreserving("layer1", "layer2", weight=3000.0).formula)
    """

    student: str
    teacher: str
    _: KW_ONLY
    weight: float = 1.0
    couples_batch: ClassVar[bool] = True

    @property
    def formula(self) -> str:
        return f"mean (G({self.student}) - G({self.teacher}))², G = F Fᵀ with rows at length 1"

    def compare(self, student: Features, teacher: Features) -> Loss:
        """The share of each example."""
        grams = [functional.normalize(f.flatten(1) @ f.flatten(1).T, dim=1) for f in (student, teacher)]
        return (grams[0] - grams[1]).square().mean(dim=1)


@term_specs.register("cka")
@dataclass(frozen=True)
class KernelAlignment(FeatureTerm):
    """1 - linear CKA of a batch: invariant to rotation and scale, so no projector is needed; couples the batch.

    With centred Gram matrices at Frobenius length 1, 1 - CKA = ½ Σ (K - L)²; an example's share is batch · ½ of its row. A
    batch whose features do not vary has no alignment and gives 0. Source: Kornblith et al. (arXiv 1905.00414), eq. 3.

    Args:
        student: Path of the student's module.
        teacher: Path of the teacher's.
        weight: Of the term in the loss.

    Example:
        from fractionate.losses.terms import KernelAlignment
        print(KernelAlignment("layer1", "layer2").formula)
    """

    student: str
    teacher: str
    _: KW_ONLY
    weight: float = 1.0
    couples_batch: ClassVar[bool] = True

    @property
    def formula(self) -> str:
        return f"1 - CKA({self.student}, {self.teacher})"

    def compare(self, student: Features, teacher: Features) -> Loss:
        """The share of each example."""
        grams = []
        for features in (student, teacher):
            centred = features.flatten(1) - features.flatten(1).mean(dim=0)
            gram = centred @ centred.T
            squares = gram.square().sum()
            varies = squares > torch.finfo(gram.dtype).tiny
            grams.append(torch.where(varies, gram / torch.where(varies, squares, 1.0).sqrt(), 0.0))
        return 0.5 * len(student) * (grams[0] - grams[1]).square().sum(dim=1)
