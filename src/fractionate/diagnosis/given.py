"""The teacher's signal as a diagnosis is given it: a signal, rows of tokens, a store or its path, a file, a teacher to run."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from torch import Tensor, nn

from fractionate.data.arrays import SUFFIXES
from fractionate.diagnosis.black_box import read_signal
from fractionate.diagnosis.transfer import Transfer
from fractionate.errors import ConfigError
from fractionate.losses.objective import Signal
from fractionate.models.function import as_teacher_module, is_function_teacher
from fractionate.store.reading import Store
from fractionate.system.paths import as_path
from fractionate.tasks.task import Task
from fractionate.teachers.cached import Cached, TokenRows
from fractionate.teachers.given import as_source
from fractionate.teachers.shared import CachedRows
from fractionate.teachers.source import TeacherSource
from fractionate.teachers.tokens import StoredTokens, TokenSignal
from fractionate.theory.number_signal import NumberSignal
from fractionate.theory.teacher_signal import TeacherSignal
from fractionate.theory.topk_signal import CompactSignal

DENSE_BYTES = 1 << 30  # compact rows that would take more with all their classes are neither made dense nor estimated


def opened(given: Any) -> Any:
    """Stores by their path, and what a cached source holds; anything else as it is."""
    if isinstance(given, Cached):
        given = given.cached
    if not isinstance(given, (str, Path)) or Path(given).suffix in SUFFIXES:
        return given
    if is_function_teacher(given):
        return as_teacher_module(given)
    # a store is a folder or a URL; files of other kinds are refused by their ending
    return given if "://" not in str(given) and as_path(given).is_file() else Store.open(given)


def as_signal(
    given: Any,
    *,
    labels: Path | str | None = None,
    known: Tensor | None = None,
    task: Task | None = None,
    whole: bool = False,
) -> Any:
    """Rows of what was given by `opened`.

    Args:
        labels: The file of labels, where `given` is a file without them; `known` are labels found otherwise.
        task: The task over whose transfer set a teacher model is run.
        whole: Compact rows of a store are made dense, as far as that is little memory; else they are read as they are.

    Raises `ConfigError` for what is no signal.
    """
    if isinstance(given, TokenSignal):
        given = given.signal
    if isinstance(given, (TeacherSignal, CompactSignal, NumberSignal)):
        return given
    if isinstance(given, (str, Path)):
        return read_signal(given, labels, known=known)
    if isinstance(given, Store):
        if given.head.tokens:
            return _read(StoredTokens(given).whole(), whole=whole)
        return _read(given.compact_signal(), whole=whole) if given.form.compacted else given.signal()
    if isinstance(given, TokenRows):
        return _read(given.whole(), whole=whole)
    if isinstance(given, (nn.Module, TeacherSource)) or is_function_teacher(given):
        source = as_source(given)
        if task is None or source is None:
            raise ConfigError(
                "a teacher is run on data", expected="data=, or a signal in place of the teacher", got="no data"
            )
        return source.signal(task, task.splits.transfer)
    raise ConfigError(
        "this is not a teacher's signal",
        expected="TeacherSignal, CompactSignal, Store or its path, rows of tokens, a file of outputs, or a teacher and data",
        got=type(given).__name__,
    )


def source_of(given: Any, signal: Signal, transfer: Transfer | None) -> TeacherSource:
    """The teacher that students are trained from, over the rows that were diagnosed; a model stays at hand for terms inside it.

    Args:
        given: What `opened` gave.
        signal: Its rows, in the order of the transfer set.
    """
    model = as_source(given) if isinstance(given, (nn.Module, TeacherSource)) else None
    inside = None if model is None else model.model
    if transfer is None or not transfer.tokens:
        return Cached(signal, model=inside)
    if isinstance(signal, TeacherSignal):
        return Cached(CachedRows(signal, transfer.offsets), model=inside)
    source = model or as_source(given)
    assert source is not None
    return source


def _read(rows: Signal, *, whole: bool) -> Signal:
    """Compact rows with all their classes, or at least at all temperatures, where the classes would take little memory."""
    if isinstance(rows, TeacherSignal) or len(rows) * rows.classes * 4 > DENSE_BYTES:
        return rows
    return rows.dense().at(1.0) if whole else replace(rows, estimated=True)


def form_of(given: Any) -> Literal["dense", "top-k", "sampled"]:
    """How the rows of a store were kept; dense for what is no store."""
    kind = given.form.kind if isinstance(given, Store) else "dense"
    return "dense" if kind == "hidden" else kind  # all logits can be made of hidden states


def of_tokens(given: Any) -> bool:
    """Whether what was given says of itself that its rows are tokens."""
    return isinstance(given, (TokenRows, TokenSignal)) or (isinstance(given, Store) and bool(given.head.tokens))


def predicts_next(given: Any) -> bool:
    """Whether a store's rows are the next tokens of a causal model."""
    return isinstance(given, Store) and given.head.tokens == "next"


def label_map(model: Any) -> tuple[str, ...]:
    """The names that a transformers model has for its classes (`config.id2label`), in order; () where nobody named them."""
    transformers = sys.modules.get("transformers")  # a model of it cannot be there before it is imported
    if transformers is None or not isinstance(model, transformers.PreTrainedModel):
        return ()
    names = dict(model.config.id2label or {})
    if set(names) != set(range(len(names))) or all(name == f"LABEL_{place}" for place, name in names.items()):
        return ()
    return tuple(str(names[place]) for place in range(len(names)))
