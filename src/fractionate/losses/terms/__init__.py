"""Terms by name: `map`, `fitnets("layers.1", "layers.3")`, `ranking(5)`. A term is one frozen dataclass in one file."""

from __future__ import annotations

from fractionate.losses.terms import attention, contrastive, explanations, features, ranking  # each registers its terms
from fractionate.losses.terms.attention import unified
from fractionate.losses.terms.base import Binding, BoundTerm, TermSpec, bind_terms, term_specs
from fractionate.losses.terms.explanations import ked, moved

__all__ = [
    "Binding",
    "BoundTerm",
    "TermSpec",
    "attention",
    "bind_terms",
    "contrastive",
    "explanations",
    "features",
    "ked",
    "moved",
    "ranking",
    "term_specs",
    "unified",
]
