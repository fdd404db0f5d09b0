"""Cached teachers: stored logits, top-k entries or hidden states, checked against the data and found by the places of examples."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Int
from torch import Tensor, nn

from fractionate.data.batch import Batch, Split
from fractionate.data.labels import check_same_labels
from fractionate.errors import ConfigError, MismatchError
from fractionate.losses.objective import Objective, Signal, needs_whole
from fractionate.losses.targets import Targets, make_targets
from fractionate.models.outputs import check_not_probabilities
from fractionate.store.checks import check_data, check_order
from fractionate.store.keys import Keyed
from fractionate.store.reading import Store
from fractionate.system.fingerprints import model_hash
from fractionate.system.hashing import content_hash
from fractionate.tasks.predictions import Needs, Predictions
from fractionate.tasks.task import Task
from fractionate.teachers.model import LEAVE_OUT, OpenModel, open_model
from fractionate.teachers.tokens import Form, StoredTokens, StreamedTokens
from fractionate.theory.number_signal import NumberSignal
from fractionate.theory.teacher_signal import TeacherSignal
from fractionate.theory.topk_signal import CompactSignal

STREAMED_BYTES = 1 << 30  # a store above it is read batch by batch


@runtime_checkable
class TokenRows(Protocol):
    """Cached rows found by what a batch holds: `StoredTokens`, `StreamedTokens`, `StreamedRows`."""

    def signal_for(self, predictions: Predictions) -> Signal: ...

    def whole(self) -> Signal: ...

    def fingerprint(self) -> str: ...


@dataclass(frozen=True, eq=False)
class StreamedRows:
    """A store whose rows are read, and proved, batch by batch: for signals larger than the memory.

    Statistics of all rows are not known, so class-level cells cannot be computed.
    """

    store: Store
    compact: bool
    temperature: float | None

    def signal_for(self, predictions: Predictions) -> Signal:
        """The rows of these examples. Raises `MismatchError` where their labels are not the batch's."""
        index, labels = predictions.example, predictions.labels
        form, relation = self.store.form, self.store.class_relation
        columns = self.store.read(index.cpu().numpy())
        found: Signal
        if self.compact:
            found = form.compact(columns, relation)
        else:
            stored = torch.from_numpy(columns["labels"].astype("int64"))
            found = TeacherSignal(form.decode(columns), stored, relation)
        check_same_labels(found.labels, labels.cpu(), index)
        found = found.to(labels.device)
        return found if self.temperature is None else found.at(self.temperature)

    def whole(self) -> Signal:
        """All rows, in memory."""
        found: Signal = self.store.compact_signal() if self.compact else self.store.signal()
        return found

    def fingerprint(self) -> str:
        """What tells this store from others."""
        return str(self.store.head.sha256)


@dataclass(eq=False)
class OpenCache:
    """A cached signal in use: rows by the places of examples, and with it the model, where terms read inside it."""

    signal: Signal | TokenRows
    checked: bool = False  # its labels are known to be the data's
    inside: OpenModel | None = None
    features: Mapping[str, Tensor] = field(default_factory=dict)
    explanations: Tensor | None = None
    states: Callable[[Tensor], Tensor] | None = None  # of the rows of examples

    def signal_for(self, predictions: Predictions) -> Signal:
        """The rows of these examples. Raises `MismatchError` where their labels are not the batch's."""
        if not isinstance(self.signal, (TeacherSignal, CompactSignal)):
            return self.signal.signal_for(predictions)
        index = predictions.example
        found = self.signal.take(index.to(self.signal.labels.device))
        if not self.checked:
            check_same_labels(found.labels, predictions.labels, index)
        return found

    def predictions_for(self, batch: Batch) -> Predictions | None:
        """The model's predictions, or stored features, explanations and states; None where the run needs none of them."""
        if self.inside is not None:
            return self.inside.predictions_for(batch)
        if not self.features and self.explanations is None and self.states is None:
            return None
        index = batch.index
        features = {path: kept[index.to(kept.device)] for path, kept in self.features.items()}
        explained = None if self.explanations is None else self.explanations[index.to(self.explanations.device)]
        states = None if self.states is None else self.states(index).to(index.device)
        return Predictions(
            logits=None,
            labels=batch.labels,
            place=None,
            batch=batch,
            features=features,
            explanations=explained,
            states=states,
        )

    def targets(self, objective: Objective) -> Targets | None:
        """The targets of all rows, made once."""
        if not isinstance(self.signal, TeacherSignal) or not self.checked:
            return None
        return make_targets(objective, self.signal)

    def check_unchanged(self) -> None:
        """A cache cannot change; the model that comes with it can."""
        if self.inside is not None:
            self.inside.check_unchanged()


