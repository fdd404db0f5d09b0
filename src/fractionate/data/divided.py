"""Data that may come divided into training, validation and test, as folders and `datasets` do: made into parts by one rule."""

from __future__ import annotations

from dataclasses import dataclass, replace

from fractionate.data.bundled import Parts, split_parts
from fractionate.data.examples import Examples
from fractionate.errors import ConfigError
from fractionate.records.base import Record

PARTS = {"train": "train", "training": "train", "val": "validation", "valid": "validation", "validation": "validation",
         "test": "test"}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Divided:
    """Examples, and where the data say which, those for validation and test; `encoding` is how raw data became inputs."""

    examples: Examples
    validation: Examples | None = None
    test: Examples | None = None
    encoding: Record | None = None

    def parts(
        self,
        *,
        transfer: int | None = None,
        validation: int | None = None,
        test: int | None = None,
        seed: int = 0,
    ) -> Parts:
        """The parts. Those that came are kept as they came (or so many of them as asked for); others are split off the rest.

        Data in one piece give a fifth to each part that has no size, as `split_parts` does. Data with parts of their own give
        all that is left for training to the transfer part, unless a size says that some is left to teach a teacher.
        Raises `ConfigError` where there are fewer examples than asked for.
        """
        if self.validation is None and self.test is None:
            made = split_parts(self.examples, transfer=transfer, validation=validation, test=test, seed=seed)
            return replace(made, encoding=self.encoding)
        rest: Examples | None = self.examples
        found: list[Examples] = []
        for name, given, size in (("validation", self.validation, validation), ("test", self.test, test)):
            if given is None:
                part, rest = _cut(rest, len(self.examples) // 5 if size is None else size, name, seed)
            else:
                part, _ = _cut(given, len(given) if size is None else size, name, seed)
            found.append(part)
        taught, left = _cut(rest, len(rest or ()) if transfer is None else transfer, "transfer", seed)
        return Parts(taught, found[0], found[1], left, self.encoding)


def _cut(data: Examples | None, size: int, name: str, seed: int) -> tuple[Examples, Examples | None]:
    """So many examples, the classes in proportion, and the rest."""
    left = 0 if data is None else len(data)
    if data is None or not 1 <= size <= left:
        raise ConfigError(
            f"{name} cannot be of this size", expected=f"1 to the {left:,} examples there are", got=f"{size:,}"
        )
    if size == left:
        return data, None
    made = data.split(size, left - size, seed=seed)
    return made[0], made[1]
