"""Texts of a person's own with a class each: folders of .txt files, or columns of a table; by a tokenizer, or as hashed words."""

from __future__ import annotations

import itertools
import re
import unicodedata
import warnings
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from fractionate.data.batch import Split
from fractionate.data.bundled import Divided, Parts, data_sets
from fractionate.data.columns import MISSING, names_of
from fractionate.data.dividing import Size
from fractionate.data.examples import Examples
from fractionate.data.folders import class_folders, division, files_of_classes
from fractionate.data.memory import MemorySplit
from fractionate.data.numerals import PLAIN
from fractionate.data.raw import RawData, RawSplit, Tokenizing
from fractionate.data.saved_folder import is_saved
from fractionate.data.targets import Labels, Target, TargetEncoding, make_labels
from fractionate.data.text_columns import FEWER, Reading, raw_table, read_parts, refuse_settings
from fractionate.data.text_file import check_encoding, read_text
from fractionate.data.token_ids import padded_inputs, token_rows
from fractionate.errors import ConfigError, printable
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
CLASSES = Target(("label",), "classification")


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

    Words are those of `words_of`; the bucket of one is its CRC-32 modulo `buckets`, plus 1. The first `places` count. `target` is
    how numbers were standardised. Kept as data.json next to a student.
    """

    class_names: tuple[str, ...]
    buckets: int = BUCKETS
    places: int = PLACES
    target: TargetEncoding | None = None

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
class TextData(RawData):
    """Texts with a class each, before any tokenizer.

    Args:
        table: The texts.
        encoding: How texts become the inputs of a network without a tokenizer.
        target: What the labels are.
    """

    table: Divided
    encoding: TextEncoding
    target: Target = CLASSES

    @property
    def tasks(self) -> tuple[str, ...]:
        """Classification, multi-label or regression; of texts with classes also embeddings, where equal classes are relevant."""
        return (self.target.task, *(("embeddings",) if self.target.task == "classification" else ()))

    def raw_parts(self, *, transfer: Size = None, validation: Size = None, test: Size = None, seed: int = 0) -> Parts:
        """The parts before any tokenizer; numbers are standardised by those of the transfer part."""
        found = self.table.parts(transfer=transfer, validation=validation, test=test, seed=seed)
        if self.target.task != "regression":
            return found
        numbers = np.array(found.transfer.columns["label"])
        made = TargetEncoding.fit(Labels(self.target, numbers, ()), np.arange(len(numbers)))
        names = ("transfer", "validation", "test", "teaching")
        parts = {name: _standardised(getattr(found, name), made) for name in names if getattr(found, name) is not None}
        return replace(found, **parts, encoding=made)

    def encode(self, part: RawSplit, by: Tokenizing | None) -> Split:
        """A part as inputs [texts, tokens] and labels [texts]; without a tokenizer as hashed words [texts, places]."""
        if by is None:
            found = self.hashed(part)
            return found if isinstance(found, MemorySplit) else MemorySplit.of(found)
        rows = token_rows(by, part.columns["text"], part.columns.get("second"), name=part.name)
        labels = torch.tensor(part.columns["label"])
        return MemorySplit(padded_inputs(rows, by), labels, part.name, part.ids, part.class_names)

    def hashed(self, part: RawSplit) -> Examples | MemorySplit:
        """A part as hashed words; a split where a text has multiple labels. Warns of texts without a word."""
        if "second" in part.columns:
            raise ConfigError(
                f"{part.name}: pairs of texts need a model with a tokenizer",
                expected="hf(…) for teacher and student",
                got="a network that reads hashed words",
                fix="leave second= out, or give models by hf(…)",
            )
        inputs, labels = self.encoding.encode(part.columns["text"]), torch.tensor(part.columns["label"])
        kind = Examples if self.target.task == "classification" else MemorySplit
        made = kind(inputs, labels, class_names=part.class_names, name=part.name, ids=part.ids)
        empty = (made.inputs == 0).all(1).nonzero().flatten().tolist()
        if empty:
            warnings.warn(
                f"{part.name}: {len(empty):,} of {len(part):,} texts have no word, and are inputs of zeros: "
                f"{', '.join(part.ids[place] for place in empty[:5])}",
                stacklevel=3,
            )
        return made

    @cached_property
    def examples(self) -> Examples | MemorySplit:
        """All texts as hashed words; numbers as they are in the file."""
        return self.hashed(self.table.examples)

    def parts(self, *, transfer: Size = None, validation: Size = None, test: Size = None, seed: int = 0) -> Parts:
        """The parts, as hashed words."""
        found = self.raw_parts(transfer=transfer, validation=validation, test=test, seed=seed)
        teaching = None if found.teaching is None else self.hashed(found.teaching)
        transferred, chosen, judged = (self.hashed(part) for part in (found.transfer, found.validation, found.test))
        return Parts(transferred, chosen, judged, teaching, self.encoding_of(found))

    def encoding_of(self, parts: Parts) -> TextEncoding:
        """How these parts become the inputs and labels of a network without a tokenizer."""
        target = parts.encoding
        return replace(self.encoding, target=target) if isinstance(target, TargetEncoding) else self.encoding


def _standardised(part: RawSplit, target: TargetEncoding) -> RawSplit:
    learned = target.standardised(torch.tensor(part.columns["label"])).tolist()
    return replace(part, columns={**part.columns, "label": tuple(learned)})


def _read(
    path: Path | str,
    text: str,
    target: Target,
    second: str | None,
    reading: Reading,
    missing: Sequence[str],
    links: bool,
) -> Divided:
    """Texts with their labels, from folders or from columns; all of it as in `texts`."""
    gone = names_of(missing, "missing")
    check_encoding(reading.encoding)
    path = as_path(path, "the path of the texts")
    if path.is_dir() and not is_saved(path):
        others = {name: value for name, value in vars(reading).items() if name not in ("encoding", "repeats")}
        named = None if target == CLASSES else target.columns
        refuse_settings(path, "a folder", second=second, **{"label or target": named}, **others)
        return _of_folder(path, reading, links=links)
    refuse_settings(path, "a file", links=links)
    if not is_saved(path) and existing_file(path).suffix.lower() == ".txt":
        raise ConfigError(
            f"{printable(str(path), 200)} is one text without a class",
            expected="a folder with a folder of .txt files for each class, or a .csv, .tsv, .parquet or .jsonl file",
        )
    settings = {f"label {place}": name for place, name in enumerate(target.columns)}
    roles = {"text": text} | ({} if second is None else {"second": second})
    columns, given = read_parts(path, roles | settings, reading)
    texts = {role: columns.texts(role) for role in roles}
    numbers = target.task == "regression"
    cells = {name: columns.words(role, fractions=numbers) for role, name in settings.items()}
    labels = make_labels(target, cells, {}, where=columns.where, missing=gone, numerals=PLAIN)
    made = texts | {"label": tuple(labels.values.tolist())}
    return raw_table(columns, made, reading, given, keys=tuple(texts), class_names=labels.names)


def _of_folder(folder: Path, reading: Reading, *, links: bool) -> Divided:
    parts = division(folder, links=links)
    classes = class_folders(parts, links=links)
    texts: list[str] = []
    ids: list[str] = []
    labels: list[int] = []
    given: list[str | None] = []
    for part, inside in parts.items():
        empty = part != "train"
        files = files_of_classes(inside, classes, (".txt",), what="texts", links=links, allow_empty=empty)
        require_bytes(4 * sum(file.stat().st_size for file, _ in files), printable(str(inside), 200), fix=FEWER)
        texts += [read_text(file, reading.encoding) for file, _ in files]
        ids += [printable(file.relative_to(inside).as_posix(), 1000) for file, _ in files]
        labels += [number for _, number in files]
        given += [part] * len(files)
    name = printable(folder.resolve().name)
    whole = RawSplit({"text": tuple(texts), "label": tuple(labels)}, tuple(ids), name, classes)
    keys = None if reading.repeats else texts
    return Divided(whole, given if len(parts) > 1 else None, keys=keys)


@data_sets.register("texts")
def texts(
    path: Path | str,
    *,
    text: str = "text",
    label: str | Sequence[str] | None = None,
    target: str | Sequence[str] | None = None,
    second: str | None = None,
    buckets: int = BUCKETS,
    places: int = PLACES,
    group: str | None = None,
    part: str | None = None,
    validation: Path | str | None = None,
    test: Path | str | None = None,
    repeats: bool = False,
    separator: str | None = None,
    encoding: str | None = None,
    missing: Sequence[str] = MISSING,
    links: bool = False,
) -> TextData:
    r"""Your texts with one class each: `folder/CLASS/*.txt`, or columns of a .csv, .tsv, .parquet or .jsonl file.

    A model by `hf(…)` reads them by its tokenizer; a network without one, such as `bag()`, as hashed words (`TextEncoding`).

    Args:
        path: The folder or file.
        text: The column of texts.
        label: The column of classes, "label" where neither it nor `target` is given; a list of columns of 0 and 1 is many labels
            per text.
        target: The column of numbers to predict, or a list of them, in the place of `label`.
        second: The column of a second text, for pairs.
        buckets, places: Of hashed words.
        group, part, validation, test, repeats, separator, encoding: As in `Reading`.
        missing: Cells that stand for no label.
        links: Follow links out of a folder.

    Returns:
        `TextData`: the texts, their parts, and the encoding as hashed words.

    Raises:
        ConfigError: where there are none, for columns that are not there, and for settings of another kind of file.
        DamagedError: naming file and line for what cannot be read.
        ResourceError: before reading what would not fit into memory.

    Example:
        from pathlib import Path
        from fractionate.data import texts

        Path("reviews.csv").write_text("text,label\n" + "".join(f"word{n} good,{n % 2}\n" for n in range(20)))
        found = texts("reviews.csv", buckets=256, places=8)
    """
    if not (isinstance(buckets, int) and isinstance(places, int) and buckets >= 1 and places >= 1):
        raise ConfigError("buckets and places are counts", expected="1 or more", got=f"{buckets!r}, {places!r}")
    reading = Reading(group, part, validation, test, repeats, separator, encoding)
    learned = CLASSES if label is None and target is None else Target.of(label, target)
    table = _read(path, text, learned, second, reading, missing, links)
    require_bytes(8 * len(table.examples) * places, f"{len(table.examples):,} texts", fix="set fewer places=")
    return TextData(table, TextEncoding(table.examples.class_names, buckets, places), learned)
