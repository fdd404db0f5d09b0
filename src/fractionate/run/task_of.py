"""Which task files are for, and which of their columns is what: by the names of the columns first, then by what they hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from fractionate.data.dividing import PARTS
from fractionate.data.own_tags import CONLL
from fractionate.data.picture_files import ENDINGS
from fractionate.data.saved_folder import is_saved, open_saved
from fractionate.data.table_file import PARQUET
from fractionate.data.text_file import JSON_LINES
from fractionate.errors import ConfigError, printable
from fractionate.run.columns_of import ColumnProfile, cells_of, profile
from fractionate.system.registry import nearest

TEXTS = (
    "text",
    "review",
    "sentence",
    "body",
    "content",
    "message",
    "comment",
    "title",
    "question",
    "premise",
    "sentence1",
)
SECOND = {
    "premise": "hypothesis",
    "sentence1": "sentence2",
    "question1": "question2",
    "text": "text_pair",
    "query": "passage",
}
LABELS = (
    "label",
    "labels",
    "class",
    "category",
    "target",
    "y",
    "stars",
    "sentiment",
    "topic",
    "intent",
    "species",
    "type",
)
PROMPTS = ("prompt", "question", "instruction", "query", "input")
COMPLETIONS = ("completion", "answer", "response", "output", "reply", "chosen")
CHATS = ("messages", "conversation", "conversations", "chat")
SOURCES = {"source": "target", "src": "tgt", "source_text": "target_text"}
TOKENS, TAGS = ("tokens", "words"), ("tags", "ner_tags", "ner", "pos_tags", "pos", "labels")
TABLES = (".csv", ".tsv", *PARQUET, *JSON_LINES)
NAMES = {"text-classification": "classification"}
TASKS = ("classification", "token-classification", "language-modelling", "translation", "regression", "multi-label")


@dataclass(frozen=True)
class Source:
    """A data source as a run file names it.

    Args:
        task: The kind of task.
        reader: Its name: texts, tagged, prompts, pairs, table, pictures.
        path: The file or folder; two of them for parallel texts.
        settings: The reader's arguments.
        columns: What the columns hold, where there are columns.
        cells: Their cells.
        notes: What was found odd.
        given: The parts that the data themselves name.
    """

    task: str
    reader: str
    path: tuple[str, ...]
    settings: dict[str, Any] = field(default_factory=dict)
    columns: tuple[ColumnProfile, ...] = ()
    cells: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    given: tuple[str, ...] = ()

    def __str__(self) -> str:
        arguments = [*map(repr, self.path), *(f"{name}={value!r}" for name, value in self.settings.items())]
        return f"{self.reader}({', '.join(arguments)})"


def find_source(task: str | None, files: Sequence[Path | str], label: str | None = None) -> Source:
    """The data source that files are for.

    Args:
        task: The kind of task; None: as their columns tell.
        files: A file or folder; two parallel texts; or the files of train, validation and test, by their names.
        label: The column to predict, classes or numbers; None: by its name, or its kind and place.

    Raises:
        ConfigError: for a label that is no such column, for a task that is not known, files that are not there, and columns
            that do not show what they are for.
    """
    kind = NAMES.get(task, task) if task is not None else None
    if kind is not None and kind not in TASKS:
        near = nearest(kind, list(TASKS))
        raise ConfigError(
            f"no run file is written for the task {printable(kind)!r}", expected=", ".join(TASKS),
            fix=f"did you mean {near!r}?" if near else "fractionate config example prints every setting",
        )  # fmt: skip
    if not files:
        raise ConfigError("no data", expected="a file or folder of yours", fix="fractionate init reviews.csv")
    main, parts = _parts(list(map(str, files)))
    path = Path(main[0])
    if label is not None and (len(main) == 2 or path.suffix.lower() not in TABLES):
        raise ConfigError(
            f"{printable(main[0], 200)} has no columns", got=f"label {printable(label)!r}", fix="leave it out"
        )
    if len(main) == 2:
        return Source(_fits(kind, "translation", main[0]), "pairs", main, parts)
    if path.is_dir() and is_saved(path):
        found = _of_columns(kind, main, parts)
        if found.reader == "table":
            raise ConfigError(
                f"{printable(main[0], 200)} holds no texts", expected="texts, which init fits a run file to",
                fix=f"write it by hand, data.source: saved({main[0]!r}): fractionate config explain data",
            )  # fmt: skip
        return replace(found, given=tuple(open_saved(path)))
    if path.is_dir():
        return _of_folder(kind, path, main, parts)
    ending = path.suffix.lower()
    if ending == ".txt" and kind in (None, "language-modelling"):
        return Source("language-modelling", "prompts", main, parts)
    if ending in CONLL and ending not in (".tsv",):
        return Source(_fits(kind, "token-classification", main[0]), "tagged", main, parts)
    if ending not in TABLES:
        raise ConfigError(
            f"{printable(main[0], 200)} is not a file that init reads",
            expected=f"{', '.join(TABLES)}, .conll, .txt, or a folder",
        )
    return _of_columns(kind, main, parts, label)


def _parts(files: list[str]) -> tuple[tuple[str, ...], dict[str, Any]]:
    """The file or files to learn from, and those of validation and test, which bear these names."""
    found: dict[str, list[str]] = {}
    for file in files:
        words = Path(file).stem.lower().replace("-", "_").replace(".", "_").split("_")
        part = next((PARTS[word] for word in words if word in PARTS), "train") if len(files) > 1 else "train"
        found.setdefault(part, []).append(file)
    main = tuple(found.pop("train", ()))
    if not main or len(main) > 2 or any(len(some) != len(main) for some in found.values()):
        raise ConfigError(
            "these files do not show which part is which",
            expected="one file, two parallel files, or names with train, validation and test",
            got=", ".join(printable(file) for file in files[:10]),
        )
    return main, {part: some[0] if len(some) == 1 else tuple(some) for part, some in found.items()}


def _fits(wanted: str | None, found: str, path: str) -> str:
    if wanted not in (None, found):
        raise ConfigError(
            f"{printable(path, 200)} is not data for {wanted}", expected=f"data for {wanted}", got=f"data for {found}",
            fix=f"fractionate init {found} {printable(path, 200)}",
        )  # fmt: skip
    return found


def _of_folder(kind: str | None, path: Path, main: tuple[str, ...], parts: dict[str, Any]) -> Source:
    endings = {file.suffix.lower() for file in path.rglob("*") if file.is_file()}
    readers = {"pictures": endings & set(ENDINGS), "texts": endings & {".txt"}}
    reader = next((name for name, there in readers.items() if there), None)
    if reader is None:
        raise ConfigError(
            f"{printable(str(path), 200)} holds no pictures and no texts",
            expected="a folder for each class, with pictures or .txt files",
            got=", ".join(sorted(endings)[:10]) or "nothing",
        )
    return Source(_fits(kind, "classification", str(path)), reader, main, parts)


def _of_columns(kind: str | None, main: tuple[str, ...], parts: dict[str, Any], label: str | None = None) -> Source:
    cells = cells_of(main[0])
    columns = tuple(profile(name, column) for name, column in cells.items())
    more: dict[str, Any] = dict(parts)
    part = next((column.name for column in columns if column.kind == "part"), None)
    if part is not None and not parts:
        more = {"part": part}
    if label is not None:
        return _predicting(label, kind, Source(kind or "", "", main, more, columns, cells))
    makers = {
        "token-classification": _tagged,
        "translation": _pairs,
        "classification": _classes,
        "language-modelling": _prompts,
        "regression": _numbers,
        "multi-label": _labels,
    }
    tried = (
        [kind] if kind is not None else ["token-classification", "translation", "language-modelling", "classification"]
    )
    for name in [*tried, *([] if kind else ["regression"])]:
        found = makers[name](columns, strict=kind is None)
        if found is not None:
            reader, settings = found
            return Source(name, reader, main, settings | more, columns, cells, _guessed(settings))
    plain = _plain(columns) if kind in (None, "language-modelling") else None
    if plain is not None:
        return Source("language-modelling", "prompts", main, {"text": plain} | more, columns, cells)
    held = ", ".join(f"{printable(column.name)} ({column.kind})" for column in columns[:12])
    raise ConfigError(
        f"{printable(main[0], 200)} does not show {'its task' if kind is None else f'what {kind} learns from'}",
        expected="a column of texts, of classes, of prompts and completions, or of lists of words and tags",
        got=held,
        fix="name the task, fractionate init TASK FILE; or write data.source by hand: fractionate config explain data",
    )


Columns = tuple[ColumnProfile, ...]
Found = tuple[str, dict[str, Any]] | None


def _named(columns: Columns, names: Sequence[str], kinds: Sequence[str]) -> str | None:
    """The first of some names among the columns of some kinds."""
    there = {column.name.lower(): column.name for column in columns if column.kind in kinds}
    return next((there[name] for name in names if name in there), None)


def _predicting(label: str, kind: str | None, found: Source) -> Source:
    """The source whose column `label` is predicted: classes, or numbers."""
    tasks = {"category": "classification", "number": "regression"}
    own = next((column for column in found.columns if column.name == label), None)
    if kind not in (None, *tasks.values()):
        raise ConfigError(
            f"--label names one column of classes or numbers, which {kind} does not learn from",
            fix=f"leave --label out: {kind} finds its columns, and data.source of the run file names them",
        )
    if own is None or own.kind not in tasks:
        raise ConfigError(
            f"{printable(found.path[0], 200)} has no column {printable(label)!r} of classes or numbers",
            expected=", ".join(printable(column.name) for column in found.columns if column.kind in tasks) or "columns",
            got="no such column" if own is None else own.kind,
        )
    task = kind or tasks[own.kind]
    text = _plain(found.columns)
    settings = {"label" if task == "classification" else "target": label}
    settings = settings if text is None else {"text": text} | settings
    return replace(found, task=task, reader="table" if text is None else "texts", settings=settings | found.settings)


def _guessed(settings: Mapping[str, Any]) -> tuple[str, ...]:
    """What to check where no name shows which column is predicted."""
    label = settings.get("label", settings.get("target"))
    if not isinstance(label, str) or {"source", "target"} <= settings.keys() or label.lower() in LABELS:
        return ()
    return (f"{printable(label)!r} is taken as the column to predict; --label names another",)


def _tagged(columns: Columns, *, strict: bool) -> Found:
    tokens, tags = _named(columns, TOKENS, ("list",)), _named(columns, TAGS, ("list",))
    return None if tokens is None or tags is None or tokens == tags else ("tagged", {"tokens": tokens, "tags": tags})


def _pairs(columns: Columns, *, strict: bool) -> Found:
    texts = [column.name for column in columns if column.kind in ("text", "id", "category")]
    for source, target in SOURCES.items():
        if source in texts and target in texts:
            return "pairs", {"source": source, "target": target}
    short = [name for name in texts if len(name.rpartition(".")[2]) == 2 and name.rpartition(".")[2].isalpha()]
    if len(short) == 2:
        return "pairs", {"source": short[0], "target": short[1]}
    long = [column.name for column in columns if column.kind == "text"]
    return None if strict or len(long) < 2 else ("pairs", {"source": long[0], "target": long[1]})


def _prompts(columns: Columns, *, strict: bool) -> Found:
    kinds = ("text", "id", "category", "number")
    chats = _named(columns, CHATS, ("list",))
    if chats is not None:
        return "prompts", {"messages": chats}
    prompt, completion = _named(columns, PROMPTS, kinds), _named(columns, COMPLETIONS, kinds)
    if prompt is None or completion is None:
        return None
    return "prompts", {"prompt": prompt, "completion": completion}


def _plain(columns: Columns) -> str | None:
    texts = [column for column in columns if column.kind == "text"]
    return _named(columns, TEXTS, ("text",)) or (max(texts, key=lambda c: c.words).name if texts else None)


def _label(columns: Columns, *, strict: bool) -> str | None:
    """The column of classes: by its name, else the last one. Numbers in the last column are the target where nothing else tells."""
    found = _named(columns, LABELS, ("category",))
    categories = [column.name for column in columns if column.kind == "category" and column.different > 1]
    ends = {columns[0].name, columns[-1].name}
    if strict and not ends & set(categories) and columns[-1].kind == "number" and _plain(columns) is None:
        return found
    return found or (categories[-1] if categories else None)


def _classes(columns: Columns, *, strict: bool) -> Found:
    label, text = _label(columns, strict=strict), _plain(columns)
    if label is None:
        return None
    if text is None:
        return "table", {"label": label}
    settings = {"text": text, "label": label}
    second = _named(columns, (SECOND.get(text.lower(), ""),), ("text", "id", "category"))
    return "texts", settings | ({} if second is None or second == label else {"second": second})


def _numbers(columns: Columns, *, strict: bool) -> Found:
    numbers = [column.name for column in columns if column.kind == "number"]
    if not numbers:
        return None
    target = {"target": _named(columns, LABELS, ("number",)) or numbers[-1]}
    text = _plain(columns)
    return ("table", target) if text is None else ("texts", {"text": text} | target)


def _labels(columns: Columns, *, strict: bool) -> Found:
    binary = [column.name for column in columns if column.kind == "category" and column.different == 2]
    if len(binary) < 2:
        return None
    text = _plain(columns)
    return ("table", {"label": binary}) if text is None else ("texts", {"text": text, "label": binary})
