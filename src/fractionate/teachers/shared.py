"""One teacher pass for all students of a study: a model's signal kept in memory, and parts of cached signals."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Int
from torch import Tensor, nn

from fractionate.data.batch import Split
from fractionate.data.labels import check_same_labels
from fractionate.data.memory import MemorySplit
from fractionate.errors import ConfigError, MismatchError
from fractionate.store.ranges import spans
from fractionate.system.hashing import content_hash
from fractionate.tasks.predictions import Predictions
from fractionate.tasks.task import Task
from fractionate.teachers.cached import Cached, CachedNumbers
from fractionate.teachers.online import Online
from fractionate.teachers.source import TeacherSource
from fractionate.theory.number_signal import NumberSignal
from fractionate.theory.teacher_signal import TeacherSignal
from fractionate.theory.topk_signal import CompactSignal

MOST_BYTES = 1 << 29  # a larger signal is not kept: the model runs on every batch


@dataclass(frozen=True, eq=False)
class CachedRows:
    """Rows of examples that have many each (tokens), found by example: rows of example i are offsets[i] to offsets[i + 1]."""

    signal: TeacherSignal
    offsets: Int[Tensor, "starts"]

    def signal_for(self, predictions: Predictions) -> TeacherSignal:
        """The rows of a batch. Raises `MismatchError` where an example has other labels than the teacher was given."""
        index = predictions.batch.index.cpu()
        sizes = self.offsets.diff()[index]
        found = torch.from_numpy(spans(self.offsets[index].numpy(), sizes.numpy()))
        if len(found) != len(predictions):
            raise MismatchError(
                "examples have other labelled rows than the teacher was given",
                expected=f"{len(found)} rows",
                got=str(len(predictions)),
                fix="the same tokenizer, truncation and template on both sides",
            )
        found_rows = self.signal.take(found.to(self.signal.labels.device))
        check_same_labels(found_rows.labels.cpu(), predictions.labels.cpu(), predictions.example)
        return found_rows.to(predictions.labels.device)

    def whole(self) -> TeacherSignal:
        """All rows."""
        return self.signal

    def part(self, places: Int[Tensor, "some"]) -> CachedRows:
        """The rows of some examples; statistics are those of the part."""
        sizes = self.offsets.diff()[places]
        rows = torch.from_numpy(spans(self.offsets[places].numpy(), sizes.numpy()))
        signal = TeacherSignal(self.signal.logits[rows], self.signal.labels[rows], self.signal.class_relation)
        return CachedRows(signal, torch.cat([sizes.new_zeros(1), sizes.cumsum(0)]))

    def fingerprint(self) -> str:
        """A hash of all of it."""
        return content_hash(self.signal.logits, self.signal.labels, self.offsets)


def kept_in_memory(source: TeacherSource | None, task: Task, split: Split | None) -> TeacherSource | None:
    """A model's answers on a split that is the same in every epoch, as a cache that holds the model; else the source itself."""
    if not isinstance(source, Online) or split is None or not isinstance(split, MemorySplit):
        return source
    first = next(iter(task.predictions(source.model, split, head=task.teacher_head, view=source.view, batch_size=2)))
    per_example = max(1, -(-len(first) // max(1, first.examples)))
    if per_example * len(split) * first.required_logits[0].numel() * 4 > MOST_BYTES:
        return source
    found = list(task.predictions(source.model, split, head=task.teacher_head, view=source.view))
    logits, labels = torch.cat([each.required_logits for each in found]), torch.cat([each.labels for each in found])
    signal = task.reader.signal(logits, labels)
    if isinstance(signal, NumberSignal):
        return Cached(CachedNumbers(signal), model=source.model, view=source.view)
    if all(each.place is None for each in found) and len(signal) == len(split):
        return Cached(signal, model=source.model, view=source.view)
    sizes = torch.cat([_rows_of(each) for each in found])
    return Cached(
        CachedRows(signal, torch.cat([sizes.new_zeros(1), sizes.cumsum(0)])), model=source.model, view=source.view
    )


def _rows_of(predictions: Predictions) -> Int[Tensor, "batch"]:
    places = torch.arange(len(predictions)) if predictions.place is None else predictions.place.cpu()
    return torch.bincount(places, minlength=predictions.examples)


def part_of(source: TeacherSource | None, places: Int[Tensor, "some"]) -> TeacherSource | None:
    """The source on a subset of its data: statistics are those of the subset. Raises `ConfigError` where it cannot be cut."""
    if source is None or isinstance(source, Online):
        return source
    if isinstance(source, Cached):
        kept = source.cached
        features = {path: value[places] for path, value in source.features.items()}
        explained = None if source.explanations is None else source.explanations[places]
        if isinstance(kept, TeacherSignal):
            cut = TeacherSignal(kept.logits[places], kept.labels[places], kept.class_relation)
            return replace(source, cached=cut, features=features, explanations=explained)
        if isinstance(kept, (CachedRows, CachedNumbers)):
            return replace(source, cached=kept.part(places), features=features, explanations=explained)
    raise ConfigError(
        f"{type(source).__name__} cannot be cut to a share of the data",
        expected="a dense signal or a model",
        fix="pass store.signal() or the teacher's model",
    )


def classes_of(source: TeacherSource | None) -> nn.Module | int | None:
    """The number of classes of kept outputs, or the model that is run on the data; None where neither is known without a pass."""
    if isinstance(source, Online):
        return source.model
    kept = source.cached if isinstance(source, Cached) else None
    kept = kept.signal if isinstance(kept, CachedRows) else kept
    return kept.classes if isinstance(kept, (TeacherSignal, CompactSignal)) else None
