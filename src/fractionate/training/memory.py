"""How much memory a step will take, estimated from a pass without numbers, and whether the machine has it."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter, tree_map

from fractionate.data.batch import moved
from fractionate.errors import ResourceError
from fractionate.models.outputs import Head, call, logits_of
from fractionate.records import Training
from fractionate.system.memory import available_bytes, shown_bytes

OPTIMIZER_COPIES = {"adamw": 2, "sgd": 1, "momentum": 1}
LOGIT_COPIES = {
    "labels": 4,
    "teacher": 3,
}  # what a loss holds at its peak, measured: torch's cross-entropy; ours next to a signal
FITTED_KEPT = 64


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes a training adds to what the process holds already: the peak, and what it is mostly made of."""

    weights_bytes: int  # gradients, the optimiser's state, averages
    kept_bytes: int  # what the forward pass of one micro-batch keeps for the backward pass
    logits_bytes: int  # what the loss needs
    total_bytes: int  # the most that is alive at one moment; less than the sum where activations go as gradients come

    def __str__(self) -> str:
        parts = (
            ("gradients and optimiser", self.weights_bytes), ("activations", self.kept_bytes), ("logits", self.logits_bytes),
        )  # fmt: skip
        return f"{shown_bytes(self.total_bytes)} ({', '.join(f'{name} {shown_bytes(size)}' for name, size in parts)})"


def estimate_memory(
    student: nn.Module,
    inputs: Any,
    training: Training,
    *,
    learns_from: str = "teacher",
    head: Head = None,
    copies: int = 0,
) -> MemoryEstimate | None:
    """What a step on these inputs will take: forward and backward pass over tensors that have a shape and no numbers.

    Every storage is counted from its birth to its death, so the peak is that of the step itself; what kernels take for themselves
    and what the allocator does not give back is not in it. Nothing is allocated and nothing drawn.

    Args:
        student: The model.
        inputs: A batch as it takes them.
        training: Whose optimiser is counted.
        learns_from: "labels" or "teacher".
        head: Where the logits are in the student's output.
        copies: Further sets of the weights: a running average, the best so far.

    Returns:
        Bytes by what they are for; None where the model needs the numbers themselves to know its shapes.

    Example:
        import torch
        from torch import nn
        from fractionate.records import Training
        from fractionate.training import estimate_memory

        print(estimate_memory(nn.Linear(8, 4), torch.randn(32, 8), Training()))
    """
    meta = torch.device("meta")
    held = {name: torch.empty_like(t, device=meta) for name, t in student.state_dict(keep_vars=True).items()}
    for name, parameter in student.named_parameters():
        held[name] = torch.empty_like(parameter, device=meta).requires_grad_(parameter.requires_grad)
    trained = sum(p.numel() * p.element_size() for p in student.parameters() if p.requires_grad)
    states = (OPTIMIZER_COPIES[training.optimizer] + copies) * trained
    live = LiveBytes(held.values())
    try:
        with torch.random.fork_rng(devices=[]), live:
            batch = _anew(moved(inputs, meta))
            kept, logits = torch.func.functional_call(
                _Stepping(student, live, head, LOGIT_COPIES[learns_from]),
                {f"student.{name}": t for name, t in held.items()},
                (batch,),
            )
    except Exception:  # any model may read numbers in any way; then there is no estimate, and torch says what it needs
        return None
    return MemoryEstimate(trained + states, kept, LOGIT_COPIES[learns_from] * logits, states + live.peak)


_fitted: dict[
    tuple[object, ...], int
] = {}  # bytes of steps that fitted, by what is seen of student, inputs and training


