"""Do these classes' relations pay, and does the student's logit layer take them on? kd-sim and class means on five real data sets.

    PYTHONPATH=src:. OMP_NUM_THREADS=1 python lab/study_relations.py    # resumable; lab/results/study_relations.md

Written down before the first run: digits, fashion (14 x 14), glosses, letters and satellite with the teachers, students and small
transfer sets of lab/study_improving.py; 10 seeds, 400 steps of 64, AdamW at 1e-2, T = 1, teacher weight 0.9, nothing tuned. The
placebos are relations whose classes are permuted.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import partial

import torch
from bench.teachers import MLP, Upbringing, parts, teacher
from cell_studies import RESULTS, RUNS
from study_improving import HIDDEN, SMALL, TRAINING

from fractionate import TeacherSignal, dissect
from fractionate.records import Study
from fractionate.study.effects.contrasts import Contrast, effects, paired
from fractionate.theory.teacher_signal import relation_from_rows

DATA = ("digits", "fashion", "glosses", "letters", "satellite")
CELLS = ("kd-sim", "kd-sim-permuted", "class-mean", "class-mean-permuted")
CONTRASTS = (
    *(Contrast(cell, "hard") for cell in CELLS),
    Contrast("kd-sim", "kd-sim-permuted"),
    Contrast("class-mean", "class-mean-permuted"),
)
SEEDS, TEACHER = 10, Upbringing(hidden=(256, 256), dropout=0.3)


def studied(name: str) -> Study:
    cut = parts(name)
    model = teacher(name, TEACHER)
    data = cut.train.take(torch.arange(SMALL[name]))
    with torch.no_grad():
        signal = TeacherSignal(model(data.inputs), data.labels, relation_from_rows(model[-1].weight))
    return dissect(
        partial(MLP, data.inputs.shape[1], data.classes, (HIDDEN[name],)), data, signal, cells=CELLS, temperatures=(1.0,),
        teacher_weights=(0.9,), seeds=SEEDS, training=TRAINING, validation=cut.held, test=cut.test, points=1, progress="off",
        out=RUNS / "relations" / name, name=name,
    )  # fmt: skip


def section(study: Study) -> list[str]:
    """Every contrast in accuracy and in how the rows of the logit layer lie to the teacher's relations."""
    taken = {
        arm: [run.history[-1].rows_to_relation for run in study.runs if run.arm == arm] for arm in ("hard", *CELLS)
    }
    lines = [
        f"## {study.name}", "", f"Labels alone: rows to relation {sum(taken['hard']) / SEEDS:+.3f}.", "",
        "| contrast | seeds | accuracy, points | rows to relation, correlation |", "|---|---|---|---|",
    ]  # fmt: skip
    for found in effects(study.runs, CONTRASTS, metric=study.deciding):
        rows = paired([a - b for a, b in zip(taken[found.arm], taken[found.against], strict=True)], margin=1.0)
        cells = [
            f"{one.gain:+.{digits}f} [{one.interval.low:+.{digits}f}, {one.interval.high:+.{digits}f}]"
            for one, digits in ((found, 2), (rows, 3))
        ]
        lines.append(f"| {found.arm} − {found.against} | {SEEDS} | {cells[0]} {found.verdict} | {cells[1]} |")
    return [*lines, ""]


def main(names: Collection[str]) -> None:
    text = [
        "# Class relations against permuted ones", "",
        "Made by `PYTHONPATH=src:. python lab/study_relations.py`; the protocol stands there, written before its first run. "
        "Differences paired over seeds, 95 % intervals; verdicts after Holm over a data set.", "",
    ]  # fmt: skip
    for each in names:
        text += section(studied(each))
    (RESULTS / "study_relations.md").write_text("\n".join(text), encoding="utf-8")
    print("\n".join(text))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(DATA)
