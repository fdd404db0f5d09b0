"""Effects of a study: paired differences over seeds, intervals, corrections, verdicts, shares, power. Records only."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fractionate.system.lazy import exports

if TYPE_CHECKING:
    from fractionate.study.effects.harm import compared_with_no_teacher as compared_with_no_teacher
    from fractionate.study.effects.harm import surely_worse as surely_worse
else:
    __getattr__, __dir__, __all__ = exports(__name__)