@dataclass(frozen=True, eq=False)
class Cached:
    """A stored signal, and what terms may read inside the teacher: its model, or its features and explanations as stored.

    Args:
        cached: `TeacherSignal`, `CompactSignal`, a store, its path or `StoredTokens`, in the order of the data.
        model: The teacher itself, for terms that read features, attention or explanations; run only where a term needs them.
        features: Stored features by path, [examples, ...] in the order of the data, in place of the model; those of a store
            (`collect(..., features=...)`) are found by themselves.
        explanations: [examples, superfeatures, classes], likewise.
        view: The inputs that the model reads, where the data have views.
        holds_after: Changes of the data after which the signal still holds.

    Example:
        import torch
        from fractionate import TeacherSignal
        from fractionate.teachers import Cached
        teacher = Cached(TeacherSignal(torch.randn(4, 3), torch.tensor([0, 1, 2, 0])))
        print(teacher.fingerprint())
    """

    cached: Any
    model: nn.Module | None = None
    features: Mapping[str, Tensor] = field(default_factory=dict)
    explanations: Tensor | None = None
    view: str = "teacher"
    holds_after: frozenset[str] = frozenset()

    def fingerprint(self) -> str:
        """A hash of logits, labels and class relation, and of the model."""
        parts = [fingerprint_of(self.cached)]
        if self.model is not None:
            parts.append(model_hash(self.model))
        parts += [content_hash(kept) for _, kept in sorted(self.features.items())]
        if self.explanations is not None:
            parts.append(content_hash(self.explanations))
        return ":".join(parts)

    def _of(self, split: Split) -> Any:
        if isinstance(self.cached, Store):
            check_order(self.cached, split)
        return numbers_of(self.cached, split)

    def signal(self, task: Task, split: Split) -> TeacherSignal:
        """The dense signal of the data. Raises `MismatchError` where it is of other data."""
        kept: Any = self._of(split)
        if isinstance(kept, Store) and not kept.head.tokens:
            kept = kept.signal()
        elif isinstance(kept, Store):
            kept = StoredTokens(kept).tokens.signal
        elif isinstance(kept, TokenRows):
            kept = kept.whole()
        else:
            kept = fitting(kept, split, None)
        found: TeacherSignal = kept.dense() if isinstance(kept, CompactSignal) else kept
        return found

    @contextmanager
    def open(self, task: Task, split: Split, objective: Objective | None, needs: Needs) -> Iterator[OpenCache]:
        """Check rows and labels against the data. Raises `MismatchError` where they do not fit."""
        device = torch.device(task.device)
        kept: Any = self._of(split)
        streamed = isinstance(kept, Store) and is_streamed(kept, objective)
        if isinstance(kept, Store) and kept.head.tokens:
            compact = kept.form.compacted and not (objective or Objective()).needs_dense()
            before_head = kept.form.kind == "hidden" and needs.hidden
            form: Form = "compact" if compact else "hidden" if before_head else "dense"
            kept = StreamedTokens(kept, form) if streamed else StoredTokens(kept, form=form)
        elif streamed:
            kept = rows_on_demand(kept, split, objective)
        if not isinstance(kept, TokenRows):
            kept = fitting(kept, split, objective).to(device)
        features = {**stored_features(self.cached, needs.features - self.features.keys()), **self.features}
        absent = needs.features - features.keys()
        states = stored_states(self.cached, kept) if needs.states else None
        without_states = needs.states and states is None
        requested = needs.attention or absent or without_states or (needs.explanations and self.explanations is None)
        with ExitStack() as stack:
            inside = None
            if requested:
                if self.model is None:
                    kept_by = 'form="hidden"' if without_states else "features=(...)"
                    raise ConfigError(
                        "a term reads inside the teacher, and only its cached signal was given",
                        expected="the teacher's model, or its stored features or hidden states",
                        got=", ".join(sorted(needs.features)) or "a cached signal",
                        fix=f"collect(..., {kept_by}), teacher=Cached(signal, model=teacher), or the teacher itself",
                    )
                inside = stack.enter_context(open_model(task, self.model, needs, split, view=self.view))
            checked = split.labels is not None and not isinstance(kept, StreamedRows)
            yield OpenCache(kept, checked, inside, features, self.explanations, states)


