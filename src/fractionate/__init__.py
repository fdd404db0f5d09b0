"""Fractionate: what a teacher knows, which part of it pays, and a student trained with just that.

Five verbs: `collect`, `diagnose`, `dissect`, `distill`, `report`. Names load on first use, so that `fractionate --help` does
not wait for torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fractionate.system.lazy import exports

__version__ = "0.2.0"

if TYPE_CHECKING:
    from fractionate.diagnosis.examination import diagnose as diagnose
    from fractionate.losses.objective import Objective as Objective
    from fractionate.losses.objective import rescaling as rescaling
    from fractionate.page.document import report as report
    from fractionate.store.collection import collect as collect
    from fractionate.study.dissection import dissect as dissect
    from fractionate.tasks.task import Task as Task
    from fractionate.theory.cells import CELLS as CELLS
    from fractionate.theory.cells import Cell as Cell
    from fractionate.theory.spectrum.stream import spectrum as spectrum
    from fractionate.theory.teacher_signal import TeacherSignal as TeacherSignal
    from fractionate.training.distillation import distill as distill
    from fractionate.training.recipe import Recipe as Recipe
else:
    __getattr__, __dir__, __all__ = exports(__name__)
