"""Are the verdicts of a study calibrated, and do its intervals cover? Simulated studies, and thousands of small real ones.

    python lab/aa_studies.py verdicts --minutes 7  # A/A studies through `dissect` until the time is up; run it again to continue
    python lab/aa_studies.py train --minutes 7     # trains students for the cover of intervals; run it again to continue
    python lab/aa_studies.py table                 # writes the sections of lab/results/aa_studies.md whose students are there
    python lab/aa_studies.py simulate              # writes the section on simulated differences

A/A: `dissect` of two arms that differ in nothing but the draw of their initial weights, on fresh data in each study (150 examples
of `data.hierarchy`, oracle teacher, students 16-16-12, 40 steps, 1,000 test examples); what counts is the verdict in
`Study.effects`, in accuracy, NLL and ECE. Real: the same students for 20 epochs, all arms, on one data set, 2,000 test examples;
each seed is one replicate, consecutive seeds make studies, and the truth of an effect for a study is its mean over all seeds of the
*other* studies.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
from torch import nn

from fractionate import Objective, Recipe, Task, dissect
from fractionate.data.hierarchy import Hierarchy
from fractionate.records import Run, Training
from fractionate.study.arms import FACTORIAL, PLACES, make_arms
from fractionate.study.effects.contrasts import Contrast, judge, paired
from fractionate.study.effects.shapley import shares
from fractionate.study.jobs import JobRunner
from fractionate.study.setup import Setup
from fractionate.study.trials import Trials
from fractionate.tasks import CLASSIFICATION, infos
from fractionate.teachers import Cached

HERE = Path(__file__).parent
CACHE = HERE.parent / "runs" / "aa_studies"
TABLE = HERE / "results" / "aa_studies.md"
BLOCK, SEEDS, TRANSFER, TEST = 50, 3000, 150, 2000
CELLS = (*FACTORIAL, "kd-pt-shuffled(1)", "kd-pt-shuffled(2)")
MARGIN = 0.5
VERDICTS = CACHE / "verdicts.jsonl"
STUDIES = 600
SAME = {"no teacher": None, "kd": Objective("kd", 1.0, 0.9)}  # arms that are compared with themselves
METRICS = {metric.name: metric for metric in infos(CLASSIFICATION, margin=MARGIN)}


def student() -> nn.Module:
    return nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 12))


def again() -> nn.Module:
    """The same student with another draw of its weights."""
    student()
    return student()


def verdicts(minutes: float, studies: int = STUDIES, seeds: int = 5) -> None:
    """A/A studies through `dissect`, a line each: what was compared with itself, the study's number, verdicts by metric."""
    CACHE.mkdir(parents=True, exist_ok=True)
    lines = [json.loads(line) for line in VERDICTS.read_text().splitlines()] if VERDICTS.exists() else []
    done = {(line["arm"], line["study"]) for line in lines}
    begin, world, training = time.perf_counter(), Hierarchy(), Training(steps=40, batch_size=50, learning_rate=2e-2)
    for number in range(studies):
        if time.perf_counter() - begin > 60 * minutes:
            break
        task = Task(
            "classification", transfer=world.draw(TRANSFER, seed=10 + 2 * number),
            test=world.draw(TEST // 2, seed=11 + 2 * number), student={"student": student, "again": again},
        )  # fmt: skip
        signal = world.oracle(TRANSFER, seed=10 + 2 * number)
        for name, objective in SAME.items():
            if (name, number) in done:
                continue
            arms = {one: Recipe(one, objective=objective, training=training) for one in ("student", "again")}
            study = dissect(
                task, arms, Cached(signal), seeds=range(number * seeds, (number + 1) * seeds), baseline="student", margin=MARGIN,
                points=1, progress="off",
            )  # fmt: skip
            found = {effect.metric: effect.verdict for effect in study.effects}
            with VERDICTS.open("a") as file:
                file.write(json.dumps({"arm": name, "study": number, "seeds": seeds, "verdicts": found}) + "\n")


def false_verdicts() -> list[str]:
    """The share of A/A studies with a verdict, by metric."""
    lines = [json.loads(line) for line in VERDICTS.read_text().splitlines()]
    text = [
        "| arms | metric | studies of 5 seeds | helps | hurts | helps or hurts | equivalent | cannot tell |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for metric in ("accuracy", "nll", "ece"):
        every = [(line["arm"], line["verdicts"][metric]) for line in lines]
        for arm in (*SAME, "both"):
            own = [verdict for name, verdict in every if arm in (name, "both")]
            share = {v: own.count(v) / len(own) for v in ("helps", "hurts", "equivalent", "cannot tell")}
            text.append(
                f"| {arm} again − {arm} | {metric} | {len(own)} | {share['helps']:.1%} | {share['hurts']:.1%} | "
                f"**{share['helps'] + share['hurts']:.1%}** | {share['equivalent']:.1%} | {share['cannot tell']:.1%} |"
            )
    return text


def train(minutes: float) -> None:
    CACHE.mkdir(parents=True, exist_ok=True)
    world = Hierarchy()
    data, signal = world.draw(TRANSFER, seed=1), world.oracle(TRANSFER, seed=1)
    test, outputs = world.draw(TEST, seed=2), world.oracle(TEST, seed=2)
    training = Training(epochs=20, batch_size=30, learning_rate=1e-2)
    arms = make_arms(CELLS, (1.0,), (0.9,), (1.0,), (training.learning_rate,), base=Recipe(training=training))
    begin = time.perf_counter()
    for start in range(0, SEEDS, BLOCK):
        file = CACHE / f"{start}.json"
        if file.exists():
            continue
        if time.perf_counter() - begin > 60 * minutes:
            break
        seeds = range(start, start + BLOCK)
        task = Task("classification", transfer=data, test=test, student=student)
        setup = Setup(task, Cached(signal), {"test": Cached(outputs)}, {}, points=1)
        rows = []
        for job in Trials(setup, "stacked").jobs(arms, list(seeds)):
            for run, _ in JobRunner(setup).work(job, lambda _: None):
                rows.append([run.arm, run.seed, *(run.test.values[name] for name in METRICS)])
        file.write_text(json.dumps(rows))
        print(f"seeds {start}..{start + BLOCK - 1} after {time.perf_counter() - begin:.0f} s", flush=True)


def load() -> dict[int, list[Run]]:
    from fractionate.records import Scores

    found: dict[int, list[Run]] = {}
    for file in sorted(CACHE.glob("*.json"), key=lambda f: int(f.stem)):
        for arm, seed, *values in json.loads(file.read_text()):
            test = Scores(TEST, TEST, dict(zip(METRICS, values, strict=True)))
            found.setdefault(seed, []).append(Run(arm, seed, "completed", None, 0, 0.0, 0, test=test))
    return found


def simulated(studies: int = 4000) -> list[str]:
    """Two arms that are the same but for noise: false verdicts, and cover of a planted effect, by shape of the noise."""
    rng = np.random.default_rng(0)
    noises = {
        "normal": lambda size: rng.normal(0, 0.5, size),
        "rounded to 1 of 1,000 examples": lambda size: rng.normal(0, 0.2, size).round(1),
        "difference of skewed (log-normal)": lambda size: (
            np.exp(rng.normal(0, 0.6, size)) - np.exp(rng.normal(0, 0.6, size))
        ),
        "heavy tails (t with 3)": lambda size: 0.3 * rng.standard_t(3, size),
        "skewed itself (exponential)": lambda size: rng.exponential(0.5, size) - 0.5,
    }
    lines = [
        "| noise of the differences | seeds | false helps or hurts | planted +1 point covered |",
        "|---|---|---|---|",
    ]
    for name, noise in noises.items():
        for seeds in (3, 5, 10):
            null, planted = noise((studies, seeds)), 1.0 + noise((studies, seeds))
            grain = 0.1 if "rounded" in name else 0.0
            false = covered = 0
            for row, other in zip(null, planted, strict=True):
                pair = paired(row, margin=MARGIN, grain=grain)
                false += judge(pair.gain, pair.p_value, 1.0) != "cannot tell"
                inside = paired(other, margin=MARGIN, grain=grain).interval
                covered += inside.low <= 1.0 <= inside.high
            lines.append(f"| {name} | {seeds} | {false / studies:.1%} | {covered / studies:.1%} |")
    return lines


def real(runs: dict[int, list[Run]]) -> list[str]:
    every = sorted(runs)
    arms = [run.arm for run in runs[every[0]]]
    lines = [f"{len(every):,} seeds × {len(arms)} arms = {len(every) * len(arms):,} students."]
    lines += ["", "**Cover** of the true effect by the 95 % intervals, studies of 5 seeds.", ""]
    lines += ["| effect | metric | truth | studies | covered | sure of the wrong sign |", "|---|---|---|---|---|---|"]
    contrasts = [Contrast(a, "hard") for a in arms if a != "hard"] + [Contrast("kd-pt", "kd-pt-shuffled(1)")]
    rates: dict[str, list[float]] = {}
    for metric in METRICS:
        table = {arm: np.array([value(runs[s], arm, metric) for s in every]) for arm in arms}
        for contrast in contrasts:
            gains = table[contrast.arm] - table[contrast.against]
            inside, wrong, n = cover(gains, 5, METRICS[metric].margin)
            rates.setdefault(metric, []).append(inside)
            if metric == "accuracy":
                lines.append(
                    f"| {named(contrast.arm)} − {named(contrast.against)} | {metric} | {gains.mean():+.3f} | {n} | "
                    f"{inside:.1%} | {wrong:.2%} |"
                )
    for metric, found in rates.items():
        lines.append(
            f"| all {len(found)} effects | {metric} | | {n} | **{np.mean(found):.1%}** ({min(found):.1%} to {max(found):.1%}) | |"
        )
    lines += [
        "",
        "**Shares** of the levels, studies of 5 seeds: cover of the true share; the parts add up in every study.",
        "",
    ]
    lines += ["| method | level | truth, points | covered |", "|---|---|---|---|"]
    places = {
        p: a.name for p, c in PLACES.items() for a in make_arms(CELLS, (1.0,), (0.9,), (1.0,), (1e-2,)) if a.cell == c
    }
    studies = list(groups(every, 5))
    found_shares = [
        {(s.method, s.level): s for s in shares([r for x in g for r in runs[x]], places, metric=METRICS["accuracy"])}
        for g in studies
    ]
    for key in found_shares[0]:
        gains = np.array([f[key].gain for f in found_shares])
        truth = (gains.sum() - gains) / (len(gains) - 1)
        inside = np.mean(
            [f[key].interval.low <= t <= f[key].interval.high for f, t in zip(found_shares, truth, strict=True)]
        )
        lines.append(f"| {key[0]} | {key[1]} | {gains.mean():+.3f} | {inside:.1%} |")
    whole = [100 * (value(runs[s], "kd", "accuracy") - value(runs[s], "hard", "accuracy")) / 100 for s in every]
    for method in ("ladder", "Shapley"):
        parts = sum(float(np.mean([f[k].gain for f in found_shares])) for k in found_shares[0] if k[0] == method)
        lines.append(f"| {method} | sum (kd − hard: {np.mean(whole[: 5 * len(studies)]):+.3f}) | {parts:+.3f} | |")
    return lines


def named(arm: str) -> str:
    return arm.replace("*", "×")


def value(runs: list[Run], arm: str, metric: str) -> float:
    test = next(r.test for r in runs if r.arm == arm)
    assert test is not None
    return test.values[metric]


def groups(seeds: list[int], size: int) -> list[list[int]]:
    return [seeds[i : i + size] for i in range(0, len(seeds) - size + 1, size)]


def cover(gains: np.ndarray, size: int, margin: float) -> tuple[float, float, int]:
    studies = gains[: len(gains) // size * size].reshape(-1, size)
    inside = wrong = 0
    for row in studies:
        truth = (gains.sum() - row.sum()) / (len(gains) - size)
        interval = paired(row, margin=margin).interval
        inside += interval.low <= truth <= interval.high
        wrong += (interval.low > 0 > truth) or (interval.high < 0 < truth)
    return inside / len(studies), wrong / len(studies), len(studies)


def write(title: str, lines: list[str]) -> None:
    """Put a section into the table, in place of the one with its title."""
    head, *sections = TABLE.read_text().split("\n## ")
    text = "\n".join([title, "", *lines, ""])
    kept = [text if old.startswith(title) else old for old in sections]
    TABLE.write_text("\n## ".join([head, *kept]))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=("verdicts", "train", "table", "simulate"))
    parser.add_argument("--minutes", type=float, default=7.0)
    arguments = parser.parse_args()
    if arguments.what in ("verdicts", "train"):
        {"verdicts": verdicts, "train": train}[arguments.what](arguments.minutes)
    elif arguments.what == "simulate":
        write("Simulated differences (4,000 studies a row)", simulated())
    else:
        if VERDICTS.exists():
            write("A/A through `dissect`", false_verdicts())
        if any(CACHE.glob("*.json")):
            write("Small real studies", real(load()))


if __name__ == "__main__":
    main()
