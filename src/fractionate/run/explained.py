"""What the page shows of an exported student next to its record: examples, and what it decides by where it explains itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from torch import nn

from fractionate.data.bundled import R_TABLES, column_names
from fractionate.data.encoding import TableEncoding
from fractionate.diagnosis.explanations import explain
from fractionate.models.columns import given
from fractionate.models.explaining import ExplainingStudent
from fractionate.models.preparations import preparations
from fractionate.records import Explanations
from fractionate.records.base import Record
from fractionate.run.data import RunData
from fractionate.run.notable import EXAMPLES, notable
from fractionate.run.schema import RunFile
from fractionate.tasks.task import Task
from fractionate.training.recipe import Recipe

EXPLANATIONS = "explanations.json"
SHOWN = 6  # examples that are split one by one, where the run file shows examples
Groups = tuple[tuple[int, ...], ...]


def for_the_page(run: RunFile, recipe: Recipe) -> dict[str, Callable[..., Record]]:
    """What else the page shows of an exported student, by the name of its file; each is called with
    (run, task, data, student, teacher).
    """
    groups = _groups(recipe.preparations)
    found: dict[str, Callable[..., Record]] = {EXAMPLES: notable} if run.report.examples != "none" else {}
    if groups and groups == _groups(run.teacher.prepare):
        found[EXPLANATIONS] = partial(_explained, groups)
    return found


def _groups(names: Sequence[object]) -> Groups:
    """The columns of each superfeature; () where nothing explains."""
    made = (preparations[name] if isinstance(name, str) else name for name in names)
    return next((one.groups for one in made if isinstance(one, ExplainingStudent)), ())


def _explained(
    groups: Groups, run: RunFile, task: Task, data: RunData, student: nn.Module, teacher: nn.Module
) -> Explanations:
    columns = columns_of(run.data.source, data)
    named = columns if len(columns) == sum(map(len, groups)) else ()
    found = given(groups, names=group_names(groups, named), feature_names=named)
    shown = 0 if run.report.examples == "none" else SHOWN
    return explain(student, teacher, data.test, found, name=run.name, shown=shown)


def columns_of(source: str, data: RunData) -> tuple[str, ...]:
    """The names of a table's inputs; () where they have none."""
    if isinstance(data.encoding, TableEncoding):
        return data.encoding.features
    return column_names(source) if source in ("breast-cancer", *R_TABLES) else ()


def group_names(groups: Groups, columns: Sequence[str]) -> tuple[str, ...]:
    """A group by the words that all its columns share ("mean radius", "worst radius": radius); () where one has none of its own."""
    if not columns:
        return ()
    words = [[columns[place].split() for place in group] for group in groups]
    shared = tuple(" ".join(word for word in first if all(word in other for other in rest)) for first, *rest in words)
    return shared if all(shared) and len(set(shared)) == len(shared) else ()
