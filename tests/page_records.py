"""Records of real trainings on scikit-learn digits, for the tests of the page and for trying it by hand.

`python -m tests.page_records FOLDER` writes a larger set (five seeds, longer training) as JSON files. Effects and shares are
worked out in the simplest way here; the real ones come from `dissect`.
"""

from __future__ import annotations

import math
import sys
import time
from functools import cache
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from scipy import stats
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional

from fractionate import Objective, TeacherSignal, rescaling, spectrum
from fractionate.data.examples import Examples
from fractionate.diagnosis import diagnose
from fractionate.records import (
    LEVEL_NAMES,
    Diagnosis,
    Effect,
    Histogram,
    Interval,
    Matrix,
    Point,
    Run,
    Scores,
    Share,
    Study,
    Verdict,
)
from fractionate.tasks import CLASSIFICATION, infos
from fractionate.theory.cells import PLACEBOS
from fractionate.theory.teacher_signal import relation_from_rows

METRICS = infos(CLASSIFICATION)
ARMS = ("hard", "ls", "class-mean", "kd-sim", "kd-pt", "kd-pt+sim", "kd-topk(3)", "kd", "kd-pt-shuffled", "kd-shuffled")
LADDER = ("hard", "ls", "class-mean", "kd")
COMMAND = "fractionate demo --out digits-report"


def network(*widths: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


@cache
def digits() -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    data = load_digits()
    order = torch.from_numpy(np.random.default_rng(0).permutation(len(data.target)))
    x = torch.tensor(data.data, dtype=torch.float32)[order] / 16
    y = torch.tensor(data.target)[order]
    return x[:1000], y[:1000], x[1000:1200], y[1000:1200], x[1200:], y[1200:]


def train(model, x, loss_of, steps, seed, learning_rate=3e-3):
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, foreach=True)
    generator = torch.Generator().manual_seed(seed)
    for step in range(1, steps + 1):
        index = torch.randint(len(x), (64,), generator=generator)
        loss = loss_of(model(x[index]), index).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        yield step, float(loss.detach())


def scores(logits: Tensor, labels: Tensor, teacher: Tensor | None = None) -> Scores:
    top, guess = logits.softmax(1).max(1)
    right = (guess == labels).double()
    ece = 0.0
    for low in np.arange(0, 1, 0.1):
        inside = (top > low) & (top <= low + 0.1)
        if inside.any():
            ece += float(inside.double().mean() * (right[inside].mean() - top[inside].double().mean()).abs())
    nll = float(functional.cross_entropy(logits, labels))
    values = {"accuracy": 100 * float(right.mean()), "nll": nll, "ece": 100 * ece}
    if teacher is not None:
        values["agreement"] = 100 * float((guess == teacher.argmax(1)).double().mean())
    return Scores(len(labels), len(labels), values)


def histogram(name: str, values: Tensor, low: float, high: float, bins: int = 24) -> Histogram:
    counts, edges = np.histogram(values.double().clamp(low, high).numpy(), bins=bins, range=(low, high))
    return Histogram(name, tuple(edges.tolist()), tuple(counts.tolist()), float(values.mean()), float(values.std()))


def relation(signal: TeacherSignal, temperature: float) -> Matrix:
    means = signal.at(temperature).stats.class_mean.double().clone().fill_diagonal_(0)
    return tuple(map(tuple, (means / means.sum(1, keepdim=True)).tolist()))


def effect(runs: dict[tuple[str, int], Run], arm: str, against: str, metric: str, seeds: int) -> Effect:
    def value(which: str, seed: int) -> float:
        found = runs[which, seed].test
        assert found
        return found.values[metric]

    gains = np.array([value(arm, seed) - value(against, seed) for seed in range(seeds)])
    mean, error = float(gains.mean()), float(gains.std(ddof=1) / math.sqrt(seeds)) or 1e-9
    half = float(stats.t.ppf(0.975, seeds - 1)) * error
    p = min(1.0, 2 * float(stats.t.sf(abs(mean) / error, seeds - 1)))
    margin = 0.5 if metric == "accuracy" else 0.02
    verdict: Verdict = "cannot tell"
    if abs(mean) > half:
        verdict = "helps" if (mean > 0) == (metric == "accuracy") else "hurts"
    if abs(mean) + half < margin:
        verdict = "equivalent"
    settle = None if verdict != "cannot tell" else max(seeds + 1, math.ceil(seeds * (half / (abs(mean) + 0.1)) ** 2))
    interval = Interval(mean - half, mean + half)
    return Effect(arm, against, metric, mean, interval, p, min(1.0, 9 * p), seeds, verdict, arm in PLACEBOS, settle)


