"""Whether data, models and metrics of a task fit together, found before anything is trained: every fault in one error."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import torch
from torch import nn

from fractionate.data.batch import Batch, Split
from fractionate.data.parts import first_batch
from fractionate.errors import FractionateError, MismatchError, NumericsError, reason
from fractionate.models.modes import eval_mode
from fractionate.models.outputs import Head, check_not_probabilities, device_of
from fractionate.tasks.kind import check_not_copied
from fractionate.tasks.metric import Metric
from fractionate.tasks.predictions import Predictions
from fractionate.tasks.task import Task

FEW, MOST_LABELS = 4, 1 << 20  # examples of each split that are tried; labels that are checked at once


@dataclass(frozen=True)
class Fault:
    """A part of a task that does not fit: student, teacher, transfer, validation, test or "metric NAME", and what is wrong."""

    part: str
    error: FractionateError


def check_fit(task: Task, student: nn.Module, *teachers: nn.Module | int | None) -> int:
    """Raise one error with every way in which data, models and metrics do not fit (`find_faults`).

    Args:
        task: Its data and metrics.
        student: As it will be trained.
        teachers: Models that are run on the data, and the numbers of classes of those whose outputs are kept; None: unknown.

    Returns:
        The number of the student's outputs.

    Raises:
        MismatchError: the one fault there is, or all of them.

    Example:
        import torch
        from torch import nn
        from fractionate.tasks import Task, check_fit

        task = Task("classification", transfer=(torch.randn(40, 8), torch.arange(40) % 4))
        print(check_fit(task, nn.Linear(8, 4)))
    """
    found, outputs = find_faults(task, student, *teachers)
    raise_faults([fault.error for fault in found])
    return outputs


def find_faults(task: Task, student: nn.Module, *teachers: nn.Module | int | None) -> tuple[list[Fault], int]:
    """Every way in which data, models and metrics do not fit.

    Four examples of each split go through the models in evaluation mode, and through the metrics; labels that are known are all
    checked. Models and random state are left as they were.

    Args:
        task: Data, metrics, and how a model is read.
        student: As it will be trained.
        teachers: Models that are run on the data, and the numbers of classes of those whose outputs are kept; None: unknown.

    Returns:
        The faults, and the number of the student's outputs.
    """
    splits = {name: getattr(task.splits, name) for name in ("transfer", "validation", "test")}
    tried = _Tried(task)
    with torch.random.fork_rng(devices=[]):
        outputs = 0
        judged: tuple[Split, Predictions] | None = None
        for name, split in splits.items():
            # a student that cannot read the one split cannot read the others
            if split is None or (name != "transfer" and not outputs):
                continue
            where = "" if name == "transfer" else name
            with tried.faults(name, where):
                labels = tried.labels(split)
                with tried.faults(name if where else "student", where):
                    read = tried.read("the student", student, split, task.head)
                    labels = labels or [read]
                    if where:
                        judged = (split, read)
                    else:
                        outputs = tried.check_student(student, read)
                for some in labels if outputs else ():
                    task.reader.check_predictions(some, outputs)
        if judged is not None:
            tried.check_metrics(student, *judged)
        for teacher in dict.fromkeys(teachers):
            with tried.faults("teacher"):
                tried.check_classes(teacher, outputs)
    return tried.found, outputs


@dataclass(eq=False)
class _Tried:
    """The faults of a task so far."""

    task: Task
    found: list[Fault] = field(default_factory=list)
    batches: dict[int, Batch] = field(default_factory=dict)

    @contextmanager
    def faults(self, part: str, where: str = "") -> Iterator[None]:
        """Note a fault, and continue. Predictions that are not finite are left to the training, which names the examples."""
        try:
            yield
        except NumericsError:
            pass
        except FractionateError as error:
            what = error.what.removeprefix("data: ")
            what = f"{where}: {what}" if where else what
            self.found.append(Fault(part, MismatchError(what, expected=error.expected, got=error.got, fix=error.fix)))

    def read(self, who: str, model: nn.Module, split: Split, head: Head, view: str = "") -> Predictions:
        """A model's predictions on a few examples of a split. Raises `MismatchError` where it cannot read them."""
        if id(split) not in self.batches:
            self.batches[id(split)] = first_batch(split, FEW, 0)
        batch = self.batches[id(split)].to(device_of(model))
        try:
            with self.task.open(model) as reader:
                found = self.task.read(reader, batch, head=head, view=view)
        except FractionateError:
            raise
        except Exception as error:  # a model of the person's own may raise anything
            if isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "can't allocate memory" in str(error):
                raise
            raise MismatchError(
                f"{who} cannot take these inputs",
                expected=f"inputs as {split.name} has them",
                got=reason(error, 300),
            ) from error
        assert found.required_logits is not None
        return found

    def labels(self, split: Split) -> list[Predictions]:
        """All labels as rows, where they are known. Raises `MismatchError` for those that are none of this task."""
        if split.labels is None or not len(split):
            return []
        size = max(1, MOST_LABELS * len(split) // split.labels.numel())
        found = []
        for part in torch.split(torch.arange(len(split)), size):
            batch = Batch(None, split.labels[part.to(split.labels.device)], part)
            rows, place = self.task.reader.label_rows(batch)
            found.append(Predictions(logits=None, labels=rows, place=place, batch=batch))
        return found

    def check_student(self, student: nn.Module, read: Predictions) -> int:
        """The student's outputs, 0 where they are none of this task.

        A language model read as a tagger would copy its inputs; a softmax at the end leaves no logits.
        """
        reader = self.task.reader
        with self.faults("student"):
            check_not_copied(student, read.batch, reader.tokens)
        if reader.distributions:
            with self.faults("student"):
                check_not_probabilities(read.required_logits, "leave the softmax out of the student", "student")
        self.check_outputs("student", read)
        return read.required_logits.shape[-1]

    def check_outputs(self, who: str, read: Predictions) -> None:
        """Outputs that are not floating-point rows of as many classes as have names."""
        logits, names = read.required_logits, self.task.class_names
        classes = logits.shape[-1] if self.task.reader.independent else len(names) or logits.shape[-1]  # else of labels
        if logits.shape[-1] != classes or not logits.is_floating_point() or logits.layout != torch.strided:
            raise MismatchError(
                f"the {who} does not fit the data",
                expected=f"floating-point logits [{len(read)}, {classes}]",
                got=f"{logits.dtype} {list(logits.shape)}, {logits.layout}",
                fix="give it as many outputs as there are classes, in their order",
            )

    def check_classes(self, teacher: nn.Module | int | None, outputs: int) -> None:
        """A teacher that cannot read the transfer set, or has other classes than the student."""
        if isinstance(teacher, nn.Module):
            view, head = "teacher", self.task.teacher_head
            found = self.read("the teacher", teacher, self.task.splits.transfer, head, view)
            self.check_outputs("teacher", found)
            teacher = found.required_logits.shape[-1]
        if self.task.reader.distributions and outputs and teacher not in (None, outputs):
            raise MismatchError(
                "student and teacher have different classes",
                expected=f"{teacher} outputs, as the teacher",
                got=f"{outputs}",
                fix="give the student the teacher's classes, or map the teacher's classes onto the student's",
            )

    def check_metrics(self, student: nn.Module, split: Split, read: Predictions) -> None:
        """Metrics that do not read what this task predicts; those that compare with a teacher are left out."""
        for metric in self.task.judged:
            if not metric.reads_teacher:
                with self.faults(f"metric {metric.name}", f"metric {metric.name}"):
                    metric.add(metric.start(), self._needed(metric, student, split, read).detached(), None)

    def _needed(self, metric: Metric, student: nn.Module, split: Split, read: Predictions) -> Predictions:
        """The predictions with what a metric reads inside the student; of text its first token."""
        needs = replace(metric.needs, generated=0)
        if needs:
            with self.task.open(student, needs, read.batch) as reader:
                read = self.task.read(reader, read.batch, head=self.task.head)
        if metric.needs.generated:
            with eval_mode(student):
                read = replace(read, generated=self.task.reader.generate(student, read.batch, 1))
        return read


def raise_faults(found: list[FractionateError]) -> None:
    """Raise the fault, or one error that holds them all."""
    if len(found) == 1:
        raise found[0]
    if found:
        listed = (f"{number}. " + " ".join(str(fault).split()) for number, fault in enumerate(found, 1))
        raise MismatchError(
            f"{len(found)} parts of the task do not fit",
            expected="data, models and metrics of one task",
            got="\n".join(listed),
            fix="each as it says",
        )
