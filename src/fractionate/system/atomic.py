"""Files that are either wholly there or not there at all, whatever moment the power goes.

One order for everything this package writes and later trusts: temporary file in the same directory → fsync → rename →
fsync of the directory. A kill before the rename leaves a temporary file that nobody reads; a kill after it leaves the file.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, TypeVar

from fractionate.errors import DamagedError, ResourceError
from fractionate.system.files import irregular
from fractionate.system.paths import as_path

TEMPORARY = ".partial-"  # how every temporary name starts; readers skip it, `sweep` removes it
ATTEMPTS = 5  # to write a file that other commands sweep away
Done = TypeVar("Done")
NO_DIRECTORY_SYNC = (
    errno.EBADF,
    errno.EINVAL,
    errno.ENOTSUP,
    errno.EOPNOTSUPP,
    errno.ENOSYS,
)  # raised by those that cannot


def write_file(
    path: Path | str, content: bytes | memoryview | Callable[[BinaryIO], object], *, needed: int | None = None
) -> Path:
    """Write a file atomically and durably, replacing an older one of that name; gives its path.

    `content` is the bytes, or a function that writes them to the open file (`needed` says how many, for the message where
    the disk is full). Raises `ResourceError` where the disk is full,
    read-only or refuses; the older file is then still there, whole.
    """
    path = as_path(path)
    with _disk_errors(path, needed if callable(content) else len(content)):
        _unless_swept(path.parent, lambda: _replace(path, content))
    return path


def _replace(path: Path, content: bytes | memoryview | Callable[[BinaryIO], object]) -> None:
    with _temporary_file(path, content) as temporary:
        temporary.replace(path)
        sync_directory(path.parent)


def _unless_swept(folder: Path, write: Callable[[], Done]) -> Done:
    """Another command that begins in this folder sweeps it: the temporary file is then gone, and is written again."""
    for _ in range(ATTEMPTS - 1):
        try:
            return write()
        except FileNotFoundError:
            if not folder.is_dir():
                raise
    return write()


def read_file(path: Path | str, *, fix: str) -> bytes:
    """The bytes of a file that this package wrote.

    Raises:
        DamagedError: where something else stands in its place, or nothing.
        ResourceError: where the system refuses to read it.
    """
    path = Path(path)
    try:
        kind = irregular(path)
        if kind is not None:  # a named pipe would be waited for
            raise DamagedError(f"{path} is no file", got=kind, fix=fix)
        return path.read_bytes()
    except OSError as error:
        raise ResourceError(
            f"cannot read {path}: {error.strerror}", fix="check its permissions and the disk"
        ) from error


def publish(path: Path | str, content: bytes) -> bool:
    """Write a file atomically and durably unless one of that name is there; True where this call wrote it.

    Of the processes that publish at once exactly one wins: a hard link is refused where the name is taken. Where the file
    system has no hard links, the folder is locked around a check and a rename. Raises `ResourceError` as `write_file` does.
    """
    path = as_path(path)
    with _disk_errors(path, len(content)):
        return _unless_swept(path.parent, lambda: _publish(path, content))


def _publish(path: Path, content: bytes) -> bool:
    with _temporary_file(path, content) as temporary:
        try:
            os.link(temporary, path)
        except FileExistsError:
            return False
        except OSError as error:  # FAT, exFAT, many network mounts have no hard links
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS):
                raise
            with _folder_locked(path.parent):
                if os.path.lexists(path):
                    return False
                temporary.rename(path)
        else:
            temporary.unlink(missing_ok=True)
        sync_directory(path.parent)
    return True


@contextlib.contextmanager
def _folder_locked(folder: Path) -> Iterator[None]:
    """One process of this machine at a time; a kill lets go. Where a folder cannot be locked, only the check is left."""
    try:
        import fcntl
    except ImportError:  # Windows, where a rename does not replace
        yield
        return
    number = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(number, fcntl.LOCK_EX)
        yield
    finally:
        os.close(number)


@contextlib.contextmanager
def _temporary_file(path: Path, content: bytes | memoryview | Callable[[BinaryIO], object]) -> Iterator[Path]:
    temporary = path.with_name(f"{TEMPORARY}{secrets.token_hex(8)}")
    try:
        with temporary.open("xb") as file:
            if callable(content):
                content(file)
            else:
                file.write(content)
            file.flush()
            os.fsync(file.fileno())
        yield temporary
    finally:  # after the rename there is nothing left to remove
        with contextlib.suppress(OSError):
            temporary.unlink()


def write_directory(path: Path | str, write: Callable[[Path], object]) -> Path:
    """Make a directory atomically and durably: `write` fills a temporary one, which is then renamed; gives the path.

    Raises `ResourceError` where the directory is there already or the disk refuses; nothing is then left behind.
    """
    path = as_path(path)
    temporary = path.with_name(f"{TEMPORARY}{secrets.token_hex(8)}")
    with _disk_errors(path, None):
        try:
            temporary.mkdir(parents=True)
            write(temporary)
            for place, _, names in os.walk(temporary, topdown=False):
                for name in names:
                    sync_file(Path(place) / name)
                sync_directory(Path(place))
            temporary.rename(path)
            sync_directory(path.parent)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
    return path


def make_directory(path: Path | str) -> Path:
    """A directory that is there and can be written to. Raises `ResourceError` where it cannot."""
    path = as_path(path)
    with _disk_errors(path, None):
        path.mkdir(parents=True, exist_ok=True)
        probe = path / f"{TEMPORARY}{secrets.token_hex(8)}"
        try:
            probe.touch(exist_ok=False)
        finally:
            probe.unlink(missing_ok=True)
    return path


def sweep(directory: Path | str, *, deep: bool = False) -> int:
    """Remove what killed writers left half-written in a directory (`deep`: and below it); gives how many.

    A writer that is alive and finds its temporary file gone writes it again; a temporary directory is not made again.
    """
    swept = 0
    for left in Path(directory).rglob(f"{TEMPORARY}*") if deep else Path(directory).glob(f"{TEMPORARY}*"):
        with contextlib.suppress(OSError):
            shutil.rmtree(left) if left.is_dir() and not left.is_symlink() else left.unlink()
            swept += 1
    return swept


def remove_folder(path: Path) -> None:
    """Remove a folder at once, where it is there: what a kill leaves of it has a temporary name, which `sweep` removes."""
    gone = path.with_name(f"{TEMPORARY}{secrets.token_hex(8)}")
    with contextlib.suppress(OSError):
        path.rename(gone)
        shutil.rmtree(gone)


@contextlib.contextmanager
def removing(path: Path | str) -> Iterator[None]:
    """Around the removal of a file: one that is gone already is fine, one that cannot go is a `ResourceError`."""
    try:
        yield
    except FileNotFoundError:
        pass
    except OSError as error:
        raise refused(path, error) from error


def sync_file(path: Path | str) -> None:
    """Wait until a file's bytes are on the disk."""
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def sync_directory(path: Path | str) -> None:
    """Wait until a directory's entries (names, renames) are on the disk; some file systems cannot open or wait for one."""
    try:
        number = os.open(path, os.O_RDONLY | getattr(os, "O_DIRECTORY", 0))
    except OSError as error:
        if error.errno in (errno.EISDIR, errno.EACCES):
            return
        raise
    try:
        os.fsync(number)
    except OSError as error:
        if error.errno not in NO_DIRECTORY_SYNC:
            raise
    finally:
        os.close(number)


