"""What a model predicts on a batch, as rows, and what else of its forward pass a loss or a metric may need."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, reduce
from operator import or_
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor, nn

from fractionate.data.batch import Batch
from fractionate.errors import MismatchError
from fractionate.tasks.row_reading import RowReading, read_rows

AttentionPart = Literal["scores", "outputs", "hidden"]


@dataclass(frozen=True, kw_only=True)
class Needs:
    """What a forward pass has to give in addition to logits. Two needs are joined by `|`.

    Args:
        attention: Parts of each transformer layer: "scores" (before the softmax), "outputs" (after residual and norm), "hidden".
        layers: Which layers of the attention parts are held; None: all.
        features: Dotted paths of modules whose output is captured.
        hidden: The rows that enter the output layer, and the layer, in place of logits.
        states: The rows that enter the output layer, next to logits.
        explanations: Class scores of each superfeature (explaining students).
        generated: Tokens of greedy text; for metrics only.
    """

    attention: frozenset[str] = frozenset()
    layers: frozenset[int] | None = None
    features: frozenset[str] = frozenset()
    hidden: bool = False
    states: bool = False
    explanations: bool = False
    generated: int = 0

    def __or__(self, other: Needs) -> Needs:
        if self.attention and other.attention:
            whole = self.layers is None or other.layers is None
            layers = None if whole else (self.layers or frozenset()) | (other.layers or frozenset())
        else:
            layers = self.layers if self.attention else other.layers
        return Needs(
            attention=self.attention | other.attention,
            layers=layers,
            features=self.features | other.features,
            hidden=self.hidden or other.hidden,
            states=self.states or other.states,
            explanations=self.explanations or other.explanations,
            generated=max(self.generated, other.generated),
        )

    def __bool__(self) -> bool:
        return self != Needs()


NOTHING = Needs()


def joined(needs: Iterable[Needs]) -> Needs:
    """All of several needs."""
    return reduce(or_, needs, NOTHING)


@dataclass(frozen=True, eq=False)
class AttentionStates:
    """What the layers of an encoder computed in one pass, by layer number; only the parts that were needed are there.

    Args:
        layers: Their number.
        scores: [batch, heads, tokens, tokens] before the softmax.
        outputs: [batch, tokens, width] of attention, after residual and LayerNorm.
        hidden: [batch, tokens, width]; 0 enters the first block, l leaves block l.
        valid: [batch, tokens] True for tokens that are not padding.
    """

    layers: int
    scores: Mapping[int, Float[Tensor, "batch heads tokens tokens"]]
    outputs: Mapping[int, Float[Tensor, "batch tokens width"]]
    hidden: Mapping[int, Float[Tensor, "batch tokens width"]]
    valid: Bool[Tensor, "batch tokens"]


@dataclass(frozen=True, eq=False, kw_only=True)
class Predictions:
    """Rows: one for each thing to predict. An example of a classifier is one row, of a tagger or language model many.

    Args:
        logits: [rows, classes], or [rows, *outputs] of a task without classes; None where `Needs.hidden` replaced them.
        labels: [rows].
        place: [rows] place of each row's example in the batch; None: row i is example i.
        batch: The batch that was read.
        hidden: What enters the output layer, in place of logits (`Needs.hidden`).
        states: The same, next to logits or without them (`Needs.states`).
        teacher: The teacher's predictions on it, for metrics that read inside both.
        hidden: [rows, width] what enters the output layer, where `Needs.hidden` wants it.
        head: The output layer, likewise.
        features: Outputs of modules by path.
        attention: What the layers of an encoder computed.
        explanations: [rows, superfeatures, classes] of an explaining model.
        generated: Text the model wrote, as token ids of each example.
        output: What the model returned; iterative decoding reads the encoder's states from it.
    """

    logits: Float[Tensor, "rows *classes"] | None
    labels: Tensor
    place: Int[Tensor, "rows"] | None
    batch: Batch
    hidden: Float[Tensor, "rows width"] | None = None
    states: Float[Tensor, "rows width"] | None = None
    head: nn.Linear | None = None
    features: Mapping[str, Tensor] = field(default_factory=dict)
    attention: AttentionStates | None = None
    explanations: Float[Tensor, "rows superfeatures classes"] | None = None
    generated: Sequence[Sequence[int]] | None = None
    teacher: Predictions | None = None
    output: object = None  # what the model returned: iterative decoding reads the encoder's states from it

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def examples(self) -> int:
        """How many examples the batch holds."""
        return len(self.batch.index)

    @property
    def example(self) -> Int[Tensor, "rows"]:
        """Each row's example, as its place in the split; on the CPU."""
        index = self.batch.index.cpu()
        return index if self.place is None else index[self.place.cpu()]

    @property
    def position(self) -> Int[Tensor, "rows"]:
        """Each row's place among the labelled rows of its example, from 0; on the CPU."""
        if self.place is None:
            return torch.zeros(len(self.labels), dtype=torch.long)
        sizes = torch.bincount(self.place.cpu(), minlength=self.examples)
        starts = torch.repeat_interleave(sizes.cumsum(0) - sizes, sizes)
        return torch.arange(len(self.labels)) - starts

    @property
    def required_logits(self) -> Float[Tensor, "rows *classes"]:
        """The logits. Raises `MismatchError` where the pass gave hidden states in their place."""
        if self.logits is None:
            raise MismatchError(
                "this needs logits, and the forward pass gave hidden states in their place",
                expected="logits [rows, classes]",
                got=f"hidden states {None if self.hidden is None else list(self.hidden.shape)}",
                fix="leave Training(loss_from='hidden') out beside terms that read logits",
            )
        return self.logits

    @cached_property
    def reading(self) -> RowReading:
        """What metrics of classes read of the logits; made once, however many metrics there are."""
        return read_rows(self.required_logits, self.labels, self.example)

    def by_row(self, values: Shaped[Tensor, "batch ..."]) -> Shaped[Tensor, "rows ..."]:
        """Values of examples repeated for each of their rows."""
        return values if self.place is None else values[self.place.to(values.device)]

    def detached(self) -> Predictions:
        """The same predictions without a graph, for metrics."""
        return replace(self, logits=None if self.logits is None else self.logits.detach())


def evenly(total: int, most: int) -> Int[Tensor, "places"]:
    """At most `most` places, evenly over all of them: data sorted by class must not be measured on one class."""
    return torch.arange(total) if total <= most else torch.linspace(0, total - 1, most).round().long()
