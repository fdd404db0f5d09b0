"""Where distillation fails, case by case (Tang et al., arXiv 2002.03532), planted on three real data sets, with what diagnose says.

    PYTHONPATH=src:. OMP_NUM_THREADS=1 python lab/failure_cases.py [digits …]     # resumable; pages of every case under runs/
    PYTHONPATH=src:. python lab/failure_cases.py --table                          # lab/results/failure_cases.md from what is there

Teachers are those of bench/teachers.py; students are small, see part of the teacher's own training data, and are the same in every
case: each fault is compared with the healthy condition seed by seed, at one learning rate, which is not tuned.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import torch
from bench.teachers import MLP, TEACHERS, Upbringing, parts, teacher

from fractionate import Objective, Recipe, TeacherSignal, diagnose, dissect, report
from fractionate.data import Examples
from fractionate.records import Effect, Run, Study, Training
from fractionate.study.effects.contrasts import Contrast, effects

HIDDEN = {"digits": 16, "satellite": 12, "dna": 8}
TRANSFER = {"digits": 100, "satellite": 200, "dna": 150}
TRAINING = Training(steps=400, batch_size=32, learning_rate=1e-2)
SEEDS = 10
NONE = "no teacher"
RESULTS = Path(__file__).parent / "results"
RUNS = Path("runs/failure_cases")
HEALTHY = Upbringing(hidden=(256, 256), dropout=0.3)


@dataclass(frozen=True)
class Case:
    """A fault: the teacher that has it or the temperature that makes it, and the cell in which the paper sees it."""

    name: str
    about: str
    teacher: str = "healthy"
    cell: str = "kd"
    temperature: float = 1.0
    classes: int | None = None


CASES = (
    Case("over-confident teacher", "no doubt is left, so no example is rescaled", "over-trained"),
    Case("over-confident teacher, its confidences alone", "the same in kd-pt", "over-trained", "kd-pt"),
    Case("smoothed teacher", "class relations are lost", "smoothed"),
    Case("smoothed teacher, its class means alone", "the same in class-mean", "smoothed", "class-mean"),
    Case("under-trained teacher", "it knows little", "weak"),
    Case("temperature too high", "T = 20: all classes look alike", temperature=20.0),
    Case("few classes", "the same teacher on two halves of the classes", classes=2),
)


def merged(data: Examples, signal: TeacherSignal, classes: int) -> tuple[Examples, TeacherSignal]:
    """Classes joined to so many, and the teacher's probabilities with them."""
    group = torch.arange(data.classes) * classes // data.classes
    labels = group[data.labels]
    table = torch.nn.functional.one_hot(group, classes).to(signal.logits.dtype)
    logits = (signal.at(1.0).probabilities @ table).clamp_min(1e-12).log()
    names = tuple(f"group {number + 1}" for number in range(classes))
    return replace(data, labels=labels, class_names=names), TeacherSignal(logits, labels)


@dataclass(frozen=True)
class Condition:
    """A data set taught in one way: its records and what the teacher is like."""

    study: Study
    problems: tuple[str, ...]
    accuracy: float
    confidence: float


@cache
def condition(name: str, case: Case) -> Condition:
    """Students without a teacher and with the case's teacher, cell and temperature."""
    cut = parts(name)
    model = teacher(name, HEALTHY if case.teacher == "healthy" else TEACHERS[case.teacher])
    seen = [cut.train.take(torch.arange(TRANSFER[name])), cut.held, cut.test]
    with torch.no_grad():
        signals = [TeacherSignal(model(data.inputs), data.labels) for data in seen]
    pairs = list(zip(seen, signals, strict=True))
    if case.classes is not None:
        pairs = [merged(*pair, case.classes) for pair in pairs]
    (data, signal), (held, held_out), (test, judged) = pairs

    def student() -> MLP:
        return MLP(data.inputs.shape[1], data.classes, (HIDDEN[name],))

    objective = Objective(case.cell, case.temperature, 0.9)
    arms = {NONE: Recipe(training=TRAINING), "taught": Recipe(objective=objective, training=TRAINING)}
    study = dissect(
        student, data, signal, arms=arms, validation=held, test=test, seeds=SEEDS, points=1, progress="off",
        name=f"{name}, {case.name}, {case.cell}",
    )  # fmt: skip
    found = diagnose(signal, student, data=data, held_out=held_out, name=study.name)
    report([found, study], RUNS / f"{study.name}.html".replace(", ", "_").replace(" ", "-"))
    right = float((judged.logits.argmax(1) == judged.labels).float().mean())
    return Condition(study, tuple(f.name for f in found.problems), right, float(signal.confidence.mean()))


