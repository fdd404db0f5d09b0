"""The theory: teacher signals, confidence and shape rules, cells, the knowledge spectrum."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fractionate.system.lazy import exports

if TYPE_CHECKING:
    from fractionate.theory.confidence import confidences as confidences
    from fractionate.theory.shape import shapes as shapes
    from fractionate.theory.shape import spread as spread
    from fractionate.theory.teacher_signal import TeacherSignal as TeacherSignal
    from fractionate.theory.topk_signal import CompactSignal as CompactSignal
else:
    __getattr__, __dir__, __all__ = exports(__name__)
