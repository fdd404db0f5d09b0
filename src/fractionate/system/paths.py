"""Paths as a person writes them: `~` is a home folder; what a shell would have replaced or removed is refused. No torch here."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterable
from pathlib import Path

from fractionate.errors import ConfigError, printable

_VARIABLE = re.compile(r"(?:^|[/\\])(\$\w+|\$\{\w+\}|%\w+%)(?=[/\\]|$)")
_URL = re.compile(r"[A-Za-z][\w+.-]*://")
_QUOTES = {"'": "'", '"': '"', "`": "`", "“": "”", "‘": "’", "«": "»"}
LONGEST_NAME = 255  # bytes in one name of a path, on every file system in use
LONGEST_PATH = 4096


SHIPPED = "examples:"  # before the name of a file that ships next to the example run files
_PACKAGE = Path(__file__).parents[1]


def example_folder() -> Path:
    """Where the example run files are: in the package of a wheel, or in a checkout."""
    inside = _PACKAGE / "examples"
    return inside if inside.is_dir() else _PACKAGE.parents[1] / "examples"


def as_path(given: Path | str, what: str = "path") -> Path:
    """A path out of a run file, the command line or a call; `~` and `~user` become home folders.

    A name that is there is taken as it is. One that is not there and holds a shell variable, surrounding quotes or blanks, control
    characters or a URL was pasted from where it means something else. `what` names the setting in the message.

    Raises:
        ConfigError: for those, and for what no file system takes: nothing, NUL, a name of more than 255 bytes.
    """
    text = _text(given, what)
    path = Path(text)
    first = path.parts[0] if path.parts else ""
    if text.startswith("~"):
        try:
            return path.expanduser()
        except RuntimeError:
            if not os.path.lexists(text):
                raise ConfigError(
                    f"{what}: there is no home folder {printable(first)!r}",
                    fix=f"write ./{printable(text)} for a name that begins with ~",
                ) from None
    if first.startswith("~"):  # ./~name: absolute, so that it is not taken for a home folder later
        return Path.cwd() / path
    found = _pasted(text)
    if found is not None and not os.path.lexists(text):
        raise ConfigError(f"invalid value for {what}: {found[0]}", got=printable(repr(text), 200), fix=found[1])
    return path


def _text(given: Path | str, what: str) -> str:
    try:
        text = os.fspath(given)
        raw = os.fsencode(text)
    except (TypeError, UnicodeEncodeError):
        text, raw = None, b""
    if not isinstance(text, str):
        got = type(given).__name__ if text is None and not isinstance(given, str) else printable(repr(given), 200)
        raise ConfigError(f"invalid value for {what}", expected="the name of a file or folder", got=got)
    longest = max(map(len, raw.split(b"/")))
    if not text or "\0" in text or longest > LONGEST_NAME or len(raw) > LONGEST_PATH:
        got = "an empty name" if not text else "a NUL character" if "\0" in text else f"a name of {len(raw):,} bytes"
        raise ConfigError(f"invalid value for {what}", expected="the name of a file or folder", got=got)
    return text


def _pasted(text: str) -> tuple[str, str] | None:
    """What shows that a path was written for a shell or a browser, and what to do."""
    variable = _VARIABLE.search(text)
    if variable:
        return (
            f"{variable[1]} is a variable of a shell, and is not replaced",
            "write the folder itself, or ~ for your home",
        )
    if len(text) > 1 and _QUOTES.get(text[0]) == text[-1]:
        return "the quotes are part of the name", "write it without the inner quotes"
    if text != text.strip():
        return "it begins or ends with a blank", "write it without the blank"
    if _URL.match(text):
        return "it is a URL", "give a file or folder of this machine"
    if not text.isprintable():
        return "it holds characters that cannot be printed", "give it another name"
    return None


def shell_line(words: Iterable[str]) -> str:
    """Words as one line for a shell, each quoted as it needs to be; control characters and odd bytes as `$'…'`."""
    return " ".join(shlex.quote(word) if word.isprintable() else _escaped(word) for word in words)


def _escaped(word: str) -> str:
    shown = "".join(
        chr(byte) if 32 <= byte < 127 and byte not in b"\\'" else f"\\x{byte:02x}" for byte in os.fsencode(word)
    )
    return f"$'{shown}'"
