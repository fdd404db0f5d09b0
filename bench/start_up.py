"""What the command line takes before any work: CPU seconds of `--help`, `config print` and the imports, next to an empty Python.

    PYTHONPATH=src python bench/start_up.py [--repeats 9]     # writes bench/results/start_up.md; half a minute

Whole processes with one thread, user and system time together, interleaved, medians.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CLI = [sys.executable, "-m", "fractionate"]
COMMANDS: dict[str, tuple[list[str], float | None]] = {
    "`python -c pass`": ([sys.executable, "-c", "pass"], None),
    "`fractionate --help`": ([*CLI, "--help"], 0.12),
    "`fractionate config print examples/tang-digits.yaml`": (
        [*CLI, "config", "print", "examples/tang-digits.yaml"],
        0.35,
    ),
    "`import torch`": ([sys.executable, "-c", "import torch"], None),
    "`import fractionate`": ([sys.executable, "-c", "import fractionate"], None),
    "`import fractionate; fractionate.distill`": (
        [sys.executable, "-c", "import fractionate; fractionate.distill"],
        None,
    ),
}


def seconds(command: list[str]) -> float:
    """User and system time of a process with one thread."""
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.DEVNULL, env=os.environ | {"OMP_NUM_THREADS": "1"}
    ) as process:
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{command} left with {process.returncode}")
    return used.ru_utime + used.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=9)
    repeats = parser.parse_args().repeats
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for command, _ in COMMANDS.values():  # compiled files, and pages in the cache
        seconds(command)
    for repeat in range(repeats):
        for name in random.Random(repeat).sample([*COMMANDS], len(COMMANDS)):
            times[name].append(seconds(COMMANDS[name][0]))
    torch_alone = statistics.median(times["`import torch`"])
    lines = [
        "# What it takes to start", "",
        f"Made by `PYTHONPATH=src python bench/start_up.py --repeats {repeats}`: CPU seconds of whole processes, user and"
        f" system, one thread, medians of {repeats} interleaved repeats; Python {sys.version.split()[0]}.", "",
        "| process | CPU s | beyond `import torch` | goal |", "|---|---|---|---|",
    ]  # fmt: skip
    for name, (_, goal) in COMMANDS.items():
        middle = statistics.median(times[name])
        beyond = f"{middle - torch_alone:.2f}" if "import fractionate" in name else "–"
        wanted = "0.1 beyond torch" if "import fractionate" in name else "–" if goal is None else f"{goal:g}"
        lines.append(f"| {name} | {middle:.3f} | {beyond} | {wanted} |")
    print("\n".join(lines))
    (Path(__file__).parent / "results" / "start_up.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
