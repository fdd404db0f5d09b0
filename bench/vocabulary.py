"""Hidden states × head → loss: ours next to the dense loss, TRL's and Liger's, as multiples of the bare matrix products.

    PYTHONPATH=src OMP_NUM_THREADS=1 peers/bin/python bench/vocabulary.py            # the environment of bench/peers_losses.py
    PYTHONPATH=src OMP_NUM_THREADS=1 peers/bin/python bench/vocabulary.py --tokens 4096 --ours

The bare products are those that any training of the head needs: student forward, its two backward products, teacher forward. Time
is the CPU time of the one thread (the machine may be shared; wall time is printed on the way), the best of interleaved repeats.
Memory is the peak of what is allocated in one step beyond inputs and weights, the gradients included, in logits tensors
[tokens, vocabulary]; the gradient of the head's weight alone is width / tokens of one. Writes bench/results/vocabulary.md.
"""

from __future__ import annotations

import argparse
import time
import warnings
from pathlib import Path

import torch
from torch.nn import functional

from fractionate import Objective
from fractionate.losses.kernels import HeadSignal, choose_chunks, vocabulary_loss
from fractionate.theory import CompactSignal

warnings.simplefilter("ignore")
CLASSES, WIDTH = 151_936, 512
RESULT = Path(__file__).parent / "results" / "vocabulary.md"
OURS = ("forward-kl", "jsd", "reverse-kl")


