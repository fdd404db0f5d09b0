"""The objective of KED: a share of what the teacher weighs goes from its prediction to its explanations.

    objective = Objective("kd", temperature=10, teacher_weight=0.7)
    term = ked(objective, Explained(explanation_signals(teacher, data)), share=0.7)
    distill(student, data, signal_of_the_explaining_teacher, objective=objective, terms=[term])

With λ = teacher_weight, μ = share this is, exactly,

    (1 - λ) CE + λ (1 - μ) T² KL(teacher ‖ student) + λ μ / M · τ² Σ_m KL(e_m of the teacher ‖ e_m of the student)

Source: Chowdhury, Liang, Tizghadam and Albanese (arXiv 2310.02572) and their code.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fractionate.data.splits import as_split
from fractionate.divergences import Divergence
from fractionate.engine.evaluation import predictions
from fractionate.errors import ConfigError, MismatchError
from fractionate.models.modes import eval_mode
from fractionate.objective import Objective, needs_whole
from fractionate.outputs import IGNORED, call, logits_of
from fractionate.tasks.reader import EXPLANATIONS, explanations_of
from fractionate.teacher import TeacherSignal

SHARE = 0.7  # the paper's μ
HIDDEN_SHARE = 0.7  # the paper's ρ
TEMPERATURE = 10.0  # the paper's T and τ
TEACHER_WEIGHT = 0.7  # the paper's λ


def paper_objective() -> Objective:
    """The paper's prediction part: λ = 0.7, T = 10, KL with the factor T²."""
    return Objective("kd", TEMPERATURE, TEACHER_WEIGHT, divergence="forward-kl")


def explanation_signals(teacher: nn.Module, data: Any, *, batch_size: int = 512) -> tuple[TeacherSignal, ...]:
    """What an explaining teacher says of each superfeature on all the data: a signal each, so that every cell, spectrum and
    diagnosis that reads a signal reads an explanation too. Raises `MismatchError` for a teacher that does not explain."""
    feed = as_split(data)
    said, labels = predictions(teacher, feed, batch_size=batch_size, head=lambda output: _flat(explanations_of(output)))
    classes = _classes(teacher, feed)
    return tuple(TeacherSignal(part, labels) for part in torch.split(said, classes, dim=1))


def _flat(explanations: Tensor) -> Tensor:
    return explanations.flatten(1)


def _classes(teacher: nn.Module, feed: Any) -> int:
    one = next(feed.batches([(0, torch.tensor([0]))], 0))
    with eval_mode(teacher):
        return int(explanations_of(call(teacher, one.inputs)).shape[-1])


def _part(weight: float, what: str) -> float:
    if not (isinstance(weight, (int, float)) and 0 <= weight <= 1):
        raise ConfigError(f"{what} cannot be used", expected="a number in [0, 1]", got=repr(weight))
    return float(weight)


