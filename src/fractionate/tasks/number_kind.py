"""What tasks without classes share: one row an example, labels that are numbers, teachers' numbers as they are."""

from __future__ import annotations

from typing import ClassVar, Protocol

import torch
from torch import Tensor

from fractionate.data.batch import Batch
from fractionate.errors import MismatchError
from fractionate.tasks.kind import Kind, Rows
from fractionate.tasks.predictions import Predictions


class NumberKind(Kind, Protocol):
    """A task whose rows are numbers: a subclass says what `outputs` and labels look like, and which loss labels have."""

    distributions: ClassVar[bool] = False
    whole_labels: ClassVar[bool] = False
    output_rows: ClassVar[bool] = False

    def rows(self, values: Tensor, batch: Batch) -> Rows:
        """One row an example."""
        return self.outputs(values, batch), self.labels(batch), None

    def label_rows(self, batch: Batch) -> tuple[Tensor, Tensor | None]:
        """One row an example."""
        return self.labels(batch), None

    def count(self, batch: Batch) -> float:
        """The number of examples, or the sum of their weights."""
        return float(len(batch.labels)) if batch.weight is None else float(batch.weight.sum())

    def check_labels(self, predictions: Predictions, classes: int) -> None:
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
