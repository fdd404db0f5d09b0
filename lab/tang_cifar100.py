"""CIFAR-100, ResNet-56 → ResNet-20, the pair of Tang et al. (arXiv 2002.03532): every cell, five seeds, the usual protocol.

    timeout 590 python lab/tang_cifar100.py cifar-100-binary --device cuda    # again and again: it resumes

The folder holds the binary version (https://www.cs.toronto.edu/~kriz/cifar.html), or what `datasets` saved. Stopped by SIGTERM or
killed, the same command resumes inside a training, bit for bit; when all students are trained it writes the study's record, its
page and OUT/tang_cifar100.md.

Protocol: that of Tian et al. (arXiv 1910.10699), as the paper's own settings are not known to us. All 50,000 pictures, windows of
pictures padded by 4 black pixels, mirrored; 240 epochs of 64, SGD with plain momentum 0.9, weight decay 5e-4, rate 0.05, a tenth of
it at 150, 180 and 210; T = 4, teacher weight 0.9, with T². The teacher runs again on every changed picture; the last weights count;
nothing is chosen, so there is no validation part. They report 72.3 % for the teacher, 69.1 for the student alone, 70.7 with kd. Not
run here on the real data: it needs a GPU. `--only hard kd` trains two cells alone.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from cifar import DEVIATION, MEAN, Cifar, cifar100
from torch import nn

from fractionate import Objective, Recipe, distill, report
from fractionate.models import models
from fractionate.records import Run, Study, Training
from fractionate.study.arms import redrawn
from fractionate.study.effects.contrasts import Contrast, effects
from fractionate.tasks import CLASSIFICATION, Task, infos
from fractionate.theory.cells import as_cell

BLACK = tuple(round(-mean / deviation, 6) for mean, deviation in zip(MEAN, DEVIATION, strict=True))
MOVED = (f"augment(crop=4, flip=True, border={BLACK})",)
PLACEBOS = {
    "kd-pt-shuffled-within-class": "kd-pt",
    "class-mean-permuted": "class-mean",
    "kd-sim-permuted": "kd-sim",
    "kd-shuffled": "kd",
}
CELLS = ("hard", "ls", "class-mean", "kd-sim", "kd-pt", "kd-pt+sim", "kd-topk(25)", "kd", *PLACEBOS)
DIRECT = (("kd-pt", "kd-sim"), ("kd-sim", "ls"), ("kd-pt", "ls"), ("kd-pt+sim", "kd"), ("kd-topk(25)", "kd"))


def protocol(epochs: float = 240) -> Training:
    return Training(
        epochs=epochs, batch_size=64, learning_rate=0.05, optimizer="momentum", weight_decay=5e-4, schedule="tenths"
    )


def recipe(cell: str, seed: int, training: Training) -> Recipe:
    """A cell at the protocol's temperature and weight; placebos are drawn anew for each seed."""
    objective = None if cell == "hard" else Objective(redrawn(as_cell(cell), seed), 4.0, 0.9)
    return Recipe(objective=objective, training=training, data=MOVED)


def task(data: Cifar, model: str, device: str) -> Task:
    shape, classes = data.train.inputs.shape[1:], data.train.classes

    def network() -> nn.Module:
        return models[model](shape, classes)

    return Task("classification", transfer=data.train, test=data.test, student=network, device=device)


def study(cells: list[str], seeds: int, runs: list[Run], data: Cifar, training: Training) -> Study:
    """Every contrast with labels alone, of each cell with its placebo, and those that the paper claims."""
    contrasts = [Contrast(cell, "hard", placebo=cell in PLACEBOS) for cell in cells if cell != "hard"]
    contrasts += [Contrast(of, name) for name, of in PLACEBOS.items() if {name, of} <= set(cells)]
    contrasts += [Contrast(*pair) for pair in DIRECT if set(pair) <= set(cells)]
    metrics = infos(CLASSIFICATION[:3])  # not agreement: the teacher runs in training alone
    found = tuple(e for metric in metrics for e in effects(runs, contrasts, metric=metric))
    return Study(
        "CIFAR-100, ResNet-56 → ResNet-20", metrics, "hard", tuple(cells), tuple(range(seeds)), tuple(runs), found,
        data={"name": "cifar-100", "examples": len(data.train), "test": len(data.test), "classes": data.train.classes},
        settings={"epochs": training.epochs, "batch_size": training.batch_size, "learning_rate": training.learning_rate},
    )  # fmt: skip


def table(found: Study, teacher: Run) -> str:
    assert teacher.test is not None
    lines = [
        f"# {found.name}", "", f"Made by `python lab/tang_cifar100.py`. Teacher: {teacher.test.accuracy:.2%}. "
        f"{len(found.seeds)} seeds; paired differences in points of accuracy, 95 % intervals, verdicts after Holm.", "",
        "| cell | against | points | verdict |", "|---|---|---|---|",
    ]  # fmt: skip
    for e in found.effects:
        if e.metric == "accuracy":
            interval = f"[{e.interval.low:+.2f}, {e.interval.high:+.2f}]"
            lines.append(f"| {e.arm} | {e.against} | {e.gain:+.2f} {interval} | {e.verdict} |")
    return "\n".join(lines) + "\n"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", help="cifar-100-binary, or a folder saved by datasets")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--only", nargs="+", default=list(CELLS), choices=CELLS, metavar="CELL")
    parser.add_argument("--out", type=Path, default=Path("runs/tang_cifar100"))
    parser.add_argument("--models", nargs=2, default=["resnet_cifar(56)", "resnet_cifar(20)"])
    parser.add_argument("--epochs", type=float, default=240)
    chosen = parser.parse_args(arguments)
    data, training = cifar100(chosen.folder), protocol(chosen.epochs)
    names = chosen.models
    teacher, taught = distill(
        task(data, names[0], chosen.device),
        recipe=recipe("hard", 0, training),
        arm="teacher",
        out=chosen.out / "teacher",
    )
    runs = []
    for seed in range(chosen.seeds):  # a seed of every cell first: any part of it is a comparison
        for cell in chosen.only:
            _, run = distill(
                task(data, names[1], chosen.device), teacher=None if cell == "hard" else teacher.eval(),
                recipe=recipe(cell, seed, training), seed=seed, arm=cell, out=chosen.out / f"{cell}-{seed}",
            )  # fmt: skip
            runs.append(run)
            print(run, flush=True)
    found = study(chosen.only, chosen.seeds, runs, data, training)
    found.save(chosen.out / "study.json")
    (chosen.out / "tang_cifar100.md").write_text(table(found, taught), encoding="utf-8")
    print(report([found], chosen.out / "tang_cifar100.html"))


if __name__ == "__main__":
    main()
