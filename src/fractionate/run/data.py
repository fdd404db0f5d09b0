"""The data of a run file: read, divided, and made into what its student and its teacher take."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from fractionate.data.batch import Split
from fractionate.data.bundled import Parts
from fractionate.data.columns import text_cells
from fractionate.data.encoding import TableEncoding
from fractionate.data.memory import MemorySplit
from fractionate.data.own_table import Table
from fractionate.data.own_texts import TextData
from fractionate.data.parts import first_batch, with_views
from fractionate.data.picture_files import PictureEncoding
from fractionate.data.raw import RawData, RawSplit, Tokenizing
from fractionate.data.splits import as_split
from fractionate.data.targets import TargetEncoding
from fractionate.errors import ConfigError, UnknownNameError
from fractionate.models.function import FileTeacher
from fractionate.models.names import ModelNeed, NamedModel, TaskModel, as_parts, find_data, find_model
from fractionate.models.tokenizer import ONE_ROW, encode_for
from fractionate.records.base import Record
from fractionate.run.schema import RunFile
from fractionate.system.registry import nearest
from fractionate.tasks.kind import Kind, kinds

ALIASES = {"text-classification": "classification"}  # what people call it, and the kind it is


def kind_of(name: str) -> Kind:
    """The kind of task behind a name. Raises `UnknownNameError` for others."""
    alias = ALIASES.get(name) or ALIASES.get(nearest(name, [*kinds, *ALIASES]) or "")
    if name not in ALIASES and alias is not None and name not in kinds:
        known = ", ".join(sorted({*kinds, *ALIASES}))
        near = nearest(name, list(ALIASES))
        raise UnknownNameError(f"unknown task {name!r}", expected=f"one of {known}", fix=f"did you mean {near!r}?")
    return kinds[ALIASES.get(name, name)]


def token_text(tokenizing: Tokenizing | None) -> Callable[[int], str] | None:
    """The text of a token, where the classes are those of a tokenizer."""
    if tokenizing is None:
        return None

    def text(place: int) -> str:
        words: str = tokenizing.tokenizer.decode([place])
        return words.strip() or (repr(words) if words else f"token {place}")  # a line break is shown as '\\n'

    return text


@dataclass(frozen=True, eq=False)
class RunData:
    """The parts of the data, and what models are built for.

    Args:
        need: Kind, shape of an input, classes.
        encoding: How raw data became inputs, kept with the student.
    """

    transfer: Split
    validation: Split
    test: Split
    teaching: Split | None
    need: ModelNeed
    encoding: Record | None = None

    @property
    def teacher_shape(self) -> tuple[int, ...]:
        """The shape of an input of the teacher, which may have a view of its own."""
        return _shape(self.transfer, "teacher")

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of a row's classes: of tokens their text, of one of multiple labels whether it is there."""
        if kind_of(self.need.kind).independent:
            return ("no", "yes")
        text = token_text(self.need.tokenizing)
        if self.need.class_names or text is None or not kind_of(self.need.kind).tokens:
            return self.need.class_names
        return tuple(map(text, range(len(self.need.tokenizing.tokenizer))))  # type: ignore[union-attr]

    @property
    def deviation(self) -> float | None:
        """That of the one column of numbers to predict, which students learn standardised; None for other data."""
        found = self.encoding if isinstance(self.encoding, TargetEncoding) else getattr(self.encoding, "target", None)
        if not isinstance(found, TargetEncoding) or found.task != "regression" or not found.single:
            return None
        return found.deviation[0]

    @property
    def image_processor(self) -> dict[str, object] | None:
        """How pictures became inputs, for `AutoImageProcessor`; None for other data."""
        return self.encoding.image_processor() if isinstance(self.encoding, PictureEncoding) else None

    def __str__(self) -> str:
        names = ("transfer", "validation", "test", "teaching")
        parts = [f"{name} {len(part):,}" for name in names if (part := getattr(self, name)) is not None]
        return f"{self.transfer.name}: {', '.join(parts)}"


