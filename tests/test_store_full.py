"""A disk that fills at any moment: whichever write it is, a store is whole or absent afterwards, and the next call finishes it.

`bench/store_full.py` does the same with a real disk of a few kilobytes and with every system call.
"""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import pytest
import torch

from fractionate.data.examples import Examples
from fractionate.errors import ResourceError
from fractionate.store import Store, collect, compact, repair, verify
from fractionate.system.atomic import TEMPORARY

ROWS = 32


def gather(place):
    data = Examples(torch.arange(ROWS * 4.0).reshape(ROWS, 4), torch.arange(ROWS) % 4)
    return collect(lambda x: x * 2, data, place, named="twice", batch_size=16, shard_bytes=1)


class FullFile:
    """An open file of a disk that fills: the write that fails leaves half of its bytes."""

    def __init__(self, file, step):
        self.file, self.step = file, step

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()

    def __getattr__(self, name):
        return getattr(self.file, name)

    def write(self, content):
        try:
            self.step()
        except OSError:
            self.file.write(bytes(content)[: len(bytes(content)) // 2])
            raise
        return self.file.write(content)


class Disk:
    """Counts what is written: file contents, syncs, names. From the call `full` on (or at it alone) there is no space left."""

    def __init__(self, monkeypatch):
        self.calls, self.full, self.last = 0, 0, 0
        for owner, name in [(os, "fsync"), (os, "link"), (Path, "replace"), (Path, "mkdir"), (Path, "touch")]:
            monkeypatch.setattr(owner, name, self.counting(getattr(owner, name)))
        real = Path.open

        def opening(path, mode="r", *arguments, **options):
            if "x" in mode or "w" in mode:
                self.step()  # no room for another name
            file = real(path, mode, *arguments, **options)
            return FullFile(file, self.step) if "x" in mode or "w" in mode else file

        monkeypatch.setattr(Path, "open", opening)

    def step(self):
        self.calls += 1
        if self.full <= self.calls <= self.last:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def counting(self, call):
        def counted(*arguments, **options):
            self.step()
            return call(*arguments, **options)

        return counted

    def fill(self, full, last=10**9):
        self.calls, self.full, self.last = 0, full, last


@pytest.mark.parametrize("lasting", ["for good", "for a moment"])
@pytest.mark.parametrize("doing", ["collect", "compact", "repair"])
def test_a_disk_that_is_full_at_any_write_leaves_a_store_whole_or_absent(tmp_path, monkeypatch, doing, lasting):
    good = gather(tmp_path / "good")
    content, disk = good.content(), Disk(monkeypatch)
    if doing == "repair":  # one shard damaged in its last row
        raw = bytearray(good.shards[0].path.read_bytes())
        raw[-1] ^= 1
        good.shards[0].path.write_bytes(raw)
    work = {
        "collect": gather,
        "compact": lambda place: compact(place, shard_bytes=1 << 30),
        "repair": repair,
    }[doing]

    def fresh(number):
        place = tmp_path / f"s{number}"
        if doing != "collect":
            shutil.copytree(good.path, place)
        return place

    disk.fill(0, 0)
    place = fresh("count")
    disk.calls = 0
    work(place)
    steps = disk.calls
    assert steps >= {"collect": 40, "compact": 10, "repair": 10}[doing]
    for number in range(1, steps + 1):
        place = fresh(number)
        disk.fill(number, 10**9 if lasting == "for good" else number)
        with pytest.raises(ResourceError) as caught:
            work(place)
        disk.fill(0, 0)
        assert (
            caught.value.exit_code == 6 and "No space left" in str(caught.value) and "bytes free" in str(caught.value)
        )
        if doing == "collect" and not (place / "head.json").exists():
            assert not place.exists()
        elif doing != "repair":
            assert verify(place).whole  # whatever is there counts, and every byte of it is right
        assert not list(tmp_path.rglob(f"{TEMPORARY}*"))
        if doing == "repair":
            repair(place)
            assert verify(place).whole and Store.open(place).present().sum() == ROWS - 1
        assert gather(place).content() == content
        shutil.rmtree(place)
