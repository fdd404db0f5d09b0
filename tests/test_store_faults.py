"""Kills, full disks, racing writers, wrong clocks, far places: a store is whole or it says so."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from bench.kill import forked
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from fractionate.data.examples import Examples
from fractionate.errors import ConfigError, DamagedError, ResourceError
from fractionate.store import Store, collect, compact, repair, upload, verify
from fractionate.store.layout import Segment, write_shard
from fractionate.system.atomic import TEMPORARY

SOURCE = str(Path(__file__).parents[1] / "src")
strace = pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")
ROWS = 96


def data(rows=ROWS):
    generator = torch.Generator().manual_seed(0)
    return Examples(torch.randn(rows, 5, generator=generator), torch.randint(5, (rows,), generator=generator))


def say(inputs):
    """A teacher without weights."""
    return inputs * 2


def gather(place, rows=ROWS, batch_size=16, **options):
    return collect(say, data(rows), place, named="twice", batch_size=batch_size, shard_bytes=1, **options)


@pytest.fixture(scope="module")
def part(tmp_path_factory):
    """A store with its last shard taken away, and the columns of that shard."""
    base = tmp_path_factory.mktemp("part")
    store = gather(base / "s")
    content = store.content()
    columns = store.read_stored(np.arange(80, 96))
    for name, column in columns.items():
        np.save(base / f"{name}.npy", column)
    for shard in store.shards:
        if 80 in shard.index["places"]:
            shard.path.unlink()
            (base / "s" / "segments" / shard.segment.name).unlink()
    return base, content


def traced(work, log, *options):
    """Do some work in a fork that strace follows from its first line on; its exit code and what it wrote to stderr."""
    output, (waits, go) = log.with_name(f"{log.name}-stderr"), os.pipe()

    def follow():
        os.dup2(os.open(output, os.O_CREAT | os.O_WRONLY), 2)
        os.read(waits, 1)
        try:
            work()
        except ResourceError as error:
            os.write(2, f"{error.exit_code} {error}".encode())
            os._exit(1)

    child = forked(follow)
    tracer = subprocess.Popen(["strace", "-f", "-p", str(child), "-o", str(log), *options], stderr=subprocess.PIPE)
    tracer.stderr.readline()  # attached
    os.write(go, b"x")
    status = os.waitpid(child, 0)[1]
    tracer.wait()
    for end in (waits, go):
        os.close(end)
    tracer.stderr.close()
    return os.waitstatus_to_exitcode(status), output.read_text()


def commits(place, base):
    """Write the shard that was taken away: what a writer does that is killed between two system calls."""
    store = Store.open(place)
    columns = {name: np.load(base / f"{name}.npy") for name in ("places", "keys", "labels", "values", "hashes")}
    return lambda: write_shard(place, columns, head=store.head.sha256)


@strace
@pytest.mark.parametrize(("call", "when"), [("write", 1), ("write", 2), ("fsync", 2), ("fsync", 4), ("rename", 2)])
def test_a_kill_at_a_system_call_of_a_commit_loses_no_row_that_was_there(part, tmp_path, call, when):
    base, content = part
    shutil.copytree(base / "s", tmp_path / "s")
    options = ["-e", f"trace={call}", "-e", f"inject={call}:signal=SIGKILL:when={when}"]
    code, _ = traced(commits(tmp_path / "s", base), tmp_path / "log", *options)
    assert code == -9
    store = Store.open(tmp_path / "s")  # as if nothing had happened, or all of it
    assert store.present()[:80].all() and store.present()[80:].sum() in (0, 16)
    assert verify(tmp_path / "s").whole
    assert gather(tmp_path / "s").content() == content
    repair(tmp_path / "s")
    assert not verify(tmp_path / "s").leftovers


def test_a_shard_that_was_never_committed_is_written_over_or_saved(tmp_path, monkeypatch):
    store = gather(tmp_path / "whole", batch_size=ROWS)
    (shard,) = [path.name for path in (tmp_path / "whole" / "shards").iterdir()]
    for number in (1, 2):  # killed between shard and segment, twice
        with monkeypatch.context() as patched:
            patched.setattr(Segment, "write", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
            with pytest.raises(KeyboardInterrupt):
                gather(tmp_path / "cut", batch_size=ROWS)
        assert [path.name for path in (tmp_path / "cut" / "shards").iterdir()] == [shard], number
    shutil.copytree(tmp_path / "cut", tmp_path / "saved")
    assert gather(tmp_path / "cut", batch_size=ROWS).content() == store.content()
    assert verify(tmp_path / "cut").whole and not verify(tmp_path / "cut").leftovers
    assert repair(tmp_path / "saved").kept == ROWS and Store.open(tmp_path / "saved").content() == store.content()


@strace
def test_a_commit_is_shard_then_segment_each_synced_before_and_after_its_rename(part, tmp_path):
    base, _ = part
    shutil.copytree(base / "s", tmp_path / "s")
    log = tmp_path / "log"
    code, error = traced(commits(tmp_path / "s", base), log, "-y", "-e", "trace=write,fsync,rename")
    assert code == 0, error
    calls = [line.split(maxsplit=1)[1] for line in log.read_text().splitlines() if f"{tmp_path}/s/" in line]
    steps = [(line.split("(")[0], "shards" if "/shards" in line else "segments") for line in calls]
    short = [step for number, step in enumerate(steps) if number == 0 or step != steps[number - 1]]
    each = ("write", "fsync", "rename", "fsync")
    assert short == [(step, "shards") for step in each] + [(step, "segments") for step in each]


@strace
@pytest.mark.parametrize(("call", "when"), [("write", 1), ("write", 2), ("fsync", 1), ("fsync", 3), ("rename", 2)])
def test_a_disk_that_fills_leaves_the_old_store_and_says_what_is_needed(part, tmp_path, call, when):
    base, content = part
    shutil.copytree(base / "s", tmp_path / "s")
    options = ["-e", f"trace={call}", "-e", f"inject={call}:error=ENOSPC:when={when}"]
    code, error = traced(commits(tmp_path / "s", base), tmp_path / "log", *options)
    assert code == 1 and error.startswith("6 ") and "bytes free" in error and str(tmp_path / "s") in error
    assert verify(tmp_path / "s").whole
    left = [path for path in (tmp_path / "s").rglob("*") if path.name.startswith(TEMPORARY)]
    assert not left
    assert gather(tmp_path / "s").content() == content


@pytest.mark.skipif(os.getuid() != 0, reason="needs to mount a small disk")
def test_a_small_disk(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(disk)], check=False, capture_output=True
    ).returncode:
        pytest.skip("cannot mount here")
    try:
        with pytest.raises(
            ResourceError, match=r"no space left for the whole pass"
        ):  # before the pass, not in its midst
            gather(disk / "s", rows=20_000)
        assert not (disk / "s").exists()
        store = gather(disk / "t", rows=200)
        (disk / "filler").write_bytes(b"x" * (shutil.disk_usage(disk).free - 4096 * 5))
        more = Examples(torch.randn(200, 5), torch.arange(200) % 5)
        with pytest.raises(ResourceError) as caught:
            collect(say, more, disk / "u", named="twice")
        assert "bytes free" in str(caught.value) and caught.value.exit_code == 6
        assert Store.open(disk / "t").content() == store.content()
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


@strace
def test_a_disk_that_cannot_be_read_is_a_typed_error(part, tmp_path):
    base, _ = part
    options = ["-P", str(base / "s" / "head.json"), "-e", "trace=openat,read", "-e", "inject=openat,read:error=EIO"]
    code, outputs = traced(lambda: Store.open(base / "s"), tmp_path / "log", *options)
    assert code == 1 and outputs.startswith("6 cannot read") and "Input/output error" in outputs


WRITER = f"""
import sys; sys.path.insert(0, {SOURCE!r}); sys.path.insert(0, {str(Path(__file__).parents[1])!r})
import torch; torch.set_num_threads(1)
from tests.test_store_faults import gather
print("ready", flush=True); sys.stdin.read(1)
gather(sys.argv[1])
"""


def test_racing_writers_make_the_store_of_one_and_a_killed_one_hinders_nobody(tmp_path):
    content = gather(tmp_path / "one").content()
    racing = [forked(lambda: gather(tmp_path / "s")) for _ in range(3)]
    os.kill(racing[0], signal.SIGKILL)
    ends = [os.waitstatus_to_exitcode(os.waitpid(writer, 0)[1]) for writer in racing]
    assert ends in ([-9, 0, 0], [0, 0, 0])  # it may have been done before the signal came
    store = Store.open(tmp_path / "s")
    assert store.complete and store.content() == content
    repair(tmp_path / "s")
    compact(tmp_path / "s")
    assert Store.open(tmp_path / "s").content() == content


def test_each_process_its_share(tmp_path):
    for rank in (2, 0, 1):
        store = gather(tmp_path / "s", part=(rank, 3))
    assert store.complete and len(store.shards) == 6
    assert store.content() == gather(tmp_path / "one").content()


def test_readers_beside_writers_see_whole_rows_only(tmp_path):
    gather(tmp_path / "one")
    expected = Store.open(tmp_path / "one").signal().logits
    seen, wrong, stop = [], [], threading.Event()

    def read():
        while not stop.is_set():
            for head in list(tmp_path.glob("s*/head.json")):
                store = Store.open(head.parent)
                there = np.flatnonzero(store.present())
                seen.append(len(there))
                if len(there) and not torch.equal(store.logits(there), expected[torch.from_numpy(there)]):
                    wrong.append(there)

    reader = threading.Thread(target=read)
    reader.start()
    try:
        for number in range(4):
            gather(tmp_path / f"s{number}")
    finally:
        stop.set()
        reader.join()
    assert seen and not wrong


@pytest.mark.skipif(shutil.which("faketime") is None, reason="needs faketime")
@pytest.mark.parametrize("when", ["-10y", "+1d"])
def test_no_decision_is_made_by_the_clock(tmp_path, when):
    content = gather(tmp_path / "one").content()
    gather(tmp_path / "s", part=(0, 2))
    done = subprocess.run(
        ["faketime", "-f", when, sys.executable, "-c", WRITER, str(tmp_path / "s")], input=b"x", check=False
    )
    assert done.returncode == 0
    for path in (tmp_path / "s").rglob("*"):
        os.utime(path, (4e9, 4e9))  # the year 2096
    assert Store.open(tmp_path / "s").content() == content and verify(tmp_path / "s").whole


def test_no_line_of_the_store_asks_for_the_time_of_day():
    lines = [
        line for path in (Path(SOURCE) / "fractionate" / "store").glob("*.py") for line in path.read_text().splitlines()
    ]
    assert len(lines) > 1000
    assert not [line for line in lines if "time.time(" in line or "datetime" in line or "st_mtime" in line]


# --- any order of doings ------------------------------------------------------------------------------------------------------


class Doings(RuleBasedStateMachine):
    """Collecting in parts, damage, repair, merging, in any order: rows are right or refused, never wrong."""

    def __init__(self):
        super().__init__()
        import tempfile

        self.folder = tempfile.TemporaryDirectory()
        self.place = Path(self.folder.name) / "s"
        self.expected = data().inputs * 2
        self.damaged = False

    @rule(rank=st.integers(0, 2))
    def collects_a_part(self, rank):
        try:
            gather(self.place, part=(rank, 3))
        except DamagedError:
            assert self.damaged

    @rule(seed=st.integers(0, 10**6))
    def is_damaged(self, seed):
        random = np.random.default_rng(seed)
        files = sorted(path for path in self.place.rglob("*.safetensors"))
        if files:
            file = files[random.integers(len(files))]
            content = bytearray(file.read_bytes())
            content[random.integers(len(content))] ^= 1 << random.integers(8)
            file.write_bytes(content)
            self.damaged = True

    @rule()
    def is_repaired(self):
        if (self.place / "head.json").exists():
            repair(self.place)
            self.damaged = False

    @rule()
    def is_merged(self):
        if self.place.exists() and not self.damaged:
            compact(self.place, shard_bytes=1 << 30)

    @invariant()
    def rows_are_right_or_refused(self):
        if not (self.place / "head.json").exists():
            return
        try:
            store = Store.open(self.place)
            there = np.flatnonzero(store.present())
            assert not len(there) or torch.equal(store.logits(there), self.expected[torch.from_numpy(there)])
        except DamagedError:
            assert self.damaged

    def teardown(self):
        self.folder.cleanup()


Doings.TestCase.settings = settings(
    max_examples=8, stateful_step_count=10, deadline=None, derandomize=True, database=None
)
test_any_order_of_doings = Doings.TestCase


# --- far away ----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def far(tmp_path):
    fsspec = pytest.importorskip("fsspec")
    store = gather(tmp_path / "near", rows=4000, batch_size=500, form="top-k", k=2)
    url = "memory://faults/store"
    fsspec.filesystem("memory").rm("/faults", recursive=True) if fsspec.filesystem("memory").exists("/faults") else None
    compact(tmp_path / "near")
    assert upload(tmp_path / "near", url) == url and upload(tmp_path / "near", url) == url
    return store, url, fsspec.filesystem("memory")


def test_a_far_store_is_read_by_ranges_into_a_verified_copy(far, tmp_path, monkeypatch):
    store, url, system = far
    monkeypatch.setattr("fractionate.store.remote.BLOCK", 4096)
    fetched = []
    cat = type(system).cat_file
    monkeypatch.setattr(
        type(system),
        "cat_file",
        lambda self, path, start=None, end=None, **o: (
            fetched.append((path, start, end)) or cat(self, path, start=start, end=end)
        ),
    )
    opened = Store.open(url, cache=tmp_path / "cache")
    fetched.clear()
    some = opened.logits([3999, 0])
    assert torch.equal(some, store.logits([3999, 0]))
    moved = sum(end - start for _, start, end in fetched)
    assert 0 < moved < sum(s.segment.bytes for s in opened.shards) / 3
    fetched.clear()
    assert torch.equal(opened.logits([3999, 0]), some) and not fetched
    again = Store.open(url, cache=tmp_path / "cache")
    fetched.clear()
    assert torch.equal(again.logits([0]), some[1:]) and not fetched
    assert again.content() == store.content()
    assert torch.equal(again.signal().logits, store.signal().logits)


def test_a_damaged_copy_is_fetched_again_and_a_damaged_original_refused(far, tmp_path):
    store, url, system = far
    Store.open(url, cache=tmp_path / "cache").signal()
    (copy,) = [path for path in (tmp_path / "cache").rglob("*.safetensors") if "shards" in str(path)]
    good = copy.read_bytes()
    for place in (20, len(good) // 20, len(good) - 3):
        copy.write_bytes(good[:place] + bytes([good[place] ^ 4]) + good[place + 1 :])
        assert torch.equal(Store.open(url, cache=tmp_path / "cache").signal().logits, store.signal().logits)
    name = next(name for name in system.find("/faults") if "shards" in name)
    system.pipe_file(name, good[:-3] + bytes([good[-3] ^ 4]) + good[-2:])
    with pytest.raises(DamagedError):
        Store.open(url, cache=tmp_path / "other").signal()
    with pytest.raises(ConfigError, match="is not there"):
        Store.open("memory://faults/nothing", cache=tmp_path / "cache")


@pytest.mark.parametrize("fault", ["short", "wrong", "error"])
def test_a_bad_line_is_tried_again_and_then_a_typed_error(far, tmp_path, monkeypatch, fault):
    store, url, system = far
    cat, calls = type(system).cat_file, []

    def bad(self, path, start=None, end=None, **options):
        content = cat(self, path, start=start, end=end)
        calls.append(path)
        if start is None or (len(calls) % 2 and not always):
            return content
        if fault == "error":
            raise TimeoutError("503")
        return content[: len(content) // 2] if fault == "short" else bytes([content[0] ^ 1]) + content[1:]

    monkeypatch.setattr(type(system), "cat_file", bad)
    always = True
    with pytest.raises((ResourceError, DamagedError)):
        Store.open(url, cache=tmp_path / "never").signal()
    if fault != "wrong":
        always = False
        assert torch.equal(Store.open(url, cache=tmp_path / "often").signal().logits, store.signal().logits)


def test_secrets_are_not_told(tmp_path):
    from fractionate.store.remote import without_secrets

    assert without_secrets("https://user:pass@host/x?token=1") == "https://host/x"
