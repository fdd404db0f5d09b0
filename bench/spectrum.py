"""The dense pass of the spectrum: bytes of logits read per second against the machine's copy, and the extra memory at its peak.

python bench/spectrum.py   # writes bench/results/spectrum.md; a few minutes on one core
"""

from __future__ import annotations

import argparse
import gc
import statistics
import threading
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from fractionate import TeacherSignal, spectrum
from fractionate.records import Spectrum

RESULT = Path(__file__).parent / "results" / "spectrum.md"
SIZES = ((100_000, 1_000, 1_000), (4_000, 151_936, 64))  # rows, classes, of which the labels come from so many
TARGET_SHARE, TARGET_MEMORY = 0.4, 64.0


def resident() -> int:
    """Bytes of memory this process holds."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def peak_beyond(work: Callable[[], object]) -> float:
    """MiB that the work holds at its peak beyond what the process held before, sampled every millisecond."""
    gc.collect()
    before, most, done = resident(), 0, threading.Event()

    def watch() -> None:
        nonlocal most
        while not done.wait(0.001):
            most = max(most, resident())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        work()
    finally:
        done.set()
        watcher.join()
    return max(0, most - before) / 2**20


def seconds(work: Callable[[], object]) -> float:
    """CPU seconds of this thread: other work on the machine takes its turns outside of them."""
    start = time.thread_time()
    work()
    return time.thread_time() - start


def measure(rows: int, classes: int, labels_of: int, repeats: int) -> str:
    torch.manual_seed(0)
    logits = torch.empty(rows, classes)
    for part in logits.split(1000):
        part.normal_().mul_(3)
    labels = torch.randint(0, labels_of, (rows,))
    place = torch.empty(1 << 26, dtype=torch.uint8).view(torch.float32)  # 64 MiB: beyond the caches
    flat = logits.flatten()

    def copy() -> None:
        for piece in flat.split(len(place)):
            place[: len(piece)].copy_(piece)

    signal = TeacherSignal(logits, labels)

    def ours() -> Spectrum:
        return spectrum(signal)

    def plain() -> Tensor:  # the least any reading of probabilities does: the softmax alone, in the same chunks
        total = torch.zeros(())
        step = max(1, (1 << 18) // classes)
        for start in range(0, rows, step):
            total += torch.softmax(logits[start : start + step], 1)[:, 0].sum()
        return total

    def bound() -> (
        Tensor
    ):  # the least a spectrum does: each element read, raised, summed, and multiplied with its exponent
        total = torch.zeros(())
        step = max(1, (1 << 19) // classes)
        raised = torch.empty(step, classes)
        for start in range(0, rows, step):
            part = logits[start : start + step]
            powers = torch.exp2(part, out=raised[: len(part)])
            total += powers.sum() + torch.dot(powers.view(-1), part.view(-1))
        return total

    copy(), ours(), plain(), bound()
    statistics_bytes = len(torch.unique(labels)) * classes * 8 / 2**20
    extra = peak_beyond(ours) - statistics_bytes
    times: dict[str, list[float]] = {"copy": [], "ours": [], "softmax": [], "bound": []}
    for _ in range(repeats):
        times["copy"].append(seconds(copy))
        times["ours"].append(seconds(ours))
        times["softmax"].append(seconds(plain))
        times["bound"].append(seconds(bound))
    size = logits.numel() * 4 / 1e9
    rate = {name: size / statistics.median(values) for name, values in times.items()}
    share = rate["ours"] / rate["copy"]
    return (
        f"| {rows:,} × {classes:,} | {rate['copy']:.2f} | {rate['softmax']:.2f} | {rate['bound']:.2f} | {rate['ours']:.2f} | "
        f"{rate['bound'] / rate['copy']:.0%} | {share:.0%} | "
        f"{TARGET_SHARE:.0%} | {statistics_bytes:.0f} | {max(0.0, extra):.0f} | {TARGET_MEMORY:.0f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    lines = [
        "# The spectrum's dense pass", "",
        f"Made by `python bench/spectrum.py --repeats {options.repeats}`: float32 logits in memory, one "
        f"thread, medians of {options.repeats} interleaved "
        "repeats in CPU time of the thread (a shared machine). GB of logits per second; *copy* reads them once "
        "and writes 64 MiB over and over; *softmax* computes probabilities in chunks and throws them away; *bound* is the least "
        "arithmetic of a spectrum in torch's operators, without temperature, largest entry, label or class: one exp2, one sum, one "
        "product an element. Memory in MiB: class statistics (a row a label present), and what the pass "
        "holds beyond them.", "",
        "| signal | copy | softmax | bound | ours | bound of copy | ours of copy | target | class statistics | beyond | limit |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for size in SIZES:
        lines.append(measure(*size, options.repeats))
        print(lines[-1], flush=True)
    RESULT.write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
