"""Superfeatures of 784 features from 1,000 examples: seconds, memory, and a plain double loop over examples and features with it.

python bench/superfeatures.py   # writes bench/results/superfeatures.md; a few minutes on one core
"""

from __future__ import annotations

import argparse
import resource
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from fractionate import distill
from fractionate.data import Examples, fashion_mnist
from fractionate.diagnosis import communities, second_derivatives
from fractionate.records import Training

RESULT = Path(__file__).parent / "results" / "superfeatures.md"
FEATURES, EXAMPLES, GROUPS = 784, 1_000, 4
TARGET_SECONDS, TARGET_GIB = 60.0, 2.0
LOOPED = 40  # (example, feature) pairs of the double loop that are timed; the rest is their multiple


def peak_gib() -> float:
    """The most memory this process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def double_loop(model: nn.Module, inputs: Tensor, pairs: list[tuple[int, int]]) -> Tensor:
    """Rows of Hessians from the definition: one backward pass for each example and feature."""
    rows = []
    for n, i in pairs:
        x = inputs[n].clone().requires_grad_()
        value = torch.log_softmax(model(x[None]), 1).sum()
        slope = torch.autograd.grad(value, x, create_graph=True)[0]
        rows.append(torch.autograd.grad(slope[i], x)[0])
    return torch.stack(rows)


def timed(work: Callable[[], object]) -> tuple[object, float, float]:
    """What it gives, wall seconds, CPU seconds."""
    wall, cpu = time.perf_counter(), time.process_time()
    found = work()
    return found, time.perf_counter() - wall, time.process_time() - cpu


def teacher(activation: Callable[[], nn.Module], data: Examples) -> nn.Module:
    """The paper's black box: two hidden layers of 500."""
    torch.manual_seed(0)
    layers = [
        nn.Flatten(),
        nn.Linear(FEATURES, 500),
        activation(),
        nn.Linear(500, 500),
        activation(),
        nn.Linear(500, 10),
    ]
    return distill(
        nn.Sequential(*layers), data, training=Training(steps=100, batch_size=64, learning_rate=1e-3), show="nothing"
    )[0]


def measure(name: str, model: nn.Module, inputs: Tensor, repeats: int) -> str:
    scale = EXAMPLES / len(inputs)  # a pass a feature takes time by examples: some of them stand for all
    ours, loops, cpus, searches = [], [], [], []
    for _ in range(repeats):
        strength, wall, cpu = timed(lambda: second_derivatives(model, inputs))
        assert isinstance(strength, Tensor)
        found, search, search_cpu = timed(lambda: communities(strength, GROUPS))  # noqa: B023
        pairs = [(n * len(inputs) // LOOPED, n * FEATURES // LOOPED) for n in range(LOOPED)]
        _, looped, _ = timed(lambda: double_loop(model, inputs.flatten(1), pairs))  # noqa: B023
        ours.append(wall * scale), cpus.append(cpu * scale + search_cpu), searches.append(search)
        loops.append(looped / LOOPED * EXAMPLES * FEATURES)
    print(found, flush=True)
    derivatives, search, loop = (statistics.median(v) for v in (ours, searches, loops))
    return (
        f"| {name} | {derivatives:.1f} | {search:.1f} | {derivatives + search:.1f} | {statistics.median(cpus):.1f} | "
        f"{TARGET_SECONDS:.0f} | {peak_gib():.2f} | {TARGET_GIB:.0f} | {loop:,.0f} | {loop / derivatives:,.0f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    (data,) = fashion_mnist("t10k").split(EXAMPLES, seed=0)
    relu, tanh = teacher(nn.ReLU, data), teacher(nn.Tanh, data)
    small = data.inputs[:2]
    loop = double_loop(relu, small.flatten(1), [(n, i) for n in range(2) for i in range(FEATURES)])
    exact = loop.view(2, FEATURES, FEATURES).mean(0).abs()
    exact = (exact + exact.T).fill_diagonal_(0)
    moves = (small[0] != small[1]).flatten()  # columns that do not vary have no interactions by rule
    exact = exact * moves * moves[:, None]
    agree = float((second_derivatives(relu, small) - exact).abs().max() / exact.max())
    lines = [
        "# Superfeatures of 784 features", "",
        f"Made by `python bench/superfeatures.py --repeats {options.repeats} --threads {options.threads}` on a machine shared "
        "with others: wall seconds are upper bounds, CPU seconds say what it takes. Teacher 784-500-500-10 on Fashion-MNIST, 1,000 "
        f"examples, {GROUPS} superfeatures; medians. Memory is the most the process held, torch and data in it. The double loop, a "
        f"backward pass for each example and feature, is timed on {LOOPED} pairs and multiplied; on two whole examples its matrix "
        f"and ours differ by {agree:.1e} of the largest entry.", "",
        "| teacher | derivatives, s | communities, s | both, s | CPU s | target, s | memory, GiB | limit | loop, s | ratio |",
        "|---|---|---|---|---|---|---|---|---|---|",
        measure("ReLU (piecewise linear)", relu, data.inputs, options.repeats),
    ]  # fmt: skip
    lines.append(measure("tanh (a pass a feature; 50 examples, times 20)", tanh, data.inputs[:50], 1))
    RESULT.write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
