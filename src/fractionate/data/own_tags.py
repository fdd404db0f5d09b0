"""Sentences with a tag per word: JSON lines or Parquet with lists, and CoNLL files with a word and its tag per line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from fractionate.data.batch import Split
from fractionate.data.bundled import Divided, data_sets
from fractionate.data.columns import class_names
from fractionate.data.labels import IGNORED
from fractionate.data.memory import MemorySplit
from fractionate.data.raw import RawData, RawSplit, Tokenizing
from fractionate.data.saved_folder import is_saved
from fractionate.data.text_columns import Columns, Reading, raw_table, read_columns, read_parts, refuse_settings
from fractionate.data.text_file import read_text
from fractionate.data.token_ids import (
    padded_inputs,
    padded_labels,
    require_fast,
    require_tokenizer,
    token_rows,
)
from fractionate.errors import ConfigError, DamagedError, printable
from fractionate.system.files import existing_file
from fractionate.system.memory import require_bytes
from fractionate.system.paths import as_path

CONLL = (".conll", ".iob", ".iob2", ".bio", ".txt", ".tsv")
DOCUMENT = "-DOCSTART-"  # a line of CoNLL-2003 between documents


@dataclass(frozen=True, eq=False, repr=False)
class TaggedData(RawData):
    """Words with a tag each, before any tokenizer. `encode` labels the first token of a word, all others are ignored."""

    table: Divided
    tasks: ClassVar[tuple[str, ...]] = ("token-classification",)

    def encode(self, part: RawSplit, by: Tokenizing | None) -> Split:
        """A part as [examples, tokens] inputs and labels, -100 where a token has none."""
        by = require_tokenizer(by, "token-classification")
        require_fast(by, "which token is of which word")
        words = _as_in_text(by, part.columns["words"])
        rows = token_rows(by, words, name=part.name, is_split_into_words=True)
        found = by.tokenizer(words, is_split_into_words=True, truncation=True, max_length=by.length, verbose=False)
        labels: list[list[int]] = []
        for place, (row, tags) in enumerate(zip(rows["input_ids"], part.columns["tags"], strict=True)):
            before: int | None = None
            own: list[int] = []
            for word in found.word_ids(place):
                own.append(IGNORED if word is None or word == before else tags[word])
                before = word
            labels.append([*own, *[IGNORED] * (len(row) - len(own))])
        return MemorySplit(padded_inputs(rows, by), padded_labels(labels), part.name, part.ids, part.class_names)


def _as_in_text(by: Tokenizing, sentences: Sequence[Sequence[str]]) -> list[list[str]]:
    """Words with the space before them, for tokenizers that keep it in the token: else each would be cut as if it began a text."""
    settings: dict[str, Any] = {"is_split_into_words": True, "add_special_tokens": False}
    bare, spaced = ["one", "two", "three"], ["one", " two", " three"]
    in_text = by.tokenizer("one two three", add_special_tokens=False)["input_ids"]
    cut = [by.tokenizer(words, **settings)["input_ids"] for words in (bare, spaced)]
    before = " " if cut[0] != in_text == cut[1] else ""
    return [[f"{before * bool(place)}{word}" for place, word in enumerate(words)] for words in sentences]


@data_sets.register("tagged")
def tagged(
    path: Path | str,
    *,
    tokens: str | int | None = None,
    tags: str | int | None = None,
    group: str | None = None,
    part: str | None = None,
    validation: Path | str | None = None,
    test: Path | str | None = None,
    repeats: bool = False,
    encoding: str | None = None,
) -> TaggedData:
    """Your sentences with a tag per word, for token-classification: `tagged('news.jsonl', tokens='words', tags='ner')`.

    Args:
        path: JSON lines or Parquet with lists; or a CoNLL file (.conll, .iob, .bio, .txt, .tsv): a word and its tag per line, an
            empty line between sentences.
        tokens: The column of words (`tokens`); of a CoNLL file its number (0).
        tags: The column of tags (`tags`): names, or numbers; of a CoNLL file its number (-1, the last).
        group, part, validation, test, repeats, encoding: As in `Reading`.

    Raises:
        ConfigError: for columns that are not there.
        DamagedError: naming the row, where there are more words than tags.
    """
    reading = Reading(group, part, validation, test, repeats, None, encoding)
    columns, given = read_parts(path, {"tokens": tokens, "tags": tags}, reading, _read)  # type: ignore[dict-item]
    words = columns.lists("tokens")
    named = columns.lists("tags")
    for place, (ours, theirs) in enumerate(zip(words, named, strict=True)):
        if len(ours) != len(theirs):
            raise DamagedError(
                f"{columns.where(place)} words and tags do not fit", expected=f"{len(ours)} tags, one per word",
                got=f"{len(theirs)}",
            )  # fmt: skip
        if not all(isinstance(word, str) and word.strip() for word in ours):
            raise DamagedError(f"{columns.where(place)} an entry is no word", expected="a list of words")
        wrong = [tag for tag in theirs if not isinstance(tag, (str, int)) or isinstance(tag, bool)]
        if wrong:
            raise DamagedError(f"{columns.where(place)} an entry is no tag", got=printable(repr(wrong[0]), 40))
    different = {tag for sentence in named for tag in sentence}
    order = sorted(different, key=lambda tag: (tag, "") if isinstance(tag, int) else (-1, tag))
    if len(different) < 2:
        raise ConfigError(f"{columns.name} has a single tag", expected="at least two", got=printable(repr(order[:1])))
    numbers = {tag: number for number, tag in enumerate(order)}
    made = {"words": words, "tags": tuple(tuple(numbers[tag] for tag in sentence) for sentence in named)}
    table = raw_table(columns, made, reading, given, keys=("words",), class_names=class_names(map(str, order)))
    return TaggedData(table)


def _read(path: Path | str, roles: Mapping[str, Any], *, separator: str | None, encoding: str | None) -> Columns:
    """The columns of one file of sentences."""
    file = as_path(path, "the path of the sentences")
    file = file if is_saved(file) else existing_file(file)
    if file.suffix.lower() in CONLL:
        shown = printable(str(file), 200)
        columns = {"tokens": 0, "tags": -1} | {role: name for role, name in roles.items() if name is not None}
        wrong = {role: name for role, name in columns.items() if not isinstance(name, int)}
        refuse_settings(shown, "a CoNLL file, whose columns have numbers", **wrong)
        return _of_conll(file, shown, columns, encoding)
    if file.suffix.lower() == ".csv":
        raise ConfigError(
            f"{printable(str(file), 200)} has no lists of words", expected="JSON lines, Parquet or a CoNLL file"
        )
    named = {role: role if name is None else str(name) for role, name in roles.items()}
    return read_columns(file, named, separator=separator, encoding=encoding)


def _of_conll(file: Path, shown: str, columns: Mapping[str, int], encoding: str | None) -> Columns:
    require_bytes(16 * file.stat().st_size, shown, fix="take fewer sentences")
    sentences: list[tuple[int, list[str], list[str]]] = []
    open_one = False
    for number, line in enumerate(read_text(file, encoding).split("\n"), 1):
        if not line.strip() or line.startswith(DOCUMENT):
            open_one = False
            continue
        cells = line.rstrip("\r").split("\t") if "\t" in line else line.split()
        try:
            word, tag = cells[columns["tokens"]].strip(), cells[columns["tags"]].strip()
        except IndexError as error:
            raise DamagedError(
                f"{shown}:{number} this line has no such column",
                expected=f"columns {dict(columns)}",
                got=f"{len(cells)} columns",
            ) from error
        if len(cells) < 2 or not word or not tag:
            raise DamagedError(f"{shown}:{number} this line has no word and tag", got=printable(line, 80))
        if not open_one:
            sentences.append((number, [], []))
            open_one = True
        sentences[-1][1].append(word)
        sentences[-1][2].append(tag)
    if not sentences:
        raise ConfigError(f"{shown} is empty", expected="a word and its tag per line")
    cells_of = {"tokens": [words for _, words, _ in sentences], "tags": [tags for _, _, tags in sentences]}
    ids = tuple(str(number) for number, _, _ in sentences)
    names = {role: f"column {number}" for role, number in columns.items()}
    return Columns(printable(file.name), cells_of, names, ids, (shown,) * len(ids))
