"""Terms by name: `map`, `fitnets("layers.1", "layers.3")`, `ranking(5)`. A term is one frozen dataclass in one file."""

from __future__ import annotations

from fractionate.losses.terms import (  # each registers its terms
    attention,
    balance,
    contrastive,
    explanations,
    features,
    passes,
    ranking,
    smoothing,
)
from fractionate.losses.terms.attention import unified
from fractionate.losses.terms.base import Binding, BoundTerm, TermSpec, bind_terms, term_specs
from fractionate.losses.terms.explanations import ked, moved
from fractionate.losses.terms.passes import tie_kd

__all__ = [
    "Binding",
    "BoundTerm",
    "TermSpec",
    "attention",
    "balance",
    "bind_terms",
    "contrastive",
    "explanations",
    "features",
    "ked",
    "moved",
    "passes",
    "ranking",
    "smoothing",
    "term_specs",
    "tie_kd",
    "unified",
]
