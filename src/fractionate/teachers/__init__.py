"""Teacher sources: cached signals, models in eval mode without gradients, ensembles, functions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fractionate.system.lazy import exports

if TYPE_CHECKING:
    from fractionate.teachers.cached import Cached as Cached
    from fractionate.teachers.ensemble import Ensemble as Ensemble
    from fractionate.teachers.ensemble import mix as mix
    from fractionate.teachers.given import as_source as as_source
    from fractionate.teachers.online import Online as Online
    from fractionate.teachers.sentences import Sentences as Sentences
    from fractionate.teachers.source import OpenTeacher as OpenTeacher
    from fractionate.teachers.source import TeacherSource as TeacherSource
    from fractionate.teachers.tokens import StoredTokens as StoredTokens
    from fractionate.teachers.tokens import analysis as analysis
    from fractionate.teachers.tokens import gold_share as gold_share
    from fractionate.teachers.tokens import ta_rate as ta_rate
    from fractionate.teachers.tokens import token_signal as token_signal
else:
    __getattr__, __dir__, __all__ = exports(__name__)