FIXES = {  # what helps where it is not the folder that is wrong
    errno.ENOSPC: "make room on this disk, then run the same command again",
    errno.EDQUOT: "make room on this disk, then run the same command again",
    errno.EMFILE: "allow more open files (ulimit -n), then run the same command again",
    errno.ENFILE: "end what holds files open, then run the same command again",
    errno.EFBIG: "allow larger files (ulimit -f), or choose a file system that does",
    errno.EROFS: "choose a folder on a disk that is not read-only",
    errno.EEXIST: "choose another folder: what is there is no folder",
    errno.ENOTDIR: "choose another folder: a part of this path is a file",
    errno.ENAMETOOLONG: "choose a shorter name",
}


def refused(path: Path | str, error: OSError, needed: int | None = None) -> ResourceError:
    """The typed error for an operating system that refuses: names the path, the bytes needed and the bytes free."""
    place = Path(path)
    while not place.exists() and place != place.parent:
        place = place.parent
    free = None
    with contextlib.suppress(OSError):
        free = shutil.disk_usage(place).free
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    return ResourceError(
        f"cannot write {path}: {error.strerror or error}",
        expected=f"{needed:,} bytes free" if full and needed is not None else None,
        got=f"{free:,} bytes free" if full and free is not None else None,
        fix=FIXES.get(error.errno or 0, "choose a folder you may write to"),
    )


@contextlib.contextmanager
def _disk_errors(path: Path, needed: int | None) -> Iterator[None]:
    try:
        yield
    except ResourceError:
        raise
    except OSError as error:
        raise refused(path, error, needed) from error
