"""How time and memory grow: collect, spectrum, diagnose and distill over 10³ … 10⁶ rows and 10² … 10⁵ classes.

    PYTHONPATH=src python bench/growth.py [--largest 1000000]

Rows are synthetic: 16 numbers in a mapped .npy, a linear teacher that drew the labels, top-16 signals in a store, a linear
student for one epoch. Each measurement is a process of its own with one thread. Memory is what the process holds for itself
(RssAnon, read every 5 ms) above what the imports hold; pages of mapped files are not counted, they can be dropped. The slope is
that of log y against log size over the two largest sizes: 1 is proportional, 0 constant. Writes bench/results/growth.md and
growth.svg.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

RESULTS = Path(__file__).parent / "results"
VERBS = ("collect", "spectrum", "diagnose", "distill")
ROWS, CLASSES = 10_000, 100  # of the other axis
WIDTH, K = 16, 16
BATCH = 256


def rss() -> int:
    """Private memory of this process in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return 1024 * int(line.split()[1])
    raise OSError("no RssAnon in /proc/self/status")


def measured(work: Callable[[], object]) -> tuple[float, float]:
    """CPU seconds and the most private memory above the start, in MB."""
    start, most, done = rss(), [0], threading.Event()

    def watch() -> None:
        while not done.wait(0.005):
            most[0] = max(most[0], rss())

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    began = time.process_time()
    work()
    used = time.process_time() - began
    done.set()
    watcher.join()
    return used, max(0, max(most[0], rss()) - start) / 1e6


def child(verb: str, rows: int, classes: int, folder: Path) -> None:
    """One measurement, printed as JSON."""
    import numpy as np
    import torch
    from torch import nn

    import fractionate
    from fractionate import Objective, collect, diagnose, distill, spectrum
    from fractionate.data import Examples
    from fractionate.records import Training
    from fractionate.store import Store

    torch.set_num_threads(1)
    inputs = torch.from_numpy(np.load(folder / f"inputs-{rows}.npy", mmap_mode="c"))
    labels = torch.from_numpy(np.load(folder / f"labels-{rows}-{classes}.npy", mmap_mode="c"))
    data = Examples(inputs, labels)
    teacher, store = nn.Linear(WIDTH, classes, bias=False), folder / f"store-{rows}-{classes}"
    teacher.weight.data = torch.from_numpy(np.load(folder / f"weight-{classes}.npy"))
    training = Training(epochs=1, batch_size=BATCH, learning_rate=1e-3)
    learn = {"objective": Objective("kd", 1.0, 0.9), "training": training, "show": "nothing"}
    work: dict[str, Callable[[], object]] = {
        "collect": lambda: collect(teacher, data, store, form="top-k", k=K, batch_size=BATCH),
        "spectrum": lambda: spectrum(Store.open(store).compact_signal()),
        "diagnose": lambda: diagnose(Store.open(store)),
        "distill": lambda: distill(nn.Linear(WIDTH, classes), data, Store.open(store), **learn),
    }
    fractionate.Task  # noqa: B018 (what is imported late is not the verb's own)
    small = Examples(inputs[:64].clone(), torch.arange(64) % 5)
    with tempfile.TemporaryDirectory() as other:  # late imports and first calls
        diagnose(collect(nn.Linear(WIDTH, 5), small, Path(other) / "s", form="top-k", k=2))
        distill(nn.Linear(WIDTH, 5), small, Store.open(Path(other) / "s"), training=Training(steps=2), show="nothing")
    print(json.dumps(measured(work[verb])))


def prepare(rows: int, classes: int, folder: Path) -> None:
    """Inputs and labels on disk."""
    import numpy as np

    draw = np.random.default_rng(0)
    if not (folder / f"inputs-{rows}.npy").exists():
        file = np.lib.format.open_memmap(folder / f"inputs-{rows}.npy", "w+", np.float32, (rows, WIDTH))
        for start in range(0, rows, 100_000):
            file[start : start + 100_000] = draw.standard_normal((min(100_000, rows - start), WIDTH), np.float32)
        file.flush()
    weight = np.random.default_rng(1).standard_normal((classes, WIDTH), np.float32)
    draw = np.random.default_rng(2)  # the same labels each time
    np.save(folder / f"weight-{classes}.npy", weight)
    inputs, labels = np.load(folder / f"inputs-{rows}.npy", mmap_mode="r"), np.empty(rows, np.int64)
    for start in range(
        0, rows, step := max(1, 10_000_000 // classes)
    ):  # labels are drawn from the teacher's distribution
        logits = inputs[start : start + step] @ weight.T
        labels[start : start + step] = (logits + draw.gumbel(size=logits.shape)).argmax(axis=1)
    np.save(folder / f"labels-{rows}-{classes}.npy", labels)


def curve(sizes: list[tuple[int, int]], folder: Path) -> dict[str, list[tuple[float, float]]]:
    """(CPU seconds, MB) of every verb at (rows, classes)."""
    found: dict[str, list[tuple[float, float]]] = {verb: [] for verb in VERBS}
    for rows, classes in sizes:
        prepare(rows, classes, folder)
        shutil.rmtree(folder / f"store-{rows}-{classes}", ignore_errors=True)
        for verb in VERBS:
            line = [sys.executable, __file__, "--child", verb, str(rows), str(classes), str(folder)]
            made = subprocess.run(
                line, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}, check=False
            )
            if made.returncode:
                print(verb, rows, classes, made.stderr.strip().splitlines()[-1:], flush=True)
                found[verb].append((math.nan, math.nan))
                continue
            found[verb].append(tuple(json.loads(made.stdout.splitlines()[-1])))
            print(verb, rows, classes, found[verb][-1], flush=True)
    return found


