"""Atomic, durable files: order of system calls, kills, full disks."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from fractionate.errors import ResourceError
from fractionate.system.atomic import (
    TEMPORARY,
    make_directory,
    publish,
    sweep,
    sync_directory,
    write_directory,
    write_file,
)

SOURCE = Path(__file__).parents[1] / "src" / "fractionate" / "system" / "atomic.py"
# atomic.py without the package: no torch import, so that a trace of every system call stays short
LOAD = f"""
import sys, types, importlib.util
sys.path.insert(0, {str(SOURCE.parents[2])!r})
package = types.ModuleType("fractionate"); package.__path__ = [{str(SOURCE.parents[1])!r}]
sys.modules["fractionate"] = package
from fractionate.system.atomic import write_directory, write_file
"""
strace = pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")


def names_in(place):
    return [path.name for path in place.iterdir()]


def test_a_file_is_replaced_whole(tmp_path):
    path = write_file(tmp_path / "a", b"old")
    assert write_file(path, lambda file: file.write(b"new")).read_bytes() == b"new"
    assert names_in(tmp_path) == ["a"]


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = write_file(tmp_path / "a", b"old")

    def fail(file):
        file.write(b"half")
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError):
        write_file(path, fail)
    assert path.read_bytes() == b"old"
    assert names_in(tmp_path) == ["a"]


def test_a_directory_appears_whole_or_not_at_all(tmp_path):
    def fill(place):
        (place / "deep").mkdir()
        (place / "deep" / "x").write_bytes(b"1")

    assert (write_directory(tmp_path / "d", fill) / "deep" / "x").read_bytes() == b"1"
    with pytest.raises(ResourceError):  # already there, not empty
        write_directory(tmp_path / "d", fill)
    with pytest.raises(ZeroDivisionError):
        write_directory(tmp_path / "e", lambda place: 1 / 0)
    assert names_in(tmp_path) == ["d"]


def test_the_place_cannot_be_written(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ResourceError, match="file"):
        make_directory(tmp_path / "file" / "below")
    with pytest.raises(ResourceError, match="cannot write"):
        write_file(tmp_path / "missing" / "a", b"1")


def test_sweep_removes_only_what_is_half_written(tmp_path):
    (tmp_path / f"{TEMPORARY}1").write_bytes(b"half")
    (tmp_path / f"{TEMPORARY}2").mkdir()
    (tmp_path / "kept").write_bytes(b"1")
    assert sweep(tmp_path) == 2
    assert names_in(tmp_path) == ["kept"]


@pytest.mark.parametrize("number", [errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EACCES])
def test_a_file_is_published_once_where_there_are_no_hard_links(tmp_path, monkeypatch, number):
    def refuse(*arguments, **more):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "link", refuse)
    assert publish(tmp_path / "a", b"first")
    assert not publish(tmp_path / "a", b"second")
    assert (tmp_path / "a").read_bytes() == b"first" and names_in(tmp_path) == ["a"]
    (tmp_path / "b").symlink_to("nothing")
    assert not publish(tmp_path / "b", b"a name that is taken")


@pytest.mark.parametrize("links", [True, False])
def test_of_many_that_publish_at_once_one_wins(tmp_path, links):
    script = LOAD + "import os, time\nfrom fractionate.system.atomic import publish\n"
    if not links:
        script += "def refuse(*more): raise OSError(1, 'Operation not permitted')\nos.link = refuse\n"
    script += f"""
