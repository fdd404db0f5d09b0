"""YAML to plain values with the place of every key. Never code: tags, anchors, aliases and bombs are refused. No torch here.

Values follow the core schema of YAML 1.2: `no` is text, `010` is ten, `1e-4` is a number.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fractionate.errors import ConfigError, ResourceError, printable, reason
from fractionate.system.paths import as_path
from fractionate.system.registry import nearest

MOST_NODES = 10_000  # a run file is a page; more is an accident or an attack (alias bombs)
MOST_DEEP = 20
MOST_BYTES = 1 << 20
MOST_DIGITS = 64
LARGEST = 2**63 - 1
Place = tuple[str | int, ...]
Lines = dict[Place, tuple[int, int]]  # where each key stands: line and column, from 1

_INTEGERS = ((re.compile(r"[-+]?[0-9]+"), 10), (re.compile(r"0o[0-7]+"), 8), (re.compile(r"0x[0-9a-fA-F]+"), 16))
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_WORDS: dict[str, Any] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **{f"{sign}.{word}": float(f"{sign}inf") for sign in ("", "+", "-") for word in ("inf", "Inf", "INF")},
    **dict.fromkeys((".nan", ".NaN", ".NAN"), float("nan")),
}


def parse_file(path: Path | str) -> tuple[dict[str, Any], Lines]:
    """The values of a run file and where each key stands. Raises `ConfigError` where there is none or it is not one."""
    path = as_path(path, "the run file")
    if not path.is_file():
        folder = path.parent
        there = [str(folder / p.name) for p in folder.glob("*.y*ml")] if folder.is_dir() else []
        near = nearest(str(path), there)
        raise ConfigError(
            f"there is no run file {printable(str(path), 300)!r}",
            got="a folder" if path.is_dir() else "something that is no file" if path.exists() else None,
            fix=f"did you mean {near!r}?" if near else "write one with: fractionate config example > run.yaml",
        )
    if path.stat().st_size > MOST_BYTES:
        raise ConfigError(
            f"{path} is too large for a run file", expected="at most 1 MiB", got=f"{path.stat().st_size} bytes"
        )
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text", got=str(error)) from None
    except OSError as error:
        raise ResourceError(f"cannot read {path}: {error.strerror}", fix="check its permissions") from error
    tree, lines = parse_text(text, str(path))
    if tree is None:
        return {}, {}
    if not isinstance(tree, dict):
        raise ConfigError(f"{path} is not a run file", expected="key: value lines", got=type(tree).__name__)
    return tree, lines


def parse_text(text: str, source: str) -> tuple[Any, Lines]:
    """YAML to plain values and the place of every key. Raises `ConfigError` with file:line:column for all that is not plain."""
    from ruamel.yaml.events import DocumentStartEvent, StreamEndEvent, StreamStartEvent

    lines: Lines = {}
    value, documents = None, 0
    events = _events(text, source)
    for event in events:
        if isinstance(event, DocumentStartEvent):
            documents += 1
            if documents > 1 or event.version or event.tags:
                raise ConfigError(
                    f"{_where(event, source)} directives and further documents are not used in run files",
                    fix="one document, without lines of % or ---",
                )
            value = _value(next(events), events, source, (), lines)
        elif not isinstance(event, (StreamStartEvent, StreamEndEvent)):
            continue  # the end of a document
    return value, lines


def _events(text: str, source: str) -> Iterator[Any]:
    """What the parser finds, one by one, within the bounds of a run file."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import MarkedYAMLError
    from ruamel.yaml.events import AliasEvent, CollectionEndEvent, CollectionStartEvent, NodeEvent, ScalarEvent

    depth = 0
    try:
        for count, event in enumerate(YAML(typ="safe", pure=True).parse(text)):
            depth += isinstance(event, CollectionStartEvent) - isinstance(event, CollectionEndEvent)
            if isinstance(event, AliasEvent) or (isinstance(event, NodeEvent) and event.anchor):
                raise ConfigError(
                    f"{_where(event, source)} anchors and aliases are not used in run files", fix="write the value out"
                )
            tag: Any = event.ctag if isinstance(event, (ScalarEvent, CollectionStartEvent)) else None
            if tag is not None:
                shown = printable(f"{tag.handle or ''}{tag.suffix or ''}")
                raise ConfigError(
                    f"{_where(event, source)} tags such as {shown} are not used in run files",
                    fix="write the plain value",
                )
            if count > MOST_NODES or depth > MOST_DEEP:
                raise ConfigError(
                    f"{source} is too long or too deep for a run file",
                    expected=f"at most {MOST_NODES} values, {MOST_DEEP} deep",
                )
            yield event
    except MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"{source}:{mark.line + 1}:{mark.column + 1}" if mark else source
        raise ConfigError(f"{where} this is not YAML: {printable(error.problem or error.context or '', 200)}") from None
    except ConfigError:
        raise
    except Exception as error:  # on hostile text the parser raises whatever it runs into
        raise ConfigError(f"{source} this is not YAML: {reason(error)}") from None


def _where(event: Any, source: str) -> str:
    return f"{source}:{event.start_mark.line + 1}:{event.start_mark.column + 1}"


def _value(event: Any, events: Iterator[Any], source: str, place: Place, lines: Lines) -> Any:
    """The value that begins with an event."""
    from ruamel.yaml.events import MappingEndEvent, MappingStartEvent, ScalarEvent, SequenceEndEvent, SequenceStartEvent

    if isinstance(event, ScalarEvent):
        return _scalar(event, source)
    if isinstance(event, SequenceStartEvent):
        found: list[Any] = []
        while not isinstance(item := next(events), SequenceEndEvent):
            here = (*place, len(found))
            lines[here] = (item.start_mark.line + 1, item.start_mark.column + 1)
            found.append(_value(item, events, source, here, lines))
        return found
    assert isinstance(event, MappingStartEvent)
    made: dict[str, Any] = {}
    while not isinstance(item := next(events), MappingEndEvent):
        if not isinstance(item, ScalarEvent):
            raise ConfigError(f"{_where(item, source)} this key is not text", expected="key: value")
        _check_text(item, source)
        if item.value in made:
            raise ConfigError(f"{_where(item, source)} duplicate key {printable(item.value)!r}", fix="write it once")
        here = (*place, item.value)
        lines[here] = (item.start_mark.line + 1, item.start_mark.column + 1)
        made[item.value] = _value(next(events), events, source, here, lines)
    return made


def _scalar(event: Any, source: str) -> Any:
    text: str = event.value
    _check_text(event, source)
    if event.style:  # in quotes, or a block of text
        return text
    if text in _WORDS:
        return _WORDS[text]
    base = next((base for pattern, base in _INTEGERS if pattern.fullmatch(text)), None)
    if base is None and not _FLOAT.fullmatch(text):
        return text
    number = None if len(text) > MOST_DIGITS else float(text) if base is None else int(text.removeprefix("0o"), base)
    if number is None or (base is not None and abs(number) > LARGEST):
        raise ConfigError(
            f"{_where(event, source)} this number is too long",
            expected=f"whole numbers up to {LARGEST}, at most {MOST_DIGITS} digits",
            got=printable(text, 40),
            fix="put it into quotes where text is meant",
        )
    return number


def _check_text(event: Any, source: str) -> None:
    """Half a character of UTF-16, or a byte of a name that is not UTF-8, can be written to no file."""
    try:
        event.value.encode()
    except UnicodeEncodeError:
        raise ConfigError(
            f"{_where(event, source)} this text holds half a character",
            got=printable(event.value, 40),
            fix="write it as UTF-8",
        ) from None
