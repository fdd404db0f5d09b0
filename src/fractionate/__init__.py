"""Fractionate: what a teacher knows, which part of it pays, and a student trained with just that.

Five verbs: `collect`, `diagnose`, `dissect`, `distill`, `report`. Names load on first use, so that `fractionate --help` does
not wait for torch.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from fractionate.cells import CELLS, Cell
    from fractionate.diagnosis import diagnose
    from fractionate.engine import distill
    from fractionate.objective import Objective, rescaling
    from fractionate.page import report
    from fractionate.spectrum import spectrum
    from fractionate.store import collect
    from fractionate.study import dissect
    from fractionate.tasks import Task
    from fractionate.teacher import TeacherSignal
    from fractionate.training import Recipe

_HOME = {
    "CELLS": "cells",
    "Cell": "cells",
    "Objective": "objective",
    "Recipe": "training",
    "Task": "tasks",
    "TeacherSignal": "teacher",
    "collect": "store",
    "diagnose": "diagnosis",
    "dissect": "study",
    "distill": "engine",
    "report": "page",
    "rescaling": "objective",
    "spectrum": "spectrum",
}

__all__ = [
    "CELLS",
    "Cell",
    "Objective",
    "Recipe",
    "Task",
    "TeacherSignal",
    "collect",
    "diagnose",
    "dissect",
    "distill",
    "report",
    "rescaling",
    "spectrum",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'fractionate' has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(import_module(f"fractionate.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]


class _Package(ModuleType):
    """Importing a submodule binds it to the package; where a function has the module's name, the function wins."""

    def __setattr__(self, name: str, value: object) -> None:
        if isinstance(value, ModuleType) and _HOME.get(name) == name:
            value = getattr(value, name)
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
