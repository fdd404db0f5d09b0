"""How the students of a pilot are compared: by rows right and by likelihood, cross-fitted over validation examples."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from fractionate.data.batch import Split
from fractionate.records import Interval
from fractionate.study.effects.contrasts import statistics
from fractionate.tasks.task import Task

SCALES = (
    0.25,
    0.35,
    0.5,
    0.7,
    1.0,
    1.4,
    2.0,
)  # of the logits, tried in calibration; the middle of them leaves these as they are
FOLDS = 5
Name = TypeVar("Name")


@dataclass(frozen=True, eq=False)
class Answer:
    """What one student predicted on the validation data: per example its rows right and their negative log-likelihood.

    Both are sums over the example's rows, divided by the mean number of rows: means over examples are means over rows.
    """

    right: Float[Tensor, "examples"]
    nats: Float[Tensor, "examples"]


def folds_of(examples: int) -> Tensor:
    """A fold for each example: as many of each, drawn with a fixed seed."""
    order = torch.randperm(examples, generator=torch.Generator().manual_seed(0))
    return order % min(FOLDS, examples)


def answer_of(task: Task, model: nn.Module, split: Split, *, calibrated: bool) -> Answer:
    """A student's answers on a split.

    `calibrated`: the nats are those after the best scale of the logits, found on the other folds: a student that was trained at a
    raised temperature is not punished for being too soft, which no accuracy sees.
    """
    count = len(split)
    scales = SCALES if calibrated else (1.0,)
    right, rows = torch.zeros(count, dtype=torch.float64), torch.zeros(count, dtype=torch.float64)
    nats = torch.zeros(len(scales), count, dtype=torch.float64)
    for predictions in task.predictions(model, split, head=task.head):
        logits, labels, example = predictions.required_logits.float(), predictions.labels, predictions.example
        rows.index_add_(0, example, torch.ones(len(example), dtype=torch.float64))
        right.index_add_(0, example, (logits.argmax(1) == labels).double().cpu())
        for i, scale in enumerate(scales):
            loss = nn.functional.cross_entropy(logits * scale, labels, reduction="none")
            nats[i].index_add_(0, example, loss.double().cpu())
    each = float(rows.mean())
    return Answer(right / each, best_scale(nats, folds_of(count)) / each)


def best_scale(nats: Float[Tensor, "scales examples"], folds: Tensor) -> Float[Tensor, "examples"]:
    """Each example's nats at the scale that is best on the other folds."""
    found = nats[0].clone()
    for fold in range(int(folds.max()) + 1):
        inside = folds == fold
        others = nats[:, ~inside] if bool((~inside).any()) else nats
        found[inside] = nats[int(others.sum(1).argmin()), inside]
    return found


def no_answer(examples: int, classes: int) -> Answer:
    """Of a student that diverged: nothing right, and twice the nats of a uniform guess."""
    zeros = torch.zeros(examples, dtype=torch.float64)
    return Answer(zeros, zeros + 2 * math.log(classes))


def variance(differences: Float[Tensor, "seeds examples"]) -> tuple[float, float]:
    """The parts of the variance of a mean over seeds and examples that are due to the seeds, and to the examples beyond these.

    Two-way random effects: Var = S²(seed means)/seeds + S²(example means)/examples - S²(residuals)/(seeds · examples), which is
    part of either. Source: Owen, The pigeonhole bootstrap (2007), section 3.
    """
    values = differences.double()
    seeds, examples = values.shape
    rows, columns = values.mean(1), values.mean(0)
    residual = values - rows[:, None] - columns[None] + values.mean()
    by_seed = float(rows.var()) / seeds if seeds > 1 else 0.0
    by_example = float(columns.var()) / examples if examples > 1 else math.inf
    both = float(residual.square().sum()) / max(1, (seeds - 1) * (examples - 1)) / (seeds * examples)
    return by_seed, max(0.0, by_example - both) if seeds > 1 else by_example


