"""Losses computed in one pass, in chunks or from hidden states, equal to the plain form."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fractionate.system.lazy import exports

if TYPE_CHECKING:
    from fractionate.losses.kernels.vocabulary import HeadSignal as HeadSignal
    from fractionate.losses.kernels.vocabulary import choose_chunks as choose_chunks
    from fractionate.losses.kernels.vocabulary import vocabulary_loss as vocabulary_loss
else:
    __getattr__, __dir__, __all__ = exports(__name__)
