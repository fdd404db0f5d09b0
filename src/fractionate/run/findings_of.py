"""What a first inspection of a data source finds: sizes, classes, lengths, and what is odd. The data are read, no model is."""

from __future__ import annotations

import ast
import re
import warnings
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fractionate.data.bundled import data_sets
from fractionate.data.folders import class_folders, division, files_of_classes
from fractionate.data.picture_files import ENDINGS
from fractionate.errors import ConfigError, printable
from fractionate.run.task_of import Source

FEW = 10  # examples of a class below which a part may lack it
UNEVEN = 0.7  # share of the largest class from which accuracy says little
SHOWN = 8
SIZED = 40  # pictures whose size is read
GROUP = re.compile(
    r"(^|_)(group|user|patient|customer|author|speaker|subject|session|doc|document)s?(_?id)?$"
)  # names of what is measured more than once


@dataclass(frozen=True)
class Inspection:
    """A data source after a first inspection.

    Args:
        source: As a run file names it; columns that cannot be learned from are dropped.
        examples: How many there are.
        facts: What was found, a line each.
        odd: What to check before the run, a line each.
        texts: What a tokenizer would read of each example; empty where none does.
        classes: The names of the classes.
    """

    source: Source
    examples: int
    facts: tuple[str, ...]
    odd: tuple[str, ...]
    texts: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()


def inspect_source(source: Source) -> Inspection:
    """Read a source once. Raises what its reader raises for data that cannot be learned from."""
    if source.reader == "pictures":
        return _pictures(source)
    with warnings.catch_warnings(record=True) as message:
        warnings.simplefilter("always")
        source, found, dropped = _read(source)
    odd = [*source.notes, *dropped, *(str(one.message).partition("\n")[0] for one in message), *_columns(source)]
    if source.reader == "table":
        return _table(source, found, odd)
    whole = found.table.examples
    columns = whole.columns
    roles = {"texts": ("text", "second"), "tagged": ("words",), "prompts": ("prompt", "completion", "text", "messages")}
    sides = [("source",), ("target",)] if source.reader == "pairs" else [roles[source.reader]]
    texts = tuple(text for side in sides for text in _joined(columns, side))
    lengths = sorted(len(text.split()) for text in texts)
    facts = [f"{len(whole):,} {'sentences' if source.reader == 'tagged' else 'examples'}, {_middle(lengths)}"]
    if source.task == "multi-label":
        rows = columns["label"]
        ones = Counter({name: sum(row[place] == 1 for row in rows) for place, name in enumerate(whole.class_names)})
        facts.append(_counted("labels", ones))
        odd += [f"{printable(name, 40)} is set for {ones[name]:,} texts" for name in ones if ones[name] < FEW]
    elif source.reader == "texts":
        classes = Counter(whole.class_names[label] for label in columns["label"])
        facts.append(_counted("classes", classes))
        odd += [*_uneven(classes), *_contradictions(texts, columns["label"])]
    elif source.reader == "tagged":
        tags = Counter(whole.class_names[tag] for sentence in columns["tags"] for tag in sentence)
        facts.append(_counted("tags", tags))
        odd += _uneven(tags)
    odd += _repeats(list(columns["source"]) if source.reader == "pairs" else texts)
    return Inspection(source, len(whole), tuple(facts), tuple(dict.fromkeys(odd)), texts, whole.class_names)


def _joined(columns: Mapping[str, Sequence[Any]], roles: Sequence[str]) -> Iterator[str]:
    """What a tokenizer reads of each example."""
    for row in zip(*(columns[role] for role in roles if role in columns), strict=True):
        yield " ".join(part if isinstance(part, str) else " ".join(map(_words, part)) for part in row)


def _words(part: str | tuple[str, str]) -> str:
    """A word, or a message of a chat with its role."""
    return part if isinstance(part, str) else " ".join(part)


def _read(source: Source) -> tuple[Source, Any, list[str]]:
    """The data, without the columns of a table that cannot be learned from."""
    dropped: list[str] = []
    for _ in range(4):
        try:
            return source, data_sets[str(source)], dropped
        except ConfigError as error:
            columns = re.search(r"drop=(\[.*?\])", error.fix or "")
            if source.reader != "table" or columns is None or "cannot be learned from" not in error.what:
                raise
            names = [*source.settings.get("drop", ()), *ast.literal_eval(columns[1])]
            dropped += [f"left out: {line.removeprefix('  - ')}" for line in error.what.splitlines()[1:]]
            source = replace(source, settings={**source.settings, "drop": list(dict.fromkeys(names))})
    return source, data_sets[str(source)], dropped


