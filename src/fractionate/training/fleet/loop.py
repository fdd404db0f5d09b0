"""Many students of one architecture in one pass by `torch.func`, on the same examples from a cached signal: the stacked backend.

It wins where kernels are small: MLPs, small batches, GPUs. A student in a stack is the student trained by the loop: same initial
weights, order, dropout, to rounding.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fractionate.losses.objective import Objective
from fractionate.records import Point, Training
from fractionate.training.fleet.bundle import Bundle
from fractionate.training.fleet.captured_step import RECORDED_STEPS, Recording, record
from fractionate.training.fleet.measurements import measure
from fractionate.training.fleet.setup import EVALUATED_BATCH, Outcome, StackSetup
from fractionate.training.fleet.stacked import Stack
from fractionate.training.schedule import learning_rate, make_optimizer, set_learning_rate

Advance = Callable[[int], None]
Recordings = dict[Any, Recording | str]  # or why there is none, by the shapes of a stack and its inputs; of one factory


def stack_logits(stack: Stack, inputs: Tensor) -> Float[Tensor, "students examples classes"]:
    """Logits of every student of a stack on the same examples, in evaluation mode."""
    with torch.no_grad():
        return torch.cat([stack.forward(x) for x in torch.split(inputs, EVALUATED_BATCH)], dim=1)


def autocast(training: Training, device: str) -> AbstractContextManager[Any]:
    """The precision of forward and backward pass; weights, optimiser and losses stay in float32."""
    if training.precision == "float32":
        return nullcontext()
    return torch.autocast(torch.device(device).type, dtype=torch.bfloat16, cache_enabled=False)


def _finite(model: nn.Module) -> bool:
    return all(bool(torch.isfinite(p).all()) for p in model.parameters())


class _Stepper:
    """The forward and backward pass of a stack: recorded where that pays, else through `vmap` and autograd."""

    def __init__(self, stack: Stack, stack_setup: StackSetup, recordings: Recordings) -> None:
        self.stack, self.stack_setup, self.recordings = stack, stack_setup, recordings
        self.shapes = tuple(tuple(p.shape) for p in stack.parameters.values())
        size, examples = stack_setup.training.batch_size, stack_setup.examples
        whole, rest = divmod(examples, size)
        epochs = stack_setup.steps / max(1, whole + (rest > 0))
        self.long = {n for n, times in ((size, whole * epochs), (rest, epochs)) if times >= RECORDED_STEPS}
        self.kept: list[Tensor] = []
        self.recording: Recording | None = None
        self.uncaptured = ""  # why a step that would pay for its recording has none

    def forward(self, inputs: Tensor, step: int) -> Tensor:
        """Logits of all students in training mode."""
        self.recording = self._recorded(inputs, step)
        with autocast(self.stack_setup.training, self.stack_setup.device):
            if self.recording is None:
                return self.stack.train_forward(inputs, step)
        logits, self.kept = self.recording.forward(self.stack, inputs, self.stack.deal(inputs, step))
        return logits

    def backward(self, logits: Tensor, gradient: Tensor) -> None:
        """Put the gradients of the parameters where the optimiser finds them."""
        if self.recording is None:
            for parameter in self.stack.parameters.values():
                parameter.grad = None
            torch.autograd.backward(logits, gradient.to(logits.dtype))
            return
        for name, value in self.recording.backward(self.kept, gradient.to(logits.dtype)).items():
            # the fused optimiser reads memory in order, and a transposed gradient lies across it
            self.stack.parameters[name].grad = None if name in self.recording.unused else value.contiguous()

    def _recorded(self, inputs: Tensor, step: int) -> Recording | None:
        if len(inputs) not in self.long:
            return None
        key = (tuple(inputs.shape), inputs.dtype, self.shapes)
        if key not in self.recordings:
            noise = self.stack.deal(inputs, step)
            with autocast(self.stack_setup.training, self.stack_setup.device):
                self.recordings[key] = record(self.stack, inputs, noise)
        found = self.recordings[key]
        if isinstance(found, str):
            self.uncaptured = found
            return None
        return found


def train_stacked(
    modules: Sequence[nn.Module],
    objectives: Sequence[Objective | None],
    stack_setup: StackSetup,
    *,
    advance: Advance = lambda _: None,
    recordings: Recordings | None = None,
) -> list[Outcome]:
    """Train fresh students in one pass, as one stack, each by its objective (None: the labels alone)."""
    begin = time.perf_counter()
    training, device = stack_setup.training, stack_setup.device
    stack = Stack(modules, stack_setup.seed)
    optimizer = make_optimizer([p for p in stack.parameters.values() if p.requires_grad], training)
    stepper = _Stepper(stack, stack_setup, {} if recordings is None else recordings)
    bundle: Bundle | None = None
    steps, measured = stack_setup.steps, stack_setup.measured_steps
    points: list[list[Point]] = [[] for _ in objectives]
    diverged: list[int | None] = [None] * len(objectives)
    seen = None if stack_setup.validated is None else stack_setup.validated.inputs.to(device)
    probe, on_transfer = stack_setup.pool[stack_setup.probe.to(device)], None
    for step, index in zip(range(steps), stack_setup.places(), strict=False):
        logits = stepper.forward(stack_setup.pool.index_select(0, index), step)
        if bundle is None:
            signal = None if stack_setup.signal is None else stack_setup.signal.to(device)
            bundle = Bundle(objectives, signal, stack_setup.transfer.labels.to(device), logits.shape[-1])
        gradient = bundle.gradient(logits.float(), index)
        set_learning_rate(optimizer, learning_rate(training, step, steps))
        stepper.backward(logits, gradient)
        optimizer.step()
        if step in measured:
            losses = bundle.loss(logits.float(), index).tolist()
            with torch.no_grad():
                on_transfer = stack.forward(probe)
            validated = None if seen is None else stack_logits(stack, seen)
            for i, objective in enumerate(objectives):
                if diverged[i] is None:
                    modules[i].load_state_dict(stack.state(i))
                    own = None if validated is None else validated[i]
                    found = measure(stack_setup, objective, step, losses[i], modules[i], on_transfer[i], own)
                    points[i].append(found)
                    if not bool(torch.isfinite(on_transfer[i]).all()):
                        diverged[i] = step + 1
        advance(len(objectives))
    seconds = (time.perf_counter() - begin) / len(objectives)
    outcomes = []
    for i, module in enumerate(modules):
        module.load_state_dict(stack.state(i))
        module.eval()
        if diverged[i] is None and not _finite(module):
            diverged[i] = steps
        own = None if on_transfer is None else on_transfer[i]
        outcomes.append(Outcome(module, steps, seconds, diverged[i], tuple(points[i]), own, stepper.uncaptured))
    return outcomes
