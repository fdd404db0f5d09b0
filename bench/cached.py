"""Training from the store against a live teacher and against no teacher at all, on Fashion-MNIST with replayed crops and flips.

    python bench/cached.py [--steps 10] [--repeats 15]

The same student, batches and views for all. `cached` reads the batch's verified rows from the store in every step; `live` asks
the teacher in every step; `plain` learns from labels. Time of whole steps, views included, and of steps without views
(inputs by index). Interleaved repeats, medians, one thread. Cached and live must end in the same weights, bit for bit.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

sys.path.insert(0, str(Path(__file__).parents[1] / "src"))

from fractionate import collect
from fractionate.data import Augment, fashion_mnist
from fractionate.models import cnn
from fractionate.store import MixUp, Replay, Store

RESULT = Path(__file__).parent / "results" / "cached.md"
BATCH, EXAMPLES, T = 128, 5120, 2.0
Teach = Callable[[Tensor, Tensor], Tensor]


def train(steps: int, replay: Replay, teach: Teach | None, *, viewed: bool) -> tuple[float, dict[str, Tensor]]:
    torch.manual_seed(1)
    student = cnn(8, 16)((1, 28, 28), 10)
    optimizer = torch.optim.SGD(student.parameters(), 0.05)
    order = torch.randperm(len(replay), generator=torch.Generator().manual_seed(0)).split(BATCH)
    plain = replay.source.examples
    assert plain is not None
    started = time.perf_counter()
    for slots in order[:steps]:
        if viewed:
            batch = replay.batch(slots)
            inputs, labels = batch.inputs, batch.labels
        else:
            inputs, labels = plain.inputs[slots % EXAMPLES], plain.labels[slots % EXAMPLES]
        logits = student(inputs)
        if teach is None:
            loss = functional.cross_entropy(logits, labels)
        else:
            target = torch.softmax(teach(inputs, slots) / T, dim=1)
            loss = functional.cross_entropy(logits / T, target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return (time.perf_counter() - started) / steps, student.state_dict()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=15)
    options = parser.parse_args()
    torch.set_num_threads(1)
    data = fashion_mnist("train").take(torch.arange(EXAMPLES))
    torch.manual_seed(0)
    teacher = cnn(64, 128)((1, 28, 28), 10)
    teacher(data.inputs[:512])
    teacher.eval()
    student = cnn(8, 16)((1, 28, 28), 10)

    def forward(model: nn.Module) -> float:
        times = []
        with torch.inference_mode():
            for _ in range(7):
                started = time.perf_counter()
                model(data.inputs[:BATCH])
                times.append(time.perf_counter() - started)
        return statistics.median(times)

    cost = forward(teacher) / forward(student)
    crops = Augment(crop=2, flip=True)
    same = []
    with tempfile.TemporaryDirectory() as base:
        for name, transform in (("crops and flips", crops), ("MixUp of crops and flips", MixUp(0.4, before=crops))):
            replay = Replay(data, transform, views=2, seed=3)
            collect(teacher, replay, Path(base) / name.split()[0], batch_size=BATCH)
            store = Store.open(Path(base) / name.split()[0])

            def cached(inputs: Tensor, slots: Tensor, store: Store = store) -> Tensor:
                return store.logits(slots)

            def live(inputs: Tensor, slots: Tensor) -> Tensor:
                with torch.inference_mode():
                    return teacher(inputs).clone()

            steps = len(replay) // BATCH
            one = train(steps, replay, cached, viewed=True)[1]
            other = train(steps, replay, live, viewed=True)[1]
            same.append((name, steps, all(torch.equal(one[key], other[key]) for key in one)))
            if transform is crops:
                table = measure(options.steps, options.repeats, replay, {"plain": None, "cached": cached, "live": live})
    lines = [
        f"Fashion-MNIST, {EXAMPLES:,} examples × 2 views, batch {BATCH}, one thread; the teacher's forward pass costs {cost:.1f}×",
        f"the student's. Made by `python bench/cached.py --steps {options.steps} --repeats {options.repeats}`;",
        "target: cached ≥ 0.95× plain.",
        "",
        "| step | ms | throughput / plain |",
        "| --- | --- | --- |",
        *table,
        "",
        *(
            f"{name}, {steps} steps: cached and live weights {'equal bit for bit' if equal else 'DIFFER'}."
            for name, steps, equal in same
        ),
    ]
    text = "\n".join(lines) + "\n"
    print(text)
    RESULT.write_text(text)


def measure(steps: int, repeats: int, replay: Replay, arms: dict[str, Teach | None]) -> list[str]:
    lines = []
    for viewed in (True, False):
        times: dict[str, list[float]] = {name: [] for name in arms}
        for repeat in range(repeats + 1):
            for name, teach in arms.items():
                seconds, _ = train(steps, replay, teach, viewed=viewed)
                if repeat:
                    times[name].append(seconds)
        base = statistics.median(times["plain"])
        for name in arms:
            middle = statistics.median(times[name])
            lines.append(
                f"| {name}, {'views replayed' if viewed else 'inputs by index'} | {middle * 1e3:.2f} | {base / middle:.3f} |"
            )
    return lines


if __name__ == "__main__":
    main()
