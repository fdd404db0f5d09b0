"""Label smoothing as a term: reads the labels alone, so that it also serves trainings without a teacher."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from fractionate.errors import ConfigError
from fractionate.losses.terms.base import Binding, BoundTerm, TermSpec, term_specs
from fractionate.tasks.predictions import Predictions


@term_specs.register("label-smoothing")
@dataclass(frozen=True)
class LabelSmoothing(TermSpec):
    """Turns the cross-entropy on the labels into its label-smoothed form, for recipes without an `ls` cell.

    With V classes and label y it adds Σ_{i ≠ y} epsilon / (V - 1) · (log q[y] - log q[i]), so that the sum of both is
    - (1 - epsilon) log q[y] - epsilon / (V - 1) Σ_{i ≠ y} log q[i]: fairseq's convention, and that of the confidence rule
    `smoothed-others(epsilon)`.

    Args:
        epsilon: Probability that the label gives up, in [0, 1).
        weight: Of the term in the loss.

    Raises:
        ConfigError: An epsilon outside [0, 1).

    Example:
        from fractionate.losses.terms import LabelSmoothing
        print(LabelSmoothing(0.1).formula)
    """

    epsilon: float = 0.1
    _: KW_ONLY
    weight: float = 1.0
    reads_teacher: ClassVar[bool] = False

    def __post_init__(self) -> None:
        TermSpec.__post_init__(self)
        if isinstance(self.epsilon, bool) or not (isinstance(self.epsilon, (int, float)) and 0 <= self.epsilon < 1):
            raise ConfigError("invalid value for epsilon", expected="at least 0 and below 1", got=repr(self.epsilon))

    @property
    def formula(self) -> str:
        return f"Σ_(i ≠ y) {self.epsilon:g} / (classes - 1) (log q[y] - log q[i])"

    @contextmanager
    def bind(self, at: Binding) -> Iterator[BoundTerm]:
        """Nothing is trained."""

        def term(student: Predictions, teacher: Predictions | None, signal: Any | None) -> Float[Tensor, "rows"]:
            logits = student.required_logits
            logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
            own = logits.gather(1, student.labels[:, None]).squeeze(1)
            classes = logits.shape[1]
            # log q[y] - log q[i] is a difference of logits: nothing to normalise
            loss: Tensor = self.epsilon / (classes - 1) * (classes * own - logits.sum(dim=1))
            return loss

        yield term
