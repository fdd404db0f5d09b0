"""Cached numbers of a teacher, for tasks without classes: one row an example, found by its place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from fractionate.data.batch import Split
from fractionate.errors import MismatchError
from fractionate.store.checks import check_data
from fractionate.store.keys import Keyed
from fractionate.store.reading import Store
from fractionate.system.hashing import content_hash
from fractionate.tasks.predictions import Predictions
from fractionate.theory.number_signal import NumberSignal


@dataclass(frozen=True, eq=False)
class CachedNumbers:
    """A teacher's numbers on all examples of a split, in its order."""

    signal: NumberSignal

    def signal_for(self, predictions: Predictions) -> NumberSignal:
        """The rows of a batch's examples, on its device."""
        places = predictions.example.to(self.signal.values.device)
        return self.signal.take(places).to(predictions.labels.device)

    def whole(self) -> NumberSignal:
        """All rows."""
        return self.signal

    def part(self, places: Int[Tensor, "some"]) -> CachedNumbers:
        """The rows of some examples, which are then all there are."""
        labels = None if self.signal.labels is None else self.signal.labels[places]
        return CachedNumbers(NumberSignal(self.signal.values[places], labels))

    def fingerprint(self) -> str:
        """A hash of all of it."""
        return content_hash(self.signal.values)

    def to(self, device: torch.device) -> CachedNumbers:
        """The same numbers on a device."""
        return CachedNumbers(NumberSignal(self.signal.values.to(device), self.signal.labels))


def numbers_of(kept: Any, split: Split) -> Any:
    """Numbers that were cached, in a store or in memory, checked against the data; anything else as it is.

    Raises `MismatchError` where they are of other data.
    """
    if isinstance(kept, Store) and kept.numbers:
        check_data(kept, Keyed.of(split))
        kept = kept.signal()
    if not isinstance(kept, NumberSignal):
        return kept
    if len(kept) != len(split):
        raise MismatchError(
            "the teacher's numbers and the data differ in length",
            expected=f"{len(split)} rows, as the data",
            got=f"{len(kept)} rows",
            fix="collect the teacher's numbers on these very data, in their order",
        )
    return CachedNumbers(kept)
