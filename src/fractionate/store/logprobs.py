"""A store out of top-k log-probabilities from elsewhere: aligned by example id, checked against classes or tokenizer."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import file_digest, sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fractionate.data.answers import Answer, Token, read_answers
from fractionate.data.labels import IGNORED
from fractionate.errors import ConfigError, MismatchError, printable
from fractionate.models.answers import ClassAnswers, check_entries, class_numbers, spread_row
from fractionate.store.collection import collect
from fractionate.store.forms import FormKind, StoredDtype
from fractionate.store.identity import vocabulary_size
from fractionate.store.keys import Keyed
from fractionate.store.reading import Store
from fractionate.store.teachers import ByPlace, Tokens
from fractionate.system.files import existing_file
from fractionate.tasks.task import Task

SHOWN = 8


def import_logprobs(
    answers: Path | str | Iterable[Mapping[str, Any]],
    data: Any,
    out: Path | str,
    *,
    named: str,
    k: int = 0,
    classes: Mapping[str, int] | Sequence[str] | None = None,
    tokenizer: Any = None,
    tokens: Tokens = "",
    position: int = 0,
    id_field: str = "",
    dtype: StoredDtype = "float32",
    temperatures: tuple[float, ...] = (1.0,),
) -> Store:
    """Make a store out of top-k log-probabilities that a model gave elsewhere (`read_answers` lists the forms).

    Answers belong to the examples of the same id; examples without ids of their own are known by their place. The probability
    that is not listed is spread evenly over what is not listed.

    Args:
        answers: A .jsonl or .parquet file, or mappings of that form.
        named: Which model answered, since it cannot be seen.
        k: How many entries each position was requested with; 0: as many as the longest has.
        classes: Which tokens stand for which class: names in the order of the classes, or a mapping of tokens to class numbers,
            more than one for a class if need be; None: the data's class names. Space around a token does not count. Mass on other
            tokens is left out, and the classes share what remains.
        tokenizer: For rows of tokens: what gives tokens their numbers. Strings as vocabularies and as servers write them are known.
        tokens: "next" or "aligned" for a distribution at every labelled token; "" for one per example, at `position`.
        id_field: The field of the example's id, where it has another name.
        data: The examples, or a `Task` over them.
        out: The folder of the store.
        position: Which position of an answer holds the class, where rows are examples.
        dtype: Of the numbers on disk.
        temperatures: At which the mass outside the entries is kept.

    Returns:
        The `Store`.

    Raises:
        MismatchError: for missing and unknown ids, other tokens than the data's, unknown tokens, fewer entries than `k`.
        NumericsError, DamagedError: as `read_answers`.

    Example:
        import math
        import torch
        from fractionate.store import import_logprobs

        entries = [{"token": name, "logprob": math.log(p)} for name, p in (("cat", 0.9), ("dog", 0.1))]
        answers = [{"id": str(n), "top_logprobs": [entries]} for n in range(2)]
        store = import_logprobs(answers, (torch.randn(2, 8), torch.arange(2)), "store", named="gpt of May", classes=["cat", "dog"])
    """
    if isinstance(data, Task):
        tokens = tokens or data.reader.tokens
        data = data.splits.transfer
    if not named:
        raise ConfigError("a teacher elsewhere needs a name", fix='named="gpt-4.1-mini of 3 May"')
    source = Keyed.of(data)
    found = _by_place(list(read_answers(answers, id_field=id_field)), source)
    text = f"{named}: {_digest(answers, found)}"
    rows: Callable[[Tensor], Tensor]
    if tokens:
        wide, positions = vocabulary_size(tokenizer), [p for answer in found for p in answer.positions if p is not None]
        rows = TokenAnswers(found, source, TokenNumbers(tokenizer), tokens, k)
    else:
        numbers = class_numbers(source.split.class_names if classes is None else classes)
        given = ClassAnswers(numbers, tokenizer, position, k)
        wide, positions = max(numbers.values()) + 1, [given.at(answer) for answer in found]
        rows = given.of(found)
    most = k or max(len(one.entries) for one in positions)
    kept: FormKind = "top-k" if most < wide - 1 else "dense"
    return collect(
        ByPlace(rows), data, out, named=text, tokens=tokens, tokenizer=tokenizer, vocabulary="trim" if tokens else "whole",
        form=kept, k=most if kept == "top-k" else 0, batch_size=1 if tokens else 256, dtype=dtype,
        temperatures=temperatures, outputs="log-probabilities", class_relation=None,
    )  # fmt: skip


def _digest(answers: Any, found: Sequence[Answer]) -> str:
    if isinstance(answers, (str, Path)):
        with existing_file(answers).open("rb") as file:
            return file_digest(file, "sha256").hexdigest()
    return sha256(repr(found).encode()).hexdigest()


def _by_place(found: Sequence[Answer], source: Keyed) -> list[Answer]:
    """The answers in the order of the data. Raises `MismatchError` for ids that are missing, unknown or there twice."""
    by_id: dict[str, Answer] = {}
    twice = [answer.example for answer in found if by_id.setdefault(answer.example, answer) is not answer]
    wanted = list(source.split.ids)
    missing = [name for name in wanted if name not in by_id]
    unknown = sorted(by_id.keys() - set(wanted))
    for names, what, fix in (
        (twice, "have more than one answer", "keep one answer per example"),
        (missing, "have no answer", "ask for them, or take them out of the data"),
        (unknown, "are not in the data", "check that these answers are of these data: ids are compared as text"),
    ):
        if names:
            shown = ", ".join(map(printable, names[:SHOWN])) + (" …" if len(names) > SHOWN else "")
            raise MismatchError(
                f"{source.name}: {len(names):,} examples {what}: {shown}",
                expected=f"one answer for each of {len(wanted):,} ids", got=f"{len(found):,} answers", fix=fix,
            )  # fmt: skip
    return [by_id[name] for name in wanted]


@dataclass(frozen=True, eq=False)
class TokenNumbers:
    """The numbers of tokens by their strings: as a vocabulary writes them, and as they are decoded."""

    tokenizer: Any
    _known: dict[Token, int] = field(default_factory=dict)

    @cached_property
    def vocabulary(self) -> dict[str, int]:
        """Numbers by the vocabulary's own strings."""
        return dict(self.tokenizer.get_vocab() if hasattr(self.tokenizer, "get_vocab") else self.tokenizer)

    @cached_property
    def count(self) -> int:
        """How many numbers there are."""
        return vocabulary_size(self.tokenizer)

    @cached_property
    def decoded(self) -> dict[str, int | None]:
        """Numbers by decoded strings; None for a string of multiple tokens (parts of characters)."""
        if not hasattr(self.tokenizer, "batch_decode"):
            return dict(self.vocabulary)
        found: dict[str, int | None] = {}
        numbers = sorted(self.vocabulary.values())
        for number, text in zip(numbers, self.tokenizer.batch_decode([[n] for n in numbers]), strict=True):
            found[text] = None if text in found else number
        return found

    def __call__(self, token: Token, example: str) -> int:
        """The number of a token. Raises `MismatchError` for one that the tokenizer does not have, or has more than once."""
        if token in self._known:
            return self._known[token]
        number: int | None
        if isinstance(token, int):
            number = token if 0 <= token < self.count else None
        else:
            number = self.decoded.get(token)
            number = self.vocabulary.get(token) if number is None else number
        if number is None:
            ambiguous = not isinstance(token, int) and token in self.decoded
            raise MismatchError(
                f"example {printable(example)!r}: "
                + (f"{printable(repr(token))} is the string of many tokens" if ambiguous else "a token that this tokenizer lacks"),
                expected="the tokens of the tokenizer", got=printable(repr(token)),
                fix="ask for token numbers (vLLM: return_tokens_as_token_ids)" if ambiguous
                else "give the tokenizer of the model that answered",
            )  # fmt: skip
        self._known[token] = number
        return number