def stored_states(cached: Any, kept: Any) -> Callable[[Tensor], Tensor] | None:
    """Finds the stored hidden states of examples; None where a cache is not of form "hidden"."""
    if isinstance(kept, (StoredTokens, StreamedTokens)):
        return kept.states if kept.hidden else None
    if not isinstance(cached, Store) or cached.form.kind != "hidden":
        return None
    found = cached.states()
    return lambda index: found[index.cpu()]


def keeps(cached: Any, needs: Needs) -> bool:
    """Whether a cache holds all that is needed of inside the teacher, so that no model is run."""
    if not isinstance(cached, Store):
        return not needs
    inside = needs.attention or needs.explanations or needs.features - set(cached.feature_paths)
    return not inside and (not needs.states or cached.form.kind == "hidden")


def stored_features(signal: Any, wanted: frozenset[str]) -> dict[str, Tensor]:
    """The features of some layers that a store keeps; none of what is no store."""
    if not isinstance(signal, Store) or not wanted & set(signal.feature_paths):
        return {}
    return {path: value for path, value in signal.features().items() if path in wanted}


def fingerprint_of(signal: Any) -> str:
    """A hash of a signal's content."""
    if isinstance(signal, CompactSignal):
        return content_hash(signal.logits, signal.indices.long(), signal.label_logits, signal.rest, signal.labels)
    if isinstance(signal, TeacherSignal):
        relation = signal.class_relation
        return content_hash(signal.logits, signal.labels, *([] if relation is None else [relation]))
    if isinstance(signal, Store):
        return str(signal.head.sha256)
    if isinstance(signal, NumberSignal):
        return content_hash(signal.values)
    found: str = signal.fingerprint()
    return found


def fitting(signal: Any, split: Split, objective: Objective | None) -> Signal:
    """A signal of the data as it is kept where the objective can be computed from it, else dense.

    Raises `MismatchError` where rows or labels are not the data's and `ConfigError` for what is no signal.
    """
    objective = objective or Objective()
    temperature = objective.temperature if objective.teacher_weight > 0 else None
    if isinstance(signal, CompactSignal):
        objective.check_compact(signal)
    elif isinstance(signal, Store):
        signal = signal.compact_signal() if readable(signal, objective)[0] else signal.signal()
    if not isinstance(signal, (TeacherSignal, CompactSignal)):
        raise ConfigError(
            "this is not a teacher",
            expected="a TeacherSignal, a CompactSignal, a store, a model or None",
            got=type(signal).__name__,
            fix="wrap logits and labels: TeacherSignal(logits, labels)",
        )
    check_fits(signal, split)
    if isinstance(signal, TeacherSignal):
        check_not_probabilities(signal.logits[few_of(len(signal)).to(signal.labels.device)], LEAVE_OUT)
    return signal.at(temperature) if isinstance(signal, CompactSignal) and temperature is not None else signal


