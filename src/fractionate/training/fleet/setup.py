"""What students of a study run: data and signal by seed, the training, who enters, and what comes out of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import count

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from fractionate.data.examples import Examples
from fractionate.data.sampling import batches
from fractionate.models.outputs import logits_of
from fractionate.records import Point, Training
from fractionate.tasks.model_inputs import dtype_of, in_dtype
from fractionate.tasks.predictions import evenly
from fractionate.theory.teacher_signal import TeacherSignal
from fractionate.training.mechanism import teacher_relation

MEASURED_EXAMPLES = 512  # of the transfer set, for measurements along training
VALIDATED_EXAMPLES = 1000  # of the validation set, likewise
EVALUATED_BATCH = 1024


@dataclass(frozen=True, eq=False)
class Outcome:
    """A trained student: the model, when its loss stopped being finite (None: never), measurements, cost.

    `probed` are its logits on the measured examples of the transfer set at the end; `uncaptured` is why its steps went through
    `vmap` and autograd where a recording would have paid.
    """

    model: nn.Module
    steps: int
    wall_seconds: float
    diverged_at: int | None
    points: tuple[Point, ...]
    probed: Tensor | None = None
    uncaptured: str = ""


@dataclass(frozen=True, eq=False)
class StackSetup:
    """What students of one seed run: data, the teacher's signal, training, what to measure on the way."""

    transfer: Examples
    signal: TeacherSignal | None
    training: Training
    seed: int = 0
    validation: Examples | None = None
    validation_signal: TeacherSignal | None = None
    points: int = 8
    device: str = "cpu"
    superclasses: tuple[int, ...] = ()

    @property
    def examples(self) -> int:
        """How many examples a student learns from."""
        return len(self.transfer)

    @property
    def steps(self) -> int:
        """Optimiser steps of a training."""
        return self.training.steps_for(self.examples)

    @property
    def measured_steps(self) -> frozenset[int]:
        """The steps after which a student is measured, the last among them."""
        last = self.steps - 1
        return frozenset(round((i + 1) * last / self.points) for i in range(self.points)) | {last}

    @cached_property
    def probe(self) -> Int[Tensor, "places"]:
        """Which examples of a transfer set are measured."""
        return evenly(self.examples, MEASURED_EXAMPLES)

    @cached_property
    def validated(self) -> Examples | None:
        """The validation examples that are evaluated on the way."""
        if self.validation is None:
            return None
        return self.validation.take(evenly(len(self.validation), VALIDATED_EXAMPLES))

    @cached_property
    def validated_teacher(self) -> Tensor | None:
        """What the teacher says of them."""
        if self.validation is None or self.validation_signal is None:
            return None
        return self.validation_signal.logits[evenly(len(self.validation), VALIDATED_EXAMPLES)].float()

    @cached_property
    def relation(self) -> Tensor | None:
        """The teacher's relation of classes."""
        return None if self.signal is None else teacher_relation(self.signal)

    @cached_property
    def pool(self) -> Tensor:
        """The inputs of the transfer set, on the device."""
        return self.transfer.inputs.to(self.device)

    def places(self) -> Iterator[Int[Tensor, "batch"]]:
        """The places of each step's examples, step after step."""
        for epoch in count():
            for index in batches(self.examples, self.training.batch_size, self.seed, epoch):
                yield index.to(self.device)


def convolves(model: nn.Module) -> bool:
    """Whether a model convolves pictures: those run up to twice as fast with the channels last."""
    return any(isinstance(part, nn.Conv2d) for part in model.modules())


def model_logits(model: nn.Module, inputs: Tensor) -> Float[Tensor, "examples classes"]:
    """Logits of a model in evaluation mode.

    Args:
        model: The model; it stays in evaluation mode.
        inputs: [examples, ...].

    Returns:
        [examples, classes].

    Example:
        import torch
        from torch import nn
        from fractionate.training.fleet import model_logits

        print(model_logits(nn.Linear(8, 4), torch.randn(2, 8)).shape)
    """
    model.eval()
    inputs = in_dtype(inputs, dtype_of(model))
    with torch.no_grad():
        return torch.cat([logits_of(model(x)) for x in torch.split(inputs, EVALUATED_BATCH)])
