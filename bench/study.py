"""What a study costs: 7 arms × 3 seeds = 21 students, as a multiple of one plain student trained with a DataLoader.

    python bench/study.py [--repeats 3]

Peers' way: 21 runs one after another, each with a DataLoader and a live teacher. Between: the same with shared batches looked up in
memory and a cached signal. Ours: `fractionate.dissect`, as a user calls it (its statistics and measurements included), and its two
ways of training apart (`fleet`), and with two worker processes. One run, interleaved, best of the repeats; one thread a process.
Writes bench/results/study.md.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from fractionate import Objective, TeacherSignal, dissect
from fractionate.data import Examples, batches, data_sets
from fractionate.models import models
from fractionate.records import Training

CELLS = ("hard", "ls", "class-mean", "kd-pt", "kd-sim", "kd-pt+sim", "kd")
SEEDS = 3
PEERS = "peers' way: 21 runs, DataLoader, live teacher"
OURS = "dissect, as it chooses"
TWO = "dissect, as it chooses, two workers"
ALONE = "students alone + one teacher pass"
SIZES = {  # name: student, teacher, examples, side of the picture, batch, epochs
    "MLP 64-128-10, batch 64": ("mlp(128)", "mlp(512, 512)", 1000, 8, 64, 8),
    "CNN 16-32-64, batch 128": ("cnn(16, 32, 64)", "cnn(48, 96, 192)", 1000, 16, 128, 3),
}


def pictures(side: int, examples: int) -> Examples:
    """Real digits, enlarged where the student wants larger ones."""
    digits = data_sets["digits"]
    inputs = functional.interpolate(digits.inputs, size=(side, side), mode="nearest") if side != 8 else digits.inputs
    return Examples(inputs[:examples], digits.labels[:examples], digits.class_names, "digits")


def plain(student: nn.Module, data: Examples, training: Training, seed: int, loss: Callable[..., torch.Tensor]) -> None:
    """One student, a DataLoader, a loss of (inputs, labels, logits)."""
    torch.manual_seed(seed)
    loader = DataLoader(TensorDataset(data.inputs, data.labels), training.batch_size, shuffle=True)
    optimizer = torch.optim.AdamW(student.parameters(), training.learning_rate, weight_decay=0.0)
    for _ in range(int(training.epochs or 1)):
        for inputs, labels in loader:
            optimizer.zero_grad()
            loss(inputs, labels, student(inputs)).backward()
            optimizer.step()


def one_student(new: Callable[[], nn.Module], data: Examples, training: Training) -> None:
    plain(new(), data, training, 0, lambda _, labels, logits: functional.cross_entropy(logits, labels))


def peers_way(new: Callable[[], nn.Module], teacher: nn.Module, data: Examples, training: Training) -> None:
    """21 runs, each asks the teacher again for every batch; the target is built by the objective, as a peer builds its own."""
    for cell in CELLS:
        objective = Objective(cell, 1.0, 0.9)

        def loss(
            inputs: torch.Tensor, labels: torch.Tensor, logits: torch.Tensor, o: Objective = objective
        ) -> torch.Tensor:
            with torch.no_grad():
                outputs = teacher(inputs)
            return o(logits, TeacherSignal(outputs, labels)).mean()

        for seed in range(SEEDS):
            plain(new(), data, training, seed, loss)


def looked_up(new: Callable[[], nn.Module], signal: TeacherSignal, data: Examples, training: Training) -> None:
    """21 runs, batches by index, the teacher's signal cached."""
    for cell in CELLS:
        objective = Objective(cell, 1.0, 0.9)
        for seed in range(SEEDS):
            student = new()
            optimizer = torch.optim.AdamW(student.parameters(), training.learning_rate, weight_decay=0.0)
            for epoch in range(int(training.epochs or 1)):
                for index in batches(len(data), training.batch_size, seed, epoch):
                    optimizer.zero_grad()
                    objective(student(data.inputs[index]), signal.take(index)).mean().backward()
                    optimizer.step()


def alone(
    new: Callable[[], nn.Module], teacher: nn.Module, signal: TeacherSignal, data: Examples, training: Training
) -> None:
    """What a study cannot do without: one pass of the teacher, the students' own steps, and their test scores."""
    with torch.no_grad():
        teacher(data.inputs)
    for _ in CELLS:
        for seed in range(SEEDS):
            student = new()
            optimizer = torch.optim.AdamW(student.parameters(), training.learning_rate, weight_decay=0.0)
            for epoch in range(int(training.epochs or 1)):
                for index in batches(len(data), training.batch_size, seed, epoch):
                    optimizer.zero_grad()
                    functional.cross_entropy(student(data.inputs[index]), data.labels[index]).backward()
                    optimizer.step()
            with torch.no_grad():
                student.eval()(data.inputs)


