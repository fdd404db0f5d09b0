"""Teachers that are no torch modules: fitted estimators, ONNX files, functions; a module without parameters that gives logits."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fractionate.data.raw import Tokenizing
from fractionate.data.targets import TargetEncoding
from fractionate.errors import ConfigError, FractionateError, MismatchError, printable
from fractionate.models.estimators import METHODS, EstimatorRows, is_estimator, method_of
from fractionate.models.output_kinds import Outputs, as_logits, check_kind, of_two_classes, recognise
from fractionate.models.outputs import logits_of
from fractionate.models.teacher_files import FILES, PICKLES, OnnxFile, read_estimator
from fractionate.models.zoo import models
from fractionate.system.files import existing_file
from fractionate.system.fingerprints import fingerprint_object

UNREADABLE = "unreadable:"  # starts the identity of a teacher whose content cannot be read

Function = Callable[[Any], Any]


class FunctionTeacher(nn.Module):
    """A teacher behind a function of a batch's inputs, as a module without parameters whose forward gives logits.

    Args:
        function: Called with the inputs of a batch as the data give them (a tensor, a tuple or a mapping of tensors).
        outputs: What it gives; "auto" recognises the first batch, and holds every later one to it.
        classes: The number of logits that a row has to have; None: as many as come.
        content: What the function computes with, for the identity; None: the function itself.
        title: What messages call it; left out, the name of the function.

    Example:
        import torch
        from fractionate.models import FunctionTeacher
        teacher = FunctionTeacher(lambda inputs: torch.full((len(inputs), 3), 1 / 3), outputs="probabilities")
        print(teacher(torch.randn(2, 4)))
    """

    def __init__(
        self,
        function: Function,
        *,
        outputs: Outputs = "auto",
        title: str = "",
        classes: int | None = None,
        content: object = None,
    ) -> None:
        super().__init__()
        check_kind(outputs, "auto")
        self.function, self.outputs, self.classes = function, outputs, classes
        self.title = title or getattr(function, "__qualname__", type(function).__name__)
        self.content = function if content is None else content
        self.units: TargetEncoding | None = (
            None  # of the numbers that it predicts, where students learn standardised ones
        )
        self.independent = False  # whether columns are labels of their own, as a task of multiple labels says

    @cached_property
    def identity(self) -> str:
        """What tells this teacher from others: a hash of its file, or of its code and fitted arrays."""
        if isinstance(self.content, Path):
            with existing_file(self.content).open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        return identity_of(self.content)

    def get_extra_state(self) -> Tensor:
        """The identity, so that hashes of a model's state tell function teachers apart."""
        return torch.tensor(list(self.identity.encode()), dtype=torch.uint8)

    def set_extra_state(self, state: Any) -> None:
        """Raise `MismatchError` for the state of another teacher."""
        if not isinstance(state, Tensor) or not torch.equal(state, self.get_extra_state()):
            raise MismatchError(f"these are the weights of another teacher than {self.title}")

    def forward(self, *inputs: Any, **named: Any) -> Tensor:
        """Logits [batch, classes] or [batch, tokens, classes], on the device of the inputs."""
        given: Any = named or (inputs[0] if len(inputs) == 1 else inputs)
        values = self._numbers(self.function(given))
        if self.units is not None:
            values = self.units.standardised(values)
        if self.outputs == "auto":
            self.outputs = recognise(values, independent=self.independent)
        if self.independent and values.ndim == 2:
            return as_logits(of_two_classes(values, self.outputs), self.outputs)
        if self.classes is not None and values.ndim == 2 and values.shape[-1] != self.classes:
            raise MismatchError(
                f"{self.title} and the data differ in the number of classes",
                expected=f"{self.classes} classes",
                got=f"{values.shape[-1]} numbers per row",
                fix="use a teacher of these classes, or map its outputs to them in a function",
            )
        return as_logits(values, self.outputs)

    def _numbers(self, raw: Any) -> Tensor:
        try:
            found = logits_of(raw)
        except FractionateError as error:
            raise MismatchError(
                "the teacher does not return logits",
                expected="floating point [batch, classes] with at least 2 classes",
                got=f"{error.got} from {self.title}",
                fix="return an array or tensor of logits, log-probabilities, probabilities or percentages",
            ) from error
        return found.detach().to(torch.promote_types(found.dtype, torch.float32))

    def extra_repr(self) -> str:
        """The title: the identity holds the rest."""
        return self.title


