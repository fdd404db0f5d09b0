"""Which attention term does a ternary encoder need, in which layers, and is its loss flatter? Three tasks, five seeds.

    PYTHONPATH=src OMP_NUM_THREADS=1 python lab/study_small_encoders.py [TASK]    # lab/results/study_small_encoders.md; resumable

Kim et al. (arXiv 2211.11014) with an encoder of four layers that two cores can train for whole epochs: the definition of a word →
its topic (45 classes) and its part of speech (4), and the words of example sentences → their part of speech (tags).
"""

from __future__ import annotations

import json
import math
import sys
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fractionate import dissect
from fractionate.models.outputs import call, logits_of
from fractionate.records import Effect, MetricInfo, Study
from fractionate.run.read import read_run
from fractionate.run.workflow import Workflow
from fractionate.study import Arm, trained_student
from fractionate.study.attention_measures import top_eigenvalue
from fractionate.study.effects.contrasts import Contrast, effects
from fractionate.teachers import Cached

LAB = Path(__file__).parent
RESULTS = LAB / "results"
TASKS = {
    "topics": (),
    "parts of speech": ("data.source=definitions(20000)",),
    "tags": ("task=token-classification", "data.source=usage(8000)"),
}
TERMS = ("score", "map", "output", "unified")
PLACEBO = "map of another text"
CONTRASTS = (
    *(Contrast(arm, "no KD") for arm in ("logits", "hidden", *TERMS)),
    *(Contrast(arm, "hidden") for arm in TERMS),
    *(Contrast("map", arm) for arm in ("score", "output", "last layer", "first layer", PLACEBO)),
    Contrast(PLACEBO, "hidden", placebo=True),
)
CURVED = ("no KD", "hidden", *TERMS)  # whose curvature is measured
CURVATURE = MetricInfo(name="largest eigenvalue", unit="log", better="less", margin=0.1)
MEASURED = 64  # transfer texts in the loss whose curvature it is


def of_another_text(teacher: nn.Module) -> nn.Module:
    """The teacher, which reads the text before in the batch in the place of each."""

    def rolled(_: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return given, {name: value.roll(1, 0) if isinstance(value, Tensor) else value for name, value in named.items()}

    other = deepcopy(teacher)
    other.register_forward_pre_hook(rolled, with_kwargs=True)
    return other


class Rows(nn.Module):
    """A model whose logits are rows, one a text or one a token."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, **inputs: Tensor) -> Tensor:
        return logits_of(call(self.model, inputs), None).flatten(0, -2)


def studied(name: str, settings: tuple[str, ...]) -> Study:
    """The study of a task, trained where it is missing, with the curvature of each student's loss as a further metric."""
    folder = Path("runs/small_encoders") / name.replace(" ", "-")
    title = f"ternary encoder, {name}"
    at = Workflow(read_run(LAB / "small_encoders.yaml", (f"out={folder}", f"name={title}", *settings)))
    arms, kept = at.given_arms, Path(f"{folder}-students")
    teacher = at.source_of(at.store, at.teacher, *(arm.recipe for arm in arms.values()))
    placebo = Cached(teacher.cached, model=of_another_text(at.teacher))
    arms[PLACEBO] = Arm(arms["map"].recipe, placebo_of="map", teacher=placebo)
    study = dissect(
        at.task,
        arms,
        teacher,
        **at.study_settings,
        out=kept,
        keep="weights",
        name=title,
        progress="off",
        backend="loop",
    )
    file = kept / "curvature.json"
    found = json.loads(file.read_text()) if file.exists() else {}
    texts = at.task.splits.transfer.take(torch.arange(MEASURED))
    for run in study.runs:
        if run.arm in CURVED and f"{run.arm} {run.seed}" not in found:
            student = Rows(trained_student(kept, run.arm, run.seed, at.task, arms=arms, teacher=teacher))
            value = top_eigenvalue(student, texts.inputs, texts.labels.flatten(), steps=30)
            found[f"{run.arm} {run.seed}"] = math.log(abs(value))
            file.write_text(json.dumps(found))
    runs = tuple(
        replace(run, test=replace(run.test, values=run.test.values | {CURVATURE.name: found[f"{run.arm} {run.seed}"]}))
        if run.arm in CURVED and run.test
        else run
        for run in study.runs
    )
    return replace(study, runs=runs, metrics=(*study.metrics, CURVATURE), teacher=at.teacher_scores)


def cell(e: Effect, digits: int) -> str:
    return f"{e.gain:+.{digits}f} [{e.interval.low:+.{digits}f}, {e.interval.high:+.{digits}f}] {e.verdict}"


def section(name: str, study: Study) -> list[str]:
    """Every contrast in accuracy, NLL, what became of attention and of the curvature."""
    kept = [m for m in study.metrics if m.name in ("accuracy", "nll", "token-nll", "ranking-loss", "cover-length")]
    found = {
        m.name: {(e.arm, e.against): e for e in effects(study.runs, CONTRASTS, metric=m)} for m in (*kept, CURVATURE)
    }
    base = [run.test.accuracy for run in study.runs if run.arm == "no KD" and run.test]
    steps = max(run.steps for run in study.runs)
    lines = [
        f"## {name}", "", f"{len(study.seeds)} seeds, {steps} steps; no KD {sum(base) / len(base):.1%}"
        + (f", teacher {study.teacher.accuracy:.1%}." if study.teacher else "."), "",
        "| contrast | seeds | "
        + " | ".join(f"{m.name}, {m.unit}" if m.unit else m.name for m in (*kept, CURVATURE)) + " |",
        "|---" * (3 + len(kept)) + "|",
    ]  # fmt: skip
    for contrast in CONTRASTS:
        pair = contrast.arm, contrast.against
        cells = [
            cell(found[m.name][pair], 2 if m.name == "accuracy" else 3) if pair in found[m.name] else "–"
            for m in (*kept, CURVATURE)
        ]
        lines.append(f"| {contrast.arm} − {contrast.against} | {len(study.seeds)} | {' | '.join(cells)} |")
    return [*lines, ""]


def main(tasks: dict[str, tuple[str, ...]]) -> None:
    text = [
        "# Ternary encoders of four layers: maps, outputs, or both?", "",
        "Made by `PYTHONPATH=src python lab/study_small_encoders.py`: lab/small_encoders.yaml on three tasks of WordNet's texts. "
        "W2A8; teacher and student of 4 layers, width 64, 2 heads; three epochs on 700 texts. Paired differences, 95 % intervals; "
        "verdicts after Holm over a column. Ranking loss, cover length: less is nearer to the teacher's attention. *last layer*, "
        "*first layer*: hidden states and maps of that layer alone, where *map* has all layers. *map of another text*: the hidden "
        "states and maps of the text before in the batch, with this text's logits. Largest eigenvalue: of the Hessian of the task "
        f"loss on {MEASURED} transfer texts, natural logarithm; below 0 is flatter.", "",
    ]  # fmt: skip
    for task, given in tasks.items():
        text += section(task, studied(task, given))
    if set(tasks) == set(TASKS):
        (RESULTS / "study_small_encoders.md").write_text("\n".join(text), encoding="utf-8")
    print("\n".join(text))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main({name: given for name, given in TASKS.items() if name in (sys.argv[1:] or TASKS)})