def few_of(rows: int) -> Int[Tensor, "few"]:
    """Places of a few rows, spread over all."""
    return torch.linspace(0, rows - 1, min(rows, 256)).long()


def is_streamed(store: Store, objective: Objective | None) -> bool:
    """Whether a store is read batch by batch: a large one, for an objective that needs no statistics of all rows."""
    large = sum(part.segment.bytes for part in store.shards) > STREAMED_BYTES
    return large and not (objective is not None and objective.teacher_weight > 0 and needs_whole(objective))


def rows_on_demand(store: Store, split: Split, objective: Objective | None) -> StreamedRows:
    """The rows of a store, to be read batch by batch, as `fitting` would give them.

    Raises `MismatchError` where their number is not the data's; labels are compared batch by batch.
    """
    check_length(sum(part.segment.rows for part in store.shards), split)
    usable, temperature = readable(store, objective or Objective())
    if not usable:
        check_not_probabilities(store.logits(few_of(len(split)).numpy()), LEAVE_OUT)
    return StreamedRows(store, usable, temperature if usable else None)


def readable(store: Store, objective: Objective) -> tuple[bool, float | None]:
    """Whether an objective can be computed from the compact rows of a store, and the temperature at which they are read."""
    temperature = objective.temperature if objective.teacher_weight > 0 else None
    usable = not objective.needs_dense() and temperature in (None, *store.form.temperatures)
    return store.form.compacted and usable, temperature


def check_length(rows: int, split: Split) -> None:
    """Raise `MismatchError` where a signal has another number of rows than the data."""
    if rows != len(split):
        raise MismatchError(
            "teacher signal and data differ in length",
            expected=f"{len(split)} rows, as the data",
            got=f"{rows} rows",
            fix="collect the signal on these very data, in their order",
        )


def check_fits(signal: Signal, split: Split) -> None:
    """Raise `MismatchError` where a signal is not of these data: another number of rows, or other labels."""
    check_length(len(signal), split)
    if split.labels is not None:
        check_same_labels(signal.labels.cpu(), split.labels.cpu())


@dataclass(frozen=True, eq=False)
class CachedNumbers:
    """A teacher's numbers on all examples of a split, in its order."""

    signal: NumberSignal

    def signal_for(self, predictions: Predictions) -> NumberSignal:
        """The rows of a batch's examples, on its device."""
        places = predictions.example.to(self.signal.values.device)
        return self.signal.take(places).to(predictions.labels.device)

    def whole(self) -> NumberSignal:
        """All rows."""
        return self.signal

    def part(self, places: Int[Tensor, "some"]) -> CachedNumbers:
        """The rows of some examples, which are then all there are."""
        labels = None if self.signal.labels is None else self.signal.labels[places]
        return CachedNumbers(NumberSignal(self.signal.values[places], labels))

    def fingerprint(self) -> str:
        """A hash of all of it."""
        return content_hash(self.signal.values)

    def to(self, device: torch.device) -> CachedNumbers:
        """The same numbers on a device."""
        return CachedNumbers(NumberSignal(self.signal.values.to(device), self.signal.labels))


def numbers_of(kept: Any, split: Split) -> Any:
    """Numbers that were cached, in a store or in memory, checked against the data; anything else as it is.

    Raises `MismatchError` where they are of other data.
    """
    if isinstance(kept, Store) and kept.numbers:
        check_data(kept, Keyed.of(split))
        kept = kept.signal()
    if not isinstance(kept, NumberSignal):
        return kept
    if len(kept) != len(split):
        raise MismatchError(
            "the teacher's numbers and the data differ in length",
            expected=f"{len(split)} rows, as the data",
            got=f"{len(kept)} rows",
            fix="collect the teacher's numbers on these very data, in their order",
        )
    return CachedNumbers(kept)
