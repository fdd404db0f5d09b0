"""In which layers does a ternary encoder need its teacher, and is its loss flatter then? Three tasks, five seeds.

    PYTHONPATH=src OMP_NUM_THREADS=1 python lab/study_encoder_layers.py [TASK]    # lab/results/study_encoder_layers.md; resumable

Kim et al. (arXiv 2211.11014): the run file lab/encoder_layers.yaml, four layers in place of the two of study_small_encoders, on its
tasks. All layers against the last and the first alone; as placebo the maps of another text; the largest eigenvalue of the Hessian.
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
from study_small_encoders import LAB, RESULTS, TASKS, section
from torch import Tensor, nn

from fractionate import dissect
from fractionate.models.outputs import call, logits_of
from fractionate.records import MetricInfo, Study
from fractionate.run.read import read_run
from fractionate.run.workflow import Workflow
from fractionate.study import Arm, trained_student
from fractionate.study.attention_measures import top_eigenvalue
from fractionate.study.effects.contrasts import Contrast
from fractionate.teachers import Cached

PLACEBO = "map of another text"
CONTRASTS = (
    *(Contrast("map", arm) for arm in ("no KD", "last layer", "first layer", PLACEBO)),
    *(Contrast(arm, "no KD") for arm in ("last layer", "first layer")),
    Contrast(PLACEBO, "no KD", placebo=True),
)
CURVATURE = MetricInfo(name="largest eigenvalue", unit="log", better="less", margin=0.1)
CURVED = ("no KD", "map", "last layer")  # whose curvature is measured
MEASURED = 32  # transfer texts in the loss whose curvature it is


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
    folder = Path("runs/encoder_layers") / name.replace(" ", "-")
    title = f"ternary encoder, {name}"
    at = Workflow(read_run(LAB / "encoder_layers.yaml", (f"out={folder}", f"name={title}", *settings)))
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


def main(tasks: dict[str, tuple[str, ...]]) -> None:
    text = [
        "# Ternary encoders of four layers: teacher in all layers, or in one?", "",
        "Made by `PYTHONPATH=src python lab/study_encoder_layers.py`: lab/encoder_layers.yaml on three tasks of WordNet's texts. "
        "W2A8; teacher and student of 4 layers, width 64, 2 heads; two epochs on 700 texts. Paired differences, 95 % intervals; "
        "verdicts after Holm over a column. Ranking loss, cover length: less is nearer to the teacher's attention. *last layer*, "
        "*first layer*: hidden states and maps of that layer alone, where *map* has all layers. *map of another text*: the hidden "
        "states and maps of the text before in the batch, with this text's logits. Largest eigenvalue: of the Hessian of the task "
        f"loss on {MEASURED} transfer texts, natural logarithm; below 0 is flatter.", "",
    ]  # fmt: skip
    for task, given in tasks.items():
        text += section(task, studied(task, given), CONTRASTS)
    if set(tasks) == set(TASKS):
        (RESULTS / "study_encoder_layers.md").write_text("\n".join(text), encoding="utf-8")
    print("\n".join(text))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main({name: given for name, given in TASKS.items() if name in (sys.argv[1:] or TASKS)})