def study(
    new: Callable[[], nn.Module],
    signal: TeacherSignal,
    data: Examples,
    training: Training,
    backend: str,
    workers: int = 1,
) -> None:
    dissect(
        new, data, signal, cells=CELLS, seeds=SEEDS, training=training, test=data, backend=backend, progress="off",  # type: ignore[arg-type]
        workers=workers,
    )  # fmt: skip


def ways_of(
    student: str, teacher_name: str, examples: int, side: int, batch: int, epochs: int
) -> dict[str, Callable[[], None]]:
    """Every way of training the same students."""
    data = pictures(side, examples)
    shape = data.inputs.shape[1:]
    torch.manual_seed(0)
    teacher = models[teacher_name](shape, 10).eval()
    with torch.no_grad():
        signal = TeacherSignal(teacher(data.inputs), data.labels)
    training = Training(epochs=epochs, batch_size=batch, learning_rate=1e-3, schedule="constant")

    def new() -> nn.Module:
        return models[student](shape, 10)

    return {
        "one plain student": lambda: one_student(new, data, training),
        PEERS: lambda: peers_way(new, teacher, data, training),
        "21 runs, looked-up batches, cached signal": lambda: looked_up(new, signal, data, training),
        ALONE: lambda: alone(new, teacher, signal, data, training),
        "dissect, stacked": lambda: study(new, signal, data, training, "stacked"),
        "dissect, by the loop": lambda: study(new, signal, data, training, "loop"),
        OURS: lambda: study(new, signal, data, training, "auto"),
        TWO: lambda: study(new, signal, data, training, "auto", 2),
    } | (
        {
            "dissect, by the loop, bf16": lambda: study(
                new, signal, data, replace(training, precision="bfloat16"), "loop"
            )
        }
        if student.startswith("cnn")
        else {}
    )


def spent() -> float:
    """CPU seconds of this process and of those it has waited for."""
    used = os.times()
    return used.user + used.system + used.children_user + used.children_system


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", default="", help="the size whose name begins so; the table is printed, not written")
    options = parser.parse_args()
    torch.set_num_threads(1)
    sizes = {label: size for label, size in SIZES.items() if label.startswith(options.only)}
    table: dict[str, list[str]] = {}
    ratios: dict[str, list[str]] = {}
    for label, size in sizes.items():
        ways = ways_of(*size)
        wall, cpu = dict.fromkeys(ways, float("inf")), dict.fromkeys(ways, float("inf"))
        ways["one plain student"]()  # libraries warm up
        for _ in range(options.repeats):
            for name, way in ways.items():
                started, used = time.perf_counter(), spent()
                way()
                wall[name] = min(wall[name], time.perf_counter() - started)
                cpu[name] = min(cpu[name], spent() - used)
        one_wall, one_cpu = wall["one plain student"], cpu["one plain student"]
        for name in ways:
            row = table.setdefault(name, ["–"] * len(sizes))
            row[list(sizes).index(label)] = f"{cpu[name] / one_cpu:.1f} ({wall[name] / one_wall:.1f})"
            print(f"{label:<26} {name:<50} {cpu[name]:7.2f} s of CPU, {wall[name]:7.2f} s", flush=True)
        for words, top, below, of in (
            ("peers' way / dissect, one core", PEERS, OURS, cpu),
            ("peers' way / dissect, two workers, wall", PEERS, TWO, wall),
            ("dissect / students alone + one teacher pass", OURS, ALONE, cpu),
        ):
            ratios.setdefault(words, []).append(f"**{of[top] / of[below]:.2f}**")
    lines = [
        "# What a study costs",
        "",
        f"Made by `PYTHONPATH=src python bench/study.py --repeats {options.repeats}`, torch {torch.__version__}, one thread "
        f"a process, {os.cpu_count()} cores, load {os.getloadavg()[1]:.0f} of others at the end.",
        "",
        "Multiples of one plain student with a DataLoader, in CPU seconds (in brackets: wall time, which on a shared machine says "
        "little); 7 arms × 3 seeds = 21 students; interleaved, best of the repeats.",
        "",
        "| way | " + " | ".join(sizes) + " |",
        "|---|" + "---|" * len(sizes),
    ]
    lines += [f"| {name} | " + " | ".join(cells) + " |" for name, cells in (table | ratios).items()]
    if not options.only:
        (Path(__file__).parent / "results" / "study.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
