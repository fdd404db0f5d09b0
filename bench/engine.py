"""Our loop against a bare PyTorch loop, Hugging Face Trainer and torchdistill: the same pair, the same work, one run.

    .venv-peers/bin/python bench/engine.py [--repeats 10]    # `make peers` makes that environment; elsewhere without torchdistill

Everybody trains the same student on the same digits with KD at T = 4 / 0.9 from the same linear teacher: fused AdamW, a cosine, as
many steps with batches of the same size. Processor time of the whole training, a step; the time of a training of one step alone is
given with it as start-up. Interleaved repeats, medians.
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
import itertools
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, RandomSampler

sys.path.insert(0, str(Path(__file__).parents[1] / "src"))

from fractionate import Objective, TeacherSignal, distill
from fractionate.data import Examples, batches
from fractionate.records import Training
from fractionate.training import learning_rate, make_optimizer

LIMIT = 1.03
Work = Callable[[nn.Module, "Task", Training], float]


class Task:
    """Digits, as rows or as 16 × 16 pictures, with a fixed linear teacher and its logits."""

    def __init__(self, pictures: bool) -> None:
        from sklearn.datasets import load_digits

        found, labels = load_digits(return_X_y=True)
        rows = torch.tensor(found, dtype=torch.float32) / 16
        linear = nn.Linear(64, 10, bias=False)
        linear.weight.data = torch.randn(64, 10, generator=torch.Generator().manual_seed(0)).T.contiguous()
        inputs, self.teacher = rows, linear.eval()
        if pictures:
            inputs = nn.functional.interpolate(rows.view(-1, 1, 8, 8), scale_factor=2)
            self.teacher = nn.Sequential(nn.AvgPool2d(2), nn.Flatten(), linear).eval()
        with torch.no_grad():
            self.signal = TeacherSignal(self.teacher(inputs), torch.tensor(labels))
        self.examples = Examples(inputs, torch.tensor(labels), name="digits")


class Rows(Dataset[tuple[Tensor, Tensor]]):
    """The examples one by one, as datasets give them."""

    def __init__(self, examples: Examples) -> None:
        self.examples = examples

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, place: int) -> tuple[Tensor, Tensor]:
        return self.examples.inputs[place], self.examples.labels[place]


class Cached(Rows):
    """The same with the place of each, by which its cached logits are found."""

    def __getitem__(self, place: int) -> dict[str, object]:  # type: ignore[override]
        return {"inputs": self.examples.inputs[place], "place": place}


class Stamped(nn.Sequential):
    """Notes when each forward pass begins."""

    stamps: ClassVar[list[float]] = []

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        self.stamps.append(time.thread_time())
        return super().forward(inputs)


def mlp() -> nn.Module:
    """84 k parameters."""
    return Stamped(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10))


def cnn() -> nn.Module:
    """24 k parameters."""
    return Stamped(
        nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 32, 3, stride=2, padding=1),
        nn.BatchNorm2d(32), nn.ReLU(), nn.Conv2d(32, 64, 3, stride=2, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
        nn.Flatten(), nn.Linear(64, 10),
    )  # fmt: skip


class Mean(nn.Module):
    """The mean over the tokens."""

    def forward(self, hidden: Tensor) -> Tensor:
        return hidden.mean(dim=1)


def transformer() -> nn.Module:
    """Two layers of width 64 over 16 tokens of four numbers each: 68 k parameters."""
    layers = [nn.TransformerEncoderLayer(64, 4, 128, dropout=0.0, batch_first=True) for _ in range(2)]
    return Stamped(nn.Unflatten(1, (16, 4)), nn.Linear(4, 64), *layers, Mean(), nn.Linear(64, 10))


def looped(student: nn.Module, task: Task, training: Training, source: Callable[[int], Iterator[tuple]]) -> float:
    """What a person would write, and no line more. `source` gives an epoch's (inputs, places)."""
    started = time.process_time()
    objective = Objective()
    optimizer = make_optimizer(student.parameters(), training)
    student.train()
    steps, step, epoch = training.steps_for(len(task.examples)), 0, 0
    while step < steps:
        for inputs, places in source(epoch):
            if step == steps:
                break
            optimizer.param_groups[0]["lr"] = learning_rate(training, step, steps)
            loss = objective(student(inputs), task.signal.take(places)).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            step += 1
        epoch += 1
    return time.process_time() - started


