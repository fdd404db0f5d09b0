"""Fractionate: what a teacher knows, which part of it pays, and a student trained with just that."""

from __future__ import annotations

from fractionate.cells import CELLS, Cell
from fractionate.objective import Objective, rescaling
from fractionate.spectrum import spectrum
from fractionate.teacher import TeacherSignal

__version__ = "0.1.0"
__all__ = ["CELLS", "Cell", "Objective", "TeacherSignal", "rescaling", "spectrum"]
