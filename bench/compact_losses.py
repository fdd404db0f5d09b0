"""Loss and gradient on compact signals (label, 32 entries, tail mass): ours next to what peers do with the same entries.

    PYTHONPATH=src OMP_NUM_THREADS=1 python bench/compact_losses.py     # writes bench/results/compact_losses.md; two minutes

DistillKit is not on the package index: its sparse KL is written here after its published source (distillkit/lossfuncs/kl.py and
common.py, missing probability "zero": the entries renormalised, the tail mass left out), operation by operation. `densify` makes
all classes and takes torch's kl_div. Times are CPU time of the thread, medians of interleaved repeats.
"""

from __future__ import annotations

import random
import statistics
import time
from pathlib import Path

import torch
from losses import peak_tensors
from torch.nn import functional

from fractionate import Objective
from fractionate.theory import CompactSignal

SHAPES = ((256, 1_000), (64, 32_000), (16, 151_936))
ENTRIES, TEMPERATURE, SECONDS = 32, 2.0, 12.0


def distillkit(student, ids, log_p):
    """Its operations: scale, log Σ exp in float32, gather, and the KL over the entries."""
    scaled = student * (1 / TEMPERATURE)
    log_sum = torch.logsumexp(scaled.float(), dim=-1, keepdim=True).to(student.dtype)
    log_q = scaled.gather(-1, ids) - log_sum
    with torch.no_grad():
        log_target = log_p.float() / TEMPERATURE
        log_target = (log_target - torch.logsumexp(log_target, dim=-1, keepdim=True)).to(student.dtype)
    terms = torch.exp(log_target.float()) * (log_target - log_q.float())
    return TEMPERATURE**2 * terms.sum() / len(student)


def densified(student, signal):
    teacher = signal.dense().logits
    target = torch.softmax(teacher / TEMPERATURE, dim=-1)
    kl = functional.kl_div(torch.log_softmax(student.float() / TEMPERATURE, dim=-1), target, reduction="none")
    return TEMPERATURE**2 * kl.sum(dim=-1).mean()


def measure(batch: int, classes: int, dtype: torch.dtype) -> list[str]:
    generator = torch.Generator().manual_seed(0)
    teacher = 3 * torch.randn(batch, classes, generator=generator)
    labels = torch.randint(classes, (batch,), generator=generator)
    others = teacher.scatter(1, labels[:, None], -torch.inf)
    entries, indices = others.topk(ENTRIES, dim=1)
    rest = torch.logsumexp(others.scatter(1, indices, -torch.inf) / TEMPERATURE, dim=1, keepdim=True)
    own = teacher.gather(1, labels[:, None])
    signal = CompactSignal(
        labels, own.squeeze(1), entries, indices, rest, classes, temperatures=(TEMPERATURE,), temperature=TEMPERATURE
    )
    ids = torch.cat([labels[:, None], indices], dim=1)
    log_p = torch.log_softmax(teacher, dim=1).gather(1, ids)
    student = (2 * torch.randn(batch, classes, generator=generator)).to(dtype).requires_grad_()
    dense, out = signal.dense(), torch.empty_like(student)
    kl, ce = (Objective("kd", TEMPERATURE, 1.0, divergence=name) for name in ("forward-kl", "cross-entropy"))
    losses = {
        "DistillKit's sparse KL": lambda: distillkit(student, ids, log_p),
        "densify, kl_div": lambda: densified(student, signal),
        "ours, dense: forward-kl": lambda: kl(student, dense).mean(),
        "ours, compact: forward-kl": lambda: kl(student, signal).mean(),
        "ours, compact: cross-entropy": lambda: ce(student, signal).mean(),
    }

    def step(loss):
        student.grad = None
        loss().backward()

    steps = {name: (lambda loss=loss: step(loss)) for name, loss in losses.items()}
    steps["limit"] = lambda: torch.add(student.detach(), 1.0, out=out)
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for run in steps.values():
        run()
    started = time.perf_counter()
    while len(seconds["limit"]) < 5 or (len(seconds["limit"]) < 300 and time.perf_counter() - started < SECONDS):
        for name, run in random.sample(list(steps.items()), len(steps)):
            start = time.thread_time()
            run()
            seconds[name].append(time.thread_time() - start)
    median = {name: statistics.median(times) for name, times in seconds.items()}
    best = {name: min(times) for name, times in seconds.items()}
    peer, title = "DistillKit's sparse KL", f"{batch} × {classes:,}, {str(dtype)[6:]}"
    lines = [
        "", f"## {title}: limit {median['limit'] * 1e3:.3g} ms, {len(seconds['limit'])} repeats", "",
        "| loss | × limit | speed against DistillKit (best) | memory |", "| --- | --- | --- | --- |",
    ]  # fmt: skip
    for name in losses:
        lines.append(
            f"| {name} | {median[name] / median['limit']:.1f} | {median[peer] / median[name]:.2f} "
            f"({best[peer] / best[name]:.2f}) | {peak_tensors(steps[name], student):.2f} |"
        )
    print("\n".join(lines), flush=True)
    return lines


def main() -> None:
    torch.set_num_threads(1)
    lines = [
        "# Losses on compact signals: time and memory",
        "",
        f"`PYTHONPATH=src OMP_NUM_THREADS=1 python bench/compact_losses.py`, torch {torch.__version__}, one thread,",
        f"T = {TEMPERATURE:g}, {ENTRIES} entries. × limit: multiples of reading the student's logits and writing the gradient.",
        "Memory: peak beyond the inputs, gradient included, in logits tensors (ours keeps up to eight arrays of 2 MiB, or of one",
        "row, from call to call; not in it). DistillKit's loss leaves the tail mass out, ours spreads it evenly. CPU time of the",
        "thread, on a machine shared with other work.",
    ]
    for batch, classes in SHAPES:
        for dtype in (torch.float32, torch.bfloat16):
            lines += measure(batch, classes, dtype)
    (Path(__file__).parent / "results" / "compact_losses.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
