"""The teachers of a training: a stored signal checked against the data, living models asked inertly, several as one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from fractionate import confidence as confidence_rules
from fractionate import shape as shape_rules
from fractionate.cells import Cell
from fractionate.checkpoint import content_hash
from fractionate.compact import CompactSignal
from fractionate.data.batch import Batch, Split
from fractionate.data.memory import MemorySplit
from fractionate.data.splits import as_split
from fractionate.errors import ConfigError, MismatchError, NumericsError
from fractionate.objective import Objective, Signal
from fractionate.outputs import Head, call, device_of, logits_of, rows
from fractionate.teacher import TeacherSignal


@runtime_checkable
class Teacher(Protocol):
    """What the engine asks: the signal of a batch's rows, and a hash that tells this teacher from others."""

    def about(self, batch: Batch, labels: Int[Tensor, "rows"], place: Int[Tensor, "rows"] | None) -> Signal: ...

    def fingerprint(self) -> str: ...

    def check_inert(self) -> None: ...


@dataclass(frozen=True, eq=False)
class Recorded:
    """A teacher that has spoken: rows of a signal, found by the places of the examples."""

    signal: Signal
    checked: bool = False  # its labels are known to be the data's

    def about(self, batch: Batch, labels: Int[Tensor, "rows"], place: Int[Tensor, "rows"] | None) -> Signal:
        """The rows of these examples. Raises `MismatchError` where their labels are not the batch's."""
        index = batch.index if place is None else batch.index[place.to(batch.index.device)]
        taught = self.signal.take(index.to(self.signal.labels.device))
        if not self.checked:
            check_labels(taught.labels, labels, index)
        return taught

    def fingerprint(self) -> str:
        """A hash of logits, labels and class relation."""
        if isinstance(self.signal, CompactSignal):
            said = self.signal
            return content_hash(said.logits, said.indices, said.label_logits, said.rest, said.labels)
        relation = self.signal.class_relation
        return content_hash(self.signal.logits, self.signal.labels, *([] if relation is None else [relation]))

    def check_inert(self) -> None:
        """A record cannot change."""


@dataclass(eq=False)
class Living:
    """A teacher that is asked on every batch, as the student sees it: for data whose views change from epoch to epoch.

    `whole` is its signal on all the data where the objective needs statistics of it; None for instance-level objectives.
    """

    model: nn.Module
    head: Head = None
    predicts_next: bool = False
    whole: TeacherSignal | None = None

    def __post_init__(self) -> None:
        self._before = self.fingerprint()

    def about(self, batch: Batch, labels: Int[Tensor, "rows"], place: Int[Tensor, "rows"] | None) -> TeacherSignal:
        """What the teacher says of this very batch. Raises `NumericsError` naming examples where it is not finite."""
        with asking(self.model):
            logits = logits_of(call(self.model, batch.inputs), self.head)
        said, theirs, _ = rows(logits, batch.labels, predicts_next=self.predicts_next)
        check_finite(said, batch.index if place is None else batch.index[place.cpu()])
        if self.whole is None:
            return TeacherSignal(said, theirs)
        where = (batch.index if place is None else batch.index[place.cpu()]).to(said.device)
        return TeacherSignal(said, theirs, self.whole.class_relation, population=self.whole.population, rows=where)

    def fingerprint(self) -> str:
        """A hash of all parameters and buffers."""
        return content_hash(*self.model.state_dict().values())

    def check_inert(self) -> None:
        """Raise `MismatchError` if parameters or buffers are not what they were: something trained the teacher."""
        if self.fingerprint() != self._before:
            raise MismatchError(
                "the teacher changed while it taught",
                expected=f"parameters and buffers with hash {self._before}",
                got=self.fingerprint(),
                fix="student and teacher must not share modules; give the teacher a copy.deepcopy",
            )


@contextmanager
def asking(model: nn.Module) -> Iterator[None]:
    """The model in evaluation mode and without a graph; every module's mode is put back."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, mode in modes:
            module.training = mode


def predictions(
    model: nn.Module, feed: Split, *, batch_size: int = 512, head: Head = None, predicts_next: bool = False
) -> tuple[Float[Tensor, "rows classes"], Int[Tensor, "rows"]]:
    """A model's logits and the labels on all the data, in its order; evaluation mode, no graph, mode put back."""
    device = device_of(model)
    plan = ((0, index) for index in torch.split(torch.arange(len(feed)), batch_size))
    found: list[tuple[Tensor, Tensor]] = []
    with asking(model):
        for batch in feed.batches(plan, seed=0):
            batch = batch.to(device)
            logits = logits_of(call(model, batch.inputs), head)
            found.append(rows(logits.float(), batch.labels, predicts_next=predicts_next)[:2])
    return torch.cat([logits for logits, _ in found]), torch.cat([labels for _, labels in found])


def ask(
    teacher: nn.Module, data: Any, *, batch_size: int = 512, head: Head = None, predicts_next: bool = False
) -> TeacherSignal:
    """One teacher's signal on all the data, in memory. Raises `NumericsError` where it is not finite."""
    feed = as_split(data)
    logits, labels = predictions(teacher, feed, batch_size=batch_size, head=head, predicts_next=predicts_next)
    return TeacherSignal(logits, labels)


