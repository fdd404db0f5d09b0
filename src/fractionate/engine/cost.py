"""What a model needs where it runs: parameters, bytes, time and memory. What did compression buy?"""

from __future__ import annotations

import statistics
import time
from typing import Any

import torch
from torch import nn

from fractionate.engine.council import asking
from fractionate.engine.feed import moved
from fractionate.outputs import call, device_of


def measure_cost(model: nn.Module, inputs: Any, *, name: str = "model", repeats: int = 15) -> dict[str, float]:
    """Parameters, megabytes of weights and buffers, and the median latency in ms of a forward pass on `inputs` (one batch).

    On CUDA also the megabytes a forward pass takes beside the weights. Keys start with `name`. Evaluation mode, no graph.
    """
    held = {t.data_ptr(): t.numel() * t.element_size() for t in (*model.parameters(), *model.buffers())}
    device = device_of(model)
    inputs = moved(inputs, device)
    on_cuda = device.type == "cuda"
    times: list[float] = []
    with asking(model):
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
    found = {
        "parameters": float(sum(p.numel() for p in model.parameters())),
        "megabytes": sum(held.values()) / 1e6,
        "latency_ms": statistics.median(times) * 1e3,
    }
    if on_cuda:
        found["forward_megabytes"] = (torch.cuda.max_memory_allocated() - before) / 1e6
    return {f"{name}_{key}": value for key, value in found.items()}