@dataclass(frozen=True, eq=False)
class TokenAnswers:
    """A distribution at every labelled token, by place."""

    answers: Sequence[Answer]
    source: Keyed
    numbers: TokenNumbers
    tokens: Tokens
    k: int

    def __call__(self, places: Tensor) -> Tensor:
        batch, _ = next(self.source.batches([places.numpy().astype(np.int64)]))
        found = torch.full((*batch.labels.shape, self.numbers.count), -math.log(self.numbers.count))
        for row, place in enumerate(places.tolist()):
            self._fill(found[row], batch.labels[row], self.answers[place])
        return found

    def _fill(self, found: Tensor, labels: Tensor, answer: Answer) -> None:
        shift = self.tokens == "next"
        targets = labels.clone()
        if shift:
            targets[0] = IGNORED  # nothing comes before the first
        labelled = (targets != IGNORED).nonzero().flatten().tolist()
        given = [position for position in answer.positions if position is not None]
        if len(given) == len(labelled):
            pairs = list(zip(labelled, given, strict=True))
        elif max(labelled, default=0) < len(answer.positions) and all(answer.positions[at] for at in labelled):
            pairs = [(at, position) for at in labelled if (position := answer.positions[at]) is not None]
        else:
            raise MismatchError(
                f"example {printable(answer.example)!r} has another number of tokens than its answer",
                expected=f"{len(labelled)} labelled tokens, or a position for every token",
                got=f"{len(given)} positions",
                fix="the same tokenizer, template and truncation on both sides",
            )
        for at, position in pairs:
            check_entries(position, self.k, answer.example)
            label = int(labels[at])
            own = None if position.token is None else self.numbers(position.token, answer.example)
            if own is not None and own != label:
                raise MismatchError(
                    f"example {printable(answer.example)!r} has other tokens than its answer (place {at})",
                    expected=f"token {label}", got=f"token {own} ({printable(repr(position.token))})",
                    fix="the data must hold the very tokens that the model answered or was given",
                )  # fmt: skip
            entries = {self.numbers(token, answer.example): number for token, number in position.entries.items()}
            found[at - shift] = spread_row(entries, position.left, self.numbers.count)