def gain_interval(differences: Float[Tensor, "seeds examples"], *, coverage: float = 0.95) -> tuple[float, Interval]:
    """Mean of differences with an interval over both seeds and examples; Student's t for the seeds' part (ours)."""
    mean = float(differences.double().mean())
    seeds = len(differences)
    by_seed, by_example = variance(differences)
    t = float(statistics().t(max(1, seeds - 1)).ppf(0.5 + coverage / 2))
    z = float(statistics().norm.ppf(0.5 + coverage / 2))
    half = (t**2 * by_seed + z**2 * by_example) ** 0.5 if seeds > 1 else math.inf
    return mean, Interval(mean - half, mean + half, coverage)


def shrunken(
    gains: Float[Tensor, "arms"], variances: Float[Tensor, "arms"], nats: Float[Tensor, "arms"]
) -> Float[Tensor, "arms"]:
    """Gains in rows right, drawn towards what the gains in likelihood make of them: the posterior mean of an empirical Bayes.

    gain ~ N(b · nats, tau²), measured with the variances given; b by weighted least squares through the origin (the student
    without a teacher gains nothing in either), not below 0; tau² by moments. Few validation examples tell rows right poorly and
    likelihood well. Source: Efron and Morris (1973), with a regression as the prior mean; ours in its use.
    """
    weights = 1 / variances.clamp_min(1e-12)
    slope = ((weights * gains * nats).sum() / (weights * nats.square()).sum().clamp_min(1e-12)).clamp_min(0.0)
    prior = slope * nats
    spread = ((gains - prior).square().mean() - variances.mean()).clamp_min(0.0)
    return prior + spread / (spread + variances.clamp_min(1e-12)) * (gains - prior)


@dataclass(frozen=True, eq=False)
class Compared:
    """Answers of multiple arms on the same seeds: [arms, seeds, examples] of rows right in points, and of nats."""

    right: Float[Tensor, "arms seeds examples"]
    nats: Float[Tensor, "arms seeds examples"]
    likelihood: bool  # whether nats decide, in place of rows right

    @classmethod
    def of(cls, answers: Mapping[tuple[Name, int], Answer], arms: Sequence[Name], seeds: Sequence[int], *,
           likelihood: bool) -> Compared:  # fmt: skip
        """The answers of these arms on these seeds."""
        table = [[answers[arm, seed] for seed in seeds] for arm in arms]
        right = torch.stack([torch.stack([one.right for one in row]) for row in table])
        return cls(100 * right, torch.stack([torch.stack([one.nats for one in row]) for row in table]), likelihood)

    @property
    def deciding(self) -> Float[Tensor, "arms seeds examples"]:
        """What decides, more is better: points, or nats."""
        return -self.nats if self.likelihood else self.right

    def scores(self, reference: int, kept: Bool[Tensor, "examples"] | None = None) -> Float[Tensor, "arms"]:
        """How good each arm is against one of them, by what decides and by likelihood, on all examples or some."""
        right, nats = (part if kept is None else part[..., kept] for part in (self.right, self.nats))
        saved = (nats[reference] - nats).mean((1, 2))
        if self.likelihood:
            return saved
        differences = right - right[reference]
        spread = torch.tensor([sum(variance(one)) for one in differences], dtype=torch.float64)
        others = torch.arange(len(right)) != reference
        found = torch.zeros(len(right), dtype=torch.float64)
        if bool(others.any()):
            found[others] = shrunken(differences.mean((1, 2))[others], spread[others], saved[others])
        return found

    def cross_fitted(self, plain: Sequence[int], judged: Sequence[int]) -> Float[Tensor, "seeds examples"]:
        """Gain of the best arm over the best of the `plain` ones, each chosen on the other folds, on some of the seeds by place.

        Its mean is free of the luck in the choice, which the same examples would count as a gain.
        """
        folds, value = folds_of(self.right.shape[2]), self.deciding[:, list(judged)]
        distilled = [i for i in range(len(self.right)) if i not in plain]
        found = torch.zeros(value.shape[1:], dtype=torch.float64)
        for fold in range(int(folds.max()) + 1):
            inside = folds == fold
            scores = self.scores(plain[0], ~inside if bool((~inside).any()) else None)
            best, without = max(distilled, key=lambda i: float(scores[i])), max(plain, key=lambda i: float(scores[i]))
            found[:, inside] = (value[best] - value[without])[:, inside]
        return found
