"""A linear classifier on the inputs, cross-validated: the least a teacher has to beat."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

MOST_EXAMPLES, MOST_FEATURES, FEWEST_EXAMPLES, FOLDS = 2000, 1024, 50, 5
PENALTIES = (0.1, 10.0, 1e3)


def linear_probe(
    inputs: Shaped[Tensor, "examples *features"],
    labels: Int[Tensor, "examples"],
    classes: int,
    group: Int[Tensor, "examples"] | None = None,
) -> tuple[Bool[Tensor, "judged"], Int[Tensor, "judged"]] | None:
    """Which examples a ridge classifier gets right, each judged by a fit that did not see it, and their places.

    One-hot least squares on standardised inputs with an intercept; the penalty is chosen on one split. Examples of one `group`
    (views of one example) are judged together. At most 2,000 examples (every k-th). None where the inputs are not floating point
    with at most 1,024 features, or there are fewer than 50 examples.
    """
    fits = inputs.is_floating_point() and FEWEST_EXAMPLES <= len(inputs) == len(labels)
    if not fits or inputs[0].numel() > MOST_FEATURES or classes > 1000 or not bool(inputs.isfinite().all()):
        return None
    judged = torch.arange(0, len(inputs), -(-len(inputs) // MOST_EXAMPLES))
    x = inputs[judged].reshape(len(judged), -1).double().cpu()
    y = labels[judged].cpu()
    fold = parts(torch.arange(len(judged)) if group is None else group[judged], FOLDS)
    first = fold != 0

    def score(penalty: float) -> float:
        return float((_fit(x[first], y[first], classes, penalty)(x[~first]) == y[~first]).double().mean())

    best = max(PENALTIES, key=score)
    right = torch.zeros(len(judged), dtype=torch.bool)
    for held in range(FOLDS):
        train = fold != held
        right[~train] = _fit(x[train], y[train], classes, best)(x[~train]) == y[~train]
    return right, judged


def parts(group: Int[Tensor, "examples"], count: int) -> Int[Tensor, "examples"]:
    """A part in 0..count-1 for each example, drawn; examples of one group share it.

    Not by `randperm` of a common seed: data that were shuffled by the very same draw would have one class in each part.
    """
    own = torch.unique(group, return_inverse=True)[1]
    drawn = torch.rand(int(own.max()) + 1, generator=torch.Generator().manual_seed(727_561), dtype=torch.float64)
    return (drawn.argsort().argsort() % count)[own]


def fitted_line(
    inputs: Shaped[Tensor, "examples *features"], labels: Int[Tensor, "examples"], classes: int
) -> Callable[[Float[Tensor, "n features"]], Int[Tensor, "n"]]:
    """The classifier fitted on all examples (at most 2,000, every k-th) with the middle penalty."""
    some = torch.arange(0, len(inputs), -(-len(inputs) // MOST_EXAMPLES))
    return _fit(inputs[some].reshape(len(some), -1).double().cpu(), labels[some].cpu(), classes, PENALTIES[1])


def _fit(
    x: Float[Tensor, "n features"], y: Int[Tensor, "n"], classes: int, penalty: float
) -> Callable[[Tensor], Tensor]:
    mean, scale = x.mean(0), x.std(0)
    scale = torch.where(scale > 1e-9, scale, torch.ones_like(scale))
    z = (x - mean) / scale
    target = torch.nn.functional.one_hot(y, classes).double()
    offset = target.mean(0)
    gram = z.T @ z + penalty * torch.eye(z.shape[1], dtype=z.dtype)
    weight = torch.linalg.solve(gram, z.T @ (target - offset))
    return lambda new: (((new - mean) / scale) @ weight + offset).argmax(1)
