"""Answers of a language model elsewhere as a teacher: rows of classes, and `answers(...)`, a file of them in a run file."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from fractionate.data.answers import Answer, Position, Token, read_answers
from fractionate.data.batch import leaves
from fractionate.data.raw import Tokenizing
from fractionate.errors import ConfigError, MismatchError, printable
from fractionate.models.function import FunctionTeacher
from fractionate.models.zoo import models
from fractionate.system.hashing import content_hash
from fractionate.system.paths import SHIPPED, as_path, example_folder

LEAST = 1e-7  # what is left where the entries sum to 1: single precision knows no less
READ_AT_ONCE = 256


def class_numbers(names: Mapping[str, int] | Sequence[str]) -> dict[str, int]:
    """The class number of each token or name. Raises `ConfigError` where they name fewer than two classes."""
    numbers = dict(names) if isinstance(names, Mapping) else {name: number for number, name in enumerate(names)}
    if len(set(numbers.values())) < 2:
        raise ConfigError("which tokens stand for which class is not known", expected='classes=("no", "yes")')
    return numbers


def check_entries(position: Position, k: int, example: str) -> None:
    """Raise `MismatchError` for a position with fewer entries than were requested."""
    if len(position.entries) < k:
        raise MismatchError(
            f"example {printable(example)!r} has fewer entries than k", expected=f"{k} log-probabilities a position",
            got=str(len(position.entries)), fix="leave k out, or ask again with as many",
        )  # fmt: skip


def spread_row(entries: Mapping[int, float], left: float, width: int, at_most: float = math.inf) -> Tensor:
    """Log-probabilities of all classes: entries as they are, the rest of the mass spread evenly over the others, normalised."""
    others = width - len(entries)
    even = min(max(left, LEAST) / others, at_most) if others else 0.0
    row = torch.full((width,), math.log(even) if even else -math.inf, dtype=torch.float64)
    row[list(entries)] = torch.tensor(list(entries.values()), dtype=torch.float64)
    return torch.log_softmax(row, dim=0)


@dataclass(frozen=True, eq=False)
class ClassAnswers:
    """The distribution over classes that an answer gives at one of its positions."""

    numbers: Mapping[str, int]
    tokenizer: Any
    position: int
    k: int

    def at(self, answer: Answer) -> Position:
        """The position of an answer that names the class. Raises `MismatchError` where there is none."""
        there = self.position < len(answer.positions)
        found = answer.positions[self.position] if there else None
        if found is None:
            raise MismatchError(
                f"example {printable(answer.example)!r} has no distribution at position {self.position}",
                got=f"{len(answer.positions)} positions",
            )
        return found

    @cached_property
    def _stripped(self) -> dict[str, int]:
        return {name.strip(): number for name, number in self.numbers.items()}

    def _class_of(self, token: Token) -> int | None:
        if isinstance(token, int):
            if self.tokenizer is None:
                raise ConfigError(
                    "tokens are given by number", expected="tokenizer=, to know their strings", got=str(token)
                )
            token = str(self.tokenizer.decode([token]))
        return self.numbers.get(token, self._stripped.get(token.strip()))

    def row(self, answer: Answer) -> Tensor:
        """Log-probabilities of the classes."""
        position = self.at(answer)
        check_entries(position, self.k, answer.example)
        shares: dict[int, float] = {}
        for token, number in position.entries.items():
            place = self._class_of(token)
            if place is not None:
                shares[place] = shares.get(place, 0.0) + math.exp(number)
        if not any(shares.values()):
            raise MismatchError(
                f"no entry of example {printable(answer.example)!r} names a class",
                expected=printable(", ".join(map(repr, self.numbers)), 120),
                got=printable(", ".join(map(repr, position.entries)), 120),
                fix="classes={token: class number}, another position=, or a prompt that is answered by a class alone",
            )
        entries = {place: math.log(share) if share else -math.inf for place, share in shares.items()}
        # what is not listed is no likelier than the least that is
        return spread_row(
            entries, position.left, max(self.numbers.values()) + 1, math.exp(min(position.entries.values()))
        )

    def of(self, answers: Sequence[Answer]) -> Callable[[Tensor], Tensor]:
        """A function of places that gives the rows of these answers."""
        return lambda places: torch.stack([self.row(answers[place]) for place in places.tolist()])


# --- a file of answers in a run file -------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class RowsByInput:
    """Rows of examples that were answered about, found by their inputs."""

    rows: Mapping[str, Tensor]
    file: str

    def __call__(self, inputs: Any) -> Tensor:
        try:
            return torch.stack([self.rows[key] for key in _keys(inputs)])
        except KeyError as error:
            raise MismatchError(
                f"{self.file} has no answer about an example",
                fix="leave out what changes the inputs (augmentation, other views): a file answers about examples as they are",
            ) from error


def _keys(inputs: Any) -> list[str]:
    parts = [leaf.cpu() for _, leaf in leaves(inputs)]
    return [content_hash(*(part[row] for part in parts)) for row in range(len(parts[0]))]


@dataclass(frozen=True)
class AnswersFile:
    """A file of answers by example id; builds the teacher of a run file whose parts it answers about."""

    file: str
    k: int = 0
    classes: Mapping[str, int] | Sequence[str] | None = None
    position: int = 0
    id_field: str = ""
    trained: bool = True

    def tokenizing(self, length: int) -> Tokenizing | None:
        """None: whoever answered has read the texts."""
        return None

    def build(self, need: Any) -> nn.Module:
        """A module that gives the answered rows. Raises `MismatchError` naming the examples of a part without an answer."""
        if not need.splits or need.kind != "classification":
            raise ConfigError(
                "answers from a file are about the examples of a run with classes",
                expected="teacher.model in a run file of task: classification or text-classification",
                got=f"task {need.kind}" if need.splits else "no data",
                fix="fractionate.store.import_logprobs makes a store of answers, of tokens too",
            )
        name = self.file.removeprefix(SHIPPED)
        path = example_folder() / name if name != self.file else as_path(name, "the file of answers")
        by_id = {answer.example: answer for answer in read_answers(path, id_field=self.id_field)}
        reader = ClassAnswers(
            class_numbers(need.class_names if self.classes is None else self.classes), None, self.position, self.k
        )
        rows: dict[str, Tensor] = {}
        for split in need.splits:
            missing = [name for name in split.ids if name not in by_id]
            if missing:
                known = {name for part in need.splits for name in part.ids}
                strange = [name for name in by_id if name not in known][:3]
                raise MismatchError(
                    f"{path.name} has no answer about {len(missing):,} of {len(split):,} examples of {split.name}",
                    expected="an answer by id about every example of transfer, validation and test; the rows of a table are "
                    "numbered as the lines of its file, from 2 below a header",
                    got=f"none about {', '.join(map(printable, missing[:8]))}{' …' if len(missing) > 8 else ''}"
                    + (
                        f"; one about {', '.join(map(printable, strange))}, which is no example of a part"
                        if strange
                        else ""
                    ),
                    fix="ask about them too, or make the parts of data smaller",
                )
            plan = ((0, places) for places in torch.split(torch.arange(len(split)), READ_AT_ONCE))
            for batch in split.batches(plan, 0):
                for place, key in zip(batch.index.tolist(), _keys(batch.view("teacher")), strict=True):
                    rows.setdefault(key, reader.row(by_id[split.ids[place]]))
        return FunctionTeacher(
            RowsByInput(rows, path.name), outputs="log-probabilities", title=path.name, content=path,
            classes=need.classes or None,
        )  # fmt: skip


@models.register("answers")
def answers(
    file: str,
    *,
    k: int = 0,
    classes: Mapping[str, int] | Sequence[str] | None = None,
    position: int = 0,
    id_field: str = "",
) -> AnswersFile:
    """Answers of a language model elsewhere, top-k log-probabilities by example id: `answers('answers.jsonl', k=20)`.

    `examples:NAME` is a file that ships next to the example run files.
    """
    return AnswersFile(file, k, classes, position, id_field)
