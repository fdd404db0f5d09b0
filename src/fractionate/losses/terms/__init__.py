"""Terms: further losses of a recipe, by name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fractionate.system.lazy import exports

if TYPE_CHECKING:
    from fractionate.losses.terms.attention import AttentionMap as AttentionMap
    from fractionate.losses.terms.attention import AttentionOutput as AttentionOutput
    from fractionate.losses.terms.attention import AttentionScore as AttentionScore
    from fractionate.losses.terms.attention import HiddenState as HiddenState
    from fractionate.losses.terms.attention import LayerTerm as LayerTerm
    from fractionate.losses.terms.attention import unified as unified
    from fractionate.losses.terms.balance import Balance as Balance
    from fractionate.losses.terms.base import Binding as Binding
    from fractionate.losses.terms.base import BoundTerm as BoundTerm
    from fractionate.losses.terms.base import TermSpec as TermSpec
    from fractionate.losses.terms.base import bind_terms as bind_terms
    from fractionate.losses.terms.base import term_specs as term_specs
    from fractionate.losses.terms.contrastive import Contrastive as Contrastive
    from fractionate.losses.terms.explanations import Explanations as Explanations
    from fractionate.losses.terms.explanations import ked as ked
    from fractionate.losses.terms.explanations import moved as moved
    from fractionate.losses.terms.explanations import paper_objective as paper_objective
    from fractionate.losses.terms.features import AttentionTransfer as AttentionTransfer
    from fractionate.losses.terms.features import FeatureTerm as FeatureTerm
    from fractionate.losses.terms.features import FitNets as FitNets
    from fractionate.losses.terms.features import KernelAlignment as KernelAlignment
    from fractionate.losses.terms.features import Relational as Relational
    from fractionate.losses.terms.features import SimilarityPreserving as SimilarityPreserving
    from fractionate.losses.terms.passes import Passes as Passes
    from fractionate.losses.terms.passes import tie_kd as tie_kd
    from fractionate.losses.terms.plain import CallableTerm as CallableTerm
    from fractionate.losses.terms.ranking import RankingTerm as RankingTerm
    from fractionate.losses.terms.smoothing import LabelSmoothing as LabelSmoothing
else:
    __getattr__, __dir__, __all__ = exports(__name__)
