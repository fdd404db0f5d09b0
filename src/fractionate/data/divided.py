"""Data that may come divided into training, validation and test, as folders and `datasets` do: made into parts by one rule."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from fractionate.data.bundled import Parts, split_parts
from fractionate.data.dividing import Size
from fractionate.data.examples import Examples
from fractionate.records.base import Record


@dataclass(frozen=True, eq=False)
class Divided:
    """Examples, and what tells their parts.

    Args:
        examples: All examples.
        given: The part that the data name for each, where they do.
        groups: The group of each, where there are groups.
        keys: What makes two of them the same, where repeats are left out.
        encoding: How raw data became inputs.
    """

    examples: Examples
    given: Sequence[str | None] | None = None
    groups: Sequence[Hashable] | None = None
    keys: Sequence[Hashable] | None = None
    encoding: Record | None = None

    def parts(self, *, transfer: Size = None, validation: Size = None, test: Size = None, seed: int = 0) -> Parts:
        """The parts, by `divide`. Raises what it raises."""
        sizes: Mapping[str, Size] = {"transfer": transfer, "validation": validation, "test": test}
        made = split_parts(self.examples, **sizes, seed=seed, given=self.given, groups=self.groups, keys=self.keys)
        return replace(made, encoding=self.encoding)


def joined(parts: Mapping[str, Examples], encoding: Record | None = None) -> Divided:
    """The examples of parts that are there already, by their names."""
    first = next(iter(parts.values()))
    if len(parts) == 1:
        return Divided(first, encoding=encoding)
    whole = replace(
        first,
        inputs=torch.cat([part.inputs for part in parts.values()]),
        labels=torch.cat([part.labels for part in parts.values()]),
        ids=tuple(name for part in parts.values() for name in part.ids),
    )
    return Divided(whole, given=[name for name, part in parts.items() for _ in part.ids], encoding=encoding)
