"""What the engine's options cost and save, how long a resume takes, and whether anything grows.

    python bench/engine_options.py [--repeats 5]

A small transformer encoder (6 layers of 192, 96 tokens, batch 16) is trained for a few steps in each way, interleaved: plain,
recomputed activations, bfloat16, torch.compile (its compilation apart). Then: the time from call to first step of a run of 25M
parameters that resumes, and the growth of memory, files and threads over 2,000 steps.
"""

from __future__ import annotations

import argparse
import gc
import os
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1] / "src"))

from fractionate import distill
from fractionate.data import Examples
from fractionate.records import Training
from fractionate.training import estimate_memory, recomputed

STEPS = 4
SHORT = Training(steps=STEPS, batch_size=16, learning_rate=1e-3)


class Encoder(nn.Module):
    """A classifier of sequences."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(192, 6, 768, batch_first=True)
        self.body = nn.TransformerEncoder(layer, 6, enable_nested_tensor=False)
        self.head = nn.Linear(192, 45)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Logits of the mean over tokens."""
        logits: torch.Tensor = self.head(self.body(inputs).mean(1))
        return logits


def data() -> tuple[torch.Tensor, torch.Tensor]:
    """Noise of the right shape."""
    return torch.randn(64, 96, 192), torch.arange(64) % 45


WAYS: dict[str, dict[str, object]] = {
    "plain": {},
    "recompute": {"recompute": ("body.layers.*",)},
    "bfloat16": {"training": Training(steps=STEPS, batch_size=16, learning_rate=1e-3, precision="bfloat16")},
    "compile": {"compile_mode": "default"},
}


def seconds(way: str, given: tuple[torch.Tensor, torch.Tensor]) -> float:
    """A few steps of a fresh student."""
    torch.manual_seed(0)
    student = Encoder()
    begin = time.perf_counter()
    distill(student, given, show="nothing", **({"training": SHORT} | WAYS[way]))  # type: ignore[arg-type]
    return time.perf_counter() - begin


def options(repeats: int) -> list[str]:
    """The table of ways."""
    given = data()
    first = {way: seconds(way, given) for way in WAYS}
    took: dict[str, list[float]] = {way: [] for way in WAYS}
    for _ in range(repeats):
        for way in WAYS:
            took[way].append(seconds(way, given))
    lines = ["| way | ms a step | × plain | first call, s | activations kept, MiB |", "|---|---|---|---|---|"]
    plain = statistics.median(took["plain"])
    student = Encoder()
    for way in WAYS:
        middle = statistics.median(took[way])
        with recomputed(student, ("body.layers.*",) if way == "recompute" else ()):
            memory_estimate = estimate_memory(student, given[0][:16], SHORT)
        kept = (
            f"{memory_estimate.kept_bytes / 2**20:,.0f}" if memory_estimate and way in ("plain", "recompute") else "–"
        )
        lines.append(f"| {way} | {1e3 * middle / STEPS:.0f} | {middle / plain:.2f} | {first[way]:.1f} | {kept} |")
    return lines


def resume() -> str:
    """From the call to the first new step of a run that was stopped: 25M parameters, AdamW, checkpoint of 300 MB."""
    given = torch.randn(64, 1024), torch.arange(64) % 10
    reached: list[float] = []

    class Listens:
        def start(self, name: str, settings: object) -> None: ...
        def row(self, row: object) -> None:
            reached.append(time.perf_counter())

        def finish(self, run: object) -> None: ...

    def student() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(*[nn.Linear(1024, 1024) for _ in range(24)], nn.Linear(1024, 10))

    with tempfile.TemporaryDirectory() as folder:

        class Stops(Listens):
            """Asks once for a stop: a second signal would end the process."""

            def __init__(self) -> None:
                self.stopping = False

            def row(self, row: object) -> None:
                if not self.stopping:
                    self.stopping = True
                    os.kill(os.getpid(), 15)

        long = Training(steps=50, batch_size=8, learning_rate=1e-4)
        try:
            distill(student(), given, training=long, out=folder, log_every=1, trackers=[Stops()], show="nothing")
        except Exception as stopped:
            print("stopped:", stopped, file=sys.stderr)
        size = sum(p.stat().st_size for p in Path(folder).rglob("*") if p.is_file())
        fresh, begin = student(), time.perf_counter()
        try:
            distill(fresh, given, training=long, out=folder, log_every=1, trackers=[Listens(), Stops()], show="nothing")
        except Exception as stopped:
            print("stopped:", stopped, file=sys.stderr)
        return f"{reached[0] - begin:.2f} s from the call to the end of the first new step ({size / 1e6:,.0f} MB in the folder)"