def as_teacher(
    signal: Any,
    feed: Split,
    objective: Objective | None,
    *,
    device: torch.device,
    head: Head = None,
    predicts_next: bool = False,
) -> Teacher | None:
    """The teacher that `distill` was given: a signal, a store, a model, or None.

    A compact signal, and a store of one, stay compact where the objective can be met so and the mass left out is known at its
    temperature; other stores are read dense. A model is asked once where the data are the same in every epoch (examples in memory),
    else on every batch; anything that answers as a `Teacher` does is taken as it is (tokens out of a store: `extensions.sequence`).
    """
    if isinstance(signal, Teacher) and not isinstance(signal, nn.Module):
        return signal
    if not isinstance(signal, nn.Module):
        stored = kept_or_dense(signal, feed, objective)
        return None if stored is None else Recorded(stored.to(device), checked=feed.labels is not None)
    if isinstance(feed, MemorySplit) and feed.labels.ndim == 1 and not predicts_next:
        return Recorded(ask(signal, feed, head=head).to(device), checked=True)
    if needs_whole(objective or Objective()):
        return Living(signal, head, predicts_next, whole=ask(signal, feed, head=head, predicts_next=predicts_next))
    return Living(signal, head, predicts_next)


def needs_whole(objective: Objective) -> bool:
    """True where the target depends on more than the example: on statistics of all the data."""
    assert isinstance(objective.cell, Cell)
    alone_confidences = (
        confidence_rules.Certain,
        confidence_rules.Smoothed,
        confidence_rules.SmoothedOthers,
        confidence_rules.Instance,
        confidence_rules.WithTopOne,
    )
    alone_shapes = (
        shape_rules.Uniform,
        shape_rules.Instance,
        shape_rules.TopK,
        shape_rules.TopOne,
        shape_rules.WithoutTopOne,
    )
    return not (
        isinstance(objective.cell.confidence, alone_confidences) and isinstance(objective.cell.shape, alone_shapes)
    )


def kept_or_dense(signal: Any, feed: Split, objective: Objective | None) -> Signal | None:
    """A signal as it is kept where the objective takes it so, else dense."""
    objective = objective or Objective()
    temperature = objective.temperature if objective.teacher_weight > 0 else None
    form = getattr(signal, "form", None)
    if isinstance(signal, CompactSignal):
        objective.check_compact(signal)
        found = signal
    elif callable(getattr(signal, "compact_signal", None)) and form is not None and form.kind != "dense":
        if objective.needs_dense() or temperature not in (None, *form.temperatures):
            return as_signal(signal, feed)
        found = signal.compact_signal()
    else:
        return as_signal(signal, feed)
    check_fits(found, feed)
    return found if temperature is None else found.at(temperature)


def as_signal(signal: Any, feed: Split) -> TeacherSignal | None:
    """A teacher signal of the data: as it is or out of a store. Raises `MismatchError` where rows or labels do not fit."""
    if signal is None:
        return None
    if not isinstance(signal, TeacherSignal) and callable(getattr(signal, "signal", None)):
        signal = signal.signal()
    if not isinstance(signal, TeacherSignal):
        raise ConfigError(
            "this is not a teacher",
            expected="a TeacherSignal, a CompactSignal, a store, a model or None",
            got=type(signal).__name__,
            fix="wrap logits and labels: TeacherSignal(logits, labels)",
        )
    check_fits(signal, feed)
    return signal


def check_fits(signal: Signal, feed: Split) -> None:
    """Raise `MismatchError` where a signal is not of these data: another number of rows, or other labels."""
    if len(signal) != len(feed):
        raise MismatchError(
            "teacher signal and data differ in length",
            expected=f"{len(feed)} rows, as the data",
            got=f"{len(signal)} rows",
            fix="collect the signal on these very data, in their order",
        )
    if feed.labels is not None:
        check_labels(signal.labels.cpu(), feed.labels.cpu(), torch.arange(len(feed)))


def check_labels(taught: Tensor, labels: Tensor, places: Tensor) -> None:
    """Raise `MismatchError` naming the first example whose label is not the one the teacher was asked with."""
    if taught is labels or torch.equal(taught, labels):
        return
    wrong = (taught != labels).nonzero().flatten()
    raise MismatchError(
        f"teacher signal and data have different labels at {len(wrong)} of {len(labels)} examples",
        expected=f"label {int(labels[wrong[0]])} at example {int(places[wrong[0].to(places.device)])}",
        got=f"label {int(taught[wrong[0]])}",
        fix="the data were reordered or changed since the teacher was asked: collect the signal again",
    )


