"""conformance(): what a distillation loss computes, and whether it keeps its promises. For ours and for anybody's."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fractionate.system.lazy import exports

if TYPE_CHECKING:
    from fractionate.plugins.conformance.checks import Subject as Subject
    from fractionate.plugins.conformance.suite import Conformance as Conformance
    from fractionate.plugins.conformance.suite import conformance as conformance
    from fractionate.plugins.conformance.suite import table as table
else:
    __getattr__, __dir__, __all__ = exports(__name__)
