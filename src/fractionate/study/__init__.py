"""dissect(): recipes × seeds → runs → effects: which part of the teacher pays."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fractionate.system.lazy import exports

if TYPE_CHECKING:
    from fractionate.study.arms import Arm as Arm
    from fractionate.study.attention_measures import attention_arm as attention_arm
    from fractionate.study.attention_measures import compare_maps as compare_maps
    from fractionate.study.attention_measures import layer_sensitivity as layer_sensitivity
    from fractionate.study.dissection import dissect as dissect
    from fractionate.study.kept_students import trained_student as trained_student
    from fractionate.study.pilot import PilotPlan as PilotPlan
    from fractionate.study.recommended import recommended_arms as recommended_arms
    from fractionate.study.seed_teachers import BySeed as BySeed
else:
    __getattr__, __dir__, __all__ = exports(__name__)