def read_data(run: RunFile) -> RunData:
    """The data of a run file.

    Raises `ConfigError` for data and tasks that do not go together, and what the readers raise for files.
    """
    student, teacher = find_model(run.student.model), find_model(run.teacher.model)
    found = find_data(run.data.source)
    sizes: dict[str, Any] = {name: getattr(run.data, name) for name in ("transfer", "validation", "test", "seed")}
    if isinstance(found, RawData):
        return _encoded(run, found, found.raw_parts(**sizes), student, teacher)
    if any(model.tokenizing(run.data.length) is not None for model in (student, teacher)):
        raise ConfigError(
            f"{run.data.source} gives numbers, and a model of this run reads texts",
            expected="a source of texts: texts(...), tagged(...), prompts(...), pairs(...)",
            got=f"teacher.model {run.teacher.model}, student.model {run.student.model}",
        )
    if isinstance(found, Table) and found.roles.raw is None and isinstance(teacher.maker, FileTeacher):
        raise ConfigError(
            f"{run.teacher.model} reads a table, and data.source does not say which columns of it",
            expected="raw=True: the cells as they stand in the file; raw=False: the student's inputs, standardised and one-hot",
            got=run.data.source,
            fix=f"{run.data.source.rstrip().removesuffix(')')}, raw=True)",
        )
    parts = as_parts(found, run.data.source, **sizes)
    transfer, validation, test = (as_split(getattr(parts, name), name) for name in ("transfer", "validation", "test"))
    teaching = None if parts.teaching is None else as_split(parts.teaching, "teaching")
    need = _need(run, transfer)
    if isinstance(found, Table) and found.roles.raw and isinstance(parts.encoding, TableEncoding):
        need = replace(need, units=parts.encoding.target)
    return _whole(transfer, validation, test, teaching, need, parts.encoding)


def _encoded(run: RunFile, source: RawData, parts: Parts, student: NamedModel, teacher: NamedModel) -> RunData:
    """Texts, by the tokenizer of the student; where the teacher has another, its inputs are a view of the same examples."""
    task = _bare(run.task)
    if task not in source.tasks:
        raise ConfigError(
            f"{run.data.source} is no data for the task {run.task}",
            expected=f"task: {' or '.join(source.tasks)}",
            got=f"task: {run.task}",
        )
    ours, theirs = (model.tokenizing(run.data.length) for model in (student, teacher))
    if ours is None and isinstance(student.maker, TaskModel):  # an architecture by name reads what its teacher reads
        ours = theirs
    if ours is None and theirs is not None and task not in ONE_ROW:
        raise ConfigError(
            f"student.model {run.student.model} reads no tokens",
            expected=f"a model with a tokenizer: the task {run.task} has a row for each token",
            got=run.student.model,
            fix="hf('...', layers=2)",
        )

    def encoded(part: RawSplit) -> Split:
        # embeddings have no classes: equal labels say which texts belong together
        plain = replace(part, class_names=()) if task == "embeddings" else part
        split = encode_for(source, plain, ours, theirs)
        if not isinstance(teacher.maker, FileTeacher) or not isinstance(source, TextData):
            return split
        cells = {
            role: torch.from_numpy(text_cells(part.columns[role]))
            for role in ("text", "second")
            if role in part.columns
        }
        return with_views(split, {"teacher": MemorySplit(cells, torch.zeros(len(part)), ids=part.ids)})

    transfer, validation, test = (encoded(part) for part in (parts.transfer, parts.validation, parts.test))
    teaching = None if parts.teaching is None else encoded(parts.teaching)
    encoding = source.encoding_of(parts) if ours is None and isinstance(source, TextData) else parts.encoding
    need = _need(run, transfer, ours)
    if isinstance(teacher.maker, FileTeacher) and isinstance(parts.encoding, TargetEncoding):
        need = replace(need, units=parts.encoding)
    return _whole(transfer, validation, test, teaching, need, encoding)


def _whole(
    transfer: Split, validation: Split, test: Split, teaching: Split | None, need: ModelNeed, encoding: Record | None
) -> RunData:
    """The data of a run; where a row is about one of multiple labels, their names are not those of its classes."""
    parts = (transfer, validation, test, teaching)
    if kind_of(need.kind).independent:
        parts = tuple(part and replace(part, class_names=()) for part in parts)  # type: ignore[type-var, assignment]
    return RunData(*parts, need, encoding)


def _bare(task: str) -> str:
    """The name of a kind of task, without arguments."""
    name = task.partition("(")[0].strip()
    return ALIASES.get(name, name)


def _need(run: RunFile, split: Split, by: Tokenizing | None = None) -> ModelNeed:
    """What networks are built for: the shape of an input, and as many outputs as classes."""
    return ModelNeed(_bare(run.task), _shape(split), _outputs(split), tuple(split.class_names), by)


def _shape(split: Split, view: str = "") -> tuple[int, ...]:
    """The shape of an example's input, or of its view; nothing where inputs have names."""
    found = first_batch(split, 1, 0).view(view)
    return tuple(found.shape[1:]) if isinstance(found, Tensor) else ()


def _outputs(split: Split) -> int:
    """The number of outputs that the labels ask for; 0 where the model itself says how many."""
    labels = split.labels
    if split.class_names or labels is None:
        return len(split.class_names)
    if labels.is_floating_point():
        return 1 if labels.ndim == 1 else labels.shape[1]
    return int(labels.max()) + 1 if labels.ndim == 1 else 0
