"""Files that others made: only regular ones are opened. A pipe, a device or a socket could wait for ever, or never end."""

from __future__ import annotations

import stat
from pathlib import Path

from fractionate.errors import ConfigError, ResourceError, printable
from fractionate.system.paths import as_path

KINDS = ((stat.S_ISDIR, "a folder"), (stat.S_ISFIFO, "a pipe (FIFO)"), (stat.S_ISCHR, "a device"),
         (stat.S_ISBLK, "a device"), (stat.S_ISSOCK, "a socket"))  # fmt: skip


def irregular(path: Path | str) -> str | None:
    """What a path leads to where that is no regular file, in words; None for a regular file.

    Raises `ResourceError` where the system does not let us see.
    """
    try:
        mode = Path(path).stat().st_mode
    except PermissionError as error:
        raise ResourceError(f"cannot read {printable(str(path), 200)}: {error.strerror}") from error
    except (OSError, ValueError):  # absent, a loop of links, a name that no file can have
        return "a link that leads nowhere" if Path(path).is_symlink() else "nothing of that name"
    return next((kind for is_kind, kind in KINDS if is_kind(mode)), None)


def existing_file(path: Path | str, *, what: str = "file", fix: str | None = None) -> Path:
    """The path of a regular file. Raises `ConfigError` where there is none, and for pipes, devices, sockets and folders.

    Raises `ResourceError` for a file that the system does not let us read.
    """
    path = as_path(path)
    kind = irregular(path)
    shown = printable(str(path), 200)
    if kind is None:
        try:
            with path.open("rb") as file:
                file.read(1)
        except OSError as error:
            raise ResourceError(
                f"cannot read {shown}: {error.strerror}", fix="check its permissions and its disk"
            ) from error
        return path
    if kind in ("nothing of that name", "a link that leads nowhere", "a folder"):
        got = f"nothing of that name in {Path.cwd()}" if kind == "nothing of that name" else kind
        raise ConfigError(
            f"there is no {what} {shown}", got=got, fix=fix or "a path is read from the folder the command runs in"
        )
    raise ConfigError(
        f"{shown} is no regular file",
        expected="a file on a disk",
        got=kind,
        fix="write what it gives to a file, and name that",
    )
