"""Training with `vocabulary_loss` in the one loop: the student gives hidden states, the objective holds the head."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from fractionate.cells import Cell
from fractionate.checkpoint import content_hash
from fractionate.data.batch import Batch
from fractionate.divergences import Divergence
from fractionate.engine.council import asking
from fractionate.errors import MismatchError
from fractionate.extensions.vocabulary import HeadSignal, Signal, vocabulary_loss
from fractionate.models.hooks import module_at
from fractionate.objective import Objective
from fractionate.outputs import call, logits_of, rows
from fractionate.records import Contract


@dataclass(frozen=True, eq=False)
class BoundedObjective:
    """An objective that is called with hidden states: the same losses and contract as `objective`, no logits."""

    objective: Objective
    head: nn.Linear
    classes: int  # tokens that are real

    def __call__(self, hidden: Float[Tensor, "rows width"], signal: Signal) -> Float[Tensor, "rows"]:
        return vocabulary_loss(
            hidden, self.head.weight, signal, self.objective, bias=self.head.bias, classes=self.classes
        )

    @property
    def cell(self) -> Cell:
        """The cell of the objective."""
        assert isinstance(self.objective.cell, Cell)
        return self.objective.cell

    @property
    def divergence(self) -> Divergence | str:
        """The divergence of the objective."""
        return self.objective.divergence

    @property
    def temperature(self) -> float:
        """The temperature of the objective."""
        return self.objective.temperature

    @property
    def teacher_weight(self) -> float:
        """The teacher weight of the objective."""
        return self.objective.teacher_weight

    def describe(self) -> Contract:
        """What is computed, as a record: what the objective says."""
        return self.objective.describe()

    def __repr__(self) -> str:
        return f"BoundedObjective({self.objective!r}, {self.classes} classes)"


def head_of(model: nn.Module, path: str = "") -> nn.Linear:
    """The linear layer that makes a model's logits: `get_output_embeddings()` of Hugging Face models, or the one at a path.

    Raises `MismatchError` where there is none.
    """
    found: Any = module_at(model, path) if path else getattr(model, "get_output_embeddings", lambda: None)()
    if not isinstance(found, nn.Linear):
        raise MismatchError(
            f"{type(model).__name__} has no linear head{f' at {path!r}' if path else ''}", expected="an nn.Linear",
            got=type(found).__name__, fix='say where it is: head="lm_head"',
        )  # fmt: skip
    return found


@contextmanager
def headless(model: nn.Module, example: Any, *, head: str = "") -> Iterator[nn.Linear]:
    """Within the block a model in training mode gives its last hidden states in place of logits; in evaluation mode all is as ever.

    `example` is a small batch of inputs, by which it is proved that the logits are hidden · weightᵀ + bias and nothing more. Raises
    `MismatchError` for models that do more to them (a soft cap, a scale).
    """
    layer = head_of(model, head)
    seen: list[Tensor] = []
    handle = layer.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    try:
        with asking(model):
            logits = logits_of(call(model, example)).float()
            ours = functional.linear(seen[-1], layer.weight, layer.bias).float()
    finally:
        handle.remove()
    if logits.shape != ours.shape or not torch.allclose(logits, ours, rtol=1e-3, atol=1e-3):
        gap = "other shapes" if logits.shape != ours.shape else f"{float((logits - ours).abs().max()):.3g} apart"
        raise MismatchError(
            f"{type(model).__name__} does more to its logits than its head does",
            expected="logits = hidden · weightᵀ + bias", got=gap,
            fix="a soft cap or a scale of the logits is part of the model: train it on its logits, without this block",
        )  # fmt: skip
    plain = layer.forward
    layer.forward = lambda hidden: hidden if layer.training else plain(hidden)  # type: ignore[method-assign,assignment]
    try:
        yield layer
    finally:
        del layer.forward


@contextmanager
def bounded(
    student: nn.Module, objective: Objective, example: Any, *, head: str = "", classes: int | None = None
) -> Iterator[Any]:
    """The objective for `distill(student, data, teacher, objective=…)` that never holds [tokens, vocabulary] logits.

        with bounded(student, Objective("kd", 1.0, 0.9), example) as objective:
            distill(student, data, StoredTokens(store, form="compact"), objective=objective, predicts_next=True)

    The teacher gives compact rows (`StoredTokens`) or its own head (`HeadTeacher`). `classes` is the number of real tokens
    where heads are padded. Raises `MismatchError` as `headless` does.
    """
    with headless(student, example, head=head) as layer:
        yield BoundedObjective(objective, layer, len(layer.weight) if classes is None else classes)


class HeadTeacher:
    """A living teacher that gives hidden states and its head: `distill(student, data, HeadTeacher(model, example), …)`."""

    def __init__(self, model: nn.Module, example: Any, *, head: str = "", predicts_next: bool = False) -> None:
        self.model, self.predicts_next = model, predicts_next
        with headless(model, example, head=head) as layer:
            self.head = layer
        self._before = self.fingerprint()

    def about(self, batch: Batch, labels: Int[Tensor, "rows"], place: Int[Tensor, "rows"] | None) -> HeadSignal:
        """The teacher's hidden states on this very batch, and its head."""
        seen: list[Tensor] = []
        handle = self.head.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
        self.head.forward = lambda hidden: hidden[..., :1]  # type: ignore[method-assign,assignment]  # no logits are made
        try:
            with asking(self.model):
                call(self.model, batch.inputs)
        finally:
            del self.head.forward
            handle.remove()
        hidden, _, _ = rows(seen[-1], batch.labels, predicts_next=self.predicts_next)
        return HeadSignal(
            hidden, self.head.weight.detach(), labels, None if self.head.bias is None else self.head.bias.detach()
        )

    def fingerprint(self) -> str:
        """A hash of all parameters and buffers."""
        return content_hash(*self.model.state_dict().values())

    def check_inert(self) -> None:
        """Raise `MismatchError` if parameters or buffers are not what they were."""
        if self.fingerprint() != self._before:
            raise MismatchError(
                "the teacher changed while it taught", expected=f"hash {self._before}", got=self.fingerprint(),
                fix="student and teacher must not share modules; give the teacher a copy.deepcopy",
            )  # fmt: skip
