"""One way to ask any teacher: a module, a Hugging Face model, an ONNX file, a function that returns logits or probabilities."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor, nn

from fractionate.data.batch import Batch
from fractionate.data.labels import IGNORED
from fractionate.errors import ConfigError, MismatchError, MissingExtraError, NumericsError, reason
from fractionate.models.modes import eval_mode
from fractionate.models.outputs import Head, call, logits_of
from fractionate.models.placing import placed
from fractionate.store.keys import Keyed
from fractionate.system.paths import as_path
from fractionate.tasks.classification import Classification
from fractionate.tasks.kind import Kind
from fractionate.tasks.model_inputs import ModelInputs
from fractionate.tasks.task import Task
from fractionate.theory.teacher_signal import relation_from_rows

Outputs = Literal["logits", "probabilities"]
Precision = Literal["float32", "bfloat16", "float16"]
Tokens = Literal["", "aligned", "next"]
VIEW = "teacher"  # the view of a batch that a teacher reads; the student's inputs where the data have none
PLAIN = Classification()  # what data that are no task are read as
RELATION_CLASSES = 4096  # above it a classes × classes table is larger than it is useful


class OnnxTeacher:
    """A teacher in an ONNX file, run by onnxruntime on the CPU; its inputs by name or in order, its first output."""

    def __init__(self, file: Path | str) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise MissingExtraError("ONNX teachers need onnxruntime", fix="pip install 'fractionate[onnx]'") from error
        self.file = as_path(file)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        try:
            self.session = onnxruntime.InferenceSession(self.file, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime raises classes of its own for each way a file can be wrong
            raise ConfigError(f"cannot read {self.file} as ONNX", got=reason(error)) from error

    def __call__(self, inputs: Any) -> Tensor:
        names = [wanted.name for wanted in self.session.get_inputs()]
        if isinstance(inputs, Mapping):
            given = {name: torch.as_tensor(inputs[name]).cpu().numpy() for name in names if name in inputs}
        else:
            parts = inputs if isinstance(inputs, (tuple, list)) else (inputs,)
            given = {
                name: torch.as_tensor(part).detach().cpu().numpy() for name, part in zip(names, parts, strict=True)
            }
        return torch.as_tensor(self.session.run(None, given)[0])

    def __repr__(self) -> str:
        return f"OnnxTeacher({self.file.name})"


@dataclass(frozen=True, eq=False)
class ByPlace:
    """A teacher that has spoken elsewhere: called with places, gives their rows."""

    rows: Tensor

    def __call__(self, places: Tensor) -> Tensor:
        return self.rows[places]


def kind_of(data: Any) -> tuple[Kind, Head]:
    """How a task makes rows of what its teacher gives; of data that are no task, one row an example or token."""
    return (data.reader, data.teacher_head) if isinstance(data, Task) else (PLAIN, None)


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
        outputs: Outputs = "logits",
        precision: Precision = "float32",
        classes: int | None = None,
    ) -> None:
        if isinstance(teacher, (str, Path)):
            teacher = OnnxTeacher(teacher)
        if not callable(teacher):
            raise ConfigError(
                "this is not a teacher",
                expected="a torch module, a function of a batch, or the path of an ONNX file",
                got=type(teacher).__name__,
            )
        if outputs not in ("logits", "probabilities") or precision not in ("float32", "bfloat16", "float16"):
            raise ConfigError("outputs or precision is not known", got=f"{outputs!r}, {precision!r}")
        self.teacher, self.device, self.outputs, self.precision = teacher, torch.device(device), outputs, precision
        self.kind, self.head, self.classes = kind, head, classes
        self.there = self.device  # where its inputs belong
        self.takes = ModelInputs.of(teacher) if isinstance(teacher, nn.Module) else None

    @contextlib.contextmanager
    def ready(self) -> Iterator[None]:
        """The teacher in evaluation mode on its device, put back afterwards: mode, module by module, and device."""
        if not isinstance(self.teacher, nn.Module):
            yield
            return
        with eval_mode(self.teacher), placed(self.teacher, self.device) as self.there:
            yield

    def __call__(self, batch: Batch) -> tuple[Float[Tensor, "batch *tokens classes"], Tensor]:
        """The logits of a batch's rows and their labels, on the CPU."""
        batch = batch.to(self.there)
        half = contextlib.nullcontext() if self.precision == "float32" else torch.autocast(
            self.there.type, dtype=getattr(torch, self.precision)
        )  # fmt: skip
        with torch.inference_mode(), half:
            if isinstance(self.teacher, nn.Module):
                raw = call(self.teacher, self.takes(batch, VIEW))
            else:
                raw = self.teacher(batch.index if isinstance(self.teacher, ByPlace) else batch.view(VIEW))
        values = self._checked(raw, batch)
        values = values.to(values.dtype if values.dtype == torch.float64 else torch.float32).cpu()
        values = values if self.outputs == "logits" else log_of_probabilities(values)
        if self.classes is not None and values.shape[-1] < self.classes:
            raise MismatchError(
                "the tokenizer knows more strings than the teacher has logits",
                expected=f"at least {self.classes:,} logits a token",
                got=f"{values.shape[-1]:,}",
                fix="give the tokenizer that belongs to this teacher",
            )
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
        values = self.kind.outputs(values, batch)
        if values.ndim not in (2, 3) or values.shape[-1] < 2:
            raise MismatchError(
                "the teacher does not return logits",
                expected="floating point [batch, classes] (or [batch, tokens, classes]) with at least 2 classes",
                got=f"{values.dtype} {list(values.shape)}",
            )
        return values


def log_of_probabilities(values: Tensor) -> Tensor:
    """Logits that give the probabilities back: their logarithm (−inf for 0)."""
    total = values.sum(dim=-1)
    wrong = ~((values >= 0).all(dim=-1) & ((total - 1).abs() < 1e-2))
    if bool(wrong.any()):
        row = values.reshape(-1, values.shape[-1])[int(wrong.flatten().nonzero()[0])]
        raise NumericsError(
            "the teacher's outputs are not probabilities",
            expected="numbers from 0 that sum to 1",
            got=f"least {row.min().item():g}, sum {row.sum().item():g}",
            fix='if these are logits, leave outputs="logits"',
        )
    return values.log()


def token_rows(
    logits: Float[Tensor, "batch *tokens classes"],
    labels: Tensor,
    tokens: str,
    source: Keyed,
    places: NDArray[np.int64],
) -> tuple[Float[Tensor, "rows classes"], Tensor, NDArray[np.int64] | None]:
    """Rows of logits with their labels, and how many rows each example has (None: one each).

    Raises `MismatchError` where the logits have tokens and it was not said how labels belong to them, or the reverse.
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


def find_relation(teacher: Any, classes: int) -> Float[Tensor, "classes classes"] | None:
    """The cosines of the rows of the teacher's last linear layer that has one row a class; None where there is none."""
    if not isinstance(teacher, nn.Module) or classes > RELATION_CLASSES:
        return None
    head: Callable[[], Any] | None = getattr(teacher, "get_output_embeddings", None)
    layers = [head() if head is not None else None, *reversed(list(teacher.modules()))]
    for layer in layers:
        if isinstance(layer, nn.Linear) and layer.out_features == classes:
            return relation_from_rows(layer.weight.float().cpu())
    return None
