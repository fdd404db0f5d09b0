"""Does anything improve on plain distillation? One protocol for all targets over six real data sets.

    PYTHONPATH=src:. OMP_NUM_THREADS=1 python lab/study_improving.py [--minutes 10]   # goes on where it was stopped
    PYTHONPATH=src:. python lab/study_improving.py --table                            # lab/results/study_improving.md

Written down before the first run, and not changed since:

* Data: digits, fashion (14 x 14), glosses (texts, 100 components), letters (26 classes), satellite, dna. Each with a small transfer
  set (part of the teacher's own training data) and a large one (new to the teacher), from a healthy teacher; the large one also
  from an over-trained and a smoothed teacher: 24 settings, ordered so that any first part of them covers all data sets.
* Students: one hidden layer (8 to 32 units), 400 steps of 64, AdamW. Teachers: two layers of 256, dropout, early stopping.
* Every arm has 24 tries on 2 tuning seeds, the best on validation data by accuracy, then by likelihood: 3 temperatures (1, 2, 4) x
  2 teacher weights (0.6, 0.9) x 4 learning rates (3e-3 to 1e-1, where every arm falls); arms of fixed temperature and weight, and
  those without a teacher, have 24 learning rates over the same range. Then 10 fresh seeds; test data are read once.
* Effects are paired over seeds, against `kd` and against no teacher, in points of accuracy. Over data sets: the mean over the
  settings of a data set is one effect; six of them are combined with random effects (DerSimonian and Laird; interval of Hartung,
  Knapp, Sidik and Jonkman, which allows for so few). p values are corrected by Holm over the arms.
* Not tried here: convolutional students (a study of this size would take days on two cores), a second teacher.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from bench.teachers import MLP, TEACHERS, Upbringing, parts, teacher
from random_effects import Joined, holm, joined

from fractionate import Objective, Recipe, TeacherSignal, dissect
from fractionate.records import Study, Training, Tuning
from fractionate.theory.teacher_signal import relation_from_rows

RATES = (3e-3, 1e-2, 3e-2, 1e-1)
MANY = tuple(float(f"{RATES[0] * (RATES[-1] / RATES[0]) ** (i / 23):.4g}") for i in range(24))
TUNE = Tuning(temperatures=(1.0, 2.0, 4.0), teacher_weights=(0.6, 0.9), learning_rates=RATES, seeds=2)
TRAINING = Training(steps=400, batch_size=64)
NONE, KD = "no teacher", "kd"
TUNED = {
    NONE: Recipe(training=TRAINING),
    **{
        name: Recipe(objective=Objective(cell, 1.0, 0.9, divergence=divergence), training=TRAINING)
        for name, cell, divergence in (
            ("ls", "ls", "cross-entropy"),
            ("class-mean", "class-mean", "cross-entropy"),
            ("kd-sim", "kd-sim", "cross-entropy"),
            ("kd-pt", "kd-pt", "cross-entropy"),
            ("kd-pt+sim", "kd-pt+sim", "cross-entropy"),
            ("kd-topk", "kd-topk", "cross-entropy"),
            (KD, "kd", "cross-entropy"),
            ("ttm", "kd", "ttm"),
            ("reverse-kl", "kd", "reverse-kl"),
            ("placebo of kd", "kd-shuffled", "cross-entropy"),
            ("placebo of kd-pt", "kd-pt-shuffled", "cross-entropy"),
            ("placebo of class-mean", "class-mean-permuted", "cross-entropy"),
        )
    },
}
FIXED = {"T = 4 / 0.9": (4.0, 0.9), "T = 1 / 0.6": (1.0, 0.6)}
HIDDEN = {"digits": 16, "fashion": 20, "glosses": 24, "letters": 32, "satellite": 12, "dna": 8}
SMALL = {"digits": 100, "fashion": 300, "glosses": 500, "letters": 600, "satellite": 200, "dna": 150}
LARGE = {"digits": 300, "fashion": 3000, "glosses": 3000, "letters": 3000, "satellite": 1200, "dna": 700}
SEEDS = 10
OUT, RESULTS = Path("runs/improving"), Path(__file__).parent / "results" / "study_improving"


@dataclass(frozen=True)
class Setting:
    data: str
    size: str
    teacher: str

    def __str__(self) -> str:
        return f"{self.data}, {self.size} transfer set, {self.teacher} teacher"


SETTINGS = [
    Setting(data, size, kind)
    for size, kind in (("small", "healthy"), ("large", "healthy"), ("large", "over-trained"), ("large", "smoothed"))
    for data in HIDDEN
]


def studies(setting: Setting) -> list[Study]:
    """The tuned arms, and the arms of fixed temperature and weight, each at 24 tries; the same seeds and data."""
    torch.set_num_threads(1)
    cut = parts(setting.data)
    upbringing = (
        Upbringing(hidden=(256, 256), dropout=0.3) if setting.teacher == "healthy" else TEACHERS[setting.teacher]
    )
    model = teacher(setting.data, upbringing)
    pool, count = (cut.train, SMALL) if setting.size == "small" else (cut.outside, LARGE)
    data = pool.take(torch.arange(count[setting.data]))
    with torch.no_grad():
        signal = TeacherSignal(model(data.inputs), data.labels, relation_from_rows(model[-1].weight))

    def student() -> MLP:
        return MLP(data.inputs.shape[1], data.classes, (HIDDEN[setting.data],))

    common = {
        "validation": cut.held,
        "test": cut.test,
        "seeds": SEEDS,
        "points": 1,
        "progress": "off",
        "name": str(setting),
    }
    folder = OUT / str(setting).replace(", ", "_").replace(" ", "-")
    found = [dissect(student, data, signal, arms=TUNED, tune=TUNE, out=folder / "tuned", **common)]
    for name, (temperature, weight) in FIXED.items():
        recipe = Recipe(objective=Objective("kd", temperature, weight), training=TRAINING)
        grid = Tuning(temperatures=(temperature,), teacher_weights=(weight,), learning_rates=MANY, seeds=2)
        arms = {NONE: Recipe(training=TRAINING), name: recipe}
        found.append(dissect(student, data, signal, arms=arms, tune=grid, out=folder / name.replace(" ", ""), **common))
    return found


def line(setting: Setting, found: list[Study]) -> dict:
    """Test accuracy in percent by arm and seed, and the settings that validation data chose."""
    scores, chosen = {}, {}
    for study in found:
        for run in study.runs:
            if run.arm not in scores or len(scores[run.arm]) < SEEDS:
                scores.setdefault(run.arm, []).append(round(100 * run.test.accuracy, 4))
        for one in study.tries:
            if one.chosen and one.arm not in chosen:
                chosen[one.arm] = [one.temperature, one.teacher_weight, one.learning_rate]
    return {
        "data": setting.data,
        "size": setting.size,
        "teacher": setting.teacher,
        "accuracy": scores,
        "chosen": chosen,
    }


def lines() -> list[dict]:
    path = RESULTS.with_suffix(".jsonl")
    return [json.loads(text) for text in path.read_text().splitlines()] if path.exists() else []


def run(minutes: float) -> None:
    end = time.monotonic() + 60 * minutes
    done = {(one["data"], one["size"], one["teacher"]) for one in lines()}
    for setting in SETTINGS:
        if (setting.data, setting.size, setting.teacher) in done or time.monotonic() > end:
            continue
        begin = time.process_time()
        found = line(setting, studies(setting)) | {"cpu_seconds": round(time.process_time() - begin, 1)}
        with RESULTS.with_suffix(".jsonl").open("a") as file:
            file.write(json.dumps(found) + "\n")
        means = {arm: round(float(np.mean(values)), 2) for arm, values in found["accuracy"].items()}
        print(setting, f"{found['cpu_seconds']:.0f} CPU-s", means, flush=True)


def combined(rows: list[dict], arm: str, against: str) -> Joined:
    """Gain in points with its 95 % interval and p value over data sets."""
    gains, variances = [], []
    for data in sorted({row["data"] for row in rows}):
        own = [np.subtract(row["accuracy"][arm], row["accuracy"][against]) for row in rows if row["data"] == data]
        gains.append(float(np.mean([one.mean() for one in own])))
        variances.append(float(np.sum([one.var(ddof=1) / len(one) for one in own]) / len(own) ** 2))
    return joined(gains, variances)


def wins(rows: list[dict], arm: str, against: str) -> tuple[int, int]:
    """Settings in which the arm is surely better, and surely worse (paired over seeds, 95 %, uncorrected)."""
    better = worse = 0
    for row in rows:
        gain = np.subtract(row["accuracy"][arm], row["accuracy"][against])
        half = 2.262 * gain.std(ddof=1) / len(gain) ** 0.5
        better, worse = better + (gain.mean() > half), worse + (gain.mean() < -half)
    return int(better), int(worse)


def table() -> str:
    rows = lines()
    arms = list(rows[0]["accuracy"])
    text = [
        "# Does anything improve on plain distillation?", "",
        f"Made by `PYTHONPATH=src:. python lab/study_improving.py --table` from {len(rows)} of {len(SETTINGS)} settings "
        f"({sum(row['cpu_seconds'] for row in rows) / 60:.0f} CPU-minutes); the protocol stands in the program, written before its "
        "first run. Gains in points of test accuracy, 10 paired seeds a setting; random effects over data sets, 95 % intervals, "
        "p by Holm over the arms; in brackets the settings in which the arm was surely better / worse (95 %, uncorrected).", "",
    ]  # fmt: skip
    for title, chosen in (
        ("All settings", rows),
        ("Small transfer sets, healthy teachers", [r for r in rows if r["size"] == "small"]),
        (
            "Large transfer sets, healthy teachers",
            [r for r in rows if r["size"] == "large" and r["teacher"] == "healthy"],
        ),
        ("Large transfer sets, over-trained and smoothed teachers", [r for r in rows if r["teacher"] != "healthy"]),
    ):
        if len({row["data"] for row in chosen}) < 2:
            continue
        text += [
            f"## {title} ({len(chosen)})",
            "",
            "| arm | over no teacher | p | over kd | p |",
            "|---|---|---|---|---|",
        ]
        columns = []
        for against in (NONE, KD):
            others = [arm for arm in arms if arm != against]
            found = {arm: combined(chosen, arm, against) for arm in others}
            corrected = dict(zip(others, holm([found[arm][3] for arm in others]), strict=True))
            columns.append({
                arm: f"{m:+.2f} [{low:+.2f}, {high:+.2f}] ({'/'.join(map(str, wins(chosen, arm, against)))}) | {corrected[arm]:.2g}"
                for arm, (m, low, high, _, _) in found.items()
            })  # fmt: skip
        text += [f"| {arm} | {columns[0].get(arm, '– | –')} | {columns[1].get(arm, '– | –')} |" for arm in arms] + [""]
    names = [f"{row['data']}, {row['size']}, {row['teacher']}" for row in rows]
    text += ["## Mean test accuracy, %", "", f"| arm | {' | '.join(names)} |", "|---" * (len(rows) + 1) + "|"]
    for arm in arms:
        means = " | ".join(f"{np.mean(row['accuracy'][arm]):.2f}" for row in rows)
        text.append(f"| {arm} | {means} |")
    text += ["", "## Learning rates that were chosen", "", "| arm | median | lowest | highest |", "|---|---|---|---|"]
    for arm in arms:
        rates = [row["chosen"][arm][2] for row in rows if arm in row["chosen"]]
        text.append(f"| {arm} | {np.median(rates):.3g} | {min(rates):.3g} | {max(rates):.3g} |")
    return "\n".join(text) + "\n"


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--table", action="store_true")
    settings = parser.parse_args()
    if settings.table:
        RESULTS.with_suffix(".md").write_text(table(), encoding="utf-8")
        print(table())
    else:
        run(settings.minutes)
