"""What a model needs where it runs: parameters, bytes, time and memory. What did compression buy?"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fractionate.data.batch import Split, moved
from fractionate.models.modes import eval_mode
from fractionate.models.outputs import call, device_of
from fractionate.tasks.model_inputs import ModelInputs
from fractionate.teachers.source import TeacherSource
from fractionate.training.memory import LiveBytes


def measure_cost(model: nn.Module, inputs: Any, *, name: str = "model", repeats: int = 15) -> dict[str, float]:
    """Parameters, megabytes of weights and buffers, and what a forward pass on `inputs` (one batch) takes.

    That is its median latency in ms, and the megabytes next to the weights: the peak of what CUDA's allocator gives out,
    elsewhere of the tensors alive at once (what kernels take for themselves is not seen there). Keys start with `name`.
    Evaluation mode, no graph.
    """
    weights = (*model.parameters(), *model.buffers())
    held = {t.data_ptr(): t.numel() * t.element_size() for t in weights}
    device = device_of(model)
    inputs = moved(inputs, device)
    on_cuda = device.type == "cuda"
    times: list[float] = []
    with eval_mode(model):
        call(model, inputs)
        if on_cuda:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated() if on_cuda else 0
        for _ in range(repeats):
            started = time.perf_counter()
            call(model, inputs)
            if on_cuda:
                torch.cuda.synchronize()
            times.append(time.perf_counter() - started)
        peak = torch.cuda.max_memory_allocated() - before if on_cuda else _peak(model, inputs, weights)
    found = {
        "parameters": float(sum(p.numel() for p in model.parameters())),
        "megabytes": sum(held.values()) / 1e6,
        "latency_ms": statistics.median(times) * 1e3,
        "forward_megabytes": peak / 1e6,
    }
    return {f"{name}_{key}": value for key, value in found.items()}


def _peak(model: nn.Module, inputs: Any, weights: Sequence[Tensor]) -> int:
    with LiveBytes(weights) as live:
        output = call(model, inputs)
    del output
    return int(live.peak)


def cost_of(student: nn.Module, source: TeacherSource | None, split: Split, seed: int) -> dict[str, float]:
    """What the student and a teacher model need for one example."""
    one = next(iter(split.batches([(0, torch.tensor([0]))], seed)))
    found = measure_cost(student, ModelInputs.of(student)(one), name="student")
    if source is not None and source.model is not None:
        found |= measure_cost(source.model, ModelInputs.of(source.model)(one, "teacher"), name="teacher")
    return found
