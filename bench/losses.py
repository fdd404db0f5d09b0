"""Loss and gradient to the student's logits: ours next to the peers' functions, as multiples of the hardware limit.

    PYTHONPATH=src OMP_NUM_THREADS=1 peers/bin/python bench/losses.py        # the environment of bench/peers_losses.py

Without that environment only the plain form stands next to ours. The limit is the time of reading two logits tensors and writing
one (torch.add into a third), measured in the same run; memory is the peak of what is allocated beyond the two inputs, the
gradient included, in logits tensors. Medians of interleaved repeats; writes bench/results/losses.md.
"""

from __future__ import annotations

import random
import statistics
import time
import warnings
from pathlib import Path

import torch
from peers_losses import PEERS, plain, shim_torchvision

from fractionate import Objective, TeacherSignal

warnings.simplefilter("ignore")
SHAPES = ((128, 100), (256, 1_000), (64, 32_000), (16, 151_936))
TEMPERATURE = 4.0
OURS = ("cross-entropy", "forward-kl", "jsd", "dkd", "reverse-kl", "skew-forward", "bucketed-kl")
COMPARED = (  # the peers that take logits, and the divergence of ours they are compared with
    ("torchdistill: KDLoss(alpha=1e-12)", "forward-kl"),
    ("nvidia-modelopt: LogitsDistillationLoss()", "forward-kl"),
    ("textbrewer: kd_ce_loss", "cross-entropy"),
    ("trl: GKDTrainer.generalized_jsd_loss(beta=0)", "forward-kl"),
    ("trl: GKDTrainer.generalized_jsd_loss(beta=0.5)", "jsd"),
)
SECONDS_A_CASE = 1.0


def peak_tensors(step, logits: torch.Tensor) -> float:
    """Peak of the bytes allocated during a step beyond what was there, in logits tensors."""
    logits.grad = None
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        step()
    now = peak = 0
    for event in profile.profiler.kineto_results.events():
        if event.name() == "[memory]":
            now += event.nbytes()
            peak = max(peak, now)
    return peak / (logits.numel() * logits.element_size())


def cases(student, teacher, labels):
    """name -> a function that gives the loss, for everything that can be measured on these logits."""
    found = {"plain form (mdistiller)": lambda: plain(student, teacher, labels, TEMPERATURE)}
    for name, _ in COMPARED:
        try:
            loss = PEERS[name]().loss
            loss(student[:2], teacher[:2], labels[:2], TEMPERATURE)
        except (ImportError, AttributeError, RuntimeError):
            continue
        found[name] = lambda loss=loss: loss(student, teacher, labels, TEMPERATURE)
    signal = TeacherSignal(teacher, labels)
    for name in OURS:
        objective = Objective("kd", TEMPERATURE, 1.0, divergence=name)
        found[f"ours: {name}"] = lambda objective=objective: objective(student, signal).mean()
    return found


def measure(batch: int, classes: int, dtype: torch.dtype):
    """name -> (median seconds, peak tensors), and the limit in seconds."""
    generator = torch.Generator().manual_seed(0)
    student = (2 * torch.randn(batch, classes, generator=generator)).to(dtype).requires_grad_()
    teacher = (3 * torch.randn(batch, classes, generator=generator)).to(dtype)
    labels = torch.randint(classes, (batch,), generator=generator)
    out = torch.empty_like(teacher)
    steps = {"limit": lambda: torch.add(teacher, student.detach(), out=out)}
    for name, loss in cases(student, teacher, labels).items():

        def step(loss=loss):
            student.grad = None
            loss().backward()

        steps[name] = step
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for step in steps.values():
        step()
    started, repeats = time.perf_counter(), 0
    while repeats < 5 or (repeats < 200 and time.perf_counter() - started < SECONDS_A_CASE * len(steps)):
        repeats += 1
        for name, step in random.sample(list(steps.items()), len(steps)):  # no case always runs after the same other
            start = time.thread_time()  # of this thread alone: other work on the machine takes its turns outside of it
            step()
            seconds[name].append(time.thread_time() - start)
    memory = {name: peak_tensors(step, student) for name, step in steps.items() if name != "limit"}
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    best = {name: min(times) for name, times in seconds.items()}
    return medians, best, memory, repeats


def main() -> None:
    threads = torch.get_num_threads()
    library = shim_torchvision()
    lines = [
        "# Loss and gradient: time and memory",
        "",
        f"`PYTHONPATH=src OMP_NUM_THREADS={threads} python bench/losses.py`, torch {torch.__version__}, {threads} thread(s),",
        "T = 4, soft term only. × limit: multiples of reading two logits tensors and writing one. × plain: speed against",
        "mdistiller's plain form. Memory: peak beyond the two inputs, gradient included, in logits tensors (ours keeps up to",
        "eight arrays of 2 MiB, or of one row, a thread from call to call; they are not in it). Median (best) of interleaved",
        "repeats, CPU time of the thread, on a machine shared with other work.",
    ]
    for batch, classes in SHAPES:
        for dtype in (torch.float32, torch.bfloat16):
            medians, best, memory, repeats = measure(batch, classes, dtype)
            limit, reference = medians["limit"], medians["plain form (mdistiller)"]
            title = f"{batch} × {classes:,}, {str(dtype)[6:]}: limit {limit * 1e3:.3g} ms, {repeats} repeats"
            lines += ["", f"## {title}", "", "| loss | × limit | × plain | memory |", "| --- | --- | --- | --- |"]
            print("\n".join(lines[-4:]))
            for name, used in memory.items():
                row = (
                    f"| {name} | {medians[name] / limit:.1f} ({best[name] / best['limit']:.1f}) "
                    f"| {reference / medians[name]:.2f} | {used:.2f} |"
                )
                lines.append(row)
                print(row, flush=True)
            peer = min((n for n in memory if not n.startswith("ours") and "0.5" not in n), key=medians.__getitem__)
            ratios = [
                f"{n.removeprefix('ours')[2:]} {medians[peer] / medians[n]:.2f} ({best[peer] / best[n]:.2f})"
                for n in memory
                if n.startswith("ours") and n.endswith(("cross-entropy", "forward-kl"))
            ]
            verdict = f"Fastest peer ({peer}) / ours, medians (best): {', '.join(ratios)}."
            lines += ["", verdict]
            print(verdict)
    results = Path(__file__).parent / "results"
    results.mkdir(exist_ok=True)
    (results / "losses.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    del library


if __name__ == "__main__":
    main()