def _columns(source: Source) -> list[str]:
    """What is odd about columns that are not read: groups that may have to stay in one part."""
    rows = max((len(column) for column in source.cells.values()), default=0)
    used = {name for value in source.settings.values() for name in ([value] if isinstance(value, str) else [])}
    groups = [
        column.name
        for column in source.columns
        if column.name not in used and GROUP.search(column.name.lower()) and 1 < column.different < rows
    ]
    return [f"rows share a {name!r}: group={name!r} in source keeps them in one part" for name in groups]


def _table(source: Source, found: Any, odd: list[str]) -> Inspection:
    facts = [f"{len(found):,} rows of {len(found.columns)} input columns"]
    label, target = source.settings.get("label"), source.settings.get("target")
    classes: tuple[str, ...] = ()
    shown = printable(str(target))
    if isinstance(label, str):
        counts = Counter(str(cell) for cell in source.cells[label] if cell is not None)
        facts.append(_counted("classes", counts))
        odd += _uneven(counts)
        classes = tuple(sorted(counts))
    elif label is not None:
        facts.append(f"{len(label)} labels: {', '.join(map(printable, label[:SHOWN]))}")
    else:
        numbers = [float(cell) for cell in source.cells[str(target)] if cell is not None]
        mean = sum(numbers) / len(numbers)
        facts.append(f"{shown} from {min(numbers):g} to {max(numbers):g}, {mean:g} on average")
    return Inspection(source, len(found), tuple(facts), tuple(dict.fromkeys(odd)), (), classes)


def _pictures(source: Source) -> Inspection:
    with warnings.catch_warnings(record=True) as message:
        warnings.simplefilter("always")
        parts = division(Path(source.path[0]))
        classes = class_folders(parts)
        files = [
            pair
            for inside in parts.values()
            for pair in files_of_classes(inside, classes, ENDINGS, what="pictures", allow_empty=True)
        ]
    odd = [str(one.message).partition("\n")[0] for one in message]
    counts = Counter(classes[number] for _, number in files)
    facts = [
        f"{len(files):,} pictures" + (f" in {', '.join(parts)}" if len(parts) > 1 else ""),
        _counted("classes", counts),
    ]
    sides = sorted(_sides([file for file, _ in files]))
    if sides:
        facts.append(f"shorter side from {sides[0]} to {sides[-1]} pixels, {sides[len(sides) // 2]} (median)")
        side = min(64, max(8, sides[len(sides) // 2] // 8 * 8))
        source = replace(source, settings={**source.settings, "side": side})
    return Inspection(source, len(files), tuple(facts), (*odd, *_uneven(counts)), (), classes)


def _sides(files: Sequence[Path]) -> list[int]:
    """The shorter sides of some pictures; none without pillow."""
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError:
        return []
    found = []
    for file in files[:: max(1, len(files) // SIZED)]:
        try:
            with Image.open(file) as opened:
                found.append(min(opened.size))
        except (OSError, UnidentifiedImageError, ValueError):
            continue  # the reader names it when the run begins
    return found


def _middle(lengths: Sequence[int]) -> str:
    return f"{lengths[len(lengths) // 2]:,} words (median), {lengths[-1]:,} at most"


def _counted(what: str, counts: Counter[str]) -> str:
    shown = ", ".join(f"{printable(name, 40)} {count:,}" for name, count in counts.most_common(SHOWN))
    return f"{len(counts)} {what}: {shown}{', …' if len(counts) > SHOWN else ''}"


def _uneven(counts: Counter[str]) -> list[str]:
    total, (name, most) = sum(counts.values()), counts.most_common(1)[0]
    found = []
    if most >= UNEVEN * total:
        found.append(
            f"{most / total:.0%} are {printable(name, 40)!r}: always predicting it is right as often "
            "(metrics: balanced-accuracy)"
        )
    few = [name for name, count in counts.items() if count < FEW]
    if few:
        shown = ", ".join(f"{printable(name, 40)} {counts[name]}" for name in few[:SHOWN])
        found.append(f"{len(few)} have fewer than {FEW} examples, and a part may lack them: {shown}")
    return found


def _contradictions(texts: Sequence[str], labels: Sequence[int]) -> list[str]:
    seen: defaultdict[str, set[int]] = defaultdict(set)
    for text, label in zip(texts, labels, strict=True):
        seen[text].add(label)
    count = sum(len(found) > 1 for found in seen.values())
    return [f"{count:,} texts come with two or more labels"] if count else []


def _repeats(keys: Sequence[Hashable]) -> list[str]:
    count = len(keys) - len(set(keys))
    return [f"{count:,} examples are exact repeats: they are left out of validation and test"] if count else []
