"""One way to run any teacher on batches: a module, a Hugging Face model, an estimator, an ONNX file, a function."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from fractionate.data.batch import Batch
from fractionate.data.labels import IGNORED
from fractionate.data.lengths import trimmed
from fractionate.errors import ConfigError, MismatchError
from fractionate.models.function import FunctionTeacher, as_teacher_module
from fractionate.models.modes import eval_mode
from fractionate.models.output_kinds import OutputKind, Outputs, as_logits, check_kind, of_two_classes
from fractionate.models.outputs import Head, logits_of
from fractionate.models.placing import check_ready, placed, spread
from fractionate.store.hidden import HiddenWatch, hidden_watch
from fractionate.store.keys import Keyed
from fractionate.tasks.classification import Classification
from fractionate.tasks.kind import Kind
from fractionate.tasks.model_inputs import ModelInputs
from fractionate.tasks.predictions import Needs
from fractionate.tasks.reader import FEATURES, Reader, reading
from fractionate.tasks.task import Task

Precision = Literal["float32", "bfloat16", "float16"]
Tokens = Literal["", "aligned", "next"]
VIEW = "teacher"  # the view of a batch that a teacher reads; the student's inputs where the data have none
PLAIN = Classification()  # what data that are no task are read as


@dataclass(frozen=True, eq=False)
class ByPlace:
    """A teacher that is called with the places of examples in the data: stored rows, or a function of raw examples.

        ByPlace(lambda places: classify([texts[place] for place in places.tolist()]))

    Only `collect` and `import_arrays` read by place: other verbs take the store.

    Args:
        answer: Called with [batch] places, gives [batch, classes].

    Example:
        import torch
        from fractionate import collect
        from fractionate.store import ByPlace
        logits = torch.randn(20, 3)
        data = torch.randn(20, 4), torch.arange(20) % 3
        print(collect(ByPlace(lambda places: logits[places]), data, "runs/rows", named="logits of 3 May"))
    """

    answer: Callable[[Tensor], Any]


def kind_of(data: Any) -> tuple[Kind, Head]:
    """How a task makes rows of what its teacher gives; of data that are no task, one row per example or token."""
    return (data.reader, data.teacher_head) if isinstance(data, Task) else (PLAIN, None)


def outputs_of(kind: Kind, wanted: Outputs, form: str) -> Outputs:
    """What the rows of a task are called in a store: of tasks without classes numbers. Raises `ConfigError` for what it has not."""
    fits = wanted != "numbers" if kind.distributions else wanted in ("auto", "numbers") and form == "dense"
    if not fits:
        raise ConfigError(
            f"the task {type(kind).__name__} gives {'logits' if kind.distributions else 'numbers, which are kept as they are'}",
            expected="logits or probabilities" if kind.distributions else 'form="dense", and outputs left out',
            got=f"form={form!r}, outputs={wanted!r}",
        )
    return wanted if kind.distributions else "numbers"


class Asker:
    """Asks a teacher batch by batch and gives logits [batch, classes] (or [batch, tokens, classes]) in float32 or float64.

    `kind` makes them of what the teacher gives. Of a vocabulary that was padded the first `classes` are kept.
    """

    def __init__(
        self,
        teacher: Any,
        *,
        kind: Kind = PLAIN,
        head: Head = None,
        device: str = "cpu",
        outputs: Outputs = "auto",
        precision: Precision = "float32",
        classes: int | None = None,
        class_names: Sequence[str] = (),
        features: Sequence[str] = (),
        device_map: str | Mapping[str, Any] | None = None,
        trim: bool = False,
        hidden: bool = False,
    ) -> None:
        check_kind(outputs, "auto")
        if precision not in ("float32", "bfloat16", "float16"):
            raise ConfigError("precision is not known", expected="float32, bfloat16 or float16", got=repr(precision))
        by_place = isinstance(teacher, ByPlace)
        self.teacher: Any = as_teacher_module(
            teacher.answer if by_place else teacher, outputs=outputs, class_names=class_names
        )
        if isinstance(self.teacher, FunctionTeacher):
            self.teacher.independent = kind.independent
        check_ready(self.teacher, "teacher")
        self.device, self.precision = torch.device(device), precision
        self.given: OutputKind = "logits" if outputs == "auto" else outputs
        if isinstance(self.teacher, FunctionTeacher) and outputs not in ("auto", self.teacher.outputs):
            raise ConfigError(
                f"{self.teacher.title} gives {self.teacher.outputs}",
                got=f"outputs={outputs!r}",
                fix="leave outputs= out",
            )
        self.kind, self.head, self.classes = kind, head, classes
        self.there = self.device  # where its inputs belong
        self.takes = None if by_place else ModelInputs.of(self.teacher)
        self.device_map, self.trim = device_map, trim
        self.needs = Needs(features=frozenset(features))
        self.reader: Reader | None = None
        self.features: Mapping[str, Tensor] = {}  # of the last batch
        self.hidden = hidden
        self.watch: HiddenWatch | None = None  # of the output layer, where hidden states are kept

    @property
    def outputs(self) -> Outputs:
        """What the teacher gives; "auto" for a function that has not answered yet."""
        return self.teacher.outputs if isinstance(self.teacher, FunctionTeacher) else self.given

    def expect(self, outputs: OutputKind) -> None:
        """Hold a function that has not answered yet to what it gave before."""
        if self.outputs == "auto":
            self.teacher.outputs = outputs

    @contextlib.contextmanager
    def ready(self) -> Iterator[None]:
        """The teacher in evaluation mode on its device, put back afterwards: mode, module by module, and device."""
        with (
            eval_mode(self.teacher),
            placed(self.teacher, self.device)
            if self.device_map is None
            else spread(self.teacher, self.device_map) as self.there,
            reading(self.teacher, self.needs) as self.reader,
            hidden_watch(self.teacher) if self.hidden else contextlib.nullcontext() as self.watch,
        ):
            yield

    def __call__(self, batch: Batch) -> tuple[Float[Tensor, "batch *tokens classes"], Tensor]:
        """The logits of a batch's rows and their labels, on the CPU."""
        batch = (trimmed(batch, VIEW) if self.trim else batch).to(self.there)
        half = contextlib.nullcontext() if self.precision == "float32" else torch.autocast(
            self.there.type, dtype=getattr(torch, self.precision)
        )  # fmt: skip
        with torch.inference_mode(), half:
            if self.takes is None:
                raw = self.teacher(batch.index)
            else:
                assert self.reader is not None, "run within ready()"
                raw, captured = self.reader(self.takes(batch, VIEW))
                self.features = captured.get(FEATURES, {})
        values = self._checked(raw, batch)
        values = values.to(values.dtype if values.dtype == torch.float64 else torch.float32).cpu()
        if not isinstance(self.teacher, FunctionTeacher):  # which gives logits whatever its function gives
            values = as_logits(values, self.given)
        if self.classes is not None and values.shape[-1] < self.classes:
            raise MismatchError(
                "the tokenizer knows more strings than the teacher has logits",
                expected=f"at least {self.classes:,} logits per token",
                got=f"{values.shape[-1]:,}",
                fix="give the tokenizer that belongs to this teacher",
            )
        if not self.kind.distributions:  # their labels are the data's affair: fingerprints of examples cover them
            return values, torch.zeros(len(values), dtype=torch.long)
        return values[..., : self.classes], self.kind.labels(batch).cpu()

    def _checked(self, raw: Any, batch: Batch) -> Tensor:
        try:
            values = logits_of(raw, self.head).detach()
        except MismatchError as error:
            raise MismatchError(
                "the teacher does not return logits",
                expected=error.expected,
                got=error.got,
                fix="return a tensor of logits",
            ) from error
        if self.kind.independent and values.ndim == 2 and not isinstance(self.teacher, FunctionTeacher):
            values = of_two_classes(values, self.given)
        values = self.kind.outputs(values, batch)
        if not self.kind.distributions:
            return values.flatten(1)
        if values.ndim not in (2, 3) or values.shape[-1] < 2:
            raise MismatchError(
                "the teacher does not return logits",
                expected="floating point [batch, classes] (or [batch, tokens, classes]) with at least 2 classes",
                got=f"{values.dtype} {list(values.shape)}",
            )
        return values