while not os.path.exists({str(tmp_path / "go")!r}): pass
print(sum(publish({str(tmp_path)!r} + f"/{{i}}", str(os.getpid()).encode()) for i in range(50)))
"""
    racing = [subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) for _ in range(4)]
    (tmp_path / "go").touch()
    won = [int(process.communicate()[0]) for process in racing]
    assert sum(won) == 50
    assert sorted(names_in(tmp_path)) == sorted(["go", *map(str, range(50))])


def test_a_file_system_that_cannot_wait_for_a_folder_is_none_the_less_written_to(tmp_path, monkeypatch):
    real = os.fsync

    def files_alone(number):
        if stat.S_ISDIR(os.fstat(number).st_mode):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        real(number)

    monkeypatch.setattr(os, "fsync", files_alone)
    write_file(tmp_path / "a", b"1")
    assert publish(tmp_path / "b", b"1")
    write_directory(tmp_path / "c", lambda folder: (folder / "x").write_bytes(b"1"))
    assert sorted(names_in(tmp_path)) == ["a", "b", "c"]
    monkeypatch.setattr(os, "fsync", lambda number: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        sync_directory(tmp_path)


@strace
def test_the_order_of_system_calls_is_durable(tmp_path):
    log = tmp_path / "log"
    calls = "trace=openat,write,fsync,rename,renameat,renameat2"
    script = LOAD + f"write_file({str(tmp_path / 'a')!r}, b'payload')"
    subprocess.run(["strace", "-f", "-o", str(log), "-e", calls, "-y", sys.executable, "-c", script], check=True)
    ours = [line.split(maxsplit=1)[1] for line in log.read_text().splitlines() if str(tmp_path) in line]
    names = [line.split("(")[0] for line in ours if not line.startswith("openat")]
    assert names == ["write", "fsync", "rename", "fsync"]
    assert TEMPORARY in ours[[line.startswith("fsync") for line in ours].index(True)]  # the file, then its directory
    assert f"<{tmp_path}>" in ours[-1]


@strace
@pytest.mark.parametrize("call", ["write", "fsync", "rename"])
def test_a_kill_at_any_system_call_leaves_the_old_file_or_the_new(tmp_path, call):
    script = LOAD + f"write_file({str(tmp_path / 'a')!r}, b'new')"
    inject = ["strace", "-f", "-o", "/dev/null", "-e", f"trace={call}"]
    for when in (1, 2):
        write_file(tmp_path / "a", b"old")
        option = f"inject={call}:signal=SIGKILL:when={when}"
        done = subprocess.run([*inject, "-e", option, sys.executable, "-c", script], check=False)
        assert when == 2 or done.returncode in (-9, 137)
        assert (tmp_path / "a").read_bytes() in (b"old", b"new")
        sweep(tmp_path)
        assert names_in(tmp_path) == ["a"]


@strace
def test_a_full_disk_is_a_typed_error_and_the_old_file_stays(tmp_path):
    write_file(tmp_path / "a", b"old")
    script = LOAD + f"write_file({str(tmp_path / 'a')!r}, b'payload')"
    option = "inject=fsync:error=ENOSPC"
    done = subprocess.run(
        ["strace", "-f", "-o", "/dev/null", "-e", "trace=fsync", "-e", option, sys.executable, "-c", script],
        check=False,
        capture_output=True,
        text=True,
    )
    assert "ResourceError" in done.stderr and "7 bytes free" in done.stderr and str(tmp_path / "a") in done.stderr
    assert (tmp_path / "a").read_bytes() == b"old"
    assert names_in(tmp_path) == ["a"]


def test_a_deep_sweep_reaches_every_folder(tmp_path):
    for folder in (tmp_path, tmp_path / "a" / "b"):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{TEMPORARY}1").write_bytes(b"half")
        (folder / "whole").write_bytes(b"1")
    (tmp_path / "a" / f"{TEMPORARY}2").mkdir()
    (tmp_path / "a" / f"{TEMPORARY}2" / f"{TEMPORARY}3").touch()
    assert sweep(tmp_path / "nowhere", deep=True) == 0 and sweep(tmp_path, deep=True) >= 3
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == ["whole", "whole"]
    assert not [*tmp_path.rglob(f"{TEMPORARY}*")]


@pytest.mark.parametrize("write", [write_file, publish])
def test_a_writer_whose_temporary_file_is_swept_away_writes_it_again(tmp_path, monkeypatch, write):
    """As when another command begins in the same folder."""
    left = [2]
    fsync = os.fsync

    def sweeping(number):
        fsync(number)
        if left[0]:
            left[0] -= 1
            sweep(tmp_path)

    monkeypatch.setattr(os, "fsync", sweeping)
    assert write(tmp_path / "x", b"whole")
    assert (tmp_path / "x").read_bytes() == b"whole" and left == [0]
    monkeypatch.setattr(os, "fsync", lambda number: sweep(tmp_path))
    with pytest.raises(ResourceError):
        write(tmp_path / "y", b"whole")
    with pytest.raises(ResourceError):
        write(tmp_path / "nowhere" / "y", b"whole")
    assert [path.name for path in tmp_path.iterdir()] == ["x"]
