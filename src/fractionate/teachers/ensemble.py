"""Many teachers as one: the weighted mean of their probabilities, or one chosen for each example."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from fractionate.data.batch import Split
from fractionate.data.labels import check_same_labels
from fractionate.errors import ConfigError, MismatchError
from fractionate.losses.objective import Objective, Signal, needs_whole
from fractionate.tasks.predictions import Needs, Predictions
from fractionate.tasks.task import Task
from fractionate.teachers.source import OpenTeacher, TeacherSource
from fractionate.theory.teacher_signal import TeacherSignal
from fractionate.theory.topk_signal import CompactSignal


def mix(
    signals: Sequence[TeacherSignal],
    weights: Sequence[float] | Float[Tensor, "examples teachers"] | None = None,
    *,
    route: Int[Tensor, "examples"] | None = None,
) -> TeacherSignal:
    """Teachers as one: logits = log Σ_i w_i softmax(logits_i), the weighted mean of their probabilities at temperature 1.

    The mean is taken of probabilities, not of logits, so a teacher that is sure counts as sure.

    Args:
        signals: One per teacher, on the same examples.
        weights: One per teacher, or [examples, teachers]; made to sum to 1. None: all alike.
        route: [examples] number of the one teacher to follow, in place of weights.

    Returns:
        The mixed signal.

    Raises:
        MismatchError: where classes, examples or labels differ.
        ConfigError: for invalid weights.

    Example:
        import torch
        from fractionate import TeacherSignal
        from fractionate.teachers import mix

        labels = torch.arange(8) % 4
        both = mix([TeacherSignal(torch.randn(8, 4), labels) for _ in range(2)], weights=[0.7, 0.3])
    """
    if not signals:
        raise ConfigError("there is no teacher to mix", expected="at least one signal", got="none")
    first = signals[0]
    for signal in signals[1:]:
        if signal.logits.shape != first.logits.shape:
            raise MismatchError(
                "the teachers speak of different classes or examples",
                expected=str(list(first.logits.shape)),
                got=str(list(signal.logits.shape)),
            )
        check_same_labels(signal.labels, first.labels)
    dtype, device = torch.float64, first.logits.device
    if route is not None:
        if (
            weights is not None
            or route.shape != first.labels.shape
            or not 0 <= int(route.min()) <= int(route.max()) < len(signals)
        ):
            raise ConfigError(
                "the route cannot be followed",
                expected=f"one of 0..{len(signals) - 1} for each of {len(first)} examples, and no weights with it",
                got=f"{list(route.shape)}, {int(route.min())}..{int(route.max())}",
            )
        share = torch.nn.functional.one_hot(route.long(), len(signals)).to(device, dtype)
    else:
        share = torch.as_tensor([1.0] * len(signals) if weights is None else weights, dtype=dtype, device=device)
        share = share.expand(len(first), -1) if share.ndim == 1 else share
        fits = share.shape == (len(first), len(signals))
        if (
            not fits
            or not bool(torch.isfinite(share).all())
            or bool((share < 0).any())
            or bool((share.sum(1) <= 0).any())
        ):
            raise ConfigError(
                "the teachers' weights cannot be used",
                expected=f"{len(signals)} numbers of at least 0, not all 0 (or one row of them for each example)",
                got=str(list(share.shape)) if not fits else "negative, all 0 or not finite",
            )
    log_share = torch.log(share / share.sum(dim=1, keepdim=True))
    log_p = torch.stack([torch.log_softmax(s.logits.to(dtype), dim=1) for s in signals])  # teachers, examples, classes
    mixed = torch.logsumexp(log_p + log_share.T[:, :, None], dim=0)
    return TeacherSignal(
        mixed.to(first.logits.dtype), first.labels, first.class_relation, temperature=first.temperature
    )


@dataclass(eq=False)
class OpenEnsemble(OpenTeacher):
    """The members in use; `whole` is the mixed signal on all the data where the objective needs statistics of it."""

    members: tuple[OpenTeacher, ...]
    ensemble: Ensemble
    whole: TeacherSignal | None

    def signal_for(self, predictions: Predictions) -> Signal:
        """The mixed signal of these rows."""
        signals = [_dense(member.signal_for(predictions)) for member in self.members]
        found = self.ensemble.mixed(signals, predictions)
        if self.whole is None:
            return found
        where = predictions.example.to(found.labels.device)
        return TeacherSignal(
            found.logits, found.labels, self.whole.class_relation, population=self.whole.population, rows=where
        )

    def check_unchanged(self) -> None:
        """Raise `MismatchError` if a member was trained meanwhile."""
        for member in self.members:
            member.check_unchanged()


def _dense(signal: Signal) -> TeacherSignal:
    return signal.dense() if isinstance(signal, CompactSignal) else signal


@dataclass(frozen=True, eq=False)
class Ensemble:
    """log Σ_i w_i softmax(logits_i) of its members, cached or online: a member that is sure counts as sure.

    Args:
        members: Teacher sources.
        weights: One number per member, at least 0; None: all alike.
        route: Called with a batch's inputs, names the one member to follow for each example, in place of weights.
        view: The inputs that members read, where the data have views.
        model: None: an ensemble has no layers of its own.

    Raises:
        ConfigError: No members, weights that do not fit them, or weights next to a route.

    Example:
        import torch
        from fractionate.teachers import Ensemble, Online
        members = Online(torch.nn.Linear(4, 3)), Online(torch.nn.Linear(4, 3))
        teacher = Ensemble(members, weights=(0.7, 0.3))  # of distill(student, data, teacher)
    """

    members: tuple[TeacherSource, ...]
    weights: tuple[float, ...] | None = None
    route: Callable[[Any], Int[Tensor, "batch"]] | None = None
    view: str = "teacher"
    model: nn.Module | None = None

    def __post_init__(self) -> None:
        given = self.weights
        usable = len(self.members) > 0 and (
            given is None or (len(given) == len(self.members) and min(given) >= 0 and 0 < sum(given) < float("inf"))
        )
        if not usable or (self.route is not None and given is not None):
            raise ConfigError(
                "these teachers cannot be combined",
                expected="at least one teacher, a weight of at least 0 for each or none at all, and not both weights and a route",
                got=f"{len(self.members)} teachers, weights {given}{', a route' if self.route is not None else ''}",
            )

    @property
    def holds_after(self) -> frozenset[str]:
        """What all members hold after."""
        return frozenset.intersection(*(member.holds_after for member in self.members))

    def fingerprint(self) -> str:
        """Of the members and their weights."""
        route = "" if self.route is None else getattr(self.route, "__qualname__", type(self.route).__name__)
        return f"{self.weights}:{route}:" + ":".join(member.fingerprint() for member in self.members)

    @contextmanager
    def open(self, task: Task, split: Split, objective: Objective | None, needs: Needs) -> Iterator[OpenEnsemble]:
        """Open every member. Raises `ConfigError` where a term reads inside the teacher: an ensemble has no inside."""
        if needs.features or needs.attention or needs.explanations:
            raise ConfigError(
                "a term reads inside the teacher, and an ensemble has no layers of its own",
                fix="leave the term out, or take one member as the teacher",
            )
        with ExitStack() as stack:
            members = [stack.enter_context(m.open(task, split, objective, needs)) for m in self.members]
            whole = self.signal(task, split) if objective is not None and needs_whole(objective) else None
            yield OpenEnsemble(tuple(members), self, whole)

    def mixed(self, signals: Sequence[TeacherSignal], predictions: Predictions) -> TeacherSignal:
        """The members' signals of some rows as one."""
        if self.route is None:
            return mix(signals, self.weights)
        chosen = self.route(predictions.batch.view(self.view)).to(predictions.labels.device)
        return mix(signals, route=predictions.by_row(chosen))

    def signal(self, task: Task, split: Split) -> TeacherSignal:
        """The mixed signal on a whole split, in memory."""
        signals = [member.signal(task, split) for member in self.members]
        if self.route is None:
            return mix(signals, self.weights)
        plan = ((0, index) for index in torch.split(torch.arange(len(split)), task.batch_size))
        chosen = [self.route(batch.view(self.view)).cpu() for batch in split.batches(plan, 0)]
        return mix(signals, route=torch.cat(chosen).to(signals[0].labels.device))