def growth() -> str:
    """Memory, files and threads at a tenth of 2,000 steps and at their end."""
    seen: list[tuple[int, int, int]] = []

    def now() -> tuple[int, int, int]:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE"), len(list(Path("/proc/self/fd").iterdir())), threading.active_count()

    class Watches:
        def start(self, name: str, settings: object) -> None: ...
        def row(self, row: object) -> None:
            seen.append(now())

        def finish(self, run: object) -> None: ...

    given = torch.randn(512, 64), torch.arange(512) % 10
    student = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 10))
    with tempfile.TemporaryDirectory() as folder:
        distill(
            student, given, training=Training(steps=2000, batch_size=64), out=folder, save_every_steps=50,
            log_every=20, trackers=[Watches()], show="nothing",
        )  # fmt: skip
    early, late = seen[len(seen) // 10], seen[-1]
    return (
        f"memory {early[0] / 2**20:.1f} → {late[0] / 2**20:.1f} MiB ({100 * (late[0] / early[0] - 1):+.2f} %), "
        f"files {early[1]} → {late[1]}, threads {early[2]} → {late[2]}; 40 checkpoints on the way"
    )


def studies(warm: int = 5, many: int = 50) -> str:
    """Memory, files, threads, shared memory and temporary files after some studies, and after fifty more."""
    from fractionate import TeacherSignal, dissect

    inputs, labels = torch.randn(256, 64), torch.arange(256) % 10
    examples, signal = Examples(inputs, labels), TeacherSignal(torch.randn(256, 10), labels)

    def held() -> tuple[int, ...]:
        gc.collect()
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
        left = (Path("/proc/self/fd"), Path("/dev/shm"), Path(tempfile.gettempdir()))
        return pages * os.sysconf("SC_PAGE_SIZE"), *(len(list(p.iterdir())) for p in left), threading.active_count()

    def one(out: str) -> None:
        dissect(
            lambda: nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10)), examples, signal,
            cells=("hard", "kd", "kd-pt"), seeds=3, training=Training(steps=20, batch_size=32), test=examples,
            out=out, progress="off",
        )  # fmt: skip

    for _ in range(warm):
        with tempfile.TemporaryDirectory() as folder:
            one(folder)
    early = held()
    for _ in range(many):
        with tempfile.TemporaryDirectory() as folder:
            one(folder)
    late = held()
    rest = ("files open", "in shared memory", "temporary files", "threads")
    message = ", ".join(f"{name} {a} → {b}" for name, a, b in zip(rest, early[1:], late[1:], strict=True))
    return f"memory {early[0] / 2**20:.1f} → {late[0] / 2**20:.1f} MiB ({100 * (late[0] / early[0] - 1):+.2f} %), {message}"


def main() -> None:
    """Print all of it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    torch.set_num_threads(1)
    lines = [
        "# What the engine's options cost", "",
        f"`python bench/engine_options.py --repeats {repeats}`, torch {torch.__version__}, one thread, a shared machine; "
        "medians of interleaved repeats. An encoder of 6 layers of 192, 96 tokens, batch 16.", "",
        *options(repeats), "",
        f"**Resume** (25M parameters, AdamW): {resume()}.", "",
        f"**Growth** over 2,000 steps: {growth()}.", "",
        f"**Growth** over 50 studies of 9 students, after 5: {studies()}.",
    ]  # fmt: skip
    text = "\n".join(lines) + "\n"
    (Path(__file__).parent / "results" / "engine_options.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
