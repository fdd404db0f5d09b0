"""A disk that fills: no space at every write, sync, rename, link and new folder of a pass, and real disks of a few kilobytes.

    python bench/store_full.py          # needs strace; the small disks need root

A pass of four commits. Each system call in turn fails, at it alone or from it on (strace injects the error); then the same pass
runs on tmpfs disks of 8, 12, 16, … KiB until one is large enough. After each: the error is typed and names the bytes free, what is
there verifies whole or nothing is there, and the same call with room finishes to the content of an undisturbed pass.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "src"))

import torch

from fractionate import collect
from fractionate.data import Examples
from fractionate.errors import ResourceError
from fractionate.store import Store, verify

RESULT = Path(__file__).parent / "results" / "store_full.md"
FULL, OTHER = 6, 9  # exit codes of a child: refused as it should be, anything else


def gather(place: Path) -> Store:
    data = Examples(torch.arange(256.0).reshape(64, 4), torch.arange(64) % 4)
    return collect(lambda x: x * 2, data, place, named="twice", batch_size=16, shard_bytes=1)


def child(place: Path) -> tuple[int, int]:
    """A process that waits for a byte, then collects; its number and the pipe."""
    reads, writes = os.pipe()
    number = os.fork()
    if number:
        os.close(reads)
        return number, writes
    code = 0
    try:
        os.read(reads, 1)
        gather(place)
    except ResourceError as error:
        code = FULL if "bytes free" in str(error) else OTHER
    except BaseException:
        code = OTHER
    os._exit(code)


def right_after(place: Path, content: str) -> tuple[bool, bool]:
    """Whether what is there is whole (or nothing is), and whether the next call finishes to the same content."""
    whole = not place.exists() or ((place / "head.json").exists() and verify(place).whole)
    return whole, gather(place).content() == content


def injected(base: Path, content: str, call: str, lasting: str) -> str:
    """The line of one kind of call."""
    tried = typed = whole = same = 0
    for when in range(1, 100):
        place = base / f"{call[:4]}-{when}{lasting}"
        number, pipe = child(place)
        options = ["-o", "/dev/null", "-e", f"trace={call}", "-e", f"inject={call}:error=ENOSPC:when={when}{lasting}"]
        tracer = subprocess.Popen(["strace", "-f", "-p", str(number), *options], stderr=subprocess.PIPE)
        assert tracer.stderr is not None
        tracer.stderr.readline()  # attached
        os.write(pipe, b"x")
        os.close(pipe)
        code = os.waitstatus_to_exitcode(os.waitpid(number, 0)[1])
        tracer.wait()
        tracer.stderr.close()
        if code == 0:
            break
        tried, typed = tried + 1, typed + (code == FULL)
        one, other = right_after(place, content)
        whole, same = whole + one, same + other
    what = "from it on" if lasting else "it alone"
    return f"| {call}, {what} | 1 to {tried} | {typed} | {whole} | {same} |"


def small_disks(base: Path, content: str) -> str:
    """The line of the real disks."""
    tried = typed = whole = same = size = 0
    disk = base / "disk"
    disk.mkdir()
    for size in range(8, 400, 4):
        mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}k", "none", str(disk)], check=False)
        if mounted.returncode:
            return "| (no right to mount: small disks were not tried) | | | | |"
        try:
            try:
                gather(disk / "s")
                break
            except ResourceError as error:
                tried, typed = tried + 1, typed + ("bytes free" in str(error))
            kept = base / "kept"
            shutil.rmtree(kept, ignore_errors=True)
            if (disk / "s").exists():
                shutil.copytree(disk / "s", kept)
            one, other = right_after(kept, content)
            whole, same = whole + one, same + other
        finally:
            subprocess.run(["umount", "-l", str(disk)], check=True)
    return f"| disks of 8 to {size - 4} KiB | 1 to {tried} | {typed} | {whole} | {same} |"


def main() -> None:
    torch.set_num_threads(1)
    lines = [
        "Made by `python bench/store_full.py`. A pass of four commits on a disk that fills; goal R10: whole or absent after each.",
        "",
        "| no space at call | tried | typed error | whole or absent | finished to the same content |",
        "| --- | --- | --- | --- | --- |",
    ]
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        content = gather(base / "good").content()
        for lasting in ("", "+"):
            for call in ("write", "fsync", "rename,link", "mkdir"):
                lines.append(injected(base, content, call, lasting))
                print(lines[-1], flush=True)
        lines.append(small_disks(base, content))
        print(lines[-1], flush=True)
    RESULT.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
