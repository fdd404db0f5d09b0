"""Multi-label classification: a two-class row for each known label of an example, so that cells and objectives apply per label."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from jaxtyping import Float, Int
from torch import Tensor

from fractionate.data.batch import Batch
from fractionate.data.labels import IGNORED
from fractionate.errors import MismatchError
from fractionate.models.output_kinds import of_two_classes
from fractionate.tasks.kind import Kind, kinds


@kinds.register("multi-label")
@dataclass(frozen=True)
class MultiLabel(Kind):
    """Logits [batch, labels] of independent labels (before a sigmoid); labels [batch, labels] of 0 and 1, -100 where unknown.

    A row of label l has the two logits (0, z_l): softmax gives (1 - sigmoid(z_l), sigmoid(z_l)), cross-entropy is the binary one.
    Logits [batch, labels, 2] are taken as they are. Class 1 is "has the label": class-level cells take means over all labels.
    """

    metrics: ClassVar[tuple[str, ...]] = ("label-f1('micro')", "label-f1", "exact-match", "nll", "agreement")
    tokens: ClassVar[Literal["", "aligned", "next"]] = "aligned"
    whole_labels: ClassVar[bool] = False
    independent: ClassVar[bool] = True
    output_rows: ClassVar[bool] = False

    def labels(self, batch: Batch) -> Int[Tensor, "batch labels"]:
        """Labels as 0, 1 and -100. Raises `MismatchError` naming the examples that have others."""
        found = batch.labels
        known = (found == 0) | (found == 1) | (found == IGNORED)
        if found.ndim != 2 or not bool(known.all()):
            where = () if found.ndim != 2 else batch.index[(~known).any(dim=1).cpu()].tolist()
            raise MismatchError(
                "these are not rows of labels",
                expected=f"[batch, labels] of 0 and 1, {IGNORED} where a label is unknown",
                got=f"{list(found.shape)}"
                + (f", other numbers at examples {', '.join(map(str, where[:8]))}" if where else ""),
                fix="one column a label: scikit-learn's MultiLabelBinarizer makes them of lists of names",
            )
        return found.long()

    def outputs(self, values: Tensor, batch: Batch) -> Float[Tensor, "batch labels 2"]:
        """The two logits of every label. Raises `MismatchError` where there is not one output for each label."""
        if values.shape[:2] != batch.labels.shape[:2] or values.shape[2:] not in ((), (2,)):
            raise MismatchError(
                "the model does not give one logit for each label",
                expected=f"{list(batch.labels.shape)}",
                got=str(list(values.shape)),
                fix="one output a label, before the sigmoid; choose another head= if this is not the classifying one",
            )
        return values if values.ndim == 3 else of_two_classes(values, "logits")
