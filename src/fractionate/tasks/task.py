"""A task: data in splits, models by name, how outputs become rows, and the metrics that judge them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import nn

from fractionate.data.batch import Batch, Split
from fractionate.data.splits import as_split
from fractionate.errors import ConfigError, printable
from fractionate.models.additive import EXPLANATIONS
from fractionate.models.function import FunctionTeacher
from fractionate.models.modes import eval_mode
from fractionate.models.outputs import Head, device_of, logits_of
from fractionate.models.placing import check_ready
from fractionate.records import Scores
from fractionate.system.fingerprints import callable_fingerprint
from fractionate.system.registry import nearest
from fractionate.tasks.evaluate import evaluate_metrics
from fractionate.tasks.kind import Kind, kinds
from fractionate.tasks.metric import Metric, metrics
from fractionate.tasks.model_inputs import ModelInputs
from fractionate.tasks.predictions import NOTHING, Needs, Predictions, joined
from fractionate.tasks.reader import ATTENTION, FEATURES, HIDDEN, STATES, Captured, Reader, reading

Factory = Callable[[], nn.Module]


class TeacherOnBatch(Protocol):
    """What evaluations read of a teacher that is in use."""

    def signal_for(self, predictions: Predictions) -> Any:
        """Its signal of the student's rows."""
        ...

    def predictions_for(self, batch: Batch) -> Predictions | None:
        """Its own predictions, with attention or features where metrics need them."""
        ...


@dataclass(frozen=True, eq=False)
class Splits:
    """The parts of the data by name.

    Args:
        transfer: Students are trained on it.
        validation: Settings are chosen on it.
        test: Read once, for the results.
        teaching: A teacher may be trained on it.

    Example:
        import torch
        from fractionate.data import as_split
        from fractionate.tasks import Splits
        splits = Splits(as_split((torch.randn(6, 4), torch.arange(6) % 2)))
        print(len(splits.transfer), splits.test)
    """

    transfer: Split
    validation: Split | None = None
    test: Split | None = None
    teaching: Split | None = None


