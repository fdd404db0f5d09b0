"""Which logit method teaches best, and what does each amplify? One protocol for all of them, on handwritten digits.

    PYTHONPATH=src OMP_NUM_THREADS=1 python lab/study_logit_methods.py [folder]

A teacher MLP (256, 256) trained on 797 digits; a student MLP (24) on a transfer set of 100, the demo's pair. Every method gets
the same budget: 3 temperatures x 2 teacher weights x 5 learning rates, the best by validation accuracy (then NLL) over 3 tuning
seeds; hard labels are tuned over the learning rates. Then 10 fresh seeds, and the test data is read once, for these. Effects are
paired over seeds, 95 % intervals, corrected by Holm over the methods. What a student absorbed is its own spectrum, level by
level, less that of the student taught by labels alone. Resumable.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from fractionate import TeacherSignal, dissect, report
from fractionate.cli.demo import demo_runs
from fractionate.data import digits
from fractionate.models import find_model
from fractionate.models.names import as_parts
from fractionate.models.zoo import logit_layer
from fractionate.records import Run, Study, Training
from fractionate.run import Workflow
from fractionate.study.effects.contrasts import Contrast, effects, paired
from fractionate.theory.teacher_signal import relation_from_rows

METHODS = (
    *("cross-entropy", "reverse-kl", "jsd", "skew-forward", "skew-reverse", "total-variation", "mse-logits"),
    *("mse-centred-logits", "dkd", "nkd", "logit-standardised", "dist", "ttm", "wttm"),
)
TEMPERATURES, WEIGHTS = (1.0, 2.0, 4.0), (0.5, 0.9)
TUNING_SEEDS, SEEDS = (100, 101, 102), tuple(range(10))
RATES = (
    1e-3,
    5e-3,
    2e-2,
    6e-2,
    2e-1,
)  # a method may owe its result to the size of its gradient: let each have the rate it likes
TRAINING = Training(steps=400, batch_size=32)
RESULTS = Path(__file__).parent / "results"
LEVELS = ("universe", "domain.confidence", "domain.shape", "instance.confidence", "instance.shape")


def pair(out: Path):
    """Teacher's signal on the transfer, validation and test part, and the student's factory."""
    run = demo_runs(out)[0]
    teacher = Workflow(run).teacher.eval()
    sizes = {name: getattr(run.data, name) for name in ("transfer", "validation", "test", "seed")}
    parts = as_parts(digits(), "digits", **sizes)

    def signal(examples) -> TeacherSignal:
        with torch.no_grad():
            logits = teacher(examples.inputs)
        rows = logit_layer(teacher)
        assert rows is not None
        return TeacherSignal(logits, examples.labels, relation_from_rows(rows))

    build = find_model("mlp(24)")
    shape, classes = tuple(parts.transfer.inputs.shape[1:]), parts.transfer.classes

    def student() -> nn.Module:
        return build(shape, classes)

    return parts, signal, student


def choose(studies: dict[float, Study], *, hard: bool = False) -> tuple[float, str]:
    """Learning rate and arm of the best mean validation accuracy, the lower NLL among equals; one rule for every method."""
    scores: dict[tuple[float, str], list[tuple[float, float]]] = {}
    for rate, study in studies.items():
        for run in study.runs:
            if (run.arm == "hard") == hard and run.validation is not None:
                scores.setdefault((rate, run.arm), []).append((run.validation.accuracy, -run.validation.nll_nats))
    return max(scores, key=lambda arm: tuple(sum(column) / len(column) for column in zip(*scores[arm], strict=True)))


def settings(arm: str) -> tuple[float, float]:
    """Temperature and teacher weight of an arm's name, `kd T=4 w=0.9`."""
    values = dict(word.split("=") for word in arm.split()[1:])
    return float(values["T"]), float(values["w"])


