"""Preflight: a handful of real steps with the student at hand, to know what the long run will do and cost."""

from __future__ import annotations

import copy
import math
import time
from typing import Any

import torch
from torch import Tensor, nn

from fractionate.data.splits import as_examples
from fractionate.diagnosis.student_probes import first_gradients, student_outputs
from fractionate.errors import ConfigError, MismatchError
from fractionate.objective import Objective
from fractionate.records import Preflight, Training
from fractionate.teacher import TeacherSignal


def preflight(
    student: nn.Module,
    data: Any,
    signal: TeacherSignal,
    *,
    objective: Objective | None = None,
    training: Training | None = None,
    steps: int = 8,
    seed: int = 0,
) -> Preflight:
    """Take `steps` steps on a copy of the student and measure: gradients, first losses, seconds and bytes; forecast the run.

    The student and the global random stream are left as they were. Time is forecast from the median step without the first;
    memory from weights, gradients, optimiser state, what one batch keeps for the backward pass, data and signal.

    Raises `MismatchError` where student, data and signal do not fit and `NumericsError` where the loss is not finite at once.
    """
    examples = as_examples(data)
    objective, training = objective or Objective(), training or Training(epochs=30)
    if len(examples) != len(signal):
        raise MismatchError("the data and the signal have different numbers of examples", expected=str(len(signal)),
                            got=str(len(examples)))  # fmt: skip
    if steps < 2:
        raise ConfigError("a preflight needs at least 2 steps", got=str(steps))
    logits = student_outputs(student, examples.take(torch.arange(min(len(examples), 512))))
    first = float(nn.functional.cross_entropy(logits.float(), signal.labels[: len(logits)].cpu()))
    hard, soft = first_gradients(student, examples, signal, objective)
    both = float(hard.norm()) > 0 and float(soft.norm()) > 0
    trial = copy.deepcopy(student).train()
    parameters = [p for p in trial.parameters() if p.requires_grad]
    device = parameters[0].device
    optimizer: torch.optim.Optimizer = (
        torch.optim.AdamW(parameters, lr=training.learning_rate, weight_decay=training.weight_decay)
        if training.optimizer == "adamw"
        else torch.optim.SGD(parameters, lr=training.learning_rate, momentum=0.9, nesterov=True)
    )
    size = min(training.batch_size, len(examples))
    draw = torch.Generator().manual_seed(seed)
    losses, seconds, kept = [], [], 0
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(seed)
        for step in range(steps):
            begin = time.perf_counter()
            index = torch.randperm(len(examples), generator=draw)[:size]
            batch = signal.take(index.to(signal.logits.device))
            held: dict[int, int] = {}
            with torch.autograd.graph.saved_tensors_hooks(_counted(held if step == 0 else None), lambda t: t):
                loss = objective(trial(examples.inputs[index].to(device)).float(), batch).mean()
            kept = max(kept, sum(held.values()))
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            losses.append(float(loss.detach()))
            seconds.append(time.perf_counter() - begin)
    step_seconds = sorted(seconds[1:])[len(seconds[1:]) // 2]
    total = training.steps_for(len(examples))
    weights = sum(p.numel() * p.element_size() for p in trial.parameters())
    state = sum(
        t.numel() * t.element_size() for s in optimizer.state.values() for t in s.values() if isinstance(t, Tensor)
    )
    inputs = examples.inputs.numel() * examples.inputs.element_size()
    return Preflight(
        first_loss_nats=first,
        first_loss_of_uniform=first / math.log(signal.classes),
        gradient_ratio=float(soft.norm() / hard.norm()) if both else None,
        gradient_cosine=float(hard @ soft / (hard.norm() * soft.norm())) if both else None,
        losses=tuple(losses),
        parameters=sum(p.numel() for p in trial.parameters()),
        step_seconds=step_seconds,
        steps=total,
        wall_seconds=step_seconds * total,
        memory_bytes=2 * weights + state + kept + inputs + signal.logits.numel() * signal.logits.element_size(),
    )


def _counted(held: dict[int, int] | None) -> Any:
    """A hook that notes the storages kept for the backward pass, each once."""

    def note(tensor: Tensor) -> Tensor:
        if held is not None:
            held[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    return note
