"""A teacher model in use by one run: at most one forward pass per batch, whoever needs it, in evaluation mode without gradients."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from torch import nn

from fractionate.data.batch import Batch, Split
from fractionate.errors import MismatchError
from fractionate.losses.kernels.vocabulary import HeadSignal
from fractionate.losses.objective import Signal
from fractionate.models.outputs import check_not_probabilities, device_of
from fractionate.system.fingerprints import model_hash, settings_text
from fractionate.system.hashing import content_hash, parts_of
from fractionate.tasks.predictions import Needs, Predictions
from fractionate.tasks.reader import Reader
from fractionate.tasks.task import Task
from fractionate.teachers.source import OpenTeacher
from fractionate.theory.number_signal import NumberSignal
from fractionate.theory.teacher_signal import TeacherSignal, check_finite

LEAVE_OUT = "leave the softmax out of the teacher; of stored probabilities: TeacherSignal(probabilities.log(), labels)"


def model_fingerprint(model: nn.Module) -> str:
    """A hash of all parameters, buffers and settings."""
    return content_hash(model_hash(model), settings_text(model))


def _trainable(model: nn.Module) -> str:
    """A hash of what training would change: buffers that are not saved are a model's own notes."""
    return content_hash(*parts_of(model.state_dict()))


@dataclass(eq=False)
class OpenModel(OpenTeacher):
    """A model run on every batch; `whole` is its signal on all the data where the objective needs statistics of it.

    The last batch's predictions are kept, so that logits, features and attention come from one pass.
    """

    task: Task
    reader: Reader
    view: str
    before: str
    whole: TeacherSignal | None = None
    last: Batch | None = None
    kept: Predictions | None = None
    checked: bool = False  # that it gives logits

    def predictions_for(self, batch: Batch) -> Predictions:
        """The model's predictions on this batch."""
        if self.kept is None or self.last is not batch:
            self.kept = self.task.read(self.reader, batch, head=self.task.teacher_head, view=self.view)
            self.last = batch
        return self.kept

    def signal_for(self, predictions: Predictions) -> Signal:
        """The teacher's rows on this very batch."""
        found = self.signal(predictions.batch)
        if self.whole is None or not isinstance(found, TeacherSignal):
            return found  # type: ignore[return-value]
        where = predictions.example.to(found.labels.device)
        return TeacherSignal(
            found.logits, found.labels, self.whole.class_relation, population=self.whole.population, rows=where
        )

    def signal(self, batch: Batch) -> TeacherSignal | HeadSignal | NumberSignal:
        """The signal of the rows of a batch. Raises `NumericsError` naming examples where it is not finite."""
        found = self.predictions_for(batch)
        if found.hidden is not None:
            layer = self.reader.head
            assert layer is not None
            bias = None if layer.bias is None else layer.bias.detach()
            return HeadSignal(found.hidden, layer.weight.detach(), found.labels, bias)
        logits = found.required_logits
        if self.task.reader.distributions:
            check_finite(logits, found.example)
            if not self.checked:
                check_not_probabilities(logits, LEAVE_OUT)
                self.checked = True
        return self.task.reader.signal(logits, found.labels)

    def check_unchanged(self) -> None:
        """Raise `MismatchError` if parameters or buffers are not what they were: something trained the teacher."""
        after = _trainable(self.reader.model)
        if after != self.before:
            raise MismatchError(
                "the teacher changed while it was read",
                expected=f"parameters and buffers with hash {self.before}",
                got=after,
                fix="student and teacher must not share modules; give the teacher a copy.deepcopy",
            )


@contextmanager
def open_model(task: Task, model: nn.Module, needs: Needs, split: Split, *, view: str = "") -> Iterator[OpenModel]:
    """A model opened for reading on the data of a split."""
    example = task.example(split).to(device_of(model)) if needs else None
    with task.open(model, needs, example, view=view) as reader:
        yield OpenModel(task, reader, view, _trainable(reader.model))