def token_rows(
    logits: Float[Tensor, "batch *tokens classes"],
    labels: Tensor,
    tokens: str,
    source: Keyed,
    places: NDArray[np.int64],
) -> tuple[Float[Tensor, "rows classes"], Tensor, NDArray[np.int64] | None]:
    """Rows of logits with their labels, and how many rows each example has (None: one each).

    Raises `MismatchError` where the logits have tokens and it is unknown how labels belong to them, or the reverse.
    """
    if tokens == "":
        if logits.ndim == 3:
            raise MismatchError(
                "this teacher answers token by token",
                expected="logits [batch, classes]",
                got=str(list(logits.shape)),
                fix='say how labels belong to tokens: tokens="next" for a causal language model, else tokens="aligned"',
            )
        return logits, labels, None
    if logits.ndim != 3 or labels.shape != logits.shape[:2] or labels.is_floating_point():
        raise MismatchError(
            "logits and labels do not fit token by token",
            expected="logits [batch, tokens, classes], whole-number labels [batch, tokens]",
            got=f"{list(logits.shape)}, {labels.dtype} {list(labels.shape)}",
        )
    labels = labels.cpu()
    if tokens == "next":
        logits, labels = logits[:, :-1], labels[:, 1:]
    valid = labels != IGNORED
    if not bool(valid.any()):
        raise MismatchError(
            f"{source.name}: no token of a batch has a label (first example {source.shown(int(places[0]))})",
            expected=f"labels other than {IGNORED}",
            got=f"{IGNORED} everywhere",
        )
    return logits[valid], labels[valid], valid.sum(dim=1).numpy().astype(np.int64)