def check_finite(said: Float[Tensor, "rows classes"], places: Int[Tensor, "rows"]) -> None:
    """Raise `NumericsError` naming the examples on which a teacher says NaN, +inf or nothing but -inf."""
    bad = (torch.isnan(said) | torch.isposinf(said)).any(dim=1) | torch.isneginf(said).all(dim=1)
    if bool(bad.any()):
        named = ", ".join(map(str, places[bad.nonzero().flatten().to(places.device)][:8].tolist()))
        raise NumericsError(
            f"the teacher's logits are not finite on {int(bad.sum())} of {len(said)} rows",
            expected="finite numbers, -inf only to mask some of the classes",
            got=f"examples {named}",
            fix="look at these inputs; a half-precision teacher may overflow: run it in float32 or bfloat16",
        )


def no_better_than_chance(signal: Signal) -> str:
    """A remark where the teacher names the label no more often than chance would, within three deviations; else nothing.

    Most often its classes are in another order than the data's. At most 2,048 examples, evenly spaced, are looked at, and fewer
    where there are more than 2,048 classes.
    """
    most = min(2048, len(signal), max(64, (1 << 22) // signal.classes))
    looked = torch.linspace(0, len(signal) - 1, min(most, len(signal))).long().to(signal.labels.device)
    if isinstance(signal, CompactSignal):  # nothing left out is above what was kept
        named = signal.label_logits[looked] >= signal.logits[looked].amax(dim=1)
    else:
        named = signal.logits[looked].argmax(dim=1) == signal.labels[looked]
    right = named.double().mean().item()
    chance = 1 / signal.classes
    if right > chance + 3 * (chance * (1 - chance) / len(looked)) ** 0.5:
        return ""
    return f"the teacher names the label of {right:.1%} of {len(looked)} examples, chance is {chance:.1%}: check its class order"


def mix(
    signals: Sequence[TeacherSignal],
    weights: Sequence[float] | Float[Tensor, "examples teachers"] | None = None,
    *,
    route: Int[Tensor, "examples"] | None = None,
) -> TeacherSignal:
    """Several teachers as one: logits = log Σ_i w_i softmax(logits_i), the weighted mean of their probabilities at temperature 1.

    `weights` are one number a teacher, or one a teacher for each example (they are made to sum to 1); `route` names the one
    teacher to follow for each example. The mean is taken of probabilities, not of logits, so a sure teacher counts as sure.
    Raises `MismatchError` where classes, examples or labels differ and `ConfigError` for weights that cannot be meant.
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
        check_labels(signal.labels, first.labels, torch.arange(len(first)))
    dtype, device = torch.float64, first.logits.device
    if route is not None:
        if (
            weights is not None
            or route.shape != first.labels.shape
            or not 0 <= int(route.min()) <= int(route.max()) < len(signals)
        ):
            raise ConfigError(
                "the route cannot be followed",
                expected=f"one of 0..{len(signals) - 1} for each of {len(first)} examples, and no weights beside it",
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


class Together(nn.Module):
    """Several living teachers as one model, for data that look different in every epoch; `mix` does it for signals.

    Logits = log Σ_i w_i softmax(logits_i), as in `mix`. `weights` are one number a teacher; `route` is called with the inputs
    and names the one teacher to follow for each example. Each teacher's output is read as `distill` reads it (`heads` where
    that is not enough). Raises `ConfigError` for weights that cannot be meant and `MismatchError` where the teachers' logits
    differ in shape.
    """

    log_share: Tensor

    def __init__(
        self,
        models: Sequence[nn.Module],
        weights: Sequence[float] | None = None,
        *,
        route: Callable[[Any], Int[Tensor, "examples"]] | None = None,
        heads: Sequence[Head] = (),
    ) -> None:
        super().__init__()
        given = [1.0] * len(models) if weights is None else list(weights)
        usable = len(given) == len(models) > 0 and min(given) >= 0 and 0 < sum(given) < float("inf")
        if not usable or (route is not None and weights is not None):
            raise ConfigError(
                "these teachers cannot be asked together",
                expected="at least one model, a weight of at least 0 for each or none at all, and not both weights and a route",
                got=f"{len(models)} models, weights {weights}{', a route' if route is not None else ''}",
            )
        self.models = nn.ModuleList(models)
        self.heads = tuple(heads) or (None,) * len(models)
        self.route = route
        self.register_buffer("log_share", (torch.tensor(given, dtype=torch.float64) / sum(given)).log().float())

    def forward(self, *positional: Any, **named: Any) -> Float[Tensor, "*rows classes"]:
        """The mixed logits."""
        said = [
            torch.log_softmax(logits_of(model(*positional, **named), head).float(), dim=-1)
            for model, head in zip(self.models, self.heads, strict=True)
        ]
        shapes = {tuple(each.shape) for each in said}
        if len(shapes) > 1:
            raise MismatchError("the teachers speak of different classes", got=" and ".join(map(str, sorted(shapes))))
        log_p = torch.stack(said)  # teachers, rows, classes
        if self.route is None:
            return torch.logsumexp(log_p + self.log_share.view(-1, *[1] * (log_p.ndim - 1)), dim=0)
        chosen = self.route(positional[0] if positional else named).to(log_p.device)
        return log_p[chosen, torch.arange(len(chosen), device=log_p.device)]
