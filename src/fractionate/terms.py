"""Further losses on what happens inside a student: modules by path, hooks, and parts that live only while it is trained.

A *comparison* is one frozen dataclass: features of student and teacher in, one number an example out. `Hint` names the two modules
it compares. `taught` attaches hints to a student for the time of a `with` block and gives the term that `distill` takes:

    with taught(student, teacher, [Hint("fitnets", "0", "2", weight=1.0)], example=data.inputs[:2]) as term:
        distill(student, data, signal, terms=[term])

No model is edited: features are captured by forward hooks. Projectors and memories are children of the student named
`training_only` for the time of the block: they are trained with it and kept in its checkpoints, and are no part of
`student.safetensors`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fractionate.errors import ConfigError, MismatchError
from fractionate.models.hooks import TRAINING_ONLY, Tap, host_of
from fractionate.registry import Registry, nearest


@runtime_checkable
class Comparison(Protocol):
    """Features of student and teacher [batch, ...] in, one number an example out; the gradient reaches the student only."""

    def __call__(
        self, student: Float[Tensor, "batch ..."], teacher: Float[Tensor, "batch ..."]
    ) -> Float[Tensor, "batch"]: ...


@runtime_checkable
class Growing(Protocol):
    """A comparison with parts of its own: `parts(student, teacher, examples)` makes the module that then compares.

    The module is called with features, labels and the examples' places in the data.
    """

    def parts(self, student: Tensor, teacher: Tensor, examples: int) -> nn.Module: ...


terms: Registry[Comparison | Growing] = Registry("term", "fractionate.terms")


@dataclass(frozen=True)
class Hint:
    """Compare a module of the student with a module of the teacher, both by dotted path; an empty path is the model's output."""

    comparison: Comparison | Growing | str
    student: str
    teacher: str
    weight: float = 1.0
    name: str = ""

    def __post_init__(self) -> None:
        written = self.comparison if isinstance(self.comparison, str) else type(self.comparison).__name__
        if isinstance(self.comparison, str):
            object.__setattr__(self, "comparison", terms[self.comparison])
        if not (isinstance(self.weight, (int, float)) and 0 <= self.weight < float("inf")):
            raise ConfigError(f"the weight of {written} cannot be used", expected="at least 0", got=repr(self.weight))
        object.__setattr__(self, "name", self.name or f"{written}: {self.student} ~ {self.teacher}")


class Inside:
    """The weighted sum of hints as one term: called with the student's output, a batch and the signal, gives one number a row.

    `values` holds each hint's last losses, unweighted, by name.
    """

    def __init__(
        self,
        hints: Sequence[Hint],
        student: Tap,
        teacher: nn.Module | Mapping[str, Tensor],
        teacher_tap: Tap | None,
        parts: nn.ModuleDict,
    ) -> None:
        self.hints, self.student, self.teacher, self.teacher_tap, self.parts = (
            hints,
            student,
            teacher,
            teacher_tap,
            parts,
        )
        self.values: dict[str, Tensor] = {}

    def each(self, batch: Any) -> dict[str, Float[Tensor, "batch"]]:
        """Every hint's losses on the batch that the student has just seen."""
        known = self._teacher_features(batch)
        found = {}
        for number, hint in enumerate(self.hints):
            ours, theirs = self.student.features[hint.student], known[hint.teacher]
            if len(ours) != len(theirs) or len(ours) != len(batch.labels):
                raise MismatchError(
                    f"{hint.name}: features are not one an example",
                    expected=f"{len(batch.labels)} rows on both sides",
                    got=f"student {list(ours.shape)}, teacher {list(theirs.shape)}",
                )
            ours = ours.to(torch.promote_types(ours.dtype, torch.float32))
            theirs = theirs.detach().to(ours.dtype)
            if str(number) in self.parts:
                found[hint.name] = self.parts[str(number)](ours, theirs, batch.labels, batch.index.to(ours.device))
            else:
                assert isinstance(hint.comparison, Comparison)
                found[hint.name] = hint.comparison(ours, theirs)
        return found

    def _teacher_features(self, batch: Any) -> Mapping[str, Tensor]:
        if isinstance(self.teacher, nn.Module):
            assert self.teacher_tap is not None
            with torch.no_grad():
                inputs = batch.inputs
                if isinstance(inputs, Mapping):
                    self.teacher(**inputs)
                elif isinstance(inputs, (tuple, list)):
                    self.teacher(*inputs)
                else:
                    self.teacher(inputs)
            return self.teacher_tap.features
        return {path: kept[batch.index.to(kept.device)].to(batch.labels.device) for path, kept in self.teacher.items()}

    def __call__(self, output: Any, batch: Any, signal: Any) -> Float[Tensor, "batch"]:
        found = self.each(batch)
        self.values = {name: value.detach() for name, value in found.items()}
        return torch.stack([hint.weight * found[hint.name] for hint in self.hints]).sum(dim=0)


