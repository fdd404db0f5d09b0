"""Explanation terms: an objective on the explanations of explaining models; KED moves a share of the teacher's part to it.

    Recommendation(**ked(Objective("kd", 10.0, 0.7, divergence="forward-kl"), share=0.7))

With λ = teacher_weight, μ = share KED is

    (1 - λ) CE + λ (1 - μ) T² KL(teacher ‖ student) + λ μ / M · τ² Σ_m KL(e_m of the teacher ‖ e_m of the student)

Source: Chowdhury, Liang, Tizghadam and Albanese (arXiv 2310.02572) and their code.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import KW_ONLY, dataclass, replace
from typing import Any, TypedDict

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fractionate.errors import ConfigError, MismatchError
from fractionate.losses.objective import Objective, needs_whole
from fractionate.losses.terms.base import Binding, BoundTerm, TermSpec, as_spec, term_specs
from fractionate.tasks.predictions import Needs, Predictions
from fractionate.theory.teacher_signal import TeacherSignal

SHARE = 0.7  # the paper's μ
HIDDEN_SHARE = 0.7  # the paper's ρ
TEMPERATURE = 10.0  # the paper's T and τ
TEACHER_WEIGHT = 0.7  # the paper's λ
PAPER = Objective("kd", TEMPERATURE, 1.0, divergence="forward-kl")  # of each explanation

Explained = Float[Tensor, "rows superfeatures classes"]


def paper_objective() -> Objective:
    """The paper's prediction part: λ = 0.7, T = 10, KL with the factor T².

    Returns:
        An `Objective`.

    Example:
        from fractionate.losses.terms import paper_objective

        print(paper_objective().temperature)
    """
    return replace(PAPER, teacher_weight=TEACHER_WEIGHT)


@term_specs.register("explanations")
@dataclass(frozen=True)
class Explanations(TermSpec):
    """The weighted mean over superfeatures of an objective on their explanations, one number per row.

    Args:
        objective: Reads each explanation as logits: any cell at any temperature. A mapping changes the paper's, KL at τ = 10
            with τ²: `explanations({"temperature": 4.0})`.
        weights: One per superfeature, at least 0; they are made to sum to 1. None counts all alike.
        weight: Of the term in the loss.

    Raises:
        ConfigError: Weights that are negative or all 0.

    Example:
        from fractionate import Objective
        from fractionate.losses.terms import Explanations
        print(Explanations(Objective("kd", 2.0, 1.0)).formula)
    """

    objective: Objective = PAPER
    _: KW_ONLY
    weight: float = 1.0
    weights: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        TermSpec.__post_init__(self)
        if isinstance(self.objective, Mapping):
            object.__setattr__(self, "objective", replace(PAPER, **self.objective))
        if self.weights is not None:
            object.__setattr__(self, "weights", tuple(self.weights))
            if not self.weights or min(self.weights) < 0 or sum(self.weights) <= 0:
                raise ConfigError(
                    "invalid weights of superfeatures",
                    expected="numbers of at least 0, not all 0",
                    got=str(self.weights),
                )

    @property
    def needs(self) -> tuple[Needs, Needs]:
        """The explanations of both."""
        return Needs(explanations=True), Needs(explanations=True)

    @property
    def formula(self) -> str:
        mean = "mean" if self.weights is None else f"mean (weights {', '.join(f'{w:g}' for w in self.weights)})"
        return f"{mean} over superfeatures of [{self.objective.describe().formula}] of explanations"

    @contextmanager
    def bind(self, at: Binding) -> Iterator[BoundTerm]:
        """Class-level cells read the teacher on all the data first. Raises `MismatchError` where both explain differently."""
        ours, theirs = _explanations(at.student), _explanations(at.teacher)
        weights = self.weights or (1.0,) * ours.shape[1]
        if ours.shape[1:] != theirs.shape[1:] or len(weights) != theirs.shape[1]:
            raise MismatchError(
                "student and teacher explain differently",
                expected=f"{theirs.shape[1]} superfeatures, {theirs.shape[2]} classes and as many weights, as the teacher",
                got=f"{ours.shape[1]} superfeatures, {ours.shape[2]} classes, {len(weights)} weights",
                fix="build both from the same superfeatures",
            )
        counted = [m for m, weight in enumerate(weights) if weight]
        share = torch.tensor([weights[m] for m in counted], dtype=torch.float64)
        whole = self._whole(at, counted) if needs_whole(self.objective) else None

        def term(student: Predictions, teacher: Predictions | None, signal: Any | None) -> Float[Tensor, "rows"]:
            ours, theirs = _explanations(student)[:, counted], _explanations(teacher).detach()[:, counted]
            if whole is None:  # the teacher's explanation of each row is all that counts: all superfeatures at once
                outputs = TeacherSignal(theirs.flatten(0, 1), student.labels.repeat_interleave(len(counted)))
                losses = self.objective(ours.flatten(0, 1), outputs).view(len(student), -1)
            else:
                signals = whole.of(theirs, student)
                losses = torch.stack([self.objective(ours[:, m], each) for m, each in enumerate(signals)], dim=1)
            own = share.to(losses)
            return losses @ (own / own.sum())

        yield term

    def _whole(self, at: Binding, counted: Sequence[int]) -> WholeExplanations:
        if at.teacher_on_all is None:
            raise ConfigError(
                f"the cell {self.objective.cell} needs the teacher's explanations of all the data",
                expected="a teacher that can be run on them, or an instance-level cell such as kd",
            )
        return WholeExplanations.read(at.teacher_on_all(), counted)


class WholeExplanations:
    """What the teacher says of each superfeature on all the data, a signal each, and where each example's rows begin."""

    def __init__(self, signals: Sequence[TeacherSignal], starts: Int[Tensor, "examples"]) -> None:
        self.signals, self.starts = signals, starts

    @classmethod
    def read(cls, predictions: Iterable[Predictions], counted: Sequence[int]) -> WholeExplanations:
        """Gather the explanations of all rows, in the order of the data."""
        found = [(_explanations(each).detach()[:, counted], each) for each in predictions]
        labels = torch.cat([each.labels for _, each in found])
        stacked = torch.cat([part for part, _ in found])
        rows = torch.cat([each.example for _, each in found])
        counts = torch.bincount(rows, minlength=int(rows.max()) + 1)
        return cls([TeacherSignal(part, labels) for part in stacked.unbind(1)], counts.cumsum(0) - counts)

    def of(self, explanations: Explained, student: Predictions) -> Iterator[TeacherSignal]:
        """The signals of a batch's rows, with the statistics of all the data."""
        rows = self.starts[student.example]
        if student.place is not None:
            rows = rows + student.position
        for signal, part in zip(self.signals, explanations.unbind(1), strict=True):
            yield TeacherSignal(part, student.labels, population=signal.population, rows=rows.to(signal.labels.device))