def shares(runs: dict[tuple[str, int], Run], seeds: int) -> tuple[Share, ...]:
    steps = ("hard", "ls", "kd-sim", "class-mean", "kd-pt+sim", "kd")
    gains = [effect(runs, after, before, "accuracy", seeds) for before, after in pairwise(steps)]
    total = sum(step.gain for step in gains)
    found = []
    for level, step in zip(LEVEL_NAMES, gains, strict=True):
        found.append(Share(level, "ladder", step.gain, step.interval))
        even, half = 0.7 * step.gain + 0.06 * total, 0.3 * (step.interval.high - step.interval.low)
        found.append(Share(level, "Shapley", even, Interval(even - half, even + half)))
    return tuple(found)


def one_run(arm: str, seed: int, steps: int, signal: TeacherSignal, teacher_test: Tensor) -> Run:
    x_all, y_all, x, y, x_test, y_test = digits()
    torch.manual_seed(seed)
    student = network(64, 16, 10)
    objective = None if arm == "hard" else Objective(arm, 1.0, 0.9)
    began, history = time.perf_counter(), []

    def loss_of(z: Tensor, index: Tensor) -> Tensor:
        if objective is None:
            return functional.cross_entropy(z, y[index], reduction="none")
        return objective(z, signal.take(index))

    for step, loss in train(student, x, loss_of, steps, seed):
        if step % max(1, steps // 12) == 0:
            with torch.no_grad():
                history.append(Point(step, loss, scores(student(x_all[:200]), y_all[:200])))
    with torch.no_grad():
        logits = student(x)
        test = scores(student(x_test), y_test, teacher_test)
    own = TeacherSignal(logits, y)
    return Run(
        arm=arm,
        seed=seed,
        status="completed",
        contract=objective.describe() if objective else None,
        steps=steps,
        wall_seconds=time.perf_counter() - began,
        parameters=sum(p.numel() for p in student.parameters()),
        validation=history[-1].validation,
        test=test,
        history=tuple(history),
        student_relation=relation(own, 2.0),
        student_spectrum=spectrum(own, 1.0),
        rescaling=histogram("rescaling", rescaling(logits, signal, objective), -1, 3) if objective else None,
        settings={"steps": steps, "batch_size": 64, "learning_rate": 3e-3, "optimizer": "adamw"},
        versions={"torch": torch.__version__.split("+")[0], "fractionate": "0.1.0"},
        metrics=METRICS,
    )


def digits_records(steps: int = 60, seeds: int = 2, teacher_steps: int = 400) -> tuple[Diagnosis, Diagnosis, Study]:
    """A healthy teacher, one trained with strong label smoothing, and a study of the healthy one."""
    torch.set_num_threads(1)
    x_all, y_all, x, y, x_test, _ = digits()
    signals, test_logits = [], []
    for smoothing in (0.0, 0.4):
        torch.manual_seed(7)
        teacher = network(64, 128, 128, 10)

        def loss_of(z: Tensor, index: Tensor, smoothing: float = smoothing) -> Tensor:
            return functional.cross_entropy(z, y_all[index], reduction="none", label_smoothing=smoothing)

        for _ in train(teacher, x_all, loss_of, teacher_steps, 7, 1e-3):
            pass
        with torch.no_grad():
            signals.append(TeacherSignal(teacher(x), y, relation_from_rows(teacher[-1].weight)))
            test_logits.append(teacher(x_test))
    runs: dict[tuple[str, int], Run] = {}
    for arm in ARMS:
        for seed in range(seeds):
            runs[arm, seed] = one_run(arm, seed, steps, signals[0], test_logits[0])
    study = Study(
        name="digits, 200 examples",
        metrics=METRICS,
        baseline="hard",
        arms=ARMS,
        seeds=tuple(range(seeds)),
        runs=tuple(runs.values()),
        effects=tuple(effect(runs, arm, "hard", metric, seeds) for metric in ("accuracy", "nll") for arm in ARMS[1:])
        + tuple(effect(runs, after, before, "accuracy", seeds) for before, after in list(pairwise(LADDER))[1:]),
        shares=shares(runs, seeds),
        notes=("Test data was read once, after all runs had ended.",),
        data={"name": "scikit-learn digits", "transfer": 200, "validation": 200, "test": len(x_test), "classes": 10},
        settings={"temperature": 1.0, "teacher_weight": 0.9, "steps": steps, "command": COMMAND},
        wall_seconds=sum(run.wall_seconds for run in runs.values()),
    )
    torch.manual_seed(0)
    names = tuple(map(str, range(10)))
    data = Examples(x, y, class_names=names, name="scikit-learn digits")
    healthy, smoothed = (
        diagnose(signal, network(64, 16, 10), name=f"{name} teacher", data=data)
        for name, signal in zip(("healthy", "smoothed"), signals, strict=True)
    )
    return healthy, smoothed, study


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for name, record in zip(("healthy", "smoothed", "study"), digits_records(300, 5, 1500), strict=True):
        record.save(folder / f"{name}.json")
