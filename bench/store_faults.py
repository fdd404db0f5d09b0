"""The store under damage: every kind a thousand times, none may pass unseen, no whole store may be refused.

    python bench/store_faults.py [--trials 1000]

A trial damages one file of a small store, opens it and reads every row. `seen`: refused with a typed error before a value
was used. `harmless`: what was read is right, row by row (the damage did not reach what is read). `wrong`: a value that was
not written came back. `alarms`: the undamaged store, opened between trials, was refused. Then every system call of a commit
is killed in turn.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "src"))

from fractionate import collect
from fractionate.data import Examples
from fractionate.errors import FractionateError
from fractionate.store import Store, verify

RESULT = Path(__file__).parent / "results" / "store_faults.md"
Random = np.random.Generator
Damage = Callable[[Path, Random], None]


def flip(file: Path, random: Random) -> None:
    content = bytearray(file.read_bytes())
    content[random.integers(len(content))] ^= 1 << int(random.integers(8))
    file.write_bytes(content)


def flip_many(file: Path, random: Random) -> None:
    content = np.frombuffer(file.read_bytes(), np.uint8).copy()
    places = random.integers(len(content), size=16)
    content[places] ^= random.integers(1, 255, 16).astype(np.uint8)
    file.write_bytes(content.tobytes())


def cut(file: Path, random: Random) -> None:
    os.truncate(file, int(random.integers(file.stat().st_size)))


def zero_4k(file: Path, random: Random) -> None:
    content = bytearray(file.read_bytes())
    start = int(random.integers(max(1, len(content) - 64)))
    part = bytes(len(content[start : start + 4096]))
    if content[start : start + 4096] == part:
        return flip(file, random)
    content[start : start + 4096] = part
    file.write_bytes(content)
    return None


def swap_blocks(file: Path, random: Random) -> None:
    content = bytearray(file.read_bytes())
    width = min(512, len(content) // 4)
    a, b = (
        int(random.integers(len(content) // 2 - width)),
        int(random.integers(len(content) // 2, len(content) - width)),
    )
    if content[a : a + width] == content[b : b + width]:
        return flip(file, random)
    content[a : a + width], content[b : b + width] = content[b : b + width], content[a : a + width]
    file.write_bytes(content)
    return None


def append(file: Path, random: Random) -> None:
    with file.open("ab") as opened:
        opened.write(random.bytes(int(random.integers(1, 4096))))


def sibling(file: Path, random: Random) -> None:
    others = [other for other in sorted(file.parent.iterdir()) if other != file]
    shutil.copyfile(others[random.integers(len(others))], file)


def exchange(file: Path, random: Random) -> None:
    others = [other for other in sorted(file.parent.iterdir()) if other != file]
    other = others[random.integers(len(others))]
    a, b = file.read_bytes(), other.read_bytes()
    file.write_bytes(b)
    other.write_bytes(a)


def missing(file: Path, random: Random) -> None:
    file.unlink()


def empty(file: Path, random: Random) -> None:
    file.write_bytes(b"")


def extra(file: Path, random: Random) -> None:
    file.with_name(f"{random.bytes(4).hex()}-extra{file.suffix}").write_bytes(file.read_bytes())


def renamed(file: Path, random: Random) -> None:
    file.rename(file.with_name(f"{random.bytes(4).hex()}{file.suffix}"))


def mtime(file: Path, random: Random) -> None:
    os.utime(file, (int(random.integers(1 << 32)),) * 2)


KINDS: dict[str, tuple[Damage, str]] = {
    "one bit flipped": (flip, "any"),
    "sixteen bytes changed": (flip_many, "any"),
    "cut at a random byte": (cut, "any"),
    "4 KiB of zeros": (zero_4k, "shards"),
    "two blocks swapped": (swap_blocks, "shards"),
    "bytes appended": (append, "any"),
    "shard replaced by a valid sibling": (sibling, "shards"),
    "two shards exchanged": (exchange, "shards"),
    "manifest replaced by a sibling": (sibling, "segments"),
    "file missing": (missing, "any"),
    "file empty": (empty, "any"),
    "file renamed": (renamed, "any"),
    "extra file (harmless if shard, refused if manifest)": (extra, "any"),
    "modification time only (harmless)": (mtime, "any"),
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--trials", type=int, default=1000)
    options = parser.parse_args()
    torch.set_num_threads(1)
    random = np.random.default_rng(0)
    generator = torch.Generator().manual_seed(0)
    data = Examples(torch.randn(200, 20, generator=generator), torch.randint(20, (200,), generator=generator))
    lines = [
        f"Made by `python bench/store_faults.py --trials {options.trials}`. Goal R6: 100 % seen or harmless, 0 wrong, 0 alarms.",
        "",
        "| damage | trials | seen | harmless | wrong | alarms |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    total_wrong = 0
    with tempfile.TemporaryDirectory() as base:
        place = Path(base) / "s"
        store = collect(lambda x: x * 2, data, place, named="twice", batch_size=50, shard_bytes=1)
        good = store.signal()
        files = sorted(path for path in place.rglob("*") if path.is_file() and path.name != "head-copy.json")
        contents = {path: path.read_bytes() for path in files}
        for name, (damage, where) in KINDS.items():
            seen = harmless = wrong = alarms = 0
            some = [path for path in files if where == "any" or path.parent.name == where]
            for _ in range(options.trials):
                damage(some[random.integers(len(some))], random)
                try:
                    back = Store.open(place)
                    signal = back.signal()
                    same = torch.equal(signal.logits, good.logits) and torch.equal(signal.labels, good.labels)
                    harmless, wrong = harmless + same, wrong + (not same)
                except FractionateError:
                    seen += 1
                for path in sorted(place.rglob("*")):
                    if path.is_file() and path not in contents and path.name != "head-copy.json":
                        path.unlink()
                for path, content in contents.items():
                    if not path.exists() or path.read_bytes() != content:
                        path.write_bytes(content)
                try:
                    Store.open(place)
                except FractionateError:
                    alarms += 1
            total_wrong += wrong + alarms
            lines.append(f"| {name} | {options.trials} | {seen} | {harmless} | {wrong} | {alarms} |")
            print(lines[-1])
        lines += ["", *kills(Path(base))]
    text = "\n".join(lines) + "\n"
    print(text)
    RESULT.write_text(text)
    sys.exit(1 if total_wrong else 0)


def kills(base: Path) -> list[str]:
    """Kill a commit before every one of its system calls; the store must open, whole, and be finished by the next call."""
    if shutil.which("strace") is None:
        return ["(no strace: commits were not killed)"]
    script = f"""
