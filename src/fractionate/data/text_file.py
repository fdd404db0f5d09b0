"""Text files: bytes to characters by a byte-order mark, by an encoding that is named, or as UTF-8; a fault has file and line."""

from __future__ import annotations

import codecs
import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from fractionate.errors import ConfigError, DamagedError, ResourceError, printable
from fractionate.system.memory import require_bytes

MARKS = (  # the longer ones first: UTF-32 begins as UTF-16 does
    (codecs.BOM_UTF8, "utf-8-sig", ("utf-8", "utf-8-sig")),
    (codecs.BOM_UTF32_LE, "utf-32", ("utf-32", "utf-32-le")),
    (codecs.BOM_UTF32_BE, "utf-32", ("utf-32", "utf-32-be")),
    (codecs.BOM_UTF16_LE, "utf-16", ("utf-16", "utf-16-le")),
    (codecs.BOM_UTF16_BE, "utf-16", ("utf-16", "utf-16-be")),
)
OTHERS = ((b"\x1f\x8b", "is compressed", "unpack it first"),
          (b"PK\x03\x04", "is a zip archive, as Excel files are", "unpack it, or save the sheet as CSV"),
          (b"\xd0\xcf\x11\xe0", "is an Office file", "save the sheet as CSV"))  # fmt: skip
JSON_LINES = (".jsonl", ".ndjson")
NAMED = "name its encoding, for example encoding='cp1252' (Western European Windows), or save it as UTF-8"


def check_encoding(encoding: str | None) -> None:
    """Raise `ConfigError` for the name of an encoding that Python does not have, or that is none of text."""
    try:
        if encoding is not None:
            "".encode(encoding)
            codecs.lookup(encoding)
    except (LookupError, TypeError, ValueError) as error:
        raise ConfigError(
            "encoding is not known",
            expected="the name of a text encoding that Python has: utf-8, utf-16, cp1252, latin-1, shift_jis, …",
            got=printable(repr(encoding)),
        ) from error


@contextlib.contextmanager
def open_text(path: Path, encoding: str | None = None) -> Iterator[TextIO]:
    """A regular file as text, line ends as they are: as its byte-order mark says, else as named, else UTF-8.

    Raises, also while it is read, `DamagedError` naming file and line for bytes that are not of the encoding; `ConfigError` where
    the mark is that of another encoding than the one named; `ResourceError` where it cannot be read.
    """
    check_encoding(encoding)
    file = printable(str(path), 200)
    used = encoding or "utf-8"
    try:
        require_bytes(path.stat().st_size, file, fix="divide it into smaller files")
        head = _head(path)
        for mark, marked, names in MARKS:
            if head.startswith(mark):
                if encoding is not None and codecs.lookup(encoding).name not in names:
                    raise ConfigError(
                        f"{file} begins with the byte-order mark of {marked}",
                        got=f"encoding={encoding!r}",
                        fix="leave it out",
                    )
                used = marked
                break
        with path.open(encoding=used, newline="") as text:
            yield text
    except UnicodeError as error:
        raise _not_text(path, file, used) from error
    except OSError as error:
        if isinstance(error, ResourceError):
            raise
        raise _unreadable(path, error) from error


def read_text(path: Path, encoding: str | None = None) -> str:
    """All of a text file. Raises what `open_text` raises."""
    with open_text(path, encoding) as text:
        return text.read()


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object. Raises `ValueError` where a key stands twice, of which json would keep the last."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key {next(name for name in names if names.count(name) > 1)!r} stands twice in an object")
    return found


def json_lines(file: Path, shown: str, encoding: str | None) -> Iterator[tuple[int, dict[str, Any]]]:
    """The objects of a file of JSON lines, each with the number of its line. Raises `DamagedError` for a line that is none."""
    for number, line in enumerate(read_text(file, encoding).split("\n"), 1):
        if not line.strip():
            continue
        try:
            item = json.loads(line, object_pairs_hook=unique_keys)
        except (ValueError, RecursionError) as error:
            raise DamagedError(f"{shown}:{number} this is not JSON", got=printable(str(error), 200)) from error
        if not isinstance(item, dict):
            raise DamagedError(f"{shown}:{number} this is no JSON object", expected="{…}", got=type(item).__name__)
        yield number, item


def refuse_other_kind(path: Path) -> None:
    """Raise `DamagedError` for archives and Office files, which are no text whatever they are called."""
    head = _head(path)
    for mark, what, fix in OTHERS:
        if head.startswith(mark):
            raise DamagedError(f"{printable(str(path), 200)} {what}", expected="text", fix=fix)


def _head(path: Path) -> bytes:
    try:
        with path.open("rb") as raw:
            return raw.read(4)
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: OSError) -> ResourceError:
    return ResourceError(
        f"cannot read {printable(str(path), 200)}: {error.strerror or error}", fix="check its permissions"
    )


def refuse_json(path: Path, *endings: str) -> None:
    """Raise `ConfigError` for a file that by its name is JSON, which is no table."""
    if path.suffix.lower() in endings:
        raise ConfigError(
            f"{printable(str(path), 200)} is JSON",
            expected="a table as text, or one JSON object per line in a .jsonl file",
            fix="texts() reads .jsonl; in Python read it with json and give the rows",
        )


def _not_text(path: Path, file: str, encoding: str) -> DamagedError:
    """The error for bytes that are not of an encoding, with their line."""
    whole = path.read_bytes()
    try:
        whole.decode(encoding)
    except UnicodeDecodeError as error:
        line = whole[: error.start].count(b"\n") + 1  # as near as it can be known where a character is two bytes
        got = f"the byte 0x{whole[error.start]:02x}: {error.reason}"
        return DamagedError(f"{file}:{line} this is not {encoding.upper().removesuffix('-SIG')}", got=got, fix=NAMED)
    except UnicodeError as error:
        return DamagedError(f"{file} is not {encoding.upper()}", got=printable(str(error)), fix=NAMED)
    return DamagedError(f"{file} changed while it was read", fix="run again")
