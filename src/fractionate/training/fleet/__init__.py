"""The stacked backend: many small students of a study in one step."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fractionate.system.lazy import exports

if TYPE_CHECKING:
    from fractionate.training.fleet.setup import model_logits as model_logits
else:
    __getattr__, __dir__, __all__ = exports(__name__)
