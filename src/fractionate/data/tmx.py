"""Translation memories (TMX 1.4, as OPUS and translators' tools write them): the segments of two languages, unit by unit."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from xml.parsers import (
    expat,
)  # the parser alone: nothing outside of the file is read, and entities of its own are refused

from fractionate.data.text_columns import Columns
from fractionate.errors import ConfigError, DamagedError, printable
from fractionate.system.memory import require_bytes

BLOCK = 1 << 20


def read_tmx(file: Path, roles: Mapping[str, str]) -> Columns:
    """The segments of the languages of roles "source" and "target" (`en` reads `en-GB` too); the line of a unit is its id.

    A unit that lacks a language has an empty text there; what tools mark within a segment is left out, its text is kept.

    Raises:
        ConfigError: for languages that the file does not have.
        DamagedError: naming the line, for what is no TMX.
        ResourceError: before reading what would not fit into memory.
    """
    require_bytes(3 * file.stat().st_size, printable(str(file), 200), fix="take fewer pairs")
    reader = _Units()
    parser = expat.ParserCreate(namespace_separator=None)
    parser.buffer_text = True
    parser.StartElementHandler = lambda name, given: reader.begin(name, given, parser.CurrentLineNumber)
    parser.EndElementHandler = reader.end
    parser.CharacterDataHandler = reader.text
    parser.EntityDeclHandler = reader.entity
    shown = printable(str(file), 200)
    try:
        with file.open("rb") as handle:
            while block := handle.read(BLOCK):
                parser.Parse(block, False)
        parser.Parse(b"", True)
    except expat.ExpatError as error:
        raise DamagedError(
            f"{shown}:{error.lineno} this is no XML", got=expat.ErrorString(error.code), fix="export it again"
        ) from error
    except LookupError as error:  # expat's, for an encoding that Python does not have
        raise DamagedError(f"{shown}:1 {printable(str(error), 100)}", fix="export it as UTF-8") from error
    except _EntityError as error:
        raise DamagedError(f"{shown}:{parser.CurrentLineNumber} {error}", fix="export it without a DOCTYPE") from error
    wanted = {role: roles[role].lower() for role in ("source", "target")}
    cells = {role: [_of_language(unit, language) for unit in reader.units] for role, language in wanted.items()}
    for role, texts in cells.items():
        if not any(texts):
            known = sorted({language for unit in reader.units for language in unit})
            raise ConfigError(
                f"{shown} has no language {printable(roles[role])!r}",
                expected=f"{role}= one of {printable(', '.join(known), 200) or 'none: it holds no segments'}",
            )
    ids = tuple(map(str, reader.lines))
    return Columns(printable(file.name), cells, roles, ids, (shown,) * len(ids))


class _EntityError(ValueError):
    """A file that declares entities: text of its own that grows where it is used."""


class _Units:
    """What a parser reports, kept as a mapping of languages to segments for each unit."""

    def __init__(self) -> None:
        self.units: list[dict[str, str]] = []
        self.lines: list[int] = []
        self.language = ""
        self.inside = 0  # of a segment; below it are marks of tools, whose content is no text
        self.parts: list[str] = []

    def begin(self, name: str, given: dict[str, str], line: int) -> None:
        if self.inside:
            self.inside += 1
        elif name == "tu":
            self.units.append({})
            self.lines.append(line)
        elif name == "tuv":
            self.language = (given.get("xml:lang") or given.get("lang") or "").lower()
        elif name == "seg" and self.units:
            self.inside, self.parts = 1, []

    def end(self, name: str) -> None:
        if self.inside == 1:
            self.units[-1].setdefault(self.language, " ".join("".join(self.parts).split()))
        self.inside = max(0, self.inside - 1)

    def text(self, found: str) -> None:
        if self.inside == 1:
            self.parts.append(found)

    def entity(self, name: str, *_: object) -> None:
        raise _EntityError("declares an entity of its own, which is not read")


def _of_language(unit: Mapping[str, str], language: str) -> str:
    """The segment of a language, or of one of its regions; empty where there is none."""
    if language in unit:
        return unit[language]
    return next((text for name, text in unit.items() if name.replace("_", "-").startswith(f"{language}-")), "")
