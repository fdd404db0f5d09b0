"""The small figures behind decisions 0064 and 0065, and behind a comment or two: each part alone, best tenth of many repeats.

OMP_NUM_THREADS=1 python bench/engine_parts.py     # two minutes; writes bench/results/engine_parts.md
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
sys.path.insert(0, str(Path(__file__).parents[1] / "src"))

from fractionate.data import read_delimited
from test_engine_memory import HERE, MEASURED

ROOT = Path(__file__).parents[1]


def micros(work: Callable[[], object], repeats: int = 600) -> float:
    """The tenth percentile in microseconds, with the caches disturbed in between."""
    other, times = torch.randn(300_000), []
    for _ in range(repeats):
        other.mul_(1.0000001)
        begin = time.perf_counter()
        work()
        times.append(time.perf_counter() - begin)
    return 1e6 * sorted(times)[repeats // 10]


def checks() -> list[str]:
    """The two ways to see that no gradient of an MLP of 84 k parameters is infinite."""
    grads = [torch.randn(s) for s in ((256, 64), (256,), (256, 256), (256,), (10, 256), (10,))]
    found, scale = torch.zeros(()), torch.ones(())

    def norm() -> float:
        return float(torch.linalg.vector_norm(torch.stack(torch._foreach_norm(grads))))

    def one_pass() -> bool:
        torch._amp_foreach_non_finite_check_and_unscale_(grads, found.zero_(), scale)
        return bool(found)

    return [f"| gradients finite, 84 k parameters | norm {micros(norm):.1f} µs | one pass {micros(one_pass):.1f} µs |"]


def rows() -> list[str]:
    """Batches of 128 out of tensors in memory."""
    index, lines = torch.randperm(1797)[:128], []
    for name, size in (("64 numbers", (64,)), ("16 × 16 pictures", (1, 16, 16)), ("3 × 32 × 32 pictures", (3, 32, 32))):
        data = torch.randn(1797, *size)
        by_number = micros(lambda data=data: data[index])
        by_row = micros(lambda data=data: data.index_select(0, index))
        lines.append(f"| a batch of 128 of {name} | data[index] {by_number:.1f} µs | index_select {by_row:.1f} µs |")
    return lines


def memory() -> list[str]:
    """Predicted, what tensors take (an allocator that gives back at once), and what the process takes with glibc's defaults."""
    lines = []
    usual = {name: value for name, value in HERE.items() if name != "MALLOC_MMAP_THRESHOLD_"}
    for case in ("deep", "convolutions", "encoder", "labels", "teacher"):
        taken = []
        for environment in (HERE, usual):
            done = subprocess.run(
                [sys.executable, "-c", MEASURED, case], capture_output=True, text=True, check=True, env=environment
            )
            taken.append(json.loads(done.stdout.splitlines()[-1]))
        (message, tensors), (_, process) = taken
        lines.append(
            f"| {case} | {message / 2**20:.0f} | {tensors / 2**20:.0f} ({message / tensors - 1:+.0%}) | "
            f"{process / 2**20:.0f} ({process / message:.2f} ×) |"
        )
    return lines


def cells() -> list[str]:
    """Memory a byte of a CSV file takes while it is read."""
    lines = []
    draw = torch.Generator().manual_seed(0)
    for name, text in (
        ("numbers", lambda: f"{float(torch.randn((), generator=draw)):.6f}"),
        ("categories", lambda: "abcdefgh"[int(torch.randint(8, (), generator=draw))]),
    ):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "table.csv"
            body = (",".join(text() for _ in range(10)) for _ in range(20_000))
            path.write_text("\n".join([",".join("abcdefghij"), *body]))
            tracemalloc.start()
            kept = read_delimited(path)
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            assert len(kept.lines) == 20_000
            lines.append(
                f"| CSV of {name} | {path.stat().st_size / 1e6:.1f} MB | {peak / path.stat().st_size:.1f} bytes a byte |"
            )
    return lines


def main() -> None:
    """Print and write all of it."""
    torch.set_num_threads(1)
    lines = [
        "# Parts of the engine, each alone", "",
        f"`OMP_NUM_THREADS=1 python bench/engine_parts.py`, torch {torch.__version__}, one thread, "
        f"{os.cpu_count()} cores.", "",
        "| part | before, or size | now |", "|---|---|---|", *checks(), *rows(), *cells(), "",
        "Memory of a step, MiB (`tests/test_engine_memory.py` says which networks):", "",
        "| case | predicted | tensors (predicted against it) | process, glibc defaults (over predicted) |", "|---|---|---|---|",
        *memory(), "",
    ]  # fmt: skip
    (ROOT / "bench/results/engine_parts.md").write_text("\n".join(lines), encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
