"""What differs from task to task: how outputs become rows, which loss the labels have, which metrics judge. One file per kind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, Protocol

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from fractionate.data.batch import Batch
from fractionate.data.labels import IGNORED, check_labels
from fractionate.errors import MismatchError
from fractionate.models.outputs import rows as select_rows
from fractionate.system.registry import Registry
from fractionate.tasks.predictions import Predictions
from fractionate.theory.number_signal import NumberSignal
from fractionate.theory.teacher_signal import TeacherSignal

Rows = tuple[Tensor, Tensor, Tensor | None]  # values [rows, …], labels [rows], place [rows] or None


class Kind(Protocol):
    """A kind of task: frozen, registered by name; a subclass says what differs from one row per example or labelled token.

    `metrics` are names of the registry of metrics; the first decides.
    """

    metrics: ClassVar[tuple[str, ...]]
    distributions: ClassVar[bool] = True  # rows are distributions over classes: cells, spectrum and objectives apply
    whole_labels: ClassVar[bool] = True  # labels are whole numbers; False lets floating-point numbers through
    output_rows: ClassVar[bool] = (
        True  # logits are those of the output layer: its rows relate classes, losses read its inputs
    )
    independent: ClassVar[bool] = False  # outputs [batch, labels] are labels of their own, a sigmoid each
    predicts_next: ClassVar[bool] = False  # the logits at a token are about the label of the next
    tokens: ClassVar[Literal["", "aligned", "next"]] = (
        ""  # how a stored signal's rows belong to tokens; "": one row per example
    )

    teacher_terms: ClassVar[
        tuple[str, ...]
    ] = ()  # what is learned from a teacher by usual where objectives do not apply

    @property
    def label_formula(self) -> str:
        """The loss on labels, for contracts."""
        return "CE(label, student)"

    @property
    def couples_batch(self) -> bool:
        """Whether the loss on labels of an example depends on the others of its batch: no micro-batches, one process."""
        return False

    def labels(self, batch: Batch) -> Tensor:
        """A batch's labels, one for each row; `IGNORED` where there is no row."""
        return batch.labels

    def outputs(self, values: Tensor, batch: Batch) -> Tensor:
        """What a model gives, one entry for each of `labels`, its classes last."""
        return values

    def rows(self, values: Tensor, batch: Batch) -> Rows:
        """The rows of logits, or of what enters the output layer."""
        return select_rows(
            self.outputs(values, batch), self.labels(batch), predicts_next=self.predicts_next, complete=batch.complete
        )

    def label_rows(self, batch: Batch) -> tuple[Tensor, Tensor | None]:
        """Labels and places of the rows, where no model has read the batch."""
        labels = self.labels(batch)
        _, found, place = select_rows(
            labels.unsqueeze(-1).double(), labels, predicts_next=self.predicts_next, complete=batch.complete
        )
        return found, place

    def count(self, batch: Batch) -> float:
        """The weight of a batch's rows, known before the forward pass."""
        return count_labels(batch, self.labels(batch), predicts_next=self.predicts_next)

    def signal(self, values: Tensor, labels: Tensor) -> TeacherSignal | NumberSignal:
        """A teacher's rows as what students learn from: logits, or numbers where rows are no distributions."""
        values = values.to(torch.promote_types(values.dtype, torch.float32))
        return TeacherSignal(values, labels) if self.distributions else NumberSignal(values, labels)

    def unrelated(self, values: Tensor, shuffled: Tensor) -> Tensor:
        """A teacher's numbers made wrong about their rows, given those of other rows: what a diagnosis compares it with."""
        return shuffled

    def label_loss(self, predictions: Predictions) -> Float[Tensor, "rows"]:
        """The loss on labels alone."""
        return cross_entropy(predictions)

    def check_predictions(self, predictions: Predictions, classes: int) -> None:
        """Raise `MismatchError` naming the examples whose label the student cannot learn."""
        check_class_labels(predictions, classes)

    def generate(self, model: nn.Module, batch: Batch, tokens: int) -> Sequence[Sequence[int]]:
        """Greedy text for metrics that read it. Raises `MismatchError` where models of this task write none."""
        raise MismatchError(
            f"{type(model).__name__} writes no text in this task",
            expected="a task whose metrics read text: translation",
        )