def slope(sizes: list[int], values: list[float]) -> float:
    """Of log y against log size, over the two largest sizes."""
    return math.log(values[-1] / max(values[-2], 1e-9)) / math.log(sizes[-1] / sizes[-2])


def table(axis: str, sizes: list[int], found: dict[str, list[tuple[float, float]]]) -> list[str]:
    """Seconds and memory at each size."""
    head = [f"{axis} {size:,}" for size in sizes]
    lines = [f"| verb | {' | '.join(head)} | slope of time | of memory |", "|---|" + "---|" * (len(sizes) + 2)]
    for verb, values in found.items():
        cells = [f"{seconds:.2f} s, {memory:,.0f} MB" for seconds, memory in values]
        slopes = [f"{slope(sizes, [max(pair[which], 0.01) for pair in values]):.2f}" for which in (0, 1)]
        lines.append(f"| {' | '.join([verb, *cells, *slopes])} |")
    return lines


def plot(curves: list[tuple[str, list[int], dict[str, list[tuple[float, float]]]]]) -> str:
    """Four panels, log-log: seconds and MB over rows and over classes; an SVG without a library."""
    colours = dict(zip(VERBS, ("#1f6f8b", "#c2571a", "#5b8c2a", "#7a4fa3"), strict=True))
    parts = [
        '<svg xmlns="http://www.w3.org/2000/svg" width="860" height="640" font-family="sans-serif" font-size="12">'
    ]
    parts.append('<rect width="860" height="640" fill="white"/>')
    for column, (axis, sizes, found) in enumerate(curves):
        for row, what in enumerate(("CPU seconds", "private MB")):
            left, top, wide, high = 70 + 420 * column, 40 + 310 * row, 320, 220
            values = [max(pair[row], 0.01) for pairs in found.values() for pair in pairs]
            low, top_value = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
            first, last = math.log10(sizes[0]), math.log10(sizes[-1])

            def x(size: float, left: int = left, first: float = first, last: float = last) -> float:
                return left + 320 * (math.log10(size) - first) / (last - first)

            def y(value: float, top: int = top, low: int = low, most: int = top_value) -> float:
                return top + 220 * (1 - (math.log10(max(value, 0.01)) - low) / max(1, most - low))

            parts.append(f'<text x="{left}" y="{top - 12}" font-weight="bold">{what} over {axis}</text>')
            for power in range(low, top_value + 1):
                parts.append(
                    f'<line x1="{left}" x2="{left + wide}" y1="{y(10**power):.1f}" y2="{y(10**power):.1f}" stroke="#ddd"/>'
                )
                parts.append(
                    f'<text x="{left - 6}" y="{y(10**power) + 4:.1f}" text-anchor="end">{10.0**power:g}</text>'
                )
            for size in sizes:
                parts.append(f'<text x="{x(size):.1f}" y="{top + high + 18}" text-anchor="middle">{size:,}</text>')
            for place, (verb, pairs) in enumerate(found.items()):
                points = [(x(size), y(pair[row])) for size, pair in zip(sizes, pairs, strict=True)]
                line = " ".join(f"{a:.1f},{b:.1f}" for a, b in points)
                parts.append(f'<polyline points="{line}" fill="none" stroke="{colours[verb]}" stroke-width="2"/>')
                parts += [f'<circle cx="{a:.1f}" cy="{b:.1f}" r="3" fill="{colours[verb]}"/>' for a, b in points]
                if not column and not row:
                    parts.append(
                        f'<text x="{left + 8}" y="{top + 16 + 16 * place}" fill="{colours[verb]}">{verb}</text>'
                    )
    return "\n".join([*parts, "</svg>"]) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--largest", type=int, default=1_000_000, help="rows")
    parser.add_argument("--most", type=int, default=100_000, help="classes")
    parser.add_argument("--child", nargs=4, metavar=("VERB", "ROWS", "CLASSES", "FOLDER"))
    options = parser.parse_args()
    if options.child:
        verb, rows, classes, folder = options.child
        child(verb, int(rows), int(classes), Path(folder))
        return
    rows = [10**power for power in range(3, 9) if 10**power <= options.largest]
    classes = [10**power for power in range(2, 7) if 10**power <= options.most]
    with tempfile.TemporaryDirectory() as folder:
        over_rows = curve([(size, CLASSES) for size in rows], Path(folder))
        over_classes = curve([(ROWS, size) for size in classes], Path(folder))
    lines = [
        "# How time and memory grow",
        "",
        f"Made by `PYTHONPATH=src python bench/growth.py --largest {options.largest} --most {options.most}`;"
        " one thread, CPU seconds and private memory"
        " above the imports', once a cell.",
        "",
        f"Rows of {WIDTH} numbers, a linear teacher, top-{K} in a store, a linear student for one epoch of batches of {BATCH}."
        f" Over rows with {CLASSES} classes, over classes with {ROWS:,} rows. A slope of 1 is proportional to the size.",
        "",
        "## Over rows",
        "",
        *table("rows", rows, over_rows),
        "",
        "## Over classes",
        "",
        *table("classes", classes, over_classes),
        "",
        "![Growth](growth.svg)",
    ]
    (RESULTS / "growth.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    svg = plot([("rows", rows, over_rows), ("classes", classes, over_classes)])
    (RESULTS / "growth.svg").write_text(svg, encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