@contextmanager
def taught(
    student: nn.Module,
    teacher: nn.Module | Mapping[str, Tensor],
    hints: Sequence[Hint],
    *,
    example: Any,
    examples: int = 0,
) -> Iterator[Inside]:
    """Attach hints to a student: hooks, and as a child named `training_only` the parts that some comparisons need.

    `teacher` is a model (asked in evaluation mode, without gradient) or features by path, [examples, ...] in the order of the
    data. `example` is a small batch of inputs, from which shapes are read; `examples` the size of the data, for memories.
    Everything is taken off again at the end of the block, whatever happens in it.

    Raises `MismatchError` for paths that do not exist and `ConfigError` for hints that cannot be meant.
    """
    if not hints:
        raise ConfigError("there are no hints", fix="leave the block out")
    names = [hint.name for hint in hints]
    if len(set(names)) != len(names):
        raise ConfigError("two hints have one name", got=", ".join(names), fix="give them names")
    host = host_of(student)
    if hasattr(host, TRAINING_ONLY):
        raise ConfigError("the student is being taught already", fix="leave the first block before the second")
    tap = Tap(student, [hint.student for hint in hints])
    teacher_tap = None
    training = teacher.training if isinstance(teacher, nn.Module) else False
    try:
        if isinstance(teacher, nn.Module):
            teacher_tap = Tap(teacher, [hint.teacher for hint in hints])
            teacher.eval()
        parts = nn.ModuleDict()
        inside = Inside(hints, tap, teacher, teacher_tap, parts)
        mode = student.training
        with torch.no_grad():
            student.eval()
            _call(student, example)
            if isinstance(teacher, nn.Module):
                _call(teacher, example)
            student.train(mode)
        known = teacher_tap.features if teacher_tap is not None else teacher
        assert isinstance(known, Mapping)
        for number, hint in enumerate(hints):
            if hint.teacher not in known:
                near = nearest(hint.teacher, list(known))
                raise MismatchError(
                    f"there are no teacher features {hint.teacher!r}", fix=near and f"did you mean {near!r}?"
                )
            if isinstance(hint.comparison, Growing):
                ours = tap.features[hint.student]
                made = hint.comparison.parts(ours, known[hint.teacher], examples)
                parts[str(number)] = made.to(ours.device)
        host.add_module(TRAINING_ONLY, parts)
        yield inside
    finally:
        tap.close()
        if teacher_tap is not None:
            teacher_tap.close()
        if isinstance(teacher, nn.Module):
            teacher.train(training)
        if hasattr(host, TRAINING_ONLY):
            delattr(host, TRAINING_ONLY)


def _call(model: nn.Module, inputs: Any) -> Any:
    if isinstance(inputs, Mapping):
        return model(**inputs)
    return model(*inputs) if isinstance(inputs, (tuple, list)) else model(inputs)
