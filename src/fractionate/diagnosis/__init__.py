"""What is wrong with this teacher for this student, and which recipe to use: from one pass, before any training."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fractionate.system.lazy import exports

if TYPE_CHECKING:
    from fractionate.diagnosis.black_box import read_signal as read_signal
    from fractionate.diagnosis.case import Case as Case
    from fractionate.diagnosis.case import Judgement as Judgement
    from fractionate.diagnosis.case import Measurement as Measurement
    from fractionate.diagnosis.case import examine as examine
    from fractionate.diagnosis.case import probes as probes
    from fractionate.diagnosis.examination import diagnose as diagnose
    from fractionate.diagnosis.explanations import explain as explain
    from fractionate.diagnosis.explanations import save_table as save_table
    from fractionate.diagnosis.feature_groups import communities as communities
    from fractionate.diagnosis.feature_groups import superfeatures as superfeatures
    from fractionate.diagnosis.interactions import second_derivatives as second_derivatives
    from fractionate.diagnosis.preflight_checks import preflight as preflight
    from fractionate.diagnosis.token_groups import by_position as by_position
    from fractionate.diagnosis.token_groups import findings as findings
    from fractionate.diagnosis.token_groups import grouped as grouped
else:
    __getattr__, __dir__, __all__ = exports(__name__)
