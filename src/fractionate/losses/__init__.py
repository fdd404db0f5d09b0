"""Losses: the objective, its divergences and kernels, and further terms."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fractionate.system.lazy import exports

if TYPE_CHECKING:
    from fractionate.losses.objective import Objective as Objective
else:
    __getattr__, __dir__, __all__ = exports(__name__)