def peak_bytes(step) -> int:
    """Peak of the bytes allocated during a step beyond what was there."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        step()
    now = peak = 0
    for event in profile.profiler.kineto_results.events():
        if event.name() == "[memory]":
            now += event.nbytes()
            peak = max(peak, now)
    return peak


def compact_rows(labels: torch.Tensor, k: int, generator: torch.Generator) -> CompactSignal:
    """A random compact signal: k entries a row and a tail mass of half a nat."""
    steps = torch.arange(1, k + 1) * (CLASSES // (k + 2))
    entries = (labels[:, None] + steps) % CLASSES
    values = torch.randn(len(labels), k + 1, generator=generator)
    return CompactSignal(labels, values[:, 0], values[:, 1:], entries, torch.full((len(labels), 1), 0.5), CLASSES)


class Case:
    """Inputs of one size, and a step for each way to the gradients of hidden states and head."""

    def __init__(self, tokens: int) -> None:
        draw = torch.Generator().manual_seed(0)
        self.hidden = torch.randn(tokens, WIDTH, generator=draw).requires_grad_()
        self.weight = (torch.randn(CLASSES, WIDTH, generator=draw) / WIDTH**0.5).requires_grad_()
        self.theirs = torch.randn(tokens, WIDTH, generator=draw)
        self.head = torch.randn(CLASSES, WIDTH, generator=draw) / WIDTH**0.5
        self.labels = torch.randint(CLASSES, (tokens,), generator=draw)
        self.compact = compact_rows(self.labels, 32, draw)

    def bare(self):
        """The four products, at full size at 512 tokens and in blocks of 512 beyond: the logits of 4,096 do not fit."""
        hidden, weight = self.hidden.detach(), self.weight.detach()
        total = torch.zeros_like(weight)
        for at in range(0, len(hidden), 512):
            part = hidden[at : at + 512]
            z = part @ weight.T
            _ = z @ weight
            total.addmm_(z.T, part)
            del z
            _ = self.theirs[at : at + 512] @ self.head.T

    def bare_compact(self):
        """The three products of a step whose teacher was stored."""
        hidden, weight = self.hidden.detach(), self.weight.detach()
        total = torch.zeros_like(weight)
        for at in range(0, len(hidden), 512):
            part = hidden[at : at + 512]
            z = part @ weight.T
            _ = z @ weight
            total.addmm_(z.T, part)
            del z

    def ours(self, name: str):
        objective, signal = Objective("kd", 1.0, 1.0, divergence=name), HeadSignal(self.theirs, self.head, self.labels)
        return self._step(lambda: vocabulary_loss(self.hidden, self.weight, signal, objective).mean())

    def ours_compact(self):
        objective = Objective("kd", 1.0, 1.0, divergence="forward-kl")
        return self._step(lambda: vocabulary_loss(self.hidden, self.weight, self.compact, objective).mean())

    def dense(self):
        def loss():
            log_q = torch.log_softmax(self.hidden @ self.weight.T, 1)
            with torch.no_grad():
                p = torch.softmax(self.theirs @ self.head.T, 1)
            return functional.kl_div(log_q, p, reduction="batchmean")

        return self._step(loss)

    def liger(self, beta: float, chunk: int):
        from liger_kernel.chunked_loss.jsd_loss import LigerFusedLinearJSDLoss

        jsd = LigerFusedLinearJSDLoss(0.0, 1.0, beta=beta, compiled=False, chunk_size=chunk)
        return self._step(lambda: jsd(self.hidden, self.weight, self.theirs, self.head, self.labels))

    def trl(self, beta: float):
        from trl.kernels.chunked_divergence import ChunkedDivergenceFunction

        def loss():
            found = ChunkedDivergenceFunction.apply(
                self.hidden, self.weight, None, self.theirs, self.head, None, beta, 1.0
            )
            return found[0].mean()

        return self._step(loss)

    def _step(self, loss):
        def step():
            self.hidden.grad = self.weight.grad = None
            loss().backward()

        return step


def ways(case: Case, only_ours: bool):
    """name -> (step, what it is a multiple of)."""
    found = {"bare": (case.bare, "bare")}
    if only_ours:
        return found | {f"ours: {OURS[0]}": (case.ours(OURS[0]), "bare")}, []
    found |= {f"ours: {name}": (case.ours(name), "bare") for name in OURS}
    found["bare, stored teacher"] = (case.bare_compact, "bare, stored teacher")
    found["ours: forward-kl, top-32 stored"] = (case.ours_compact(), "bare, stored teacher")
    found["PyTorch, dense: kl_div of log_softmax"] = (case.dense(), "bare")
    missing = []
    for name, make in {
        "TRL ChunkedDivergenceFunction(beta=0)": lambda: case.trl(0.0),
        "TRL ChunkedDivergenceFunction(beta=0.5)": lambda: case.trl(0.5),
        "Liger LigerFusedLinearJSDLoss(beta=0), chunk 64": lambda: case.liger(0.0, 64),
        "Liger LigerFusedLinearJSDLoss(beta=0.5), chunk 64": lambda: case.liger(0.5, 64),
    }.items():
        try:
            found[name] = (make(), "bare")
        except (ImportError, RuntimeError) as error:
            missing.append(f"{name}: {type(error).__name__}: {str(error).splitlines()[0]}")
    return found, missing


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--ours", action="store_true", help="leave the peers out: they hold multiple logits tensors")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    case = Case(options.tokens)
    found, missing = ways(case, options.ours)
    tensor = options.tokens * CLASSES * 4
    seconds: dict[str, list[float]] = {name: [] for name in found}
    walls: dict[str, list[float]] = {name: [] for name in found}
    memory: dict[str, float] = {}
    for name, (step, _) in list(found.items()):
        try:
            if "bare" in name.split(",")[0] and not name.startswith("ours"):
                continue
            case.hidden.grad = case.weight.grad = None  # what was freed on the way would count against the peak
            wall, start = time.perf_counter(), time.thread_time()
            memory[name] = peak_bytes(step) / tensor
            seconds[name].append(
                time.thread_time() - start
            )  # the profiler sees few and large operators: it costs nothing
            walls[name].append(time.perf_counter() - wall)
        except (RuntimeError, TypeError, AttributeError, ImportError) as error:
            missing.append(f"{name}: {type(error).__name__}: {str(error).splitlines()[0]}")
            del found[name], seconds[name]
        print(name, f"{memory.get(name, float('nan')):.3f}", flush=True)
    for name in [name for name in found if not seconds[name]]:
        wall, start = time.perf_counter(), time.thread_time()
        found[name][0]()
        seconds[name].append(time.thread_time() - start)
        walls[name].append(time.perf_counter() - wall)
    for _ in range(options.repeats):
        for name, (step, _) in found.items():
            wall, start = time.perf_counter(), time.thread_time()
            step()
            seconds[name].append(time.thread_time() - start)
            walls[name].append(time.perf_counter() - wall)
            print(name, f"{seconds[name][-1]:.2f} CPU-s, {walls[name][-1]:.2f} s", flush=True)
    best = {name: min(times) for name, times in seconds.items()}
    flags = (f" --tokens {options.tokens}" if options.tokens != 512 else "") + " --ours" * options.ours
    plan = choose_chunks(options.tokens, WIDTH, CLASSES)
    lines = [
        f"## {options.tokens:,} tokens × {CLASSES:,}, width {WIDTH}, float32, one thread",
        "",
        f"`PYTHONPATH=src OMP_NUM_THREADS=1 python bench/vocabulary.py{flags}`, torch {torch.__version__}; bare products",
        f"{best['bare']:.2f} CPU-seconds; best of {1 + options.repeats}",
        f"interleaved repeats; the gradient of the head alone is {WIDTH / options.tokens:.3g} logits tensors; chunks of",
        f"{plan.tokens} tokens. CPU time of one thread; the machine was shared.",
        "",
        "| way | × the bare products | logits tensors at the peak |",
        "| --- | --- | --- |",
    ]
    for name, used in memory.items():
        of = found[name][1]
        lines.append(f"| {name} | {best[name] / best[of]:.2f} | {used:.2f} |")
    lines += ["", *[f"Not measured: {line}" for line in missing]]
    part = "\n".join(lines).rstrip() + "\n"
    print(part)
    head = "# Losses of large vocabularies from hidden states and head\n"
    old = RESULT.read_text(encoding="utf-8") if RESULT.exists() else head
    sections = [s for s in old.split("\n## ")[1:] if not s.startswith(f"{options.tokens:,} tokens")]
    kept = sorted([*sections, part.removeprefix("## ")], key=lambda s: int(s.split()[0].replace(",", "")))
    RESULT.write_text(head + "".join(f"\n## {s.rstrip()}\n" for s in kept), encoding="utf-8")


if __name__ == "__main__":
    main()
