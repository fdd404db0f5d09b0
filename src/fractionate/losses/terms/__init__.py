"""Terms by name: `map`, `fitnets(...)`, `ranking(5)`, `ked(...)`. A term is one frozen dataclass in one file."""

from __future__ import annotations

from fractionate.losses.terms.base import Binding, BoundTerm, TermSpec, bind_terms, term_specs

__all__ = ["Binding", "BoundTerm", "TermSpec", "bind_terms", "term_specs"]
