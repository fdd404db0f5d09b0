"""What each operator of the spectrum's dense pass costs on a chunk in the cache, and what was tried in its place.

python bench/spectrum_parts.py   # writes bench/results/spectrum_parts.md; seconds on one core
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch.nn import functional

RESULT = Path(__file__).parent / "results" / "spectrum_parts.md"
ROWS, CLASSES, ROUNDS, CALLS = 524, 1_000, 15, 20  # a chunk of 2 MiB


def by_class(powers: torch.Tensor, labels: torch.Tensor, scale: torch.Tensor, sums: torch.Tensor) -> None:
    """Class sums by weighted bags in place of a division and `index_add_`."""
    ordered, order = labels.sort()
    present, counts = torch.unique_consecutive(ordered, return_counts=True)
    starts = counts.cumsum(0) - counts
    bags = functional.embedding_bag(order, powers, starts, mode="sum", per_sample_weights=scale[order])
    sums.index_add_(0, present, bags)


def main() -> None:
    torch.set_num_threads(1)
    draw = torch.Generator().manual_seed(0)
    z = -20 * torch.rand(ROWS, CLASSES, generator=draw)
    powers, out, sums = torch.exp2(z), torch.empty_like(z), torch.zeros(CLASSES, CLASSES)
    labels = torch.randint(CLASSES, (ROWS,), generator=draw)
    scale = torch.rand(ROWS, generator=draw)
    own: dict[str, Callable[[], object]] = {
        "largest logit": lambda: z.amax(dim=1),
        "shift and scale": lambda: torch.add(scale[:, None], z, alpha=1.44, out=out),
        "power of two": lambda: torch.exp2(z, out=out),
        "sum": lambda: powers.sum(dim=1),
        "Σ power · exponent": lambda: torch.mul(z, powers, out=out).sum(dim=1),
        "division": lambda: torch.mul(powers, scale[:, None], out=out),
        "class sums": lambda: sums.index_add_(0, labels, powers),
    }
    tried: dict[str, Callable[[], object]] = {
        "`linalg.vecdot` for Σ power · exponent": lambda: torch.linalg.vecdot(z, powers),
        "batched products for it": lambda: torch.bmm(z[:, None, :], powers[:, :, None]),
        "`embedding_bag` for division and class sums": lambda: by_class(powers, labels, scale, sums),
    }
    best = dict.fromkeys(own | tried, float("inf"))
    for _ in range(ROUNDS):
        for name, work in (own | tried).items():
            started = time.thread_time()
            for _ in range(CALLS):
                work()
            best[name] = min(best[name], (time.thread_time() - started) / CALLS * 1e3)
    lines = [
        "# Operators of the spectrum's dense pass",
        "",
        f"Made by `python bench/spectrum_parts.py`: a chunk of {ROWS} × {CLASSES:,} float32 in the cache, one thread, best of "
        f"{ROUNDS} interleaved rounds in CPU time of the thread (a shared machine).",
        "",
        "| operator | ms |",
        "|---|---|",
        *(f"| {name} | {best[name]:.3f} |" for name in own),
        f"| all seven | {sum(best[name] for name in own):.3f} |",
        *(f"| tried: {name} | {best[name]:.3f} |" for name in tried),
    ]
    RESULT.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
