"""The engine on one GPU: samples a second and memory in float32, bfloat16, compiled, and as one process of DDP.

    python bench/gpu.py            # what `make gpu` runs

Without a GPU it says so, runs the same program small on the CPU to show that it works, and writes no table: nothing was measured.
"""

from __future__ import annotations

import os
import socket
import sys
import time
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1] / "src"))

from fractionate import Objective, TeacherSignal, distill
from fractionate.data import Examples
from fractionate.records import Training

ON_GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda" if ON_GPU else "cpu")


def student(width: int) -> nn.Module:
    """A small residual-free convolutional network for 32 × 32 pictures."""
    layers: list[nn.Module] = []
    for before, after in ((3, width), (width, 2 * width), (2 * width, 4 * width), (4 * width, 8 * width)):
        layers += [nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(8 * width * 4, 100)).to(DEVICE)


def pictures(examples: int) -> tuple[Examples, TeacherSignal]:
    """Random pictures and logits, on the device: the loop is measured, nothing is learned."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(examples, 3, 32, 32, generator=generator).to(DEVICE)
    labels = torch.randint(100, (examples,), generator=generator)
    outputs = torch.randn(examples, 100, generator=generator)
    classes = tuple(str(i) for i in range(100))
    return Examples(inputs, labels.to(DEVICE), class_names=classes), TeacherSignal(
        outputs.to(DEVICE), labels.to(DEVICE)
    )


def measured(
    width: int, training: Training, data: tuple[Examples, TeacherSignal], **more: object
) -> tuple[float, float]:
    """Samples a second over the training's steps, and the peak of memory in GB; the first steps warm up."""
    if ON_GPU:
        torch.cuda.reset_peak_memory_stats()
    torch.manual_seed(0)
    model = student(width)
    warm = replace(training, steps=5)
    distill(model, *data, objective=Objective(), training=warm, show="nothing", **more)  # type: ignore[arg-type]
    if ON_GPU:
        torch.cuda.synchronize()
    started = time.perf_counter()
    distill(model, *data, objective=Objective(), training=training, show="nothing", **more)  # type: ignore[arg-type]
    if ON_GPU:
        torch.cuda.synchronize()
    steps = training.steps or 1
    rate = steps * training.batch_size / (time.perf_counter() - started)
    return rate, torch.cuda.max_memory_allocated() / 1e9 if ON_GPU else float("nan")


def main() -> None:
    """Every way in turn; a table where there is a GPU."""
    width, size, steps, examples = (64, 1024, 200, 20_000) if ON_GPU else (4, 32, 6, 256)
    data = pictures(examples)
    plain = Training(steps=steps, batch_size=size)
    rows: list[tuple[str, float, float]] = []
    rows.append(("float32", *measured(width, plain, data)))
    rows.append(("bfloat16", *measured(width, replace(plain, precision="bfloat16"), data)))
    if ON_GPU:
        rows.append(
            ("bfloat16, compiled", *measured(width, replace(plain, precision="bfloat16"), data, compile_mode="default"))
        )
        rows.append(("float16, loss scale", *measured(width, replace(plain, precision="float16"), data)))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "RANK": "0", "WORLD_SIZE": "1"}
    torch.distributed.init_process_group("nccl" if ON_GPU else "gloo")
    rows.append(("bfloat16, in a group of one process", *measured(width, replace(plain, precision="bfloat16"), data)))
    sharded = replace(plain, precision="bfloat16")
    rows.append(("bfloat16, FSDP2, one shard", *measured(width, sharded, data, parallel="shards")))
    torch.distributed.destroy_process_group()
    lines = [
        "# The engine on one GPU",
        "",
        f"`python bench/gpu.py`, torch {torch.__version__}, {torch.cuda.get_device_name() if ON_GPU else 'no GPU'};",
        f"batches of {size} random 32 × 32 pictures, KD at T = 4 / 0.9, {steps} steps.",
        "",
        "| way | samples a second | peak GB |",
        "|---|---|---|",
        *(f"| {name} | {rate:,.0f} | {memory:.2f} |" for name, rate, memory in rows),
        "",
    ]
    print("\n".join(lines))
    if ON_GPU:
        results = Path(__file__).parent / "results"
        results.mkdir(exist_ok=True)
        (results / "gpu.md").write_text("\n".join(lines))
    else:
        print("no GPU here: the program ran small on the CPU, its figures mean nothing and were not kept")


if __name__ == "__main__":
    main()
