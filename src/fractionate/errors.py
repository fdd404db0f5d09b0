"""Errors a person can act on: what went wrong, what was expected, what came, what to do.

Exit codes of the command line: 0 fine, 1 a bug of ours, 2 usage or configuration, 3 damaged data or cache,
4 teacher, student and data do not match, 5 numbers that are not finite, 6 disk, memory or permissions,
130 and 143 stopped by a signal (run the same command again to resume).

Each class has a stable `code` (FR200, FR300, …: docs/reference/errors.md), for scripts and searches; its first digit is
the exit code.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class FractionateError(Exception):
    """The root of every error raised on purpose: `what`, and where known `expected`, `got` and `fix`."""

    exit_code = 1
    code = "FR100"

    def __init__(
        self, what: str, *, expected: str | None = None, got: str | None = None, fix: str | None = None
    ) -> None:
        # parts of a message come out of files; what a terminal would act on must not
        self.what = visible(what)
        self.expected, self.got, self.fix = (None if part is None else visible(part) for part in (expected, got, fix))
        lines = [self.what]
        lines += [f"  expected: {self.expected}"] if self.expected else []
        lines += [f"  got:      {self.got}"] if self.got else []
        lines += [f"  fix:      {self.fix}"] if self.fix else []
        self.place: str | None = None
        super().__init__("\n".join(lines))

    def name_place(self, place: str) -> None:
        """Add where the setting is written that brought it, unless that is named already."""
        if self.place is None:
            self.place = visible(place)
            self.args = (f"{self.args[0]}\n  at:       {self.place}",)

    def __str__(self) -> str:
        return str(self.args[0])


class ConfigError(FractionateError, ValueError):
    """An invalid setting, name or command (exit code 2)."""

    exit_code = 2
    code = "FR200"


class UnknownNameError(ConfigError, KeyError):
    """A name that no registry knows; the message suggests the nearest one (exit code 2)."""

    code = "FR201"


class MissingExtraError(ConfigError, ImportError):
    """An optional library is needed; the message names the extra to install (exit code 2)."""

    code = "FR202"


@contextmanager
def extra(name: str, what: str) -> Iterator[None]:
    """Around the import of an optional library. Raises `MissingExtraError` naming the extra that installs it."""
    try:
        yield
    except ImportError as error:
        raise MissingExtraError(what, fix=f'pip install "fractionate[{name}]"') from error


class DamagedError(FractionateError, ValueError):
    """A file does not hold what was once written to it (exit code 3)."""

    exit_code = 3
    code = "FR300"


class MismatchError(FractionateError, ValueError):
    """Teacher, student and data do not belong together (exit code 4)."""

    exit_code = 4
    code = "FR400"


class NumericsError(FractionateError, ArithmeticError):
    """Numbers that are not finite where they must be (exit code 5)."""

    exit_code = 5
    code = "FR500"


class ResourceError(FractionateError, OSError):
    """Disk, memory or permissions do not allow it (exit code 6)."""

    exit_code = 6
    code = "FR600"


class StoppedError(FractionateError):
    """A signal stopped the run; it has saved and resumes when run again (exit code 128 + the signal's number)."""

    code = "FR700"

    def __init__(self, what: str, *, number: int, fix: str | None = None) -> None:
        super().__init__(what, fix=fix)
        self.exit_code = 128 + number


def visible(text: str) -> str:
    """Text that a terminal shows and does not act on: whole, with line ends and tabs; other control characters, changes of
    direction and lone surrogates are written out (`\\x1b`, `\\u202e`).
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode() for c in text)


def printable(text: str, length: int = 80) -> str:
    """Foreign text in one line of a message: `visible`, line ends written out too, cut to a length."""
    clean = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text[: length + 1])
    return clean if len(clean) <= length else clean[: length - 1] + "…"


def reason(error: BaseException, length: int = 200) -> str:
    """What another library's error says, in one line; its type where it says nothing."""
    lines = str(error).strip().splitlines()
    return printable(lines[0] if lines else type(error).__name__, length)


def as_own_error(error: Exception) -> FractionateError:
    """An error as the command line reports it; what the system refuses names the file, what nobody foresaw is a bug of ours."""
    if isinstance(error, FractionateError):
        return error
    what = f"{type(error).__name__}: {reason(error)}"
    if isinstance(error, OSError):
        place = f"{error.filename}: " if error.filename is not None else ""
        return ResourceError(f"{place}{error.strerror or what}", fix="check the file, its folder and their permissions")
    if isinstance(error, MemoryError):
        return ResourceError("there is not enough memory", got=what, fix="see --dry-run for what a command needs")
    return FractionateError(
        f"a bug of fractionate, or of a plug-in or module of yours: {what}",
        fix="run it again as fractionate --debug … for the place, and report it with the run file",
    )
