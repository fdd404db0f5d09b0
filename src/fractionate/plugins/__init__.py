"""What authors of parts run: the contracts of each kind of part, and the conformance suite of losses."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fractionate.system.lazy import exports

if TYPE_CHECKING:
    from fractionate.plugins.contracts import check as check
else:
    __getattr__, __dir__, __all__ = exports(__name__)
