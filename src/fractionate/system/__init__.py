"""Registry, durable files, hashing, memory, versions: nothing here knows what distillation is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fractionate.system.lazy import exports

if TYPE_CHECKING:
    from fractionate.system.atomic import TEMPORARY as TEMPORARY
else:
    __getattr__, __dir__, __all__ = exports(__name__)