@dataclass(frozen=True, eq=False)
class Explained:
    """The weighted mean over superfeatures of an objective on their explanations, one number an example.

    `teacher` is a signal for each superfeature, in the order of the data, or the explaining teacher itself, asked on every batch.
    `objective` reads them: any cell at any temperature; the paper's is KL at τ = 10 with τ². `weights` are one a superfeature, at
    least 0, and are made to sum to 1; None counts all alike. Raises `MismatchError` where student and teacher explain differently.
    """

    teacher: Sequence[TeacherSignal] | nn.Module
    objective: Objective = field(default_factory=lambda: Objective("kd", TEMPERATURE, 1.0, divergence="forward-kl"))
    weights: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if self.weights is not None and (min(self.weights) < 0 or sum(self.weights) <= 0):
            raise ConfigError(
                "the superfeatures' weights cannot be used",
                expected="numbers of at least 0, not all 0",
                got=str(self.weights),
            )
        if isinstance(self.teacher, nn.Module) and needs_whole(self.objective):
            raise ConfigError(
                f"the cell {self.objective.cell} needs explanations of all the data",
                expected="signals, or an instance-level cell such as kd",
                fix="pass explanation_signals(teacher, data)",
            )

    def __call__(self, output: Any, batch: Any, signal: TeacherSignal | None) -> Float[Tensor, "rows"]:
        kept = (batch.labels != IGNORED).nonzero().flatten()
        ours = explanations_of(output)[kept]
        weights = self.weights or (1.0,) * ours.shape[1]
        counted = [m for m, weight in enumerate(weights) if weight]
        superfeatures, classes = self._size(ours)
        if (superfeatures, classes) != tuple(ours.shape[1:]) or len(weights) != superfeatures:
            raise MismatchError(
                "student and teacher explain differently",
                expected=f"{superfeatures} superfeatures, {classes} classes and as many weights, as the teacher",
                got=f"{ours.shape[1]} superfeatures, {ours.shape[2]} classes, {len(weights)} weights",
                fix="build both from the same superfeatures",
            )
        rows = batch.index[kept.to(batch.index.device)]
        if needs_whole(self.objective):
            assert not isinstance(self.teacher, nn.Module)
            said = [s.take(rows.to(s.labels.device)).to(ours.device) for s in self.teacher]
            losses = torch.stack([self.objective(ours[:, m], said[m]) for m in counted], dim=1)
        else:  # what each row says is all that counts: the losses of all superfeatures at once
            stacked = self._living(batch, kept, counted) if self._stored is None else self._recorded(rows, counted)
            losses = self.objective(ours[:, counted].flatten(0, 1), stacked.to(ours.device)).view(len(kept), -1)
        share = torch.tensor([weights[m] for m in counted], dtype=losses.dtype, device=losses.device)
        return losses @ (share / share.sum())

    @cached_property
    def _stored(self) -> TeacherSignal | None:
        """All explanations one after another, those of an example together."""
        if isinstance(self.teacher, nn.Module):
            return None
        said = torch.stack([signal.logits for signal in self.teacher], dim=1).flatten(0, 1)
        return TeacherSignal(said, self.teacher[0].labels.repeat_interleave(len(self.teacher)))

    def _size(self, ours: Tensor) -> tuple[int, int]:
        if isinstance(self.teacher, nn.Module):
            return ours.shape[1], ours.shape[2]  # its output is looked at when it is asked
        return len(self.teacher), self.teacher[0].classes

    def _recorded(self, rows: Tensor, counted: Sequence[int]) -> TeacherSignal:
        assert self._stored is not None and not isinstance(self.teacher, nn.Module)
        places = rows[:, None] * len(self.teacher) + torch.tensor(counted)
        return self._stored.take(places.flatten().to(self._stored.labels.device))

    def _living(self, batch: Any, kept: Tensor, counted: Sequence[int]) -> TeacherSignal:
        assert isinstance(self.teacher, nn.Module)
        with eval_mode(self.teacher):
            said = explanations_of(call(self.teacher, batch.inputs))[kept][:, list(counted)]
        return TeacherSignal(said.flatten(0, 1), batch.labels[kept].repeat_interleave(len(counted)))


@dataclass(frozen=True, eq=False)
class Moved:
    """Moves a share of an objective's teacher part to another term: share · (w · to - w · scale · D(teacher, student)).

    Added to `objective`, the sum is (1 - w) CE + w (1 - share) · scale · D + w · share · to. At share 0 nothing is computed.
    """

    objective: Objective
    to: Any
    share: float

    def __post_init__(self) -> None:
        _part(self.share, "the share")

    def __call__(self, output: Any, batch: Any, signal: TeacherSignal | None) -> Float[Tensor, "rows"]:
        if signal is None:
            raise ConfigError("a share of the teacher's part cannot be moved without a teacher", fix="pass signal=")
        if self.share == 0:
            return torch.zeros(len(signal), device=signal.logits.device)
        logits = logits_of(output)[batch.labels != IGNORED]
        divergence = self.objective.divergence
        assert isinstance(divergence, Divergence)
        soft = divergence(logits, self.objective.target(signal, logits.dtype)) * self.objective.soft_scale
        return self.share * (self.objective.teacher_weight * self.to(output, batch, signal) - soft)


@dataclass(frozen=True, eq=False)
class Blend:
    """Several terms, each with its weight."""

    parts: tuple[tuple[float, Any], ...]

    def __call__(self, output: Any, batch: Any, signal: TeacherSignal | None) -> Float[Tensor, "rows"]:
        return torch.stack([w * term(output, batch, signal) for w, term in self.parts if w]).sum(dim=0)


def ked(
    objective: Objective,
    explained: Explained,
    *,
    share: float = SHARE,
    hidden: Any = None,
    hidden_share: float = HIDDEN_SHARE,
) -> Moved:
    """The term that makes an objective KED: μ = `share` of the teacher's part goes to the explanations; at 0 it is KD.

    `hidden`, a term on features inside the branches (`taught` with a hint a branch, each of weight 1 / M), takes the share ρ =
    `hidden_share` of the explanations' part: λ μ (1 - ρ) on explanations, λ μ ρ on features. For the KD side use
    `Moved(objective, hidden, rho)`. Raises `ConfigError` for shares outside [0, 1].
    """
    if hidden is None:
        return Moved(objective, explained, share)
    rho = _part(hidden_share, "the hidden share")
    return Moved(objective, Blend(((1 - rho, explained), (rho, hidden))), share)


__all__ = [
    "EXPLANATIONS",
    "Blend",
    "Explained",
    "Moved",
    "explanation_signals",
    "ked",
    "paper_objective",
]
