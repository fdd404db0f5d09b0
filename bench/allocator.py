"""Training with large vocabularies under glibc's own thresholds and under those of the command line: CPU time and memory.

    PYTHONPATH=src python bench/allocator.py [--repeats 3]     # writes bench/results/allocator.md; two minutes

Each cell is a process of its own with one thread: `distill`, 20 steps of a student 64 → 32 → 30,522 on one batch of rows. User and
system time of the training alone, and the peak of the process's memory; interleaved, medians.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import statistics
import subprocess
import sys
from pathlib import Path

ROWS, CLASSES, STEPS = (256, 512, 1024), 30_522, 20
WAYS = {"plain": "glibc's thresholds", "kept": "those of the command line"}


def child(way: str, rows: int) -> None:
    """One training."""
    if way == "kept":
        from fractionate.system.allocator import keep_large_buffers

        assert keep_large_buffers(), "no glibc here"
    import torch
    from torch import nn

    from fractionate import Objective, TeacherSignal, distill
    from fractionate.data import Examples
    from fractionate.records import Training

    torch.set_num_threads(1)
    draw = torch.Generator().manual_seed(0)
    inputs, labels = torch.randn(rows, 64, generator=draw), torch.randint(CLASSES, (rows,), generator=draw)
    signal = TeacherSignal(torch.randn(rows, CLASSES, generator=draw), labels)
    student = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, CLASSES))
    before = resource.getrusage(resource.RUSAGE_SELF)
    distill(
        student, Examples(inputs, labels, name="rows"), signal, objective=Objective("kd", 1.0, 0.5),
        training=Training(steps=STEPS, batch_size=rows), show="nothing",
    )  # fmt: skip
    after = resource.getrusage(resource.RUSAGE_SELF)
    print(json.dumps([after.ru_utime - before.ru_utime, after.ru_stime - before.ru_stime, after.ru_maxrss / 1024]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--child", nargs=2, metavar=("WAY", "ROWS"))
    options = parser.parse_args()
    if options.child:
        child(options.child[0], int(options.child[1]))
        return
    lines = [
        "# Large buffers kept by the allocator", "",
        f"Made by `PYTHONPATH=src python bench/allocator.py --repeats {options.repeats}`: `distill`, {STEPS} steps of a student"
        f" 64 → 32 → {CLASSES:,}, one thread; CPU seconds of the training, peak memory of the process, medians of"
        f" {options.repeats} interleaved repeats.", "",
        "| rows a batch | thresholds | user s | system s | CPU time of glibc's own | peak MiB |", "|---|---|---|---|---|---|",
    ]  # fmt: skip
    for rows in ROWS:
        found: dict[str, list[list[float]]] = {way: [] for way in WAYS}
        for repeat in range(options.repeats):
            for way in random.Random(repeat).sample([*WAYS], len(WAYS)):
                made = subprocess.run(
                    [sys.executable, __file__, "--child", way, str(rows)], stdout=subprocess.PIPE, check=True
                )
                found[way].append(json.loads(made.stdout))
        alone = statistics.median(user + system for user, system, _ in found["plain"])
        for way, times in found.items():
            user, system, peak = (statistics.median(column) for column in zip(*times, strict=True))
            whole = statistics.median(u + s for u, s, _ in times)
            lines.append(
                f"| {rows}, {way} | {WAYS[way]} | {user:.2f} | {system:.2f} | {whole / alone:.2f} | {peak:,.0f} |"
            )
    print("\n".join(lines))
    (Path(__file__).parent / "results" / "allocator.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