kinds: Registry[Kind] = Registry(
    "task",
    "fractionate.tasks",
    files=(
        "tasks.classification",
        "tasks.embeddings",
        "tasks.language_modelling",
        "tasks.multi_label",
        "tasks.regression",
        "tasks.reranking",
        "tasks.token_classification",
        "tasks.translation",
    ),
)


def count_labels(batch: Batch, labels: Tensor, *, predicts_next: bool = False) -> float:
    """The number of rows of a batch, or the sum of their examples' weights."""
    if batch.complete and batch.weight is None and labels.ndim == 1:
        return float(len(labels))
    labels = labels[:, 1:] if predicts_next and labels.ndim > 1 else labels
    valid = labels != IGNORED
    if batch.weight is None:
        return float(valid.sum())
    return float((valid.to(batch.weight.dtype) * batch.weight.reshape(-1, *[1] * (valid.ndim - 1))).sum())


def cross_entropy(predictions: Predictions) -> Float[Tensor, "rows"]:
    """Cross-entropy of each row with its label, in float32 at least."""
    logits = predictions.required_logits
    return functional.cross_entropy(
        logits.to(torch.promote_types(logits.dtype, torch.float32)), predictions.labels, reduction="none"
    )


def check_class_labels(predictions: Predictions, classes: int) -> None:
    """Raise `MismatchError` naming the examples whose label is no class of the student."""
    if len(predictions):
        check_labels(
            predictions.labels,
            classes,
            name="data",
            shown=lambda row: str(int(predictions.example[row])),
            of="student",
        )


def check_not_copied(model: Any, batch: Batch, tokens: str) -> None:
    """Raise `MismatchError` where labels are the inputs themselves and each token is to be predicted at its own place.

    Of an encoder-decoder they may be: its decoder reads the labels one place later.
    """
    if getattr(getattr(model, "config", None), "is_encoder_decoder", False):
        return
    inputs = batch.inputs
    ids = inputs.get("input_ids") if isinstance(inputs, Mapping) else inputs
    labels = batch.labels
    if tokens == "next" or labels.ndim != 2 or not isinstance(ids, Tensor) or ids.shape != labels.shape:
        return
    counted = labels != IGNORED
    if bool(counted.any()) and torch.equal(ids[counted], labels[counted]):
        raise MismatchError(
            "the labels are the inputs themselves: a model would learn to copy each token",
            expected="predicts_next=True (a language model: each token is predicted at the one before it)",
            got="labels equal to input_ids wherever a token counts",
            fix="pass predicts_next=True (to collect: tokens='next'), or Task('language-modelling', ...)",
        )


def inputs_by_name(inputs: Any) -> dict[str, Any]:
    """The named inputs of a batch. Raises `MismatchError` for inputs without names."""
    if not isinstance(inputs, Mapping):
        raise MismatchError("inputs have no names", expected="a mapping with input_ids", got=type(inputs).__name__)
    return dict(inputs)


class NumberKind(Kind, Protocol):
    """A task whose rows are numbers: a subclass says what `outputs` and labels look like, and which loss labels have."""

    distributions: ClassVar[bool] = False
    whole_labels: ClassVar[bool] = False
    output_rows: ClassVar[bool] = False

    def rows(self, values: Tensor, batch: Batch) -> Rows:
        """One row per example."""
        return self.outputs(values, batch), self.labels(batch), None

    def label_rows(self, batch: Batch) -> tuple[Tensor, Tensor | None]:
        """One row per example."""
        return self.labels(batch), None

    def count(self, batch: Batch) -> float:
        """The number of examples, or the sum of their weights."""
        return float(len(batch.labels)) if batch.weight is None else float(batch.weight.sum())

    def check_predictions(self, predictions: Predictions, classes: int) -> None:
        """Raise `MismatchError` naming the examples whose label is no finite number."""
        labels = predictions.labels
        wrong = ~torch.isfinite(labels.reshape(len(labels), -1)).all(dim=1)
        if bool(wrong.any()):
            shown = ", ".join(map(str, predictions.example[wrong.cpu()][:8].tolist()))
            raise MismatchError(
                f"{int(wrong.sum())} of {len(labels)} labels are not finite numbers (examples {shown})",
                expected="a number for each example",
                fix="leave out the examples that have no label",
            )
