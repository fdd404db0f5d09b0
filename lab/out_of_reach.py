"""What the studies that are out of reach of two cores would cost: a few of their steps, timed on copies.

    PYTHONPATH=src OMP_NUM_THREADS=1 python lab/out_of_reach.py    # lab/results/out_of_reach.md

TIE-KD of 60,000 pairs (study_translation.py, size large) and CIFAR-100 (tang_cifar100.py; pictures are drawn, as the data are not
here). One thread, CPU seconds; beam search of the teacher for sequence-level arms and the evaluations are not in it.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import torch
from study_translation import SEEDS, arms
from tang_cifar100 import CELLS, protocol
from torch import nn
from torch.nn.functional import cross_entropy
from translation_task import LARGE, Size, material, translator

from fractionate import Recipe, collect, distill
from fractionate.data import RawSplit
from fractionate.models import models
from fractionate.study import Arm
from fractionate.teachers import Cached

PAIRS, LIKE = (
    512,
    {"iterative": "tie-kd", "sequence-level": "no-kd"},
)  # arms that cost what another does; all others: word-kd
Row = tuple[str, float, int, int]  # what, CPU seconds of a step, steps, trainings


def seconds(train: Callable[[int], object], few: int = 1, more: int = 4) -> float:
    """CPU seconds of a step: a longer training less a shorter one, after one that imports what is loaded late."""
    train(few)
    spent = []
    for steps in (few, more):
        before = time.process_time()
        train(steps)
        spent.append(time.process_time() - before)
    return (spent[1] - spent[0]) / (more - few)


def of_translation(size: Size) -> Iterator[Row]:
    at = material(size)
    ours = at.parts.transfer
    some = at.sentences(
        RawSplit({role: texts[:PAIRS] for role, texts in ours.columns.items()}, ours.ids[:PAIRS], ours.name)
    )

    def network(sizes: tuple[int, int]) -> nn.Module:
        return translator(len(at.tokenizer), width=sizes[0], layers=sizes[1], seed=1)

    def trained(recipe: Recipe, sizes: tuple[int, int], steps: int, teacher: Cached | None = None) -> None:
        few = replace(recipe, training=replace(recipe.training, steps=steps))
        distill(network(sizes), some, teacher=teacher, recipe=few, show="nothing", log_every=10**6)

    given = {name: arm.recipe if isinstance(arm, Arm) else arm for name, arm in arms(size).items()}
    own = replace(given["no-kd"], training=size.teaching)
    yield "translation: teacher", seconds(lambda n: trained(own, size.teacher, n)), size.teaching.steps or 0, 1
    with tempfile.TemporaryDirectory() as folder:
        model = network(size.teacher).eval()
        taught = Cached(
            collect(model, some, Path(folder) / "store", tokens="aligned", form="hidden", batch_size=128), model=model
        )
        for name in ("no-kd", "word-kd", "tie-kd"):
            alike = sum(
                LIKE.get(other, other if other in ("no-kd", "tie-kd") else "word-kd") == name for other in given
            )
            teacher = None if name == "no-kd" else taught
            step = seconds(lambda n, at=given[name], by=teacher: trained(at, size.student, n, by))
            yield f"translation: students like {name}", step, size.learning.steps or 0, alike * SEEDS


def of_cifar() -> Iterator[Row]:
    pictures, labels = torch.randn(64, 3, 32, 32), torch.arange(64)
    large, small = (models[f"resnet_cifar({depth})"]((3, 32, 32), 100) for depth in (56, 20))

    def repeated(one: Callable[[], object]) -> Callable[[int], None]:
        return lambda steps: [one() for _ in range(steps)] and None

    @torch.no_grad()
    def heard() -> None:
        large.eval()(pictures)

    steps = round((protocol().epochs or 0) * -(-50_000 // 64))
    learned, taught = (
        seconds(repeated(lambda m=m: cross_entropy(m.train()(pictures), labels).backward())) for m in (small, large)
    )
    yield "CIFAR-100: teacher, ResNet-56", taught, steps, 1
    yield "CIFAR-100: ResNet-20, labels alone", learned, steps, 5
    yield "CIFAR-100: ResNet-20, other cells", learned + seconds(repeated(heard)), steps, 5 * (len(CELLS) - 1)


def main() -> None:
    torch.set_num_threads(1)
    rows = [*of_translation(LARGE["it"]), *of_cifar()]
    lines = [
        "# What is out of reach here would cost", "",
        "Made by `PYTHONPATH=src python lab/out_of_reach.py`, which times a few steps; one thread. Translation: 60,000 pairs, "
        "sentences to 32 tokens, one pair of languages, 5 seeds, ten arms. CIFAR-100: 240 epochs of 50,000 "
        "pictures, 5 seeds, twelve cells.", "",
        "| training | CPU s of a step | steps | trainings | CPU-hours |", "|---|---|---|---|---|",
    ]  # fmt: skip
    for name, step, steps, count in rows:
        lines.append(f"| {name} | {step:.2f} | {steps:,} | {count} | {step * steps * count / 3600:.0f} |")
    for study in ("translation", "CIFAR-100"):
        hours = sum(step * steps * count / 3600 for name, step, steps, count in rows if name.startswith(study))
        lines.append(f"| **{study}, all** | | | | **{hours:.0f}** |")
    (Path(__file__).parent / "results" / "out_of_reach.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
