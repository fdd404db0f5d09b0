"""One pass shared by multiple processes under torchrun, against the pass of one process: the same store, row by row.

    python bench/store_parts.py [--processes 2] [--repeats 3]

A convolutional teacher over random pictures of 1 × 28 × 28; each process collects `part=(RANK, WORLD_SIZE)` into the same
folder, on the CPU with one thread. Seconds are those of the pass alone, of the slowest process; runs with one and with multiple
processes are interleaved. A last run is stopped in its midst and finished by another.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "src"))

import torch
from torch import nn

from fractionate import collect
from fractionate.data import Examples
from fractionate.store import Store, verify

RESULT = Path(__file__).parent / "results" / "store_parts.md"
EXAMPLES = 6000


def work(place: Path) -> None:
    """What each process does."""
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    data = Examples(torch.rand(EXAMPLES, 1, 28, 28, generator=generator), torch.arange(EXAMPLES) % 10)
    torch.manual_seed(0)
    teacher = nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(4),
        nn.Flatten(), nn.Linear(1024, 10),
    )  # fmt: skip
    rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    started = time.perf_counter()
    collect(teacher, data, place, batch_size=100, part=(rank, world), shard_bytes=40_000)
    seconds = time.perf_counter() - started
    (place.parent / f"seconds-{place.name}-{rank}").write_text(json.dumps(seconds))


def run(place: Path, processes: int) -> subprocess.Popen[bytes]:
    """The pass under torchrun."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    return subprocess.Popen(
        [*torchrun, __file__, "--work", str(place)], stderr=subprocess.PIPE, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--work", type=Path)
    options = parser.parse_args()
    if options.work:
        return work(options.work)
    seconds: dict[int, list[float]] = {1: [], options.processes: []}
    contents, whole, multiple = set(), 0, 0
    with tempfile.TemporaryDirectory() as base:
        for repeat in range(options.repeats):
            for processes in seconds:
                place = Path(base) / f"s{processes}-{repeat}"
                running = run(place, processes)
                _, outputs = running.communicate()
                assert running.returncode == 0, outputs.decode()
                times = [json.loads(path.read_text()) for path in Path(base).glob(f"seconds-{place.name}-*")]
                seconds[processes].append(max(times))
                contents.add(Store.open(place).content())
                whole += verify(place).whole and verify(place).complete
                multiple += 1
        place = Path(base) / "killed"
        running = run(place, options.processes)
        while not list(place.glob("segments/*.json")):
            time.sleep(0.02)
        os.kill(running.pid, signal.SIGTERM)  # torchrun ends its processes
        running.communicate()
        there = int(Store.open(place).present().sum())
        again = run(place, options.processes)
        again.communicate()
        contents.add(Store.open(place).content())
    one, many = (statistics.median(seconds[count]) for count in (1, options.processes))
    text = (
        f"A convolutional teacher over {EXAMPLES:,} pictures, collected by 1 and by {options.processes} processes under torchrun "
        f"on a machine with {os.cpu_count()} cores, shared with others;\nmade by `python bench/store_parts.py --processes "
        f"{options.processes} --repeats {options.repeats}`. CPU only: multiple GPUs were not tried.\n\n"
        "| | |\n| --- | --- |\n"
        f"| different contents among all {multiple + 1} stores | {len(contents)} |\n"
        f"| stores whole and complete | {whole} of {multiple} |\n"
        f"| seconds of the pass, 1 process (median) | {one:.1f} |\n"
        f"| seconds of the pass, {options.processes} processes, the slowest (median) | {many:.1f} |\n"
        f"| times faster | {one / many:.2f} |\n"
        f"| killed with rows there, then finished to the same content | {there:,} of {EXAMPLES:,}, {len(contents) == 1} |\n"
    )
    print(text)
    RESULT.write_text(text)
    sys.exit(0 if len(contents) == 1 else 1)


if __name__ == "__main__":
    main()
