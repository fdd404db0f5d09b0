"""SIGTERM and SIGINT during a training: the first asks it to save and stop, the second stops at once."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

from jaxtyping import Int
from torch import Tensor

from fractionate.data.batch import Batch, Ids, Plan, Split


@dataclass
class Notice:
    """The signal that asked to stop, 0 while none has."""

    number: int = 0


class InterruptedLook(Exception):  # noqa: N818 (nothing went wrong)
    """A look at validation data was left for a signal; it is taken anew when the run goes on."""


@dataclass(frozen=True, eq=False)
class Watched:
    """A feed that is left between two batches once a signal has come: a look may take longer than one has to stop."""

    feed: Split
    notice: Notice

    @property
    def name(self) -> str:
        """The feed's."""
        return self.feed.name

    @property
    def ids(self) -> Ids:
        """The feed's."""
        return self.feed.ids

    @property
    def class_names(self) -> tuple[str, ...]:
        """The feed's."""
        return self.feed.class_names

    @property
    def labels(self) -> Tensor | None:
        """The feed's."""
        return self.feed.labels

    def __len__(self) -> int:
        return len(self.feed)

    def order(self, batch_size: int, seed: int, epoch: int) -> tuple[Int[Tensor, "batch"], ...]:
        """The feed's."""
        return self.feed.order(batch_size, seed, epoch)

    def fingerprint(self) -> str:
        """The feed's."""
        return self.feed.fingerprint()

    def batches(self, plan: Plan, seed: int) -> Iterator[Batch]:
        """The feed's. Raises `InterruptedLook` after a signal."""
        for batch in self.feed.batches(plan, seed):
            if self.notice.number:
                raise InterruptedLook
            yield batch


@contextmanager
def stop_notice(*, active: bool) -> Iterator[Notice]:
    """Turn the first SIGTERM or SIGINT into a notice; the second ends the process with 128 + its number.

    Only where `active` and in the main thread, as Python allows no other; handlers are put back afterwards.
    """
    notice = Notice()
    if not active or threading.current_thread() is not threading.main_thread():
        yield notice
        return

    def receive(number: int, frame: FrameType | None) -> None:
        if notice.number:
            os._exit(128 + number)
        notice.number = number

    before = {number: signal.signal(number, receive) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield notice
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
