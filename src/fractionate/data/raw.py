"""A person's own texts by column, before any tokenizer: divided first, then made into tensors by the tokenizer of each model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Int
from torch import Tensor

from fractionate.data.batch import Split
from fractionate.data.bundled import Divided, Parts
from fractionate.data.dividing import Size
from fractionate.errors import ConfigError

PLACE = "{text}"  # of a prompt, where the text is put


@dataclass(frozen=True, eq=False)
class RawSplit:
    """Examples as their files hold them.

    Args:
        columns: One entry per example by role: "text" and "second", "words" and "tags", "prompt" and "completion", "source" and
            "target", "label" (class numbers; of multiple labels a row of 0 and 1; numbers to predict).
        ids: The file, or the line, of each example.
        name: The data's name in messages and records.
        class_names: The names of the classes, where there are any.

    Example:
        from fractionate.data import RawSplit
        split = RawSplit({"text": ["good", "bad"], "label": [1, 0]}, ids=("a", "b"))
        print(len(split))
    """

    columns: Mapping[str, Sequence[Any]]
    ids: tuple[str, ...]
    name: str = "data"
    class_names: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def labels(self) -> Tensor | None:
        """Classes to keep in proportion; None where there are none."""
        found = torch.tensor(self.columns["label"]) if "label" in self.columns else None
        return None if found is None or found.is_floating_point() else found

    def take(self, places: Int[Tensor, "some"] | Sequence[int]) -> RawSplit:
        """Some of the examples, under their ids."""
        rows = [int(place) for place in places]
        columns = {role: tuple(column[row] for row in rows) for role, column in self.columns.items()}
        return replace(self, columns=columns, ids=tuple(self.ids[row] for row in rows))


@dataclass(frozen=True)
class Tokenizing:
    """How texts become the inputs of a model.

    Args:
        tokenizer: A tokenizer of transformers.
        length: The most tokens of an input.
        start: The token a decoder begins with, and `pad` the one that fills up; of encoder-decoders.
        prompt: What a text is put into, in the place of `{text}`, beyond the length; empty: nothing.

    Raises:
        ConfigError: The tokenizer is a name and not an object.

    Example:
        from fractionate.data import Tokenizing
        def read(tokenizer: object) -> Tokenizing:
            return Tokenizing(tokenizer, length=64)  # AutoTokenizer.from_pretrained("models/teacher")
    """

    tokenizer: Any = field(compare=False)
    length: int = 128
    start: int | None = None
    pad: int | None = None
    prompt: str = ""

    def __post_init__(self) -> None:
        if not callable(self.tokenizer):
            got, fix = repr(self.tokenizer), "AutoTokenizer.from_pretrained(…)"
            raise ConfigError("a tokenizer is an object", got=got, fix=fix)


@runtime_checkable
class RawData(Protocol):
    """What a data source of texts gives.

    `tasks` are the kinds of task it feeds, by name; `table` its examples, a `RawSplit`, and what tells their parts.
    """

    @property
    def tasks(self) -> tuple[str, ...]:
        """The kinds of task."""
        ...

    table: Divided

    def raw_parts(self, *, transfer: Size = None, validation: Size = None, test: Size = None, seed: int = 0) -> Parts:
        """The parts as `RawSplit`, of the requested size: counts, shares below 1, or None."""
        return self.table.parts(transfer=transfer, validation=validation, test=test, seed=seed)

    def encode(self, part: RawSplit, by: Tokenizing | None) -> Split:
        """A part as the inputs and labels of a model with this tokenizer; None: of a model that has none (hashed words).

        Raises `ConfigError` where a task needs a tokenizer.
        """
        ...