def main(folder: str = "runs/logit_methods") -> None:
    torch.set_num_threads(1)
    out = Path(folder)
    parts, signal, student = pair(out / "pair")
    signals = [signal(p) for p in (parts.transfer, parts.validation, parts.test)]
    common = {"cells": ("hard", "kd"), "validation": parts.validation, "progress": "off", "points": 1}
    runs: list[Run] = []
    chosen: dict[str, tuple[float, float, float]] = {}
    for method in METHODS:
        tuned = {
            rate: dissect(
                student, parts.transfer, signals[0], divergence=method, temperatures=TEMPERATURES, teacher_weights=WEIGHTS,
                seeds=TUNING_SEEDS, validation_signal=signals[1], training=replace(TRAINING, learning_rate=rate),
                out=out / "tuning" / method / f"{rate:g}", **common,
            )
            for rate in RATES
        }  # fmt: skip
        rate, arm = choose(tuned)
        hard_rate, _ = choose(tuned, hard=True)
        temperature, weight = settings(arm)
        chosen[method] = (temperature, weight, rate)
        for own_rate in dict.fromkeys((rate, hard_rate)):
            study = dissect(
                student, parts.transfer, signals[0], divergence=method, temperatures=(temperature,), teacher_weights=(weight,),
                seeds=SEEDS, validation_signal=signals[1], test=parts.test, test_signal=signals[2],
                training=replace(TRAINING, learning_rate=own_rate), out=out / "final" / method / f"{own_rate:g}", **common,
            )  # fmt: skip
            runs += [replace(run, arm=method) for run in study.runs if run.arm != "hard" and own_rate == rate]
            if own_rate == hard_rate and not any(run.arm == "hard" for run in runs):
                runs += [run for run in study.runs if run.arm == "hard"]
                print(f"hard: learning rate {hard_rate:g}")
        print(f"{method}: T = {temperature:g}, w = {weight:g}, learning rate {rate:g}", flush=True)
    against = {base: [Contrast(m, base) for m in METHODS if m != base] for base in ("hard", "cross-entropy")}
    found = [
        effect
        for contrasts in against.values()
        for metric in study.metrics
        for effect in effects(runs, contrasts, metric=metric)
    ]
    whole = replace(
        study, name="logit methods on digits", arms=("hard", *METHODS), runs=tuple(runs), effects=tuple(found), shares=(),
        notes=("each method tuned on validation data: 3 temperatures, 2 weights, 5 learning rates, 3 seeds",),
    )  # fmt: skip
    whole.save(out / "study.json")
    text = summary(whole, chosen)
    RESULTS.mkdir(exist_ok=True)
    page = report(whole, RESULTS / "study_logit_methods.html")
    (RESULTS / "study_logit_methods.md").write_text(text, encoding="utf-8")
    print(text, f"\n{page}")


def by_seed(runs: tuple[Run, ...], read: Callable[[Run], float]) -> dict[str, dict[int, float]]:
    table: dict[str, dict[int, float]] = {}
    for run in runs:
        table.setdefault(run.arm, {})[run.seed] = read(run)
    return table


def summary(study: Study, chosen: dict[str, tuple[float, float, float]]) -> str:
    """Markdown: effects against hard labels and against plain KD, and what each method's students absorbed."""

    def cell(method: str, against: str, metric: str, digits: int = 2) -> str:
        for e in study.effects:
            if (e.arm, e.against, e.metric) == (method, against, metric):
                return f"{e.gain:+.{digits}f} [{e.interval.low:+.{digits}f}, {e.interval.high:+.{digits}f}] {e.verdict}"
        return "–"

    lines = [
        "# Logit methods under one protocol",
        "",
        "`PYTHONPATH=src OMP_NUM_THREADS=1 python lab/study_logit_methods.py`",
        "",
        *(__doc__ or "").strip().splitlines()[4:],
        "",
        f"Margin of equivalence: {study.deciding.margin:g} points of accuracy. Plain KD is the row `cross-entropy`.",
        "",
        "| method | T, w, rate | accuracy against hard labels (points) | against plain KD | NLL against plain KD (nats) |",
        "| --- | --- | --- | --- | --- |",
    ]
    for method, (temperature, weight, rate) in chosen.items():
        cells = (
            cell(method, "hard", "accuracy"),
            cell(method, "cross-entropy", "accuracy"),
            cell(method, "cross-entropy", "nll", 3),
        )
        lines.append(f"| {method} | {temperature:g}, {weight:g}, {rate:g} | " + " | ".join(cells) + " |")
    lines += [
        "",
        "What the students absorbed, in nats an example at temperature 1, less the student of hard labels (paired over seeds):",
        "",
        "| method | " + " | ".join(LEVELS) + " |",
        "| --- |" + " --- |" * len(LEVELS),
    ]
    tables = {
        level: by_seed(study.runs, lambda r, level=level: r.student_spectrum.nats[level] if r.student_spectrum else 0.0)
        for level in LEVELS
    }
    for method in chosen:
        row = []
        for level in LEVELS:
            mine, hard = tables[level][method], tables[level]["hard"]
            found = paired([mine[s] - hard[s] for s in sorted(mine.keys() & hard.keys())], margin=0.01)
            row.append(f"{found.gain:+.3f} [{found.interval.low:+.3f}, {found.interval.high:+.3f}]")
        lines.append(f"| {method} | " + " | ".join(row) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main(*sys.argv[1:2])
