"""What students of a study run: data and signal by seed, the training, who enters, and what comes out of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from fractionate.data.examples import Examples
from fractionate.data.sampling import batches
from fractionate.errors import MismatchError
from fractionate.losses.objective import Objective
from fractionate.models.outputs import logits_of
from fractionate.records import Point, Training
from fractionate.tasks.predictions import evenly
from fractionate.theory.teacher_signal import TeacherSignal
from fractionate.training.fleet.bundle import Bundle
from fractionate.training.mechanism import said_relation

StudentFactory = Callable[[], nn.Module]

MEASURED_EXAMPLES = 512  # of the transfer set, for measurements along training
VALIDATED_EXAMPLES = 1000  # of the validation set, likewise
EVALUATED_BATCH = 1024


@dataclass(frozen=True)
class StackMember:
    """A student to train: its arm, seed and objective (None: the labels alone)."""

    arm: str
    seed: int
    objective: Objective | None


@dataclass(frozen=True, eq=False)
class Outcome:
    """A trained student: the model, when its loss stopped being finite (None: never), measurements, cost.

    `probed` are its logits on the measured examples of the transfer set at the end; `uncaptured` is why its steps went through
    `vmap` and autograd where a recording would have paid.
    """

    member: StackMember
    model: nn.Module
    steps: int
    wall_seconds: float
    diverged_at: int | None
    points: tuple[Point, ...]
    probed: Tensor | None = None
    uncaptured: str = ""


@dataclass(frozen=True, eq=False)
class StackSetup:
    """What all students of a fleet run: data and signal by seed, training, what to measure on the way."""

    transfer: Mapping[int, Examples]
    signals: Mapping[int, TeacherSignal | None]
    training: Training
    validation: Examples | None = None
    validation_signal: TeacherSignal | None = None
    points: int = 8
    device: str = "cpu"
    superclasses: tuple[int, ...] = ()

    @cached_property
    def examples(self) -> int:
        """How many examples a student learns from; the same for every seed."""
        sizes = {len(part) for part in self.transfer.values()}
        if len(sizes) != 1:
            raise MismatchError("transfer sets of a fleet differ in size", got=f"{sorted(sizes)}")
        return sizes.pop()

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
        """The validation examples that are looked at on the way."""
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
    def relations(self) -> dict[int, Tensor]:
        """The teacher's relations of classes by seed; seeds that share a signal share them."""
        known = {id(signal): said_relation(signal) for signal in self.signals.values() if signal is not None}
        return {seed: known[id(signal)] for seed, signal in self.signals.items() if signal is not None}


def make_student(factory: StudentFactory, seed: int, device: str = "cpu") -> nn.Module:
    """A student with the initial weights of a seed; torch's global generator is left as it was."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return factory().to(device)


def convolves(model: nn.Module) -> bool:
    """Whether a model convolves pictures: those run up to twice as fast with the channels last."""
    return any(isinstance(part, nn.Conv2d) for part in model.modules())


def model_logits(model: nn.Module, inputs: Tensor) -> Float[Tensor, "examples classes"]:
    """Logits of a model in evaluation mode."""
    model.eval()
    with torch.no_grad():
        return torch.cat([logits_of(model(x)) for x in torch.split(inputs, EVALUATED_BATCH)])


class Lookup:
    """Batches of several students: places in each one's transfer set, and the inputs there, looked up in memory."""

    def __init__(self, stack_setup: StackSetup, members: Sequence[StackMember], *, layout: torch.memory_format) -> None:
        unique: dict[int, int] = {}  # identity of a transfer set -> its place in the pool
        parts: list[Tensor] = []
        starts: list[int] = []
        for member in members:
            data = stack_setup.transfer[member.seed]
            if id(data) not in unique:
                unique[id(data)] = sum(len(part) for part in parts)
                parts.append(data.inputs.to(stack_setup.device))
            starts.append(unique[id(data)])
        self.pool = parts[0] if len(parts) == 1 else torch.cat(parts)
        self.turned = layout == torch.channels_last and self.pool.ndim == 4
        if self.turned:
            self.pool = self.pool.permute(0, 2, 3, 1).contiguous()
        self.start = torch.tensor(starts, device=stack_setup.device)[:, None]
        self.seeds = [member.seed for member in members]
        self.stack_setup = stack_setup
        self.per_epoch = -(-stack_setup.examples // stack_setup.training.batch_size)
        self._epoch = -1
        self._orders: dict[int, tuple[Tensor, ...]] = {}

    def index(self, step: int) -> Int[Tensor, "students batch"]:
        """Places of a step's examples in each student's transfer set."""
        epoch, place = divmod(step, self.per_epoch)
        if epoch != self._epoch:
            size = self.stack_setup.training.batch_size
            self._orders = {s: batches(self.stack_setup.examples, size, s, epoch) for s in dict.fromkeys(self.seeds)}
            self._epoch = epoch
        return torch.stack([self._orders[s][place] for s in self.seeds]).to(self.start.device)

    def inputs(self, index: Int[Tensor, "students batch"]) -> Tensor:
        """The inputs at these places, [students, batch, ...]."""
        rows = self.pool.index_select(0, (index + self.start).flatten()).view(*index.shape, *self.pool.shape[1:])
        return rows.permute(0, 1, 4, 2, 3) if self.turned else rows


def make_bundle(stack_setup: StackSetup, members: Sequence[StackMember], classes: int) -> Bundle:
    """The losses of these students on their transfer sets."""
    signals = [stack_setup.signals[e.seed] if e.objective is not None else None for e in members]
    return Bundle(
        [e.objective for e in members],
        [None if s is None else s.to(stack_setup.device) for s in signals],
        [stack_setup.transfer[e.seed].labels.to(stack_setup.device) for e in members],
        classes,
    )
