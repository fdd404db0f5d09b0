"""A person's own texts: folders of .txt files, or a column of a table, as hashed words or by a tokenizer."""

from __future__ import annotations

import itertools
import json
import re
import unicodedata
import warnings
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from fractionate.data.bundled import Divided, data_sets, joined
from fractionate.data.columns import MISSING, names_of
from fractionate.data.delimited import read_delimited
from fractionate.data.dividing import PARTS
from fractionate.data.examples import Examples
from fractionate.data.folders import class_folders, division, files_of_classes
from fractionate.data.targets import class_labels
from fractionate.data.text_file import check_encoding, read_text, refuse_json
from fractionate.errors import ConfigError, DamagedError, MismatchError, printable
from fractionate.records.base import Record
from fractionate.system.files import existing_file
from fractionate.system.memory import require_bytes
from fractionate.system.paths import as_path

WORD = re.compile(r"\w+")
MAYBE_WORDS = re.compile(r"[\w\u0080-\U0010ffff]+")
JOINERS = "\u200c\u200d"  # between letters of one word, in Persian and the scripts of India
# soft hyphens, word joiners, marks of direction and of how a character is drawn: not seen, and no part of a spelling
UNSEEN = dict.fromkeys(
    (0xAD, 0x61C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2060, 0x206A), *range(0xFE00, 0xFE10), 0xFEFF)
)
BUCKETS, PLACES = 12_000, 48
FEWER = "take fewer texts"


def words_of(text: str) -> list[str]:
    """The words of a text: runs of letters, digits and the marks that belong to them, in small letters, composed (Unicode NFC).

    Scripts that write no space between words, as those of China, Japan and Thailand, give one word a phrase: a tokenizer cuts them
    better (`tokenized`).
    """
    if text.isascii():
        return WORD.findall(text.lower())
    words = []
    for run in MAYBE_WORDS.findall(unicodedata.normalize("NFC", text.lower().translate(UNSEEN))):
        for inside, characters in itertools.groupby(run, _in_word):
            word = "".join(characters).rstrip(JOINERS)
            begin = WORD.search(word)  # a mark belongs to the letter before it, and there has to be one
            if inside and begin:
                words.append(word[begin.start() :])
    return words


@lru_cache(maxsize=100_000)
def _in_word(character: str) -> bool:
    return bool(WORD.match(character)) or character in JOINERS or unicodedata.category(character).startswith("M")


@dataclass(frozen=True)
class TextEncoding(Record):
    """How texts become inputs: the buckets of their words, then of their pairs of neighbours, 0 where there are no more.

    Words are those of `words_of`; the bucket of one is its CRC-32 modulo `buckets`, plus 1. The first `places` count. Kept as
    data.json beside a student.
    """

    class_names: tuple[str, ...]
    buckets: int = BUCKETS
    places: int = PLACES

    def encode(self, texts: Sequence[str]) -> Int[Tensor, "texts places"]:
        """Texts as inputs."""
        made = torch.zeros(len(texts), self.places, dtype=torch.long)
        for row, text in enumerate(texts):
            words = words_of(text)
            pairs = (f"{a} {b}" for a, b in itertools.pairwise(words))
            grams = itertools.islice(itertools.chain(words, pairs), self.places)
            found = [zlib.crc32(gram.encode("utf-8", "surrogatepass")) % self.buckets + 1 for gram in grams]
            made[row, : len(found)] = torch.tensor(found, dtype=torch.long)
        return made


@dataclass(frozen=True, eq=False, repr=False)
class Texts:
    """Texts with their classes, in memory."""

    texts: tuple[str, ...]
    labels: Int[Tensor, "texts"]
    class_names: tuple[str, ...]
    name: str
    ids: tuple[str, ...]


