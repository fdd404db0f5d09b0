"""Data sets by name: what a person can use without downloading anything, and their parts."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Protocol, runtime_checkable

import torch

from fractionate.data.dividing import Size, divide
from fractionate.data.examples import Examples
from fractionate.errors import MissingExtraError
from fractionate.records.base import Record
from fractionate.system.registry import Registry


@dataclass(frozen=True, eq=False)
class Parts:
    """Disjoint parts of a data set, by what they are for.

    `transfer` is what the student learns from and the teacher is asked about, `validation` chooses settings, `test` is read
    once, and `teaching` is what a bundled teacher is trained on (None where the teacher comes trained). `encoding` is how raw
    data became these inputs, where that is known: it is kept beside the student, which has to be fed the same way.
    """

    transfer: Examples
    validation: Examples
    test: Examples
    teaching: Examples | None = None
    encoding: Record | None = None

    def __repr__(self) -> str:
        found = [(f.name, getattr(self, f.name)) for f in fields(self)]
        parts = ", ".join(f"{name} {len(part):,}" for name, part in found if isinstance(part, Examples))
        return f"Parts({self.transfer.name}: {parts})"


def split_parts(
    data: Examples,
    *,
    transfer: Size = None,
    validation: Size = None,
    test: Size = None,
    seed: int = 0,
    **more: Any,
) -> Parts:
    """The parts of a data set by `divide`, which takes the sizes and `more`; what is left over teaches a bundled teacher.

    Raises `ConfigError` where the parts are empty or larger than the data.
    """
    places = divide(
        len(data),
        labels=data.labels,
        transfer=transfer,
        validation=validation,
        test=test,
        seed=seed,
        name=data.name,
        **more,
    )
    made = {part: data.take(some) for part, some in places.items()}
    return Parts(made["transfer"], made["validation"], made["test"], made.get("teaching"))


@runtime_checkable
class Undivided(Protocol):
    """Data that divides itself: it has parts of its own, or becomes numbers only when it is known what students learn from."""

    def parts(self, *, transfer: Size, validation: Size, test: Size, seed: int) -> Parts:
        """The parts, of the sizes asked for."""
        ...


data_sets: Registry[Examples | Parts | Undivided] = Registry(
    "data set",
    "fractionate.data_sets",
    files=(
        "data.fashion",
        "data.glosses",
        "data.own_pictures",
        "data.own_saved",
        "data.own_table",
        "data.own_texts",
        "data.tables",
    ),
)


@data_sets.register("digits")
def digits() -> Examples:
    """1,797 handwritten digits of 8 × 8 pixels in 10 classes, bundled with scikit-learn (UCI, Alpaydin and Kaynak 1998)."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise MissingExtraError("the digits come with scikit-learn", fix='pip install "fractionate[demo]"') from error
    loaded = load_digits()
    pixels = torch.as_tensor(loaded.images, dtype=torch.float32)[:, None] / 16
    return Examples(pixels, torch.as_tensor(loaded.target), tuple(str(n) for n in loaded.target_names), "digits")
