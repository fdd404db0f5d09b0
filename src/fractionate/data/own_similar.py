"""Pairs of texts that belong together, for embeddings: a query and its positive, or two texts and how alike they are."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch

from fractionate.data.batch import Split
from fractionate.data.bundled import Divided, data_sets
from fractionate.data.memory import MemorySplit
from fractionate.data.numerals import PLAIN
from fractionate.data.raw import RawData, RawSplit, Tokenizing
from fractionate.data.targets import Target, make_labels
from fractionate.data.text_columns import Reading, raw_table, read_parts
from fractionate.data.token_ids import padded_inputs, require_tokenizer, token_rows


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
    """Pairs of texts of yours for embeddings: `similar('questions.csv', first='question', second='answer')`.

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