@dataclass(frozen=True, eq=False, repr=False)
class TokenizedTexts:
    """A map-style data set for Hugging Face models: item i is the tokenizer's tensors of one length, and `labels`."""

    texts: Texts
    tokenizer: Callable[..., Mapping[str, Any]]
    length: int

    @property
    def name(self) -> str:
        """The data's name."""
        return self.texts.name

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of the classes."""
        return self.texts.class_names

    @property
    def ids(self) -> tuple[str, ...]:
        """The file, or the line, of each text."""
        return self.texts.ids

    @property
    def targets(self) -> Tensor:
        """All labels, in order."""
        return self.texts.labels

    def __len__(self) -> int:
        return len(self.texts.texts)

    def __getitem__(self, place: int) -> dict[str, Any]:
        made = self.tokenizer(
            self.texts.texts[place], padding="max_length", truncation=True, max_length=self.length, return_tensors="pt"
        )
        return {name: part[0] for name, part in made.items()} | {"labels": self.texts.labels[place]}


def read_texts(
    path: Path | str,
    *,
    text: str = "text",
    label: str = "label",
    separator: str | None = None,
    encoding: str | None = None,
    missing: Sequence[str] = MISSING,
    links: bool = False,
) -> dict[str, Texts]:
    """Texts by the part they are for ("train" alone where the data are in one piece).

    From `folder/CLASS/*.txt`, with folders train, val and test above the classes or without; or from two columns of a .csv, .tsv
    or .jsonl file. The text is as its byte-order mark says, else of the encoding given, else UTF-8; `missing` are the cells that
    stand for no label, `links` follows links out of a folder. Raises `ConfigError` where there are none and for settings of another
    kind of file, `DamagedError` naming file and line for what cannot be read, and `ResourceError` before reading, where they would
    not fit into memory.
    """
    check_encoding(encoding)
    path = as_path(path, "the path of the texts")
    if path.is_dir():
        parts = division(path, links=links)
        names = class_folders(parts, links=links)
        _refuse(path, "a folder", separator=separator)
        return {
            part: _of_folder(folder, names, encoding, links=links, allow_empty=part != "train")
            for part, folder in parts.items()
        }
    _refuse(path, "a file", links=links)
    file = existing_file(path)
    if file.suffix.lower() == ".txt":
        raise ConfigError(
            f"{printable(str(path), 200)} is one text without a class",
            expected="a folder with a folder of .txt files for each class, or a .csv, .tsv or .jsonl file",
        )
    refuse_json(file, ".json")
    if file.suffix.lower() in (".jsonl", ".ndjson"):
        _refuse(path, "a file of JSON lines", separator=separator)
        lines, columns = _of_json_lines(file, text, label, encoding)
    else:
        read = read_delimited(file, separator=separator, encoding=encoding)
        absent = [name for name in (text, label) if name not in read.cells]
        if absent:
            raise ConfigError(
                f"{read.file} has no column {', '.join(map(repr, absent))}",
                expected=f"one of {', '.join(printable(name) for name in list(read.cells)[:50])}",
                fix="name them: text='review', label='stars'",
            )
        lines, columns = read.lines, (read.cells[text], [*read.cells[label]])
    shown = printable(str(file), 200)
    gone = names_of(missing, "missing")
    labels, names = class_labels(label, columns[1], where=lambda place: f"{shown}:{lines[place]}", missing=gone)
    ids = tuple(str(line) for line in lines)
    found = Texts(tuple(columns[0]), torch.from_numpy(labels), names, printable(file.name), ids)
    return {"train": found}


def _refuse(path: Path, what: str, **settings: object) -> None:
    """Raise `ConfigError` for settings that mean nothing for this kind of file."""
    given = [name for name, value in settings.items() if value not in (None, False)]
    if given:
        raise ConfigError(
            f"{', '.join(given)} cannot be set for {what}", got=printable(str(path), 200), fix="leave it out"
        )


def _of_folder(
    folder: Path, classes: tuple[str, ...], encoding: str | None, *, links: bool, allow_empty: bool
) -> Texts:
    files = files_of_classes(folder, classes, (".txt",), what="texts", links=links, allow_empty=allow_empty)
    require_bytes(4 * sum(file.stat().st_size for file, _ in files), printable(str(folder), 200), fix=FEWER)
    return Texts(
        tuple(read_text(file, encoding) for file, _ in files),
        torch.tensor([number for _, number in files]),
        classes,
        printable(folder.name),
        tuple(printable(file.relative_to(folder).as_posix(), 1000) for file, _ in files),
    )


def _of_json_lines(
    file: Path, text: str, label: str, encoding: str | None
) -> tuple[tuple[int, ...], tuple[list[str], list[str | None]]]:
    shown = printable(str(file), 200)
    require_bytes(8 * file.stat().st_size, shown, fix=FEWER)
    lines: list[int] = []
    columns: tuple[list[str], list[str | None]] = ([], [])
    for number, line in enumerate(read_text(file, encoding).split("\n"), 1):
        if not line.strip():
            continue
        try:
            item = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DamagedError(f"{shown}:{number} this is not JSON", got=printable(str(error), 200)) from error
        if not isinstance(item, dict) or not isinstance(item.get(text), str):
            got = (
                ", ".join(printable(str(name)) for name in list(item)[:20])
                if isinstance(item, dict)
                else type(item).__name__
            )
            raise DamagedError(f"{shown}:{number} there is no text {text!r}", expected="text in every line", got=got)
        value = item.get(label)
        if value is not None and not isinstance(value, (str, int, bool)):
            raise DamagedError(f"{shown}:{number} {label!r} is no class", got=type(value).__name__)
        lines.append(number)
        columns[0].append(item[text])
        columns[1].append(
            None if value is None else str(value).lower() if isinstance(value, bool) else str(value).strip()
        )
    if not lines:
        raise ConfigError(f"{shown} is empty", expected="a JSON object in each line")
    return tuple(lines), columns


@data_sets.register("texts")
def texts(
    path: Path | str,
    *,
    text: str = "text",
    label: str = "label",
    buckets: int = BUCKETS,
    places: int = PLACES,
    separator: str | None = None,
    encoding: str | None = None,
    missing: Sequence[str] = MISSING,
    links: bool = False,
) -> Divided:
    """Texts of yours, `folder/CLASS/*.txt` or columns of a .csv, .tsv or .jsonl, as hashed words for a student `bag()`.

    Inputs are [texts, places] whole numbers from 0 to `buckets` (`TextEncoding`). For a Hugging Face tokenizer see
    `tokenized`. Warns of texts without a word. Raises what `read_texts` raises.
    """
    if not (isinstance(buckets, int) and isinstance(places, int) and buckets >= 1 and places >= 1):
        raise ConfigError("buckets and places are counts", expected="1 or more", got=f"{buckets!r}, {places!r}")
    found = read_texts(
        path, text=text, label=label, separator=separator, encoding=encoding, missing=missing, links=links
    )
    hashed = TextEncoding(found["train"].class_names, buckets, places)
    count = sum(len(part.texts) for part in found.values())
    require_bytes(8 * count * places, f"{count:,} texts of {places:,} places", fix="set fewer places=")
    made = {
        name: Examples(hashed.encode(part.texts), part.labels, part.class_names, part.name, part.ids)
        for name, part in found.items()
    }
    for name, part in made.items():
        empty = (part.inputs == 0).all(1).nonzero().flatten().tolist()
        if empty:
            warnings.warn(
                f"{part.name}: {len(empty):,} of {len(part):,} texts ({name}) have no word, and are inputs of zeros: "
                f"{', '.join(part.ids[place] for place in empty[:5])}",
                stacklevel=2,
            )
    return joined(made, encoding=hashed)


def tokenized(
    path: Path | str,
    tokenizer: Callable[..., Mapping[str, Any]],
    *,
    length: int = 128,
    text: str = "text",
    label: str = "label",
    part: str = "train",
    separator: str | None = None,
    encoding: str | None = None,
    missing: Sequence[str] = MISSING,
    links: bool = False,
) -> TokenizedTexts:
    """The same texts by a Hugging Face tokenizer, read as they are asked for: for `collect`, `distill` and Hugging Face models.

    Raises what `read_texts` raises, `MismatchError` for a part that the data do not have.
    """
    if not callable(tokenizer):
        raise ConfigError("a tokenizer is an object", got=repr(tokenizer), fix="AutoTokenizer.from_pretrained(…)")
    found = read_texts(
        path, text=text, label=label, separator=separator, encoding=encoding, missing=missing, links=links
    )
    named = PARTS.get(part.lower())
    if named not in found:
        raise MismatchError(f"there is no part {part!r}", expected=", ".join(found))
    return TokenizedTexts(found[named], tokenizer, length)
