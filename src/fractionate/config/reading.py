"""YAML to plain values with the place of every key. Never code: tags, anchors, aliases and bombs are refused. No torch here."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from fractionate.errors import ConfigError
from fractionate.registry import nearest

MOST_NODES = 10_000  # a run file is a page; more is an accident or an attack (alias bombs)
MOST_DEEP = 20
MOST_BYTES = 1 << 20
Place = tuple[str | int, ...]
Lines = dict[Place, tuple[int, int]]  # where each key stands: line and column, from 1


def parse_file(path: Path) -> tuple[dict[str, Any], Lines]:
    """The values of a run file and where each key stands. Raises `ConfigError` where there is none or it is not one."""
    if not path.is_file():
        folder = path.parent
        there = [str(folder / p.name) for p in folder.glob("*.y*ml")] if folder.is_dir() else []
        near = nearest(str(path), there)
        raise ConfigError(
            f"there is no run file {str(path)!r}",
            fix=f"did you mean {near!r}?" if near else "write one with: fractionate config example > run.yaml",
        )
    if path.stat().st_size > MOST_BYTES:
        raise ConfigError(
            f"{path} is too large for a run file", expected="at most 1 MiB", got=f"{path.stat().st_size} bytes"
        )
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text", got=str(error)) from None
    tree, lines = parse_text(text, str(path))
    if tree is None:
        return {}, {}
    if not isinstance(tree, dict):
        raise ConfigError(f"{path} is not a run file", expected="key: value lines", got=type(tree).__name__)
    return tree, lines


def parse_text(text: str, source: str) -> tuple[Any, Lines]:
    """YAML 1.2 to plain values and the place of every key; tags, aliases and duplicate keys are refused."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import MarkedYAMLError, YAMLError
    from ruamel.yaml.events import AliasEvent, CollectionEndEvent, CollectionStartEvent, NodeEvent

    yaml = YAML(typ="rt", pure=True)
    depth = 0
    try:
        for count, event in enumerate(yaml.parse(io.StringIO(text))):
            depth += isinstance(event, CollectionStartEvent) - isinstance(event, CollectionEndEvent)
            mark = getattr(event, "start_mark", None)
            where = f"{source}:{mark.line + 1}:{mark.column + 1}" if mark else source
            if isinstance(event, AliasEvent) or (isinstance(event, NodeEvent) and getattr(event, "anchor", None)):
                raise ConfigError(f"{where} anchors and aliases are not used in run files", fix="write the value out")
            tag = getattr(event, "tag", None)
            if (tag and not str(tag).startswith("tag:yaml.org,2002:")) or "python" in str(tag):
                raise ConfigError(f"{where} tags such as {tag} are not used in run files", fix="write the plain value")
            if count > MOST_NODES or depth > MOST_DEEP:
                raise ConfigError(
                    f"{source} is too long or too deep for a run file",
                    expected=f"at most {MOST_NODES} values, {MOST_DEEP} deep",
                )
        loaded = yaml.load(io.StringIO(text))
    except MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"{source}:{mark.line + 1}:{mark.column + 1}" if mark else source
        raise ConfigError(f"{where} this is not YAML: {error.problem or error.context}") from None
    except ConfigError:
        raise
    except (YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"{source} this is not YAML: {error}") from None
    lines: Lines = {}
    return _plain(loaded, (), lines), lines


def _plain(node: Any, place: Place, lines: Lines) -> Any:
    from ruamel.yaml.comments import CommentedMap, CommentedSeq

    if isinstance(node, CommentedMap):
        for key in node:
            line, column = node.lc.key(key)
            lines[(*place, str(key))] = (line + 1, column + 1)
        return {str(key): _plain(value, (*place, str(key)), lines) for key, value in node.items()}
    if isinstance(node, CommentedSeq):
        for i in range(len(node)):
            line, column = node.lc.item(i)
            lines[(*place, i)] = (line + 1, column + 1)
        return [_plain(value, (*place, i), lines) for i, value in enumerate(node)]
    if isinstance(node, bool) or node is None:
        return node
    return next((kind(node) for kind in (int, float, str) if isinstance(node, kind)), node)
