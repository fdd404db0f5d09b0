"""Sentence pairs of two languages: two columns of a table or of JSON lines, or two files with the same number of lines."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from fractionate.data.batch import Split
from fractionate.data.bundled import Divided, data_sets
from fractionate.data.memory import MemorySplit
from fractionate.data.raw import RawData, RawSplit, Tokenizing
from fractionate.data.text_columns import Columns, Reading, raw_table, read_columns, read_parts, refuse_settings
from fractionate.data.text_file import read_text
from fractionate.data.tmx import read_tmx
from fractionate.data.token_ids import padded, padded_inputs, padded_labels, require_tokenizer, token_rows
from fractionate.errors import ConfigError, DamagedError, MismatchError, printable
from fractionate.system.files import existing_file
from fractionate.system.paths import as_path


@dataclass(frozen=True, eq=False, repr=False)
class PairData(RawData):
    """Sources and targets, before any tokenizer. `encode` gives a decoder the target after its start token."""

    table: Divided
    tasks: ClassVar[tuple[str, ...]] = ("translation",)

    def encode(self, part: RawSplit, by: Tokenizing | None) -> Split:
        """A part as inputs of an encoder-decoder and labels [examples, tokens of the target], -100 where it is filled up.

        Raises `MismatchError` where the model has no token to begin a decoder with.
        """
        by = require_tokenizer(by, "translation")
        if by.start is None or by.pad is None:
            raise MismatchError(
                "the model has no token that a decoder begins with",
                expected="an encoder-decoder with decoder_start_token_id and pad_token_id in its config",
                got=f"start {by.start}, pad {by.pad}",
                fix="give a model for translation, such as hf('marian', layers=2, tokenizer='…')",
            )
        sources = token_rows(by, part.columns["source"], name=part.name)
        targets = _target_rows(by, part)
        shifted = [[by.start, *row[:-1]] for row in targets]
        inputs = padded_inputs({name: sources[name] for name in ("input_ids", "attention_mask")}, by)
        inputs["decoder_input_ids"] = padded(shifted, by.pad)
        return MemorySplit(inputs, padded_labels(targets), part.name, part.ids)


def _target_rows(by: Tokenizing, part: RawSplit) -> list[list[int]]:
    """Targets, by the target side of a tokenizer that has two."""
    made = by.tokenizer(text_target=list(part.columns["target"]), verbose=False)["input_ids"]
    long = [place for place, row in enumerate(made) if len(row) > by.length]
    if long:
        texts = [part.columns["target"][place] for place in long]
        cut = by.tokenizer(text_target=texts, truncation=True, max_length=by.length)["input_ids"]
        made = list(made)
        for place, row in zip(long, cut, strict=True):
            made[place] = row
        warnings.warn(
            f"{part.name}: {len(long):,} of {len(part):,} targets have more than {by.length:,} tokens and are cut",
            stacklevel=3,
        )
    return [row or [by.tokenizer.pad_token_id] for row in made]


@data_sets.register("pairs")
def pairs(
    path: Path | str,
    parallel: Path | str | None = None,
    *,
    source: str = "source",
    target: str = "target",
    group: str | None = None,
    part: str | None = None,
    validation: Any = None,
    test: Any = None,
    repeats: bool = False,
    separator: str | None = None,
    encoding: str | None = None,
) -> PairData:
    """Your sentence pairs for translation: `pairs('news.tsv', source='en', target='it')`, or `pairs('news.en', 'news.it')`.

    Of a translation memory, `pairs('memory.tmx', source='en', target='it')` names the languages.

    Pairs with an empty side are left out and counted in a warning. A source that an earlier part has as well is a repeat.

    Args:
        path: CSV, TSV, TMX, Parquet or JSON lines (`translation.en` reads an entry within an entry); or text, a sentence a line.
        parallel: A text file with the translation of each line.
        source: The column of sentences.
        target: The column of translations.
        group, part, repeats, separator, encoding: As in `Reading`.
        validation, test: A file of its own; of parallel files the two of them.

    Raises:
        ConfigError: for columns that are not there.
        MismatchError: for parallel files with other numbers of lines.
    """
    reading = Reading(group, part, validation, test, repeats, separator, encoding)
    roles = {"source": source, "target": target}
    columns, given = read_parts(path if parallel is None else (path, parallel), roles, reading, _read)
    made = {role: columns.texts(role) for role in roles}
    full = [place for place, both in enumerate(zip(*made.values(), strict=True)) if all(text.strip() for text in both)]
    if not full:
        raise ConfigError(f"{columns.name} has no pair with text on both sides")
    if len(full) < len(columns):
        warnings.warn(
            f"{columns.name}: {len(columns) - len(full):,} of {len(columns):,} pairs have an empty side, and are left out",
            stacklevel=2,
        )
        columns, given = columns.take(full), None if given is None else [given[place] for place in full]
        made = {role: columns.texts(role) for role in roles}
    return PairData(raw_table(columns, made, reading, given, keys=("source",)))


def _read(path: Any, roles: Mapping[str, str], *, separator: str | None, encoding: str | None) -> Columns:
    """The columns of one table, or of two parallel files."""
    if not isinstance(path, (tuple, list)):
        if str(path).lower().endswith(".tmx"):
            file = existing_file(as_path(path, "the path of the texts"))
            more = {role: name for role, name in roles.items() if role not in ("source", "target")}
            refuse_settings(file, "a translation memory", separator=separator, encoding=encoding, **more)
            return read_tmx(file, roles)
        return read_columns(path, roles, separator=separator, encoding=encoding)
    if len(path) != 2:
        raise ConfigError("parallel texts are two files", expected="(source, target)", got=repr(path))
    files = [existing_file(as_path(one, "the path of the texts")) for one in path]
    shown = [printable(str(file), 200) for file in files]
    own = {role: name for role, name in roles.items() if name != role}
    refuse_settings(shown[0], "parallel files", separator=separator, **own)
    lines = [read_text(file, encoding).removesuffix("\n").split("\n") for file in files]
    if len(lines[0]) != len(lines[1]):
        raise MismatchError(
            f"{shown[0]} and {shown[1]} are not parallel",
            expected="as many lines in both",
            got=f"{len(lines[0]):,} and {len(lines[1]):,}",
        )
    if not any(line.strip() for line in lines[0]):
        raise DamagedError(f"{shown[0]} is empty", expected="a sentence a line")
    cells = {role: [line.strip() for line in some] for role, some in zip(("source", "target"), lines, strict=True)}
    ids = tuple(str(number) for number in range(1, len(lines[0]) + 1))
    return Columns(printable(files[0].name), cells, roles, ids, (shown[0],) * len(ids))
