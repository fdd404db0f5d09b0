"""Run files read, with every name looked up in its registry: all errors at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from fractionate.data.bundled import data_sets
from fractionate.data.transforms import transforms
from fractionate.losses.divergences.base import divergences
from fractionate.losses.terms.base import term_specs
from fractionate.models.preparations import preparations
from fractionate.models.zoo import models
from fractionate.run.data import kind_of
from fractionate.run.runfile import load_run
from fractionate.run.schema import RunFile
from fractionate.system.registry import names_code
from fractionate.tasks.metric import infos, metrics
from fractionate.theory.cells import as_cell


def read_run(path: Path | str | None, overrides: tuple[str, ...] = (), *, trust: tuple[str, ...] = ()) -> RunFile:
    r"""A run file with every name looked up in its registry; all errors at once.

    Args:
        path: The file; None: the defaults alone.
        overrides: Settings such as `training.steps=5`, which take the place of the file's.
        trust: Modules and packages whose code the file may name.

    Returns:
        The checked `RunFile`.

    Raises:
        ConfigError: with the line of each fault; further what `load_run` raises.

    Example:
        from pathlib import Path
        from fractionate.run import read_run

        Path("run.yaml").write_text("data: {source: digits}\n")
        print(read_run("run.yaml", ("seed=3",)).seed)
    """
    return load_run(path, overrides, trust=trust, lookups=_lookups)


def _lookups(tree: Any) -> Mapping[str, Callable[[str], object]]:
    """What resolves the names of a run file, by key."""

    def bundled(lookup: Callable[[str], object]) -> Callable[[str], object]:
        return lambda name: None if names_code(name) else lookup(name)

    def judged(name: str) -> object:
        task, given = tree.get("task", "classification"), tree.get("metrics")
        names = (
            [given] if isinstance(given, str) else given or (kind_of(task).metrics if isinstance(task, str) else None)
        )
        if not isinstance(names, (list, tuple)) or not all(isinstance(each, str) for each in names):
            return None  # their own places say what is wrong with them
        return name and infos([metrics[each] for each in names], name)

    parts: dict[str, Callable[[str], object]] = {
        "terms": term_specs.__getitem__, "transforms": transforms.__getitem__, "prepare": preparations.__getitem__,
    }  # fmt: skip
    objective: dict[str, Callable[[str], object]] = {"cell": as_cell, "divergence": divergences.__getitem__}
    return {
        "task": kind_of,
        "metrics": metrics.__getitem__,
        "data.source": bundled(data_sets.check),
        "teacher.model": bundled(lambda name: models[name]),
        "student.model": bundled(lambda name: models[name]),
        "teacher.prepare": parts["prepare"],
        "student.prepare": parts["prepare"],
        "terms": parts["terms"],
        "transforms": parts["transforms"],
        "study.cells": as_cell,
        "study.divergences": divergences.__getitem__,
        "study.students.*": parts["prepare"],
        "study.metric": judged,
        **{f"objective.{key}": lookup for key, lookup in objective.items()},
        **{f"study.arms.*.{key}": lookup for key, lookup in parts.items()},
        **{f"study.arms.*.objective.{key}": lookup for key, lookup in objective.items()},
    }
