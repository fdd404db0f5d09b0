"""The teachers of a training: a stored signal checked against the data, living models asked inertly, several as one."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fractionate.errors import ConfigError, MismatchError
from fractionate.feed import Feed
from fractionate.teacher import TeacherSignal


def as_signal(signal: Any, feed: Feed) -> TeacherSignal | None:
    """A teacher signal of the data: as it is or out of a store. Raises `MismatchError` where rows or labels do not fit."""
    if signal is None:
        return None
    if not isinstance(signal, TeacherSignal) and callable(getattr(signal, "signal", None)):
        signal = signal.signal()
    if not isinstance(signal, TeacherSignal):
        raise ConfigError(
            "this is not a teacher's signal", expected="a TeacherSignal, a store or None", got=type(signal).__name__
        )
    if len(signal) != len(feed):
        raise MismatchError(
            "teacher signal and data differ in length",
            expected=f"{len(feed)} rows, as the data",
            got=f"{len(signal)} rows",
            fix="collect the signal on these very data, in their order",
        )
    if feed.labels is not None:
        check_labels(signal.labels.cpu(), feed.labels.cpu(), torch.arange(len(feed)))
    return signal


def check_labels(taught: Tensor, labels: Tensor, places: Tensor) -> None:
    """Raise `MismatchError` naming the first example whose label is not the one the teacher was asked with."""
    if taught is labels or torch.equal(taught, labels):
        return
    wrong = (taught != labels).nonzero().flatten()
    raise MismatchError(
        f"teacher signal and data have different labels at {len(wrong)} of {len(labels)} examples",
        expected=f"label {int(labels[wrong[0]])} at example {int(places[wrong[0]])}",
        got=f"label {int(taught[wrong[0]])}",
        fix="the data were reordered or changed since the teacher was asked: collect the signal again",
    )
