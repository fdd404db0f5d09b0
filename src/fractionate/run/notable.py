"""Examples worth seeing of a run: made when the student is exported, as far as the run file allows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fractionate.data.batch import Split
from fractionate.data.bundled import R_TABLES, column_names
from fractionate.data.encoding import TableEncoding
from fractionate.data.raw import Tokenizing
from fractionate.errors import ConfigError
from fractionate.records import NotableExamples
from fractionate.records.base import Record
from fractionate.run.data import RunData, token_text
from fractionate.run.schema import RunFile
from fractionate.tasks.examples import notable_examples
from fractionate.tasks.predictions import NOTHING
from fractionate.tasks.task import Task
from fractionate.teachers.online import Online

EXAMPLES = "examples.json"
Cells = Callable[[Tensor], dict[str, str]]


def check_shown(run: RunFile, task: Task, data: RunData) -> None:
    """Raise `ConfigError` where the run file wants to show what cannot be shown."""
    if run.report.examples != "none" and not task.reader.distributions:
        raise ConfigError(
            "examples are chosen by probabilities of classes, and this task has none",
            expected="a task with classes",
            got=run.task,
            fix="set report.examples: none",
        )
    if run.report.examples == "show":
        shower_of(data.test, data.need.tokenizing, row_cells(run.data.source, data.encoding))


def notable(run: RunFile, task: Task, data: RunData, student: nn.Module, teacher: nn.Module) -> NotableExamples:
    """Examples of the test part for the page, as the run file wants them."""
    cells = row_cells(run.data.source, data.encoding)
    shown = shower_of(data.test, data.need.tokenizing, cells) if run.report.examples == "show" else None
    with Online(teacher).open(task, data.test, None, NOTHING) as used:
        return notable_examples(
            task, data.test, student, used, name=run.name, show=shown, class_name=token_text(data.need.tokenizing)
        )


def row_cells(source: str, encoding: Record | None) -> Cells | None:
    """How the inputs of a table become cells again; None of data without named columns.

    Of a table of one's own the values of the file; of a bundled one, in standard deviations, what is most unlike the mean first.
    """
    if isinstance(encoding, TableEncoding):
        return encoding.decode
    if source not in ("breast-cancer", *R_TABLES):
        return None
    names: Sequence[str] = column_names(source)

    def cells(inputs: Tensor) -> dict[str, str]:
        order = inputs.abs().argsort(descending=True, stable=True).tolist()
        return {names[i]: f"{float(inputs[i]):+.2f} sd" for i in order}

    return cells


def shower_of(split: Split, tokenizing: Tokenizing | None, cells: Cells | None = None) -> Callable[[int], Any]:
    """What `notable_examples` shows of each example of a split; `cells` gives those of a row of a table.

    Raises:
        ConfigError: Its inputs are neither pictures nor texts nor rows of a table with named columns.
    """

    def inputs_of(place: int) -> Any:
        return next(iter(split.batches([(0, torch.tensor([place]))], 0))).inputs

    def picture(place: int) -> Tensor:
        found: Tensor = inputs_of(place)[0]
        return found

    def text(place: int) -> str:
        assert tokenizing is not None
        words: str = tokenizing.tokenizer.decode(inputs_of(place)["input_ids"][0], skip_special_tokens=True)
        return words

    first = inputs_of(0)
    if cells is not None and isinstance(first, Tensor) and first.ndim == 2:
        return lambda place: cells(inputs_of(place)[0])
    if isinstance(first, Tensor) and first.is_floating_point() and first.ndim == 4 and first.shape[1] in (1, 3):
        return picture
    if tokenizing is not None and isinstance(first, Mapping) and "input_ids" in first:
        return text
    raise ConfigError(
        "examples of this data cannot be shown",
        expected="pictures of one or three channels, texts of a tokenizer, or rows of a table with named columns",
        got=f"inputs of {type(first).__name__}" + (f" {list(first.shape[1:])}" if isinstance(first, Tensor) else ""),
        fix="set report.examples=ids",
    )
