"""A command that torchrun started several times: what one process alone may do, the first does, and the others wait."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch

from fractionate.errors import FractionateError
from fractionate.training.distributed import Parallel, World, alone, join

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
        """Go on when all processes are here."""
        if self.world.size > 1:
            torch.distributed.barrier(group=self.group)


@contextmanager
def together(parallel: Parallel) -> Iterator[Company]:
    """The processes that were started together, or this one."""
    with join(parallel) as world:
        group = None
        if world.size > 1:
            group = torch.distributed.new_group(backend="gloo", timeout=LONGEST_WAIT)
        yield Company(world, group)