def bare(student: nn.Module, task: Task, training: Training) -> float:
    """Batches cut out of tensors in memory, as ours are."""

    def source(epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        for index in batches(len(task.examples), training.batch_size, 0, epoch):
            yield task.examples.inputs[index], index

    return looped(student, task, training, source)


def bare_loader(student: nn.Module, task: Task, training: Training) -> float:
    """The same loop over a DataLoader, which is where Trainer and torchdistill get their batches."""
    loader = DataLoader(Cached(task.examples), batch_size=training.batch_size, shuffle=True)

    def source(epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        return ((batch["inputs"], batch["place"]) for batch in loader)

    return looped(student, task, training, source)


def ours(student: nn.Module, task: Task, training: Training, **more: object) -> float:
    """`distill`, all of it: checks before the first step, the steps with their checks, rows and progress, the record."""
    started = time.process_time()
    distill(student, task.examples, task.signal, objective=Objective(), training=training, show="nothing", **more)  # type: ignore[arg-type]
    return time.process_time() - started


def ours_kept(student: nn.Module, task: Task, training: Training) -> float:
    """The same with a folder: metrics.jsonl, fingerprints, the student and the record on the disk."""
    with tempfile.TemporaryDirectory() as folder:
        return ours(student, task, training, out=folder)


def trainer(student: nn.Module, task: Task, training: Training) -> float:
    """Hugging Face Trainer with the loss overridden, as its users distil."""
    from transformers import Trainer, TrainingArguments

    objective = Objective()

    class Distiller(Trainer):
        def compute_loss(self, model: nn.Module, inputs: dict[str, Tensor], **_: object) -> Tensor:
            return objective(model(inputs["inputs"]), task.signal.take(inputs["place"])).mean()

    with tempfile.TemporaryDirectory() as folder:
        started = time.process_time()
        arguments = TrainingArguments(
            output_dir=folder, per_device_train_batch_size=training.batch_size, max_steps=training.steps or 1,
            learning_rate=training.learning_rate, weight_decay=training.weight_decay, optim="adamw_torch_fused",
            lr_scheduler_type="cosine", report_to=[], save_strategy="no", logging_steps=max(1, (training.steps or 1) // 100),
            disable_tqdm=True, remove_unused_columns=False, use_cpu=True, max_grad_norm=0.0, label_names=[],
        )  # fmt: skip
        made = Distiller(model=student, args=arguments, train_dataset=Cached(task.examples))
        made.log = lambda *_, **__: None  # type: ignore[method-assign]
        made.train()
        return time.process_time() - started


def torchdistill(student: nn.Module, task: Task, training: Training) -> float:
    """Its distillation box, its KDLoss and the loop of its example scripts, with its metric logger."""
    from torchdistill.core.distillation import get_distillation_box
    from torchdistill.misc.log import MetricLogger, SmoothedValue

    objective, device = Objective(), torch.device("cpu")
    loss = {
        "student_module_path": ".", "student_module_io": "output", "teacher_module_path": ".", "teacher_module_io": "output",
        "temperature": objective.temperature, "alpha": 1 - objective.teacher_weight, "reduction": "batchmean",
    }  # fmt: skip
    steps, epoch_steps = training.steps or 1, -(-len(task.examples) // training.batch_size)
    config = {  # what `load_yaml_file` makes of a file like its configs/sample/
        "num_epochs": -(-steps // epoch_steps),
        "train_data_loader": {
            "dataset_id": "digits", "sampler": {"class_or_func": RandomSampler, "kwargs": {}},
            "kwargs": {"batch_size": training.batch_size, "num_workers": 0},
        },
        "teacher": {"forward_proc": "forward_batch_only", "sequential": [], "requires_grad": False},
        "student": {"forward_proc": "forward_batch_only", "sequential": [], "requires_grad": True},
        "optimizer": {
            "key": "AdamW", "kwargs": {"lr": training.learning_rate, "weight_decay": training.weight_decay, "fused": True},
        },
        "scheduler": {"key": "CosineAnnealingLR", "kwargs": {"T_max": steps}, "scheduling_step": 1},
        "criterion": {
            "key": "WeightedSumLoss",
            "kwargs": {"sub_terms": {"kd": {"criterion": {"key": "KDLoss", "kwargs": loss}, "weight": 1.0}}},
        },
    }  # fmt: skip
    started = time.process_time()
    box = get_distillation_box(task.teacher, student, {"digits": Rows(task.examples)}, config, device, None, False, 1)
    step = 0
    for epoch in range(box.num_epochs):
        box.pre_epoch_process(epoch=epoch)
        logger = MetricLogger(delimiter="  ")
        logger.add_meter("lr", SmoothedValue(window_size=1, fmt="{value}"))
        logger.add_meter("img/s", SmoothedValue(window_size=10, fmt="{value}"))
        for inputs, labels, more in logger.log_every(box.train_data_loader, epoch_steps, f"Epoch: [{epoch}]"):
            if step == steps:
                break
            since = time.time()
            value = box.forward_process(inputs.to(device), labels.to(device), more)
            box.post_forward_process(loss=value)
            logger.update(loss=value.item(), lr=box.optimizer.param_groups[0]["lr"])
            logger.meters["img/s"].update(len(inputs) / (time.time() - since))
            if torch.isnan(value) or torch.isinf(value):
                raise ValueError("the loss is not finite")
            step += 1
        box.post_epoch_process()
    spent = time.process_time() - started
    box.clean_modules()
    return spent


NAMES: dict[str, Work] = {
    "a bare loop over tensors in memory": bare,
    "**`distill`**": ours,
    "`distill` with a folder": ours_kept,
    "a bare loop over a DataLoader": bare_loader,
    "Hugging Face Trainer": trainer,
    "torchdistill": torchdistill,
}


STUDENTS = (
    ("MLP, 84 k", mlp, False, 128, 1000),
    ("CNN, 24 k", cnn, True, 128, 100),
    ("Transformer, 68 k", transformer, False, 128, 100),
)
NOTES = """\
*An undisturbed step*: the tenth percentile of the processor times from one forward pass to the next, over all repeats: what the
loop costs where nobody else is on the machine; it leaves out the few steps in which ours writes a row. *All steps*, in processor
time: a whole training less one of a single step, as medians of the ratios within a repeat, with their 95 % interval; the order is
drawn anew in every repeat. *Start-up*: a training of one step, less one step, imports done. *All of it*: with start-up. A training
differs from the next of its kind by some percent, hence the intervals.

The same for all: students, initial weights, teacher, loss (torchdistill's KDLoss has our gradient, which is checked before anything
is timed), fused AdamW, cosine, sizes of batches, steps. Not the same:

- Ours adds a finite check of loss and gradient before every step, seeds of the model's draws, the order's hash, a hundred rows of
  metrics with the gradient rescaling; in start-up an estimate of memory, hashes of data and teacher, a check of the outputs.
- Trainer and torchdistill are fed example by example through a DataLoader without workers, as their users run them; the bare loop
  over that DataLoader says how much of their time that is. Ours cuts batches out of tensors that are in memory and uses a loader
  where they are not.
- Trainer reads the same stored logits. torchdistill 1.1.5 no longer has a cache of the teacher's outputs, so its teacher is run
  in every step: a linear map, some hundredths of a millisecond. It logs once an epoch and reads the loss in every step, as its
  example scripts do."""


def same_work(task: Task, build: Callable[[], nn.Module], contenders: dict[str, Work]) -> None:
    """Before anything is timed: ours makes the bare loop's student, and torchdistill's loss has our gradient."""
    made = []
    for work in (bare, ours):
        torch.manual_seed(0)
        made.append(build())
        work(made[-1], task, Training(steps=5, batch_size=128))
    with (
        torch.no_grad()
    ):  # not the weights: a key's bias has no gradient but rounding, which AdamW makes as large as any other
        one, other = (student.eval()(task.examples.inputs) for student in made)
    torch.testing.assert_close(one, other, rtol=1e-2, atol=1e-2)  # AdamW makes much of rounding
    if torchdistill in contenders.values():
        from torchdistill.losses.mid_level import KDLoss

        logits = torch.randn(16, 10, generator=torch.Generator().manual_seed(0), requires_grad=True)
        theirs = KDLoss(".", "output", ".", "output", temperature=4.0, alpha=0.1)
        outputs, labels = task.signal.logits[:16], task.signal.labels[:16]
        first = torch.autograd.grad(theirs({".": {"output": logits}}, {".": {"output": outputs}}, labels), logits)[0]
        second = torch.autograd.grad(Objective()(logits, TeacherSignal(outputs, labels)).mean(), logits)[0]
        torch.testing.assert_close(first, second, rtol=1e-4, atol=1e-6)


def middle(ratios: list[float]) -> tuple[float, float, float]:
    """The median and its 95 % interval by ranks (the binomial's normal approximation)."""
    ordered, reach = sorted(ratios), 0.98 * len(ratios) ** 0.5
    low, high = max(0, round(len(ratios) / 2 - reach) - 1), min(len(ratios) - 1, round(len(ratios) / 2 + reach))
    return statistics.median(ordered), ordered[low], ordered[high]


def main() -> None:
    """Run everybody in turn, print and write the table; says whether the limit holds."""
    requested = argparse.ArgumentParser(
        description="Our loop against a bare loop, Hugging Face Trainer and torchdistill."
    )
    requested.add_argument("--repeats", type=int, default=10)
    repeats = requested.parse_args().repeats
    torch.set_num_threads(1)
    there = importlib.util.find_spec("torchdistill") is not None
    contenders = {name: work for name, work in NAMES.items() if there or work is not torchdistill}
    versions = [f"{name} {version(name)}" for name in ("torch", "transformers", *(["torchdistill"] if there else []))]
    lines = [
        "# The engine's loop",
        "",
        f"`python bench/engine.py --repeats {repeats}`{', in the environment of `make peers`' if there else ''}: "
        f"{', '.join(versions)}, one thread.",
        f"The limit is a bare loop doing the same work; ours may cost {LIMIT - 1:.0%} more.",
    ]
    worst = 0.0
    for name, build, pictures, size, steps in STUDENTS:
        task = Task(pictures)
        same_work(task, build, contenders)
        whole: dict[str, list[float]] = {one: [] for one in contenders}
        first: dict[str, list[float]] = {one: [] for one in contenders}
        each: dict[str, list[float]] = {one: [] for one in contenders}  # from step to step
        for work in contenders.values():  # warm up: imports, allocators, statistics of the signal
            work(build(), task, Training(steps=5, batch_size=size))
        for repeat in range(repeats):
            # drawn anew: who comes after whom matters by some percent, through what the allocator was left with
            for one in random.Random(repeat).sample([*contenders], len(contenders)):
                for times, count in ((first, 1), (whole, steps)):
                    torch.manual_seed(0)
                    gc.collect()
                    Stamped.stamps.clear()
                    times[one].append(contenders[one](build(), task, Training(steps=count, batch_size=size)) * 1e3)
                each[one] += [b - a for a, b in itertools.pairwise(Stamped.stamps[:steps])]
        base, *_ = contenders
        calm = {one: sorted(times)[len(times) // 10] for one, times in each.items()}
        lines += [
            "",
            f"## {name} parameters, batches of {size}, {steps:,} steps",
            "",
            "| | undisturbed step, ms | of the bare loop's | all steps, of the bare loop's (95 %) | start-up, ms | all of it |",
            "|---|---|---|---|---|---|",
        ]
        alone = {one: [w - f for w, f in zip(whole[one], first[one], strict=True)] for one in contenders}
        for one in contenders:
            ratio, low, high = middle([o / b for o, b in zip(alone[one], alone[base], strict=True)])
            if contenders[one] is ours:
                worst = max(worst, calm[one] / calm[base])
            began = max(0.0, statistics.median(first[one]) - statistics.median(alone[one]) / (steps - 1))
            total = statistics.median(o / b for o, b in zip(whole[one], whole[base], strict=True))
            lines.append(
                f"| {one} | {1e3 * calm[one]:.3f} | {calm[one] / calm[base]:.3f} | {ratio:.3f} [{low:.3f}, {high:.3f}] | "
                f"{began:.1f} | {total:.3f} |"
            )
    lines += ["", NOTES]
    if not there:
        lines.append(
            "- torchdistill is not in this environment (it needs torchvision): `make peers` makes one with it."
        )
    folder = Path(__file__).parent / "results"
    folder.mkdir(exist_ok=True)
    (folder / "engine.md").write_text("\n".join([*lines, ""]))
    print("\n".join(lines))
    print(f"goal of {LIMIT}: {'held' if worst <= LIMIT else f'missed, the worst is {worst:.3f}'}")


if __name__ == "__main__":
    main()