def _explanations(predictions: Predictions | None) -> Explained:
    if predictions is None or predictions.explanations is None:
        raise MismatchError("there are no explanations", expected="an explaining model as student and as teacher")
    return predictions.explanations


class Fields(TypedDict):
    """Fields of a recipe."""

    objective: Objective | None
    objective_weight: float
    terms: tuple[TermSpec, ...]


def moved(objective: Objective, share: float, terms: Sequence[TermSpec | str]) -> Fields:
    """A share of an objective's teacher part moved to terms: (1 - w) CE + w (1 - share) · D + w · share · Σ weight · term.

    With w = teacher_weight the objective keeps the weight 1 - w · share and within it the teacher weight
    w (1 - share) / (1 - w · share), so that nothing is computed that is subtracted again. At share 0 the terms are left out.

    Args:
        objective: Whose teacher part is divided.
        share: How much of it goes to the terms, in [0, 1].
        terms: Specs, or their names.

    Returns:
        The fields of a recipe: objective, objective_weight, terms.

    Raises:
        ConfigError: For a share outside [0, 1].

    Example:
        from fractionate import Objective
        from fractionate.losses.terms import moved

        print(moved(Objective("kd", 4.0, 0.9), 0.5, ["ranking"])["objective_weight"])
    """
    weight = objective.teacher_weight * check_share(share, "the share")
    if weight == 0:
        return Fields(objective=objective, objective_weight=1.0, terms=())
    left = 1 - weight
    kept = replace(objective, teacher_weight=objective.teacher_weight * (1 - share) / left) if left > 0 else None
    scaled = tuple(replace(term, weight=term.weight * weight) for term in map(as_spec, terms))  # type: ignore[type-var]
    return Fields(objective=kept, objective_weight=left, terms=scaled)


def ked(
    objective: Objective | None = None,
    *,
    share: float = SHARE,
    explanations: Explanations | None = None,
    hidden: Sequence[TermSpec | str] = (),
    hidden_share: float = HIDDEN_SHARE,
) -> Fields:
    """The fields of a recipe that make an objective KED: μ = `share` of the teacher's part goes to the explanations; 0 is KD.

    Args:
        objective: The prediction part; None: the paper's, λ = 0.7, T = 10, KL.
        explanations: The explanation part; None: the paper's.
        hidden: Terms on features inside the branches (fitnets on each, of weight 1 / M). They take the share ρ = `hidden_share` of
            the explanations' part: λ μ (1 - ρ) on explanations, λ μ ρ on features.

    Returns:
        objective, objective_weight and terms, for `Recipe(**...)`.

    Raises:
        ConfigError: For shares outside [0, 1].

    Example:
        from fractionate import Recipe
        from fractionate.losses.terms import ked

        recipe = Recipe(**ked(share=0.5))
    """
    objective = paper_objective() if objective is None else objective
    explained = explanations or Explanations()
    if not hidden:
        return moved(objective, share, (explained,))
    rho = check_share(hidden_share, "the hidden share")
    shares = [(explained, 1 - rho), *((as_spec(term), rho) for term in hidden)]
    return moved(objective, share, [replace(term, weight=term.weight * part) for term, part in shares if part > 0])  # type: ignore[type-var]


def check_share(value: float, what: str) -> float:
    """A share as it is. Raises `ConfigError` unless it is a number in [0, 1]."""
    if isinstance(value, bool) or not (isinstance(value, (int, float)) and 0 <= value <= 1):
        raise ConfigError(f"invalid value for {what}", expected="a number in [0, 1]", got=repr(value))
    return float(value)
