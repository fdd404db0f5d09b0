"""The knowledge spectrum: what a teacher knows beyond a uniform guess, split exactly into five terms, in nats."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fractionate.system.lazy import exports

if TYPE_CHECKING:
    from fractionate.theory.spectrum.stream import spectrum as spectrum
else:
    __getattr__, __dir__, __all__ = exports(__name__)
