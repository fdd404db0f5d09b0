"""SIGTERM and SIGINT during a training: the first asks it to save and stop, the second stops at once."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

from fractionate.data.batch import Batch, Split
from fractionate.data.parts import ChangedSplit


@dataclass
class Notice:
    """The signal that stops the run, 0 while none has."""

    number: int = 0


class InterruptedEvaluation(Exception):  # noqa: N818 (nothing went wrong)
    """An evaluation was left for a signal; a resumed run takes it anew."""


def watched(split: Split, notice: Notice) -> Split:
    """The split, left by `InterruptedEvaluation` between two batches once a signal has come: it may take longer than there is."""

    def check(batch: Batch, epoch: int, seed: int) -> Batch:
        if notice.number:
            raise InterruptedEvaluation
        return batch

    return ChangedSplit(split, check, "")


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
