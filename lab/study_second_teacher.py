"""Does a second teacher pay? kd and ttm from one teacher, from another alone, and from the mean of both, on six real data sets.

    PYTHONPATH=src:. OMP_NUM_THREADS=1 python lab/study_second_teacher.py    # resumable; lab/results/study_second_teacher.md

Written down before the first run. Data, students, trainings, tries and seeds are those of lab/study_improving.py, in its 12
settings of healthy teachers; the second teacher differs from the first by its seed alone (initial weights and order). Its opinion
alone is the control: what both bring over the better of the two is the second opinion. *Both*: the logarithm of their mean
probabilities.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from bench.teachers import MLP, Upbringing, parts, teacher, train
from random_effects import joined
from study_improving import HIDDEN, LARGE, SEEDS, SETTINGS, SMALL, TUNE, TUNED, Setting

from fractionate import TeacherSignal, dissect

OUT, RESULTS = Path("runs/second_teacher"), Path(__file__).parent / "results" / "study_second_teacher"
HEALTHY = Upbringing(hidden=(256, 256), dropout=0.3)
ARMS = {name: TUNED[name] for name in ("kd", "ttm")}
FIRST, SECOND, BOTH = "the first teacher", "the second", "both"


def run(setting: Setting) -> dict[str, object]:
    """Test accuracy in percent by arm, teacher and seed."""
    torch.set_num_threads(1)
    cut = parts(setting.data)
    teachers = [teacher(setting.data, HEALTHY), train(HEALTHY, cut.train, cut.held, seed=1)]
    pool, count = (cut.train, SMALL) if setting.size == "small" else (cut.outside, LARGE)
    data = pool.take(torch.arange(count[setting.data]))
    with torch.no_grad():
        logits = [model(data.inputs).log_softmax(1) for model in teachers]
        right = [float((model(cut.test.inputs).argmax(1) == cut.test.labels).double().mean()) for model in teachers]
    opinions = {FIRST: logits[0], SECOND: logits[1], BOTH: torch.stack(logits).logsumexp(0) - np.log(2)}
    student = partial(MLP, data.inputs.shape[1], data.classes, (HIDDEN[setting.data],))
    scores = {}
    for name, opinion in opinions.items():
        study = dissect(
            student, data, TeacherSignal(opinion, data.labels), arms=ARMS, baseline="kd", tune=TUNE, validation=cut.held,
            test=cut.test, seeds=SEEDS, points=1, progress="off", name=str(setting), out=OUT / f"{setting}" / name,
        )  # fmt: skip
        for arm in ARMS:
            scores[f"{arm}, {name}"] = [100 * one.test.accuracy for one in study.runs if one.arm == arm]
    return {"data": setting.data, "size": setting.size, "teachers": right, "accuracy": scores}


def effect(rows: Sequence[dict], arm: str, name: str, against: str) -> str:
    """A teacher's gain over another, joined over data sets."""
    gains, variances = [], []
    for data in HIDDEN:
        own = [
            np.subtract(*(row["accuracy"][f"{arm}, {one}"] for one in (name, against)))
            for row in rows
            if row["data"] == data
        ]
        gains.append(float(np.mean([one.mean() for one in own])))
        variances.append(float(np.sum([one.var(ddof=1) / len(one) for one in own]) / len(own) ** 2))
    found = joined(gains, variances)
    return f"{found.mean:+.2f} [{found.low:+.2f}, {found.high:+.2f}]"


def table(rows: Sequence[dict]) -> str:
    text = [
        "# Does a second teacher pay?", "",
        f"Made by `PYTHONPATH=src:. python lab/study_second_teacher.py` ({len(rows)} settings). Points of test accuracy, "
        f"{SEEDS} paired seeds, every arm tuned with 24 tries; six data sets joined with random effects, 95 % intervals.", "",
        "| transfer sets | objective | both over the first | both over the second | the second over the first |", "|---" * 5 + "|",
    ]  # fmt: skip
    pairs = ((BOTH, FIRST), (BOTH, SECOND), (SECOND, FIRST))
    for title, sizes in (("all", ("small", "large")), ("small", ("small",)), ("large", ("large",))):
        some = [row for row in rows if row["size"] in sizes]
        for arm in ARMS:
            text.append(f"| {title} | {arm} | {' | '.join(effect(some, arm, *pair) for pair in pairs)} |")
    text += [
        "",
        "| setting | teachers | " + " | ".join(rows[0]["accuracy"]) + " |",
        "|---" * (2 + len(rows[0]["accuracy"])) + "|",
    ]
    for row in rows:
        means = " | ".join(f"{np.mean(values):.2f}" for values in row["accuracy"].values())
        right = " / ".join(f"{100 * one:.1f}" for one in row["teachers"])
        text.append(f"| {row['data']}, {row['size']} | {right} | {means} |")
    return "\n".join(text) + "\n"


if __name__ == "__main__":
    path = RESULTS.with_suffix(".jsonl")
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    for setting in (one for one in SETTINGS if one.teacher == "healthy"):
        if not any((row["data"], row["size"]) == (setting.data, setting.size) for row in rows):
            rows.append(run(setting))
            with path.open("a") as file:
                file.write(json.dumps(rows[-1]) + "\n")
    RESULTS.with_suffix(".md").write_text(table(rows), encoding="utf-8")
    print(table(rows))
