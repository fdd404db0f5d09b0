"""A person's own texts by column, before any tokenizer: divided first, then made into tensors by the tokenizer of each model."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Int
from torch import Tensor

from fractionate.data.batch import Split
from fractionate.data.dividing import divide


@dataclass(frozen=True, eq=False)
class RawSplit:
    """Examples as their files hold them.

    Args:
        columns: One entry an example by role: "text" and "second", "words" and "tags", "prompt" and "completion", "source" and
            "target", "label" (class numbers; of several labels a row of 0 and 1).
        ids: The file, or the line, of each example.
    """

    columns: Mapping[str, Sequence[Any]]
    ids: tuple[str, ...]
    name: str = "data"
    class_names: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, places: Int[Tensor, "some"] | Sequence[int]) -> RawSplit:
        """Some of the examples, under their ids."""
        rows = [int(place) for place in places]
        columns = {role: tuple(column[row] for row in rows) for role, column in self.columns.items()}
        return replace(self, columns=columns, ids=tuple(self.ids[row] for row in rows))


@dataclass(frozen=True, eq=False)
class RawParts:
    """Disjoint parts of raw data, by what they are for, as `Parts` are."""

    transfer: RawSplit
    validation: RawSplit
    test: RawSplit
    teaching: RawSplit | None = None


@dataclass(frozen=True, eq=False, repr=False)
class RawTable:
    """All examples of a source, and what tells their parts.

    Args:
        whole: The examples.
        labels: [examples] classes to keep in proportion; None: none.
        given: The part that the data name for each example.
        groups: The group of each: a group is in one part.
        keys: What makes two examples the same; None: repeats stay.
    """

    whole: RawSplit
    labels: Int[Tensor, "examples"] | None = None
    given: Sequence[str | None] | None = None
    groups: Sequence[Hashable] | None = None
    keys: Sequence[Hashable] | None = None

    def parts(self, *, transfer: Any, validation: Any, test: Any, seed: int) -> RawParts:
        """The parts, by `divide`."""
        found = divide(
            len(self.whole),
            labels=self.labels,
            groups=self.groups,
            keys=self.keys,
            given=self.given,
            transfer=transfer,
            validation=validation,
            test=test,
            seed=seed,
            name=self.whole.name,
        )
        made = {part: self.whole.take(places) for part, places in found.items()}
        return RawParts(made["transfer"], made["validation"], made["test"], made.get("teaching"))


@dataclass(frozen=True)
class Tokenizing:
    """How texts become the inputs of a model.

    Args:
        tokenizer: A tokenizer of transformers.
        length: The most tokens of an input.
        start: The token a decoder begins with, and `pad` the one that fills up; of encoder-decoders.
    """

    tokenizer: Any = field(compare=False)
    length: int = 128
    start: int | None = None
    pad: int | None = None


@runtime_checkable
class RawData(Protocol):
    """What a data source of texts gives: `tasks` are the kinds of task it feeds, by name."""

    @property
    def tasks(self) -> tuple[str, ...]:
        """The kinds of task."""
        ...

    def raw_parts(self, *, transfer: Any, validation: Any, test: Any, seed: int) -> RawParts:
        """The parts, of the sizes asked for: counts, shares below 1, or None."""
        ...

    def encode(self, part: RawSplit, by: Tokenizing | None) -> Split:
        """A part as the inputs and labels of a model with this tokenizer; None: of a model that has none (hashed words).

        Raises `ConfigError` where a task needs a tokenizer.
        """
        ...
