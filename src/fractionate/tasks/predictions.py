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
from fractionate.data.labels import check_labels
from fractionate.errors import MismatchError, NumericsError
from fractionate.theory.teacher_signal import ROWS_A_CHUNK_ELEMENTS

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

    Example:
        from fractionate.tasks import Needs
        print(Needs(hidden=True) | Needs(features=frozenset({"layer3"})))
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
    """All needs in one."""
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
                fix="leave Training(loss_from='hidden') out next to terms that read logits",
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


@dataclass(frozen=True, eq=False)
class RowReading:
    """Of each row, on the CPU in float64: small, whatever the number of classes.

    Args:
        labels: [rows].
        predicted: [rows] the class with the largest logit, the first of equals.
        top: [rows] its log-probability, in nats.
        truth: [rows] the label's log-probability, in nats.
        classes: How many there are.
    """

    labels: Int[Tensor, "rows"]
    predicted: Int[Tensor, "rows"]
    top: Float[Tensor, "rows"]
    truth: Float[Tensor, "rows"]
    classes: int

    @property
    def correct(self) -> Bool[Tensor, "rows"]:
        """Whether the largest class is the label."""
        return self.predicted == self.labels

    def take(self, kept: Int[Tensor, "kept"]) -> RowReading:
        """Some of the rows."""
        return RowReading(self.labels[kept], self.predicted[kept], self.top[kept], self.truth[kept], self.classes)


def check_finite(finite: Bool[Tensor, "rows"], example: Int[Tensor, "rows"]) -> None:
    """Raise `NumericsError` naming the examples whose rows are not finite."""
    if not bool(finite.all()):
        bad = torch.unique(example[~finite.cpu()]).tolist()
        named = ", ".join(map(str, bad[:5])) + (f" and {len(bad) - 5} more" if len(bad) > 5 else "")
        raise NumericsError(
            f"{int((~finite).sum())} of {len(finite)} predictions are not finite (examples {named})",
            fix="the training has diverged: lower the learning rate",
        )


def read_rows(logits: Float[Tensor, "rows classes"], labels: Tensor, example: Int[Tensor, "rows"]) -> RowReading:
    """Read logits once, in chunks of rows, in float64.

    Args:
        logits: -inf masks a class.
        labels: [rows] classes.
        example: [rows] place of each row's example in the data, for errors.

    Raises:
        MismatchError: Labels that do not fit the logits.
        NumericsError: Logits that are not finite, by example.
    """
    if logits.ndim != 2 or labels.shape != logits.shape[:1] or labels.is_floating_point():
        raise MismatchError(
            "predictions and labels do not fit",
            expected="logits [rows, classes] and as many labels that are classes",
            got=f"logits {list(logits.shape)}, labels {list(labels.shape)} of {labels.dtype}",
        )
    logits, labels = logits.detach(), labels.to(logits.device)
    check_labels(labels, logits.shape[1], name="evaluation", of="model")
    predicted, top, truth = [], [], []
    step = max(1, ROWS_A_CHUNK_ELEMENTS // logits.shape[1])
    for chunk, own in zip(torch.split(logits, step), torch.split(labels, step), strict=True):
        best = chunk.argmax(dim=1)
        chunk = chunk.double()
        normaliser = torch.logsumexp(chunk, dim=1)
        predicted.append(best)
        top.append(chunk.gather(1, best[:, None]).squeeze(1) - normaliser)  # NaN where a row is not finite
        truth.append(chunk.gather(1, own.long()[:, None]).squeeze(1) - normaliser)
    found = RowReading(
        labels.cpu(), torch.cat(predicted).cpu(), torch.cat(top).cpu(), torch.cat(truth).cpu(), logits.shape[1]
    )
    check_finite(~found.top.isnan(), example)
    return found
