"""The processes of a training: one, or several started by torchrun or `accelerate launch`; copies (DDP) or shards (FSDP2)."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from fractionate.tasks.reader import Reader

Parallel = Literal["copies", "shards"]


@dataclass(frozen=True)
class World:
    """How many processes train together, and which of them this one is."""

    rank: int = 0
    size: int = 1
    parallel: Parallel = "copies"

    def wrap(self, reader: Reader) -> nn.Module:
        """The module to call in training: the reader itself when alone, else one whose gradients are averaged over ranks."""
        if self.parallel == "shards":
            from torch.distributed.fsdp import FSDPModule, fully_shard

            student = reader.model
            if not isinstance(student, FSDPModule):
                for child in student.children():
                    if sum(p.numel() for p in child.parameters()):
                        fully_shard(child)
                fully_shard(student)
            for part in reader.parts.values():  # a ModuleDict has no forward to hook into
                if sum(p.numel() for p in part.parameters()):
                    fully_shard(part)
            return reader
        if self.size == 1:
            return reader
        device = next(reader.parameters()).device
        return nn.parallel.DistributedDataParallel(reader, device_ids=[device] if device.type == "cuda" else None)

    def holds_shards(self, student: nn.Module) -> bool:
        """Whether the student came here in shards already, from an earlier training."""
        if self.parallel != "shards":
            return False
        from torch.distributed.fsdp import FSDPModule

        return isinstance(student, FSDPModule)

    def micro_batch(self, called: nn.Module, *, last: bool) -> AbstractContextManager[None]:
        """Around all but the last piece of a step: gradients are summed here before they travel."""
        if isinstance(called, nn.parallel.DistributedDataParallel) and not last:
            quiet: AbstractContextManager[None] = called.no_sync()
            return quiet
        return nullcontext()

    def total(self, *numbers: float) -> list[float]:
        """The sum over all processes of each number, the same everywhere."""
        if self.size == 1:
            return list(numbers)
        device = torch.device("cuda") if torch.distributed.get_backend() == "nccl" else torch.device("cpu")
        held = torch.tensor(numbers, dtype=torch.float64, device=device)
        torch.distributed.all_reduce(held)
        summed: list[float] = held.tolist()
        return summed

    def wait(self) -> None:
        """Until all processes are here."""
        if self.size > 1:
            torch.distributed.barrier()

    def whole(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Sharded tensors gathered (every process has to ask); others as they are."""
        if self.parallel == "copies":
            return dict(tensors)
        from torch.distributed.tensor import DTensor

        return {name: t.full_tensor() if isinstance(t, DTensor) else t for name, t in tensors.items()}

    def like(self, tensors: Mapping[str, Tensor], models: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Whole tensors cut as the tensors of the same names are cut."""
        if self.parallel == "copies":
            return dict(tensors)
        from torch.distributed.tensor import DTensor, distribute_tensor

        cut: dict[str, Tensor] = {}
        for name, tensor in tensors.items():
            model = models.get(name)
            sharded = isinstance(model, DTensor) and model.shape == tensor.shape
            cut[name] = distribute_tensor(tensor, model.device_mesh, model.placements) if sharded else tensor  # type: ignore[union-attr]
        return cut


_by_itself: ContextVar[bool] = ContextVar("by_itself", default=False)


@contextmanager
def alone() -> Iterator[None]:
    """Within, this process trains by itself, whoever was started with it: what one of many prepares for all."""
    token = _by_itself.set(True)
    try:
        yield
    finally:
        _by_itself.reset(token)


@contextmanager
def join(parallel: Parallel = "copies") -> Iterator[World]:
    """The processes that were started together: those of a group that is there, or of torchrun's environment, or one."""
    if _by_itself.get():
        yield World()
        return
    distributed = torch.distributed
    mine = False
    started = int(os.environ.get("WORLD_SIZE", "1")) > 1 and "RANK" in os.environ and "MASTER_ADDR" in os.environ
    if started and distributed.is_available() and not distributed.is_initialized():
        # each device by its own: a student on the CPU of a machine with GPUs travels by gloo
        distributed.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
        mine = True
    try:
        if distributed.is_available() and distributed.is_initialized():
            yield World(distributed.get_rank(), distributed.get_world_size(), parallel)
        else:
            yield World(parallel="copies")
    finally:
        if mine:
            distributed.destroy_process_group()