def check_step(
    student: nn.Module,
    inputs: Any,
    training: Training,
    device: torch.device,
    *,
    learns_from: str,
    head: Head = None,
    copies: int = 0,
) -> None:
    """Raise `ResourceError`, before anything is allocated, where a step would take more than there is.

    What fitted is not worked out again for a student of the same layers and shapes: a study trains dozens of them, and an estimate
    costs as much as some steps. A refusal always rests on an estimate of its own.
    """
    if small_for_sure(student, inputs, device):
        return
    shapes = [(name, t.shape, t.dtype, t.requires_grad) for name, t in student.state_dict(keep_vars=True).items()]
    read = [(part.shape, part.dtype) for part in tree_iter(inputs) if isinstance(part, Tensor)]
    kinds = tuple(type(part) for part in student.modules())
    how = (training.optimizer, learns_from, head, copies, device)
    key = (str(student), kinds, tuple(shapes), tuple(read), *how)
    free = available_bytes(device)
    if key in _fitted and free is not None and _fitted[key] <= free:
        return
    found = estimate_memory(student, inputs, training, learns_from=learns_from, head=head, copies=copies)
    check_memory(found, device)
    if len(_fitted) >= FITTED_KEPT:
        _fitted.clear()
    _fitted[key] = 0 if found is None else found.total_bytes


class LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Within this, counts the bytes of all tensors that are alive, but for those that were there before: `now` and `peak`."""

    def __init__(self, before: Iterable[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = 0
        self._known = {t.untyped_storage()._cdata for t in before}

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), named: Any = None) -> Any:
        made = function(*arguments, **(named or {}))
        for tensor in tree_iter(made):
            if isinstance(tensor, Tensor):
                self._note(tensor.untyped_storage())
        return made

    def _note(self, storage: torch.UntypedStorage) -> None:
        place, size = storage._cdata, storage.nbytes()
        if place in self._known:
            return
        self._known.add(place)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._forget, place, size)

    def _forget(self, place: int, size: int) -> None:
        self._known.discard(place)
        self.now -= size


class _Stepping(nn.Module):
    """Forward and backward pass in one call: what is recomputed in the backward pass needs the shapeless weights as well."""

    def __init__(self, student: nn.Module, live: LiveBytes, head: Head, logit_copies: int) -> None:
        super().__init__()
        self.student, self.live, self.head, self.logit_copies = student, live, head, logit_copies

    def forward(self, batch: Any) -> tuple[int, int]:
        """Bytes kept for the backward pass, and numbers of logits in bytes of float32."""
        output = call(self.student, batch)
        logits = logits_of(output, self.head)
        kept = self.live.now - logits.untyped_storage().nbytes()
        in_loss = [torch.empty_like(logits, dtype=torch.float32) for _ in range(self.logit_copies - 2)]
        gradient = torch.empty_like(logits)
        del in_loss
        logits.backward(gradient)  # type: ignore[no-untyped-call]
        return kept, 4 * logits.numel()


def _anew(inputs: Any) -> Any:
    """Tensors of the same shapes, as a batch is made in every step."""
    return tree_map(lambda part: torch.empty_like(part) if isinstance(part, Tensor) else part, inputs)


def small_for_sure(student: nn.Module, inputs: Any, device: torch.device) -> bool:
    """Whether a step is far below what is free, whatever the student does: then no estimate is needed.

    As if every module gave, for each number it is called with, as many as the longest side of any weight, ten times over.
    """
    free = available_bytes(device)
    widest = max((max(p.shape, default=1) for p in student.parameters()), default=1)
    numbers = sum(part.numel() for part in tree_iter(inputs) if isinstance(part, Tensor))
    weights = sum(p.numel() for p in student.parameters())
    modules = sum(1 for _ in student.modules())
    return free is not None and 40 * (weights + numbers * widest * modules) < free // 10


def check_memory(memory_estimate: MemoryEstimate | None, device: torch.device) -> None:
    """Raise `ResourceError`, before anything is allocated, where a step would take more than there is."""
    free = available_bytes(device)
    if memory_estimate is None or free is None or memory_estimate.total_bytes <= free:
        return
    large = memory_estimate.logits_bytes > max(memory_estimate.kept_bytes, memory_estimate.weights_bytes)
    raise ResourceError(
        "a step of this training does not fit into memory",
        expected=f"at most {shown_bytes(free)}, which is free on {device}",
        got=str(memory_estimate),
        fix="set micro_batch_size: the step stays the same, in smaller micro-batches"
        + (
            "; for large vocabularies see docs/how-to/sequences.md"
            if large
            else "; or recompute= to keep fewer activations"
        ),
    )
