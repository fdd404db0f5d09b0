"""How much memory a step will take, told from a forward pass without numbers, and whether the machine has it."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fractionate.engine.feed import moved
from fractionate.errors import ResourceError
from fractionate.outputs import Head, call, logits_of
from fractionate.records import Training

OPTIMIZER_COPIES = {"adamw": 2, "sgd": 1}
LOGIT_COPIES = {
    "labels": 4,
    "teacher": 3,
}  # what a loss holds at its peak, measured: torch's cross-entropy; ours beside a signal


@dataclass(frozen=True)
class Forecast:
    """Bytes a training adds to what the process holds already."""

    weights_bytes: int  # gradients, the optimiser's state, averages
    kept_bytes: int  # what the forward pass of one piece keeps for the backward pass
    logits_bytes: int  # what the loss needs

    @property
    def total_bytes(self) -> int:
        """The sum: activations go as gradients come, but allocators seldom give the memory of one to the other (measured)."""
        return self.weights_bytes + self.kept_bytes + self.logits_bytes

    def __str__(self) -> str:
        parts = (
            ("gradients and optimiser", self.weights_bytes), ("activations", self.kept_bytes), ("logits", self.logits_bytes),
        )  # fmt: skip
        return f"{_size(self.total_bytes)} ({', '.join(f'{name} {_size(size)}' for name, size in parts)})"


def _size(count: float) -> str:
    return f"{count / 2**30:,.1f} GiB" if count >= 2**30 else f"{count / 2**20:,.1f} MiB"


def foresee(
    student: nn.Module,
    inputs: Any,
    training: Training,
    *,
    learns_from: str = "teacher",
    head: Head = None,
    copies: int = 0,
) -> Forecast | None:
    """What a step on these inputs will take, from a pass over tensors that have a shape and no numbers.

    Nothing is allocated and nothing drawn. `learns_from` is "labels" or "teacher"; `copies` counts further sets of the weights
    (a running average, the best so far).
    None where the model needs the numbers themselves to know its shapes.
    """
    meta = torch.device("meta")
    held = {name: torch.empty_like(t, device=meta) for name, t in student.state_dict(keep_vars=True).items()}
    for name, parameter in student.named_parameters():
        held[name] = torch.empty_like(parameter, device=meta).requires_grad_(parameter.requires_grad)
    own = {t.untyped_storage()._cdata for t in held.values()}
    kept: dict[int, int] = {}
    alive: list[Tensor] = []  # a storage that dies may leave its place to the next

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            kept[storage._cdata] = storage.nbytes()
            alive.append(tensor)
        return tensor

    try:
        with torch.random.fork_rng(devices=[]), torch.autograd.graph.saved_tensors_hooks(note, lambda t: t):
            logits = logits_of(_run(student, held, moved(inputs, meta)), head)
    except Exception:  # any model may read numbers in any way; then there is no forecast, and torch says what it needs
        return None
    trained = sum(p.numel() * p.element_size() for p in student.parameters() if p.requires_grad)
    sets = 1 + OPTIMIZER_COPIES[training.optimizer] + copies
    return Forecast(sets * trained, sum(kept.values()), LOGIT_COPIES[learns_from] * logits.numel() * 4)


def _run(student: nn.Module, held: dict[str, Tensor], inputs: Any) -> Any:
    class Called(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = student

        def forward(self, given: Any) -> Any:
            return call(self.inner, given)

    return torch.func.functional_call(Called(), {f"inner.{name}": t for name, t in held.items()}, (inputs,))


def available_bytes(device: torch.device) -> int | None:
    """What is left for this process on a device: the least of what the machine, its control group and `ulimit -v` allow."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0]) + torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
    limits = [*_free_of_machine(), *_free_of_group(), *_free_of_process()]
    return min(limits) if limits and device.type == "cpu" else None


def _free_of_machine() -> Iterable[int]:
    info = Path("/proc/meminfo")
    if info.exists():
        lines = dict(line.split(":", 1) for line in info.read_text(encoding="ascii").splitlines())
        yield int(lines["MemAvailable"].split()[0]) * 1024


def _free_of_group() -> Iterable[int]:
    group = Path("/sys/fs/cgroup")
    try:
        most = (group / "memory.max").read_text(encoding="ascii").strip()
        if most != "max":
            yield int(most) - int((group / "memory.current").read_text(encoding="ascii"))
    except (OSError, ValueError):
        return


def _free_of_process() -> Iterable[int]:
    try:
        import resource
    except ImportError:  # no such limits on this system
        return
    most = resource.getrlimit(resource.RLIMIT_AS)[0]
    size = Path("/proc/self/statm")
    if most != resource.RLIM_INFINITY and size.exists():
        yield most - int(size.read_text(encoding="ascii").split()[0]) * os.sysconf("SC_PAGE_SIZE")


def check_memory(forecast: Forecast | None, device: torch.device) -> None:
    """Raise `ResourceError`, before anything is allocated, where a step would take more than there is."""
    free = available_bytes(device)
    if forecast is None or free is None or forecast.total_bytes <= free:
        return
    large = forecast.logits_bytes > max(forecast.kept_bytes, forecast.weights_bytes)
    raise ResourceError(
        "a step of this training does not fit into memory",
        expected=f"at most {_size(free)}, which is free on {device}",
        got=str(forecast),
        fix="set micro_batch_size: the step stays the same, in smaller pieces"
        + ("; for large vocabularies see docs/sequences.md" if large else "; or recompute= to keep fewer activations"),
    )
