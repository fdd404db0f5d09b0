"""Token classification: one row for each labelled token; padding and ignored tokens are no rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from fractionate.tasks.kind import Kind, kinds


@kinds.register("token-classification")
@dataclass(frozen=True)
class TokenClassification(Kind):
    """Logits [batch, tokens, classes] and labels [batch, tokens], -100 where a token has none."""

    metrics: ClassVar[tuple[str, ...]] = ("accuracy", "nll", "ece", "agreement")
    tokens: ClassVar[Literal["", "aligned", "next"]] = "aligned"