import sys; sys.path.insert(0, {str(Path(__file__).parents[1] / "src")!r})
import torch
from fractionate.data import Examples
from fractionate import collect
data = Examples(torch.arange(64.0).reshape(16, 4), torch.arange(16) % 4)
print("ready", flush=True); sys.stdin.read(1)
collect(lambda x: x * 2, data, sys.argv[1], named="twice", batch_size=8, shard_bytes=1)
"""

    def writer(place: Path) -> subprocess.Popen[bytes]:
        started = subprocess.Popen(
            [sys.executable, "-c", script, str(place)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert started.stdout is not None and started.stdout.readline() == b"ready\n"
        return started

    writer(base / "whole").communicate(b"x")
    content = Store.open(base / "whole").content()
    rows = [
        "| killed before call | of kind | stores opened whole | finished to the same content |",
        "| --- | --- | --- | --- |",
    ]
    for call in ("write", "rename,link", "fsync", "unlink"):
        tried = whole = same = 0
        for when in range(1, 40):
            place = base / f"k-{call[:4]}-{when}"
            running = writer(place)
            options = ["-o", "/dev/null", "-e", f"trace={call}", "-e", f"inject={call}:signal=SIGKILL:when={when}"]
            tracer = subprocess.Popen(["strace", "-f", "-p", str(running.pid), *options], stderr=subprocess.PIPE)
            assert tracer.stderr is not None
            tracer.stderr.readline()
            running.communicate(b"x")
            tracer.wait()
            if running.returncode == 0:
                break
            tried += 1
            whole += not (place / "head.json").exists() or verify(place).whole
            writer(place).communicate(b"x")
            same += Store.open(place).content() == content
        rows.append(f"| 1 to {tried} | {call} | {whole} of {tried} | {same} of {tried} |")
        print(rows[-1])
    return rows


if __name__ == "__main__":
    main()
