"""What one example adds to each of the five terms, from a handful of numbers about it."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor


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