@dataclass(frozen=True, eq=False)
class Task:
    """What all students of a comparison share: data, students, metrics.

        task = Task("classification", transfer=train, test=test, student=lambda: MyModel())

    Args:
        kind: A name from the registry of tasks (`fractionate.tasks.kinds`), or a kind of your own.
        transfer, validation, test, teaching: Whatever the verbs take as data: a pair of tensors, a dataset, a loader, a `Split`.
        student: A function that returns a new student, or a mapping of these by name; called with the seed of the run set.
        metrics: Names or metrics; the first decides. Left out: those of the kind.
        head, teacher_head: Where the logits are in the outputs of student and teacher (an index, a name or a function).
        classes: The number of classes, where it is not the students' number of outputs.
        class_names: Names of the classes; left out, those of the data.
        batch_size, device: Examples at once in evaluations, and where they are read.
        output_layer: The path of the logit layer; left out, it is found.
        show: What an example of a split looks like, for the page: (split, place) to text, a picture or a row.

    Example:
        import torch
        from fractionate import Task
        data = (torch.randn(40, 4), torch.arange(40) % 2)
        task = Task("classification", transfer=data, test=data, student=lambda: torch.nn.Linear(4, 2))
        print(task.classes, [metric.name for metric in task.metrics])
    """

    kind: Kind | str
    transfer: Any = field(kw_only=True)
    validation: Any = field(default=None, kw_only=True)
    test: Any = field(default=None, kw_only=True)
    teaching: Any = field(default=None, kw_only=True)
    student: Factory | Mapping[str, Factory] | None = field(default=None, kw_only=True)
    name: str = field(default="", kw_only=True)
    metrics: Sequence[Metric | str] = field(default=(), kw_only=True)
    head: Head = field(default=None, kw_only=True)
    teacher_head: Head = field(default=None, kw_only=True)
    classes: int | None = field(default=None, kw_only=True)
    class_names: Sequence[str] = field(default=(), kw_only=True)
    batch_size: int = field(default=512, kw_only=True)
    device: str = field(default="cpu", kw_only=True)
    output_layer: str = field(default="", kw_only=True)
    show: Callable[[str, int], Any] | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        if isinstance(self.kind, str):
            object.__setattr__(self, "kind", kinds[self.kind])
        given = self.metrics or self.reader.metrics
        object.__setattr__(
            self, "metrics", tuple(metrics[m] if isinstance(m, str) else m for m in given) if len(metrics) else ()
        )

    @property
    def judged(self) -> tuple[Metric, ...]:
        """The metrics, none of them by name; the first decides."""
        return tuple(metric for metric in self.metrics if not isinstance(metric, str))

    @property
    def reader(self) -> Kind:
        """The kind, which makes rows."""
        assert not isinstance(self.kind, str)
        return self.kind

    @cached_property
    def splits(self) -> Splits:
        """The data. Raises `MismatchError` and `ConfigError` as `as_split` does."""
        classes = self.reader.whole_labels

        def read(name: str, data: Any) -> Split | None:
            return None if data is None else as_split(data, name, classes=classes)

        transfer = as_split(self.transfer, "transfer", classes=classes)
        others = {name: read(name, getattr(self, name)) for name in ("validation", "test", "teaching")}
        return Splits(transfer, **others)

    @property
    def inside(self) -> Needs:
        """What metrics read inside the teacher, in addition to its signal."""
        return joined(metric.needs for metric in self.judged if metric.reads_teacher)

    @cached_property
    def title(self) -> str:
        """What people call it."""
        return self.name or self.splits.transfer.name

    @property
    def deciding(self) -> Metric:
        """The metric by which weights, settings and variants are chosen."""
        first = self.metrics[0]
        assert not isinstance(first, str)
        return first

    # -- models ---------------------------------------------------------------------------------------------------------------

    def model(self, name: str = "student", seed: int = 0) -> nn.Module:
        """A fresh model by name, with the initial weights of a seed; the global random state is left as it was."""
        factories = self.student if isinstance(self.student, Mapping) else {"student": self.student}
        factory = factories.get(name)
        if factory is None:
            near = nearest(name, list(factories))
            raise ConfigError(
                f"the task has no model {name!r}",
                expected=f"one of {', '.join(factories)}" if self.student is not None else "Task(student=factory)",
                fix=f"did you mean {near!r}?" if near else "pass student=, a function that makes a fresh model",
            )
        if isinstance(factory, nn.Module):
            raise ConfigError(
                "student= is a model, not a function that makes one",
                expected="a function that makes a fresh model in each call",
                got=type(factory).__name__,
                fix="student=lambda: MyModel(...)",
            )
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            try:
                inspect.signature(factory).bind()
            except TypeError as error:
                raise ConfigError(
                    "the function that makes students cannot be called without arguments",
                    expected="a function without arguments",
                    got=printable(str(error)),
                    fix="student=lambda: MyModel(...)",
                ) from error
            except ValueError:  # a function without a signature, of C
                pass
            made = factory()
            check_ready(made)
            return made.to(self.device)

    def open(
        self, model: nn.Module, needs: Needs = NOTHING, example: Batch | None = None, *, view: str = ""
    ) -> AbstractContextManager[Reader]:
        """A reader of a model, with hooks for the needs; opened once per run, before the model is wrapped or compiled."""
        if isinstance(model, FunctionTeacher):
            model.independent = self.reader.independent
        inputs = None if example is None else ModelInputs.of(model)(example, view)
        return reading(model, needs, inputs, head=self.output_layer)

    def rows(self, output: Any, captured: Captured, batch: Batch, *, head: Head = None) -> Predictions:
        """A model's outputs on a batch, as rows. `head` is where its logits are."""
        hidden = captured.get(HIDDEN)
        values = logits_of(output, head) if hidden is None else hidden
        chosen, labels, place = self.reader.rows(values, batch)
        states = captured.get(STATES)
        explained = captured.get(EXPLANATIONS)
        if explained is not None and place is not None:
            explained = explained[place]
        return Predictions(
            logits=chosen if hidden is None else None,
            hidden=None if hidden is None else chosen,
            states=None if states is None else self.reader.rows(states, batch)[0],
            labels=labels,
            place=place,
            batch=batch,
            features=captured.get(FEATURES, {}),
            attention=captured.get(ATTENTION),
            explanations=explained,
            output=output,
        )

    def read(self, reader: Reader, batch: Batch, *, head: Head = None, view: str = "") -> Predictions:
        """One forward pass in evaluation mode without gradients, as rows."""
        with eval_mode(reader.model):
            output, captured = reader(reader.inputs_of(batch, view))
            return self.rows(output, captured, batch, head=head)

    def inputs_of(self, model: nn.Module, batch: Batch, view: str = "") -> Any:
        """What a model is called with on a batch."""
        return ModelInputs.of(model)(batch, view)

    # -- data -----------------------------------------------------------------------------------------------------------------

    def example(self, split: Split | None = None, size: int = 2) -> Batch:
        """A small batch, for shapes."""
        split = split or self.splits.transfer
        return next(iter(split.batches([(0, torch.arange(min(size, len(split))))], 0)))

    def predictions(
        self,
        model: nn.Module,
        split: Split,
        *,
        head: Head = None,
        view: str = "",
        batch_size: int | None = None,
        needs: Needs = NOTHING,
    ) -> Iterator[Predictions]:
        """A model's rows on all of a split, batch by batch, in evaluation mode without gradients; and what else is needed of it."""
        device = device_of(model)
        plan = ((0, index) for index in torch.split(torch.arange(len(split)), batch_size or self.batch_size))
        hooked = replace(needs, generated=0)
        with self.open(model, hooked, self.example(split).to(device) if hooked else None, view=view) as reader:
            for batch in split.batches(plan, 0):
                found = self.read(reader, batch.to(device), head=head, view=view)
                if needs.generated:
                    with eval_mode(model):
                        text = self.reader.generate(model, found.batch, needs.generated)
                    object.__setattr__(found, "generated", text)
                yield found

    def evaluate(
        self,
        model: nn.Module,
        split: Split,
        teacher: TeacherOnBatch | None = None,
        *,
        final: bool = True,
        head: Head = None,
        view: str = "",
    ) -> Scores:
        """All metrics in one pass over a split; nothing but their states is held.

        Args:
            teacher: A teacher in use (`source.open(task, split, None, task.inside)`), for metrics that compare with it.
            final: Metrics that are too expensive for evaluations during training too (BLEU).
            head, view: Of a model that is not a student: where its logits are, and which inputs it takes.
        """
        used = tuple(m for m in self.judged if final or not m.final_only)
        needs = joined(m.needs for m in used if teacher is not None or not m.reads_teacher)
        inside = any(m.needs and m.reads_teacher for m in used)

        def compared() -> Iterator[tuple[Predictions, Any]]:
            for found in self.predictions(
                model, split, head=self.head if head is None else head, view=view, needs=needs
            ):
                if teacher is None or not len(found):
                    yield found, None
                    continue
                if inside:
                    object.__setattr__(found, "teacher", teacher.predictions_for(found.batch))
                yield found, teacher.signal_for(found)

        return evaluate_metrics(compared(), used, final=final)

    def fingerprint(self) -> dict[str, str]:
        """What tells this task from others, field by field."""
        heads = {"head": self.head, "teacher_head": self.teacher_head}
        found = {
            "task": f"{type(self.kind).__name__}({self.kind!r})",
            **{name: callable_fingerprint(head) if callable(head) else repr(head) for name, head in heads.items()},
            "output_layer": self.output_layer,
            "classes": repr(self.classes),
            "metrics": ", ".join(metric.name for metric in self.judged),
        }
        for name in ("validation", "test"):
            split = getattr(self.splits, name)
            found[name] = "" if split is None else split.fingerprint()
        return found
