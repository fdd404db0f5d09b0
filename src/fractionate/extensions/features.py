"""Feature terms: FitNets, attention transfer, relational KD, similarity-preserving KD and CKA. CRD is in contrastive.py.

Each compares features of student and teacher and gives one number an example. Those that relate the examples of a batch to each
other (rkd, similarity, cka) give each example its share, so that the mean over the batch is the paper's loss.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from fractionate.errors import MismatchError
from fractionate.terms import Hint, taught, terms

Features = Float[Tensor, "batch ..."]
Loss = Float[Tensor, "batch"]

__all__ = ["Hint", "taught", "terms"]


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

    def forward(self, student: Features, teacher: Features, labels: Tensor, index: Tensor) -> Loss:
        mapped = self.map(student)
        if mapped.ndim == 4:
            mapped, teacher = _same_size(mapped, teacher)
        loss: Tensor = (mapped - teacher).square().flatten(1).mean(dim=1)
        return loss


def _same_size(one: Features, other: Features) -> tuple[Features, Features]:
    """Average-pool the larger of two maps to the size of the smaller."""
    size = (min(one.shape[2], other.shape[2]), min(one.shape[3], other.shape[3]))
    return functional.adaptive_avg_pool2d(one, size), functional.adaptive_avg_pool2d(other, size)


@terms.register("fitnets")
@dataclass(frozen=True)
class FitNets:
    """Mean squared error of regressed hints. The regressor (linear, or 1 × 1 convolution) is trained with the student.

    Source: Romero et al. (arXiv 1412.6550), eq. 3, in one stage with the other losses.
    """

    def parts(self, student: Features, teacher: Features, examples: int) -> nn.Module:
        """The regressor."""
        return Regressor(student, teacher)


@terms.register("attention")
@dataclass(frozen=True)
class AttentionTransfer:
    """Mean over positions of (A_student - A_teacher)², A = mean over channels of |F|^power, at length 1.

    Maps are [batch, channels, height, width]; the larger is average-pooled. Source: Zagoruyko & Komodakis (arXiv 1612.03928).
    """

    power: float = 2.0

    def __call__(self, student: Features, teacher: Features) -> Loss:
        if student.ndim != 4 or teacher.ndim != 4:
            raise MismatchError(
                "attention transfer compares maps",
                expected="[batch, channels, height, width] on both sides",
                got=f"student {list(student.shape)}, teacher {list(teacher.shape)}",
            )
        student, teacher = _same_size(student, teacher)
        maps = [functional.normalize(f.abs().pow(self.power).mean(1).flatten(1), dim=1) for f in (student, teacher)]
        return (maps[0] - maps[1]).square().mean(dim=1)


def distances(features: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch batch"]:
    """Euclidean distances divided by their mean over pairs of different examples; the gradient at distance 0 is 0."""
    squares = (features[:, None] - features[None]).square().sum(dim=-1)
    apart = squares > 0
    length = torch.where(apart, torch.where(apart, squares, 1.0).sqrt(), 0.0)
    mean = length.sum() / apart.sum().clamp_min(1).to(length.dtype)
    return length / torch.where(mean > 0, mean, 1.0)


@terms.register("rkd")
@dataclass(frozen=True)
class Relational:
    """distance_weight · Huber of mean-normalised distances + angle_weight · Huber of the angles of triples.

    An example's share is its row of pairs and the triples it is the corner of. Weights 25 and 50 are the paper's; couples the
    batch. Source: Park et al. (arXiv 1904.05068), eqs. 4-10.
    """

    distance_weight: float = 25.0
    angle_weight: float = 50.0
    couples_batch: ClassVar[bool] = True

    def __call__(self, student: Features, teacher: Features) -> Loss:
        ours, theirs = student.flatten(1), teacher.flatten(1)
        pairs = functional.smooth_l1_loss(distances(ours), distances(theirs), reduction="none").mean(dim=1)
        if self.angle_weight == 0:
            return self.distance_weight * pairs
        triples = functional.smooth_l1_loss(_angles(ours), _angles(theirs), reduction="none").mean(dim=(1, 2))
        return self.distance_weight * pairs + self.angle_weight * triples


def _angles(features: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch batch batch"]:
    """cos of the angle at example i between the ways to j and to k."""
    ways = functional.normalize(features[None] - features[:, None], dim=2)
    return torch.bmm(ways, ways.transpose(1, 2))


@terms.register("similarity")
@dataclass(frozen=True)
class SimilarityPreserving:
    """Squared difference of the row-normalised Gram matrices, over batch². An example's share is its row; couples the batch.

    Source: Tung & Mori (arXiv 1907.09682), eqs. 2-4.
    """

    couples_batch: ClassVar[bool] = True

    def __call__(self, student: Features, teacher: Features) -> Loss:
        grams = [functional.normalize(f.flatten(1) @ f.flatten(1).T, dim=1) for f in (student, teacher)]
        return (grams[0] - grams[1]).square().mean(dim=1)


@terms.register("cka")
@dataclass(frozen=True)
class KernelAlignment:
    """1 - linear CKA of a batch: invariant to rotation and scale, so no projector is needed; couples the batch.

    With centred Gram matrices at Frobenius length 1, 1 - CKA = ½ Σ (K - L)²; an example's share is batch · ½ of its row. A
    batch whose features do not vary has no alignment and gives 0. Source: Kornblith et al. (arXiv 1905.00414), eq. 3.
    """

    couples_batch: ClassVar[bool] = True

    def __call__(self, student: Features, teacher: Features) -> Loss:
        grams = []
        for features in (student, teacher):
            centred = features.flatten(1) - features.flatten(1).mean(dim=0)
            gram = centred @ centred.T
            squares = gram.square().sum()
            varies = squares > torch.finfo(gram.dtype).tiny
            grams.append(torch.where(varies, gram / torch.where(varies, squares, 1.0).sqrt(), 0.0))
        return 0.5 * len(student) * (grams[0] - grams[1]).square().sum(dim=1)
