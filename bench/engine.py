"""Our loop against a bare PyTorch loop that does the same work, and against Hugging Face Trainer, on the same pair.

    python bench/engine.py [--repeats 7]

Everybody trains the same student on the same digits with the same cached teacher logits, KD at T = 4 / 0.9, AdamW, cosine,
the same batches. Time of the steps alone: from before the first to after the last. Interleaved repeats, medians.
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
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1] / "src"))

from fractionate.engine import distill
from fractionate.objective import Objective
from fractionate.order import batches
from fractionate.records import Training
from fractionate.schedule import learning_rate, make_optimizer
from fractionate.sources.examples import Examples
from fractionate.teacher import TeacherSignal

LIMIT = 1.03


def data(channels: bool) -> tuple[Examples, TeacherSignal]:
    """Digits, as rows or as 16 × 16 pictures, with the logits of a fixed linear teacher."""
    from sklearn.datasets import load_digits

    pictures, labels = load_digits(return_X_y=True)
    rows = torch.tensor(pictures, dtype=torch.float32) / 16
    said = rows @ torch.randn(64, 10, generator=torch.Generator().manual_seed(0))
    inputs = rows
    if channels:
        inputs = nn.functional.interpolate(rows.view(-1, 1, 8, 8), scale_factor=2)
    labels = torch.tensor(labels)
    return Examples(inputs, labels, name="digits"), TeacherSignal(said, labels)


def mlp() -> nn.Module:
    """100 k parameters."""
    return nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10))


def cnn() -> nn.Module:
    """30 k parameters."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 32, 3, stride=2, padding=1),
        nn.BatchNorm2d(32), nn.ReLU(), nn.Conv2d(32, 64, 3, stride=2, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
        nn.Flatten(), nn.Linear(64, 10),
    )  # fmt: skip


def bare(student: nn.Module, examples: Examples, signal: TeacherSignal, training: Training) -> float:
    """What a person would write, and no line more."""
    objective = Objective()
    optimizer = make_optimizer(student.parameters(), training)
    student.train()
    steps, step, epoch = training.steps_for(len(examples)), 0, 0
    started = time.process_time()
    while step < steps:
        for index in batches(len(examples), training.batch_size, 0, epoch):
            if step == steps:
                break
            optimizer.param_groups[0]["lr"] = learning_rate(training, step, steps)
            loss = objective(student(examples.inputs[index]), signal.take(index)).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            step += 1
        epoch += 1
    return time.process_time() - started


def ours(student: nn.Module, examples: Examples, signal: TeacherSignal, training: Training, **more: object) -> float:
    """`distill`, all of it but the last look: its steps with their checks, rows and progress."""
    started = time.process_time()
    distill(student, examples, signal, objective=Objective(), training=training, show="nothing", **more)  # type: ignore[arg-type]
    return time.process_time() - started


def ours_kept(student: nn.Module, examples: Examples, signal: TeacherSignal, training: Training) -> float:
    """The same with a folder: metrics.jsonl, fingerprints, the student and the record on the disk."""
    with tempfile.TemporaryDirectory() as folder:
        return ours(student, examples, signal, training, out=folder)


def trainer(student: nn.Module, examples: Examples, signal: TeacherSignal, training: Training) -> float:
    """Hugging Face Trainer with the loss overridden, as its users distil."""
    from transformers import Trainer, TrainingArguments

    objective = Objective()

    class Cached(torch.utils.data.Dataset):  # type: ignore[type-arg]
        def __len__(self) -> int:
            return len(examples)

        def __getitem__(self, place: int) -> dict[str, object]:
            return {"inputs": examples.inputs[place], "place": place}

    class Distiller(Trainer):
        def compute_loss(self, model: nn.Module, inputs: dict[str, torch.Tensor], **_: object) -> torch.Tensor:
            return objective(model(inputs["inputs"]), signal.take(inputs["place"])).mean()

    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder, per_device_train_batch_size=training.batch_size, max_steps=training.steps or 1,
            learning_rate=training.learning_rate, lr_scheduler_type="cosine", report_to=[], save_strategy="no",
            logging_steps=max(1, (training.steps or 1) // 100), disable_tqdm=True, remove_unused_columns=False,
            use_cpu=True, max_grad_norm=0.0, label_names=[],
        )  # fmt: skip
        made = Distiller(model=student, args=arguments, train_dataset=Cached())
        made.log = lambda *_, **__: None  # type: ignore[method-assign]
        started = time.process_time()
        made.train()
        return time.process_time() - started


def main() -> None:
    """Run everybody in turn, print and write the table; fails above the limit."""
    asked = argparse.ArgumentParser()
    asked.add_argument("--repeats", type=int, default=16)
    repeats = asked.parse_args().repeats
    torch.set_num_threads(1)
    lines = [
        "# The engine's loop",
        "",
        f"`python bench/engine.py --repeats {repeats}`, torch {torch.__version__}, one thread. Medians of interleaved repeats;",
        f"the limit is a bare loop doing the same work, ours may cost {LIMIT - 1:.0%} more.",
        "",
        "| student, batch | bare loop, ms a step | ours | ours, kept | HF Trainer | ours / bare | best / best | Trainer / bare |",
        "|---|---|---|---|---|---|---|---|",
    ]
    worst = 0.0
    for name, build, pictures, size, steps in (("MLP 84 k", mlp, False, 128, 300), ("CNN 24 k", cnn, True, 128, 60)):
        examples, signal = data(pictures)
        training = Training(steps=steps, batch_size=size)
        contenders: dict[str, Callable[..., float]] = {
            "bare": bare, "ours": ours, "kept": ours_kept, "trainer": trainer,
        }  # fmt: skip
        times: dict[str, list[float]] = {contender: [] for contender in contenders}
        for contender in contenders.values():  # warm up: imports, allocators, statistics of the signal
            contender(build(), examples, signal, Training(steps=5, batch_size=size))
        for repeat in range(repeats):
            turn = repeat % len(contenders)
            for contender in [*contenders][turn:] + [*contenders][:turn]:
                torch.manual_seed(0)
                times[contender].append(contenders[contender](build(), examples, signal, training) / steps * 1e3)
        middle = {contender: statistics.median(taken) for contender, taken in times.items()}
        ratio = statistics.median(o / b for o, b in zip(times["ours"], times["bare"], strict=True))
        peer = middle["trainer"] / middle["bare"]
        worst = max(worst, ratio)
        lines.append(
            f"| {name}, {size} | {middle['bare']:.3f} | {middle['ours']:.3f} | {middle['kept']:.3f} | "
            f"{middle['trainer']:.3f} | **{ratio:.3f}** | "
            f"{min(times['ours']) / min(times['bare']):.3f} | {peer:.2f} |"
        )
    lines += [
        "",
        "Processor time of the one thread, as the machine is shared. Kept: with a folder.",
        "Ours includes what the bare loop leaves out: a finite check of loss and gradient before every step, seeds of the",
        "model's draws, the order's hash, a hundred rows of metrics with the gradient rescaling. torchdistill was not run:",
        "it imports torchvision, which does not load beside this CPU build of torch.",
        "",
    ]
    folder = Path(__file__).parent / "results"
    folder.mkdir(exist_ok=True)
    (folder / "engine.md").write_text("\n".join(lines))
    print("\n".join(lines))
    print(f"goal of {LIMIT}: {'held' if worst <= LIMIT else f'missed, the worst is {worst:.3f}'}")


if __name__ == "__main__":
    main()