def identity_of(content: object) -> str:
    """A hash of what a teacher computes with; one that starts with `UNREADABLE` holds for this process alone."""
    found = fingerprint_object(content)
    return f"{UNREADABLE}{', '.join(found.unreadable)}:{found.digest}" if found.unreadable else found.digest


def is_function_teacher(value: object) -> bool:
    """Whether `as_teacher_module` makes a teacher of it: an estimator, a function, the path of an ONNX or skops file."""
    if isinstance(value, (str, Path)):
        return Path(value).suffix in (*FILES, *PICKLES)
    return is_estimator(value) or (callable(value) and not isinstance(value, (nn.Module, type)))


def as_teacher_module(
    teacher: Any, *, outputs: Outputs = "auto", classes: int | None = None, class_names: Sequence[str] = ()
) -> nn.Module:
    """A module of a teacher: a module as it is; an estimator, a function, the path of an ONNX or skops file as `FunctionTeacher`.

    Args:
        outputs: What it gives where that is not recognised: logits, log-probabilities, probabilities or percentages.
        classes: How many classes the data have, where that is known.
        class_names: Their names, for estimators that were fitted on names.
        teacher: What collects or distils take as a teacher and is not a signal.

    Returns:
        A module whose forward gives logits.

    Raises:
        ConfigError: for what is no teacher, for pickles, and for estimators without probabilities.

    Example:
        import torch
        from fractionate.models import as_teacher_module

        teacher = as_teacher_module(lambda inputs: inputs[:, :4], outputs="logits")
        print(teacher(torch.randn(2, 8)).shape)
    """
    if isinstance(teacher, nn.Module):
        return teacher
    content: object = None
    if isinstance(teacher, (str, Path)):
        path = Path(teacher)
        if path.suffix in PICKLES:
            raise ConfigError(
                f"{path.name} is a pickle, which can run code when it is read",
                expected=", ".join(FILES),
                fix=f"where you trust it: skops.io.dump(joblib.load({path.name!r}), {path.stem + '.skops'!r})",
            )
        if path.suffix == ".skops":
            teacher, content = read_estimator(path), path
        else:
            teacher, content = OnnxFile(path), path
    title = ""
    if is_estimator(teacher):
        content = teacher if content is None else content
        method = method_of(teacher, outputs)
        gives = METHODS.get(method, "numbers")
        if outputs not in ("auto", gives):
            raise ConfigError(
                f"{type(teacher).__name__}.{method} gives {gives}", got=f"outputs={outputs!r}",
                fix="leave outputs= out",
            )  # fmt: skip
        outputs = gives
        teacher = EstimatorRows(teacher, method, tuple(class_names), classes)
        title = teacher.title
    elif not callable(teacher):
        raise ConfigError(
            "this is not a teacher",
            expected="a torch module, a fitted estimator, a function of a batch, or the path of an .onnx or .skops file",
            got=type(teacher).__name__,
        )
    return FunctionTeacher(
        teacher, outputs=outputs, title=title or str(content or ""), classes=classes, content=content
    )


@dataclass(frozen=True)
class FileTeacher:
    """What builds a teacher from a file, by name in run files; `trained`: it is used as it is."""

    file: str
    outputs: Outputs = "auto"
    trained: bool = True

    def tokenizing(self, length: int) -> Tokenizing | None:
        """None: it reads numbers."""
        return None

    def build(self, need: Any) -> nn.Module:
        """The teacher for a task; of a regression its numbers are what it predicts."""
        numbers = need.kind == "regression" and self.outputs == "auto"
        made = as_teacher_module(
            Path(self.file).expanduser(),
            outputs="numbers" if numbers else self.outputs,
            classes=None if numbers else need.classes or None,
            class_names=need.class_names,
        )
        if numbers and isinstance(made, FunctionTeacher):
            made.units = need.units
        return made


@models.register("onnx")
def from_onnx(file: str, *, outputs: Outputs = "auto") -> FileTeacher:
    """A teacher in an ONNX file, run by onnxruntime as it is: `onnx('teacher.onnx')`."""
    check_kind(outputs, "auto")
    return FileTeacher(_with_suffix(file, ".onnx"), outputs)


@models.register("sklearn")
def from_skops(file: str) -> FileTeacher:
    """A fitted scikit-learn estimator in a skops file, used as it is: `sklearn('forest.skops')`."""
    return FileTeacher(_with_suffix(file, ".skops"))


def _with_suffix(file: str, suffix: str) -> str:
    if Path(file).suffix not in (suffix, *PICKLES):
        raise ConfigError(f"cannot read {printable(file)!r}", expected=f"a {suffix} file")
    return file
