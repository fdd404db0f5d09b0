"""Queries of a person's own with the text that answers each and texts that do not: for reranking."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from fractionate.data.batch import Split
from fractionate.data.bundled import Divided, data_sets
from fractionate.data.labels import IGNORED
from fractionate.data.memory import MemorySplit
from fractionate.data.numerals import PLAIN
from fractionate.data.own_texts import BUCKETS, PLACES, TextEncoding
from fractionate.data.raw import RawData, RawSplit, Tokenizing
from fractionate.data.targets import Target, make_labels
from fractionate.data.text_columns import Columns, Reading, raw_table, read_parts
from fractionate.data.token_ids import padded_inputs, require_tokenizer, token_rows
from fractionate.errors import DamagedError

ROLES = ("query", "relevant", "others")


@dataclass(frozen=True, eq=False, repr=False)
class QueryData(RawData):
    """Queries with their candidates, the relevant one first, before any tokenizer."""

    table: Divided
    encoding: TextEncoding
    candidates: int
    tasks: ClassVar[tuple[str, ...]] = ("reranking",)

    def encode(self, part: RawSplit, by: Tokenizing | None) -> Split:
        """A part as inputs [examples, 1 + candidates, tokens], the query first, and labels [examples, candidates] of 1, 0 and -100.

        Without a tokenizer inputs are hashed words [examples, 1 + candidates, places].
        """
        labels = torch.full((len(part), self.candidates), IGNORED)
        labels[:, 0] = 1
        flat: list[str] = []
        for place, (query, relevant, others) in enumerate(zip(*(part.columns[role] for role in ROLES), strict=True)):
            flat += [query, relevant, *others, *[""] * (self.candidates - 1 - len(others))]
            labels[place, 1 : 1 + len(others)] = 0
        shape = (len(part), 1 + self.candidates, -1)
        if by is None:
            inputs: Tensor | dict[str, Tensor] = self.encoding.encode(flat).reshape(shape)
        else:
            made = padded_inputs(token_rows(by, flat, name=part.name), by)
            inputs = {name: column.reshape(shape) for name, column in made.items()}
        return MemorySplit(inputs, labels, part.name, part.ids)


@data_sets.register("queries")
def queries(
    path: Path | str,
    *,
    query: str = "query",
    relevant: str = "relevant",
    others: str = "others",
    group: str | None = None,
    part: str | None = None,
    validation: Any = None,
    test: Any = None,
    repeats: bool = False,
    separator: str | None = None,
    encoding: str | None = None,
    buckets: int = BUCKETS,
    places: int = PLACES,
) -> QueryData:
    """Your queries for reranking, each with the text that answers it and a list of others: `queries('faq.jsonl')`.

    A model by `hf(…)` reads them by its tokenizer; a network without one, such as `bag()`, as hashed words. A query that an earlier
    part has as well is a repeat.

    Args:
        path: JSON lines, Parquet, CSV or TSV.
        query: The column of queries.
        relevant: The column of texts that answer them.
        others: The column of lists of texts that do not, one at least; rows may have different numbers of them.
        group, part, validation, test, repeats, separator, encoding: As in `Reading`.
        buckets, places: Of hashed words, as in `texts`.

    Raises:
        ConfigError: for columns that are not there.
        DamagedError: naming the row without a query, a relevant text or another one.
    """
    reading = Reading(group, part, validation, test, repeats, separator, encoding)
    roles = {"query": query, "relevant": relevant, "others": others}
    columns, given = read_parts(path, roles, reading)
    made: dict[str, Sequence[Any]] = {role: columns.texts(role) for role in ("query", "relevant")}
    for role, column in made.items():
        empty = next((place for place, text in enumerate(column) if not text.strip()), None)
        if empty is not None:
            raise DamagedError(
                f"{columns.where(empty)} has no text in {roles[role]!r}", expected="a query and its relevant text"
            )
    made["others"] = _others(columns)
    encoded = TextEncoding((), buckets, places)
    return QueryData(
        raw_table(columns, made, reading, given, keys=("query",)), encoded, 1 + max(map(len, made["others"]))
    )


def _others(columns: Columns) -> tuple[tuple[str, ...], ...]:
    found = columns.lists("others")
    for place, row in enumerate(found):
        if not all(isinstance(text, str) and text.strip() for text in row):
            raise DamagedError(
                f"{columns.where(place)} {columns.names['others']!r} is no list of texts", got=repr(row)[:200]
            )
    return found


@dataclass(frozen=True, eq=False, repr=False)
class SimilarData(RawData):
    """Pairs of texts, before any tokenizer."""

    table: Divided
    tasks: ClassVar[tuple[str, ...]] = ("embeddings",)

    def encode(self, part: RawSplit, by: Tokenizing | None) -> Split:
        """A part as inputs [pairs, 2, tokens] and labels [pairs]: how alike the two are, or 0 where that is not given."""
        by = require_tokenizer(by, "embeddings")
        sides = [token_rows(by, part.columns[role], name=part.name) for role in ("first", "second")]
        both = {
            name: [row for pair in zip(*(side[name] for side in sides), strict=True) for row in pair]
            for name in sides[0]
        }
        inputs = {name: found.reshape(len(part), 2, -1) for name, found in padded_inputs(both, by).items()}
        scores = part.columns.get("score")
        labels = torch.zeros(len(part)) if scores is None else torch.tensor(scores, dtype=torch.float32)
        return MemorySplit(inputs, labels, part.name, part.ids)


@data_sets.register("similar")
def similar(
    path: Path | str,
    *,
    first: str = "query",
    second: str = "positive",
    score: str | None = None,
    group: str | None = None,
    part: str | None = None,
    validation: Any = None,
    test: Any = None,
    repeats: bool = False,
    separator: str | None = None,
    encoding: str | None = None,
) -> SimilarData:
    """Your pairs of texts for embeddings: `similar('questions.csv', first='question', second='answer')`.

    Args:
        path: CSV, TSV, Parquet or JSON lines.
        first, second: The columns of a text and of one that belongs to it.
        score: The column of how alike the two are, -1 to 1, for `task: embeddings(gold=True)`.
        group, part, validation, test, repeats, separator, encoding: As in `Reading`.

    Raises:
        ConfigError: for columns that are not there, and scores that are no numbers.
    """
    reading = Reading(group, part, validation, test, repeats, separator, encoding)
    roles = {"first": first, "second": second} | ({} if score is None else {"score": score})
    columns, given = read_parts(path, roles, reading)
    made: dict[str, Any] = {role: columns.texts(role) for role in ("first", "second")}
    if score is not None:
        cells = {score: columns.words("score", fractions=True)}
        found = make_labels(
            Target((score,), "regression"), cells, {}, where=columns.where, missing=("",), numerals=PLAIN
        )
        made["score"] = tuple(found.values.tolist())
    return SimilarData(raw_table(columns, made, reading, given, keys=("first", "second")))