def named(study: Study, arm: str) -> list[Run]:
    return [replace(run, arm=arm) for run in study.runs if run.arm == "taught"]


def compared(healthy: Condition, faulty: Condition, case: Case) -> list[Effect]:
    """The fault against labels alone, and against the healthy condition where both have the same classes."""
    runs = [*faulty.study.runs, *named(healthy.study, "healthy")]
    contrasts = [Contrast("taught", NONE)] + ([Contrast("taught", "healthy")] if case.classes is None else [])
    return list(effects(runs, contrasts, metric=faulty.study.deciding))


def rows(name: str) -> Iterator[dict[str, object]]:
    for case in CASES:
        plain = condition(name, Case("healthy", "", cell=case.cell))
        faulty = condition(name, case)
        base = [run.test.accuracy for run in faulty.study.runs if run.arm == NONE and run.test]
        found = [plain.study.effects[0], *compared(plain, faulty, case)]
        yield {
            "case": case.name, "data": name, "teacher": round(100 * faulty.accuracy, 2),
            "confidence": round(faulty.confidence, 4), "problems": faulty.problems,
            "no_teacher": round(100 * sum(base) / len(base), 2),
            "effects": [[e.gain, e.interval.low, e.interval.high, e.verdict] for e in found],
        }  # fmt: skip


def records() -> list[dict]:
    """What has been run: a line a case and data set."""
    path = RESULTS / "failure_cases.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def table() -> str:
    found = records()
    lines = [
        "# Where distillation fails", "",
        f"Made by `PYTHONPATH=src:. python lab/failure_cases.py`: {SEEDS} seeds, points of test accuracy, paired 95 % intervals, "
        "verdicts after Holm within a line; teacher weight 0.9, T = 1 but for the high temperature; one learning rate, not tuned. "
        "*Healthy*: the same cell from a healthy teacher over no teacher. diagnose reads the teacher's outputs alone, before any "
        "student.", "",
    ]  # fmt: skip
    for case in CASES:
        lines += [
            f"## {case.name[0].upper()}{case.name[1:]}", "", f"{case.about[0].upper()}{case.about[1:]} ({case.cell}).", "",
            "| data | teacher % | its confidence | no teacher % | healthy | with the fault | fault − healthy | diagnose names |",
            "|---|---|---|---|---|---|---|---|",
        ]  # fmt: skip
        for row in (row for row in found if row["case"] == case.name):
            cells = [f"{gain:+.2f} [{low:+.2f}, {high:+.2f}] {verdict}" for gain, low, high, verdict in row["effects"]]
            cells += ["other classes"] * (3 - len(cells))
            lines.append(
                f"| {row['data']} | {row['teacher']} | {row['confidence']} | {row['no_teacher']} | {' | '.join(cells)} | "
                f"{', '.join(row['problems']) or 'nothing'} |"
            )
        lines.append("")
    return "\n".join(lines)


if __name__ == "__main__":
    torch.set_num_threads(1)
    RUNS.mkdir(parents=True, exist_ok=True)
    done = records()
    wanted = [name for name in sys.argv[1:] or HIDDEN if name in HIDDEN]
    for data in (name for name in wanted if name not in {row["data"] for row in done}):
        done += rows(data)
        text = "".join(json.dumps(row) + "\n" for row in done)
        (RESULTS / "failure_cases.jsonl").write_text(text, encoding="utf-8")
    (RESULTS / "failure_cases.md").write_text(table(), encoding="utf-8")
    print(table())
