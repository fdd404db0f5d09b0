"""Language modelling: one row for each labelled token, predicted at the token before it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from fractionate.tasks.kind import Kind, kinds


@kinds.register("language-modelling")
@dataclass(frozen=True)
class LanguageModelling(Kind):
    """Causal models: logits [batch, tokens, vocabulary]; labels are the tokens themselves, -100 where none counts."""

    metrics: ClassVar[tuple[str, ...]] = ("token-nll", "accuracy", "perplexity", "ta-rate")
    tokens: ClassVar[Literal["", "aligned", "next"]] = "next"
    predicts_next: ClassVar[bool] = True
