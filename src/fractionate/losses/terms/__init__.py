"""Terms by name: `map`, `fitnets("layers.1", "layers.3")`, `ranking(5)`. A term is one frozen dataclass in one file."""

from __future__ import annotations

from fractionate.losses.terms.attention import (
    AttentionMap,
    AttentionOutput,
    AttentionScore,
    HiddenState,
    LayerTerm,
    unified,
)
from fractionate.losses.terms.balance import Balance
from fractionate.losses.terms.base import Binding, BoundTerm, TermSpec, bind_terms, term_specs
from fractionate.losses.terms.contrastive import Contrastive
from fractionate.losses.terms.explanations import Explanations, ked, moved, paper_objective
from fractionate.losses.terms.features import (
    AttentionTransfer,
    FeatureTerm,
    FitNets,
    KernelAlignment,
    Relational,
    SimilarityPreserving,
)
from fractionate.losses.terms.passes import Passes, tie_kd
from fractionate.losses.terms.plain import CallableTerm
from fractionate.losses.terms.ranking import RankingTerm
from fractionate.losses.terms.smoothing import LabelSmoothing

__all__ = [
    "AttentionMap",
    "AttentionOutput",
    "AttentionScore",
    "AttentionTransfer",
    "Balance",
    "Binding",
    "BoundTerm",
    "CallableTerm",
    "Contrastive",
    "Explanations",
    "FeatureTerm",
    "FitNets",
    "HiddenState",
    "KernelAlignment",
    "LabelSmoothing",
    "LayerTerm",
    "Passes",
    "RankingTerm",
    "Relational",
    "SimilarityPreserving",
    "TermSpec",
    "bind_terms",
    "ked",
    "moved",
    "paper_objective",
    "term_specs",
    "tie_kd",
    "unified",
]
