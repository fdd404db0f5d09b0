"""The processes of a training: one, or those started by torchrun or `accelerate launch`; copies (DDP) or shards (FSDP2)."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal

import torch
from jaxtyping import Int
from torch import Tensor, nn

from fractionate.data.batch import Split
from fractionate.errors import FractionateError
from fractionate.records import Training
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
        """Around all but the last micro-batch of a step: gradients are summed here before they travel."""
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


@dataclass(frozen=True, eq=False)
class MicroBatches:
    """One process's part of a step: the whole batch's places, and its own micro-batches; one without examples is `None`."""

    epoch: int
    index: Int[Tensor, "batch"]
    micro_batches: tuple[Int[Tensor, "_"] | None, ...]  # of different lengths


def micro_batches(
    feed: Split, training: Training, world: World, *, seed: int, first: int, steps: int
) -> Iterator[MicroBatches]:
    """The shares of steps `first` to `steps` - 1. The batches are those of one process alone, whatever the number of them."""
    size = training.batch_size
    epoch_steps = -(-len(feed) // size)
    for epoch in range(first // epoch_steps, -(-steps // epoch_steps)):
        for number, index in enumerate(feed.order(size, seed, epoch), epoch * epoch_steps):
            if first <= number < steps:
                # every process gets as many micro-batches, as each may have to wait for the others in each
                most = -(-len(index) // world.size)
                count = -(-most // (training.micro_batch_size or most))
                mine = index if world.size == 1 else index[world.rank :: world.size]
                cut = torch.tensor_split(mine, count) if count > 1 else (mine,)
                yield MicroBatches(
                    epoch, index, tuple(micro_batch if len(micro_batch) else None for micro_batch in cut)
                )


LONGEST_WAIT = timedelta(days=7)  # a teacher's pass takes longer than the half hour that torch waits by itself


@dataclass(frozen=True)
class Company:
    """The processes of one command, and the group in which they wait for each other."""

    world: World
    group: Any = None

    @property
    def first(self) -> bool:
        """Whether this is the process that writes and speaks."""
        return self.world.rank == 0

    def first_alone(self, work: Callable[[], object]) -> None:
        """The first process works while the others wait. Where it fails, the others leave with its exit code, without a word."""
        if self.world.size == 1:
            work()
            return
        failed: BaseException | None = None
        if self.first:
            try:
                with alone():
                    work()
            except BaseException as error:
                failed = error
        code = 0 if failed is None else failed.exit_code if isinstance(failed, FractionateError) else 1
        message = torch.tensor([code])
        torch.distributed.broadcast(message, 0, group=self.group)
        if failed is not None:
            raise failed
        if int(message):
            raise SystemExit(int(message))

    def wait(self) -> None:
        """Continue when all processes are here."""
        if self.world.size > 1:
            torch.distributed.barrier(group=self.group)


@contextmanager
def joined(parallel: Parallel) -> Iterator[Company]:
    """The processes that were started together, or this one."""
    with join(parallel) as world:
        group = None
        if world.size > 1:
            group = torch.distributed.new_group(backend="gloo", timeout=LONGEST_WAIT)
        yield Company(world, group)
