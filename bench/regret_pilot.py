"""Recipe regret with a pilot: the rule, the rule refined by a pilot, T = 4 / 0.9, no teacher, and the best of a grid of 29 arms.

    python bench/regret_pilot.py            # goes on where it was stopped; writes bench/results/regret_pilot.md
    python bench/regret_pilot.py --only 12  # the first 12 settings of each group

Judged on data, teachers and students that set nothing; which, and in a random order, was written down before any of them was run,
so that any first part of the list is a fair sample of it.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from bench import regret
from bench.fleet_of_mlps import Schedule, train
from bench.regret import DEFAULT, GRID, SEEDS, Arm, Setting, significantly
from bench.teachers import CACHE, MLP, TEACHERS, Upbringing, parts, signal_of, teacher
from torch import Tensor, nn

from fractionate import Objective, TeacherSignal, diagnose
from fractionate.data import Examples
from fractionate.records import Diagnosis, Recommendation, Training
from fractionate.study import PilotPlan

RESULT = Path(__file__).parent / "results" / "regret_pilot.md"
FRESH_STUDENTS = {"letters": 32, "satellite": 12, "dna": 8, "spam": 6, "wardrobe": 20, "speech": 12}
FRESH_SIZES = {  # examples of the teacher's training, and examples new to it
    "letters": (600, 2000), "satellite": (300, 1000), "dna": (200, 600), "spam": (200, 800), "wardrobe": (300, 1200),
    "speech": (300, 1200),
}  # fmt: skip
FRESH_TEACHERS = {
    "healthy": Upbringing(hidden=(256, 256), epochs=30, dropout=0.3),
    "over-trained": Upbringing(hidden=(384,), epochs=150, dropout=0.0, decay=0.0, best=False),
    "smoothed": Upbringing(hidden=(256, 256), epochs=30, smoothing=0.1, best=False),
}
FRESH = [
    Setting(data, kind, FRESH_SIZES[data][i], where)
    for data in FRESH_STUDENTS
    for kind in FRESH_TEACHERS
    for i, where in enumerate(("train", "outside"))
] + [Setting(data, "rote", FRESH_SIZES[data][0], "all") for data in FRESH_STUDENTS]
SEEN = [s for s in regret.SETTINGS if s.teacher != "weak"]
random.Random(0).shuffle(FRESH)
random.Random(0).shuffle(SEEN)
FIRST = 28  # of FRESH were judged with a pilot that decides at 80 %; with what they showed 70 % was taken, the others judge that
TRAINING_SEED = 100  # of the pilot's students; those that are scored on test data have 0 to 5


def teacher_of(setting: Setting) -> nn.Module:
    if setting.data not in FRESH_STUDENTS:
        return regret.teacher_of(setting)
    if setting.teacher != "rote":
        return teacher(setting.data, FRESH_TEACHERS[setting.teacher])
    share = setting.examples / len(parts(setting.data).train)
    return teacher(setting.data, replace(TEACHERS["over-trained"], hidden=(256, 256), epochs=300, share=share))


def plan_of(setting: Setting) -> Schedule:
    if setting.data not in FRESH_STUDENTS:
        return regret.plan_of(setting)
    return Schedule(hidden=FRESH_STUDENTS[setting.data], epochs=max(30, 1500 // -(-setting.examples // 64)))


def inputs_of(setting: Setting) -> tuple[Examples, TeacherSignal, Examples]:
    if setting.data not in FRESH_STUDENTS:
        return regret.inputs_of(setting)
    cut, model = parts(setting.data), teacher_of(setting)
    pool = cut.outside if setting.where == "outside" else cut.train
    first = 0 if setting.where == "all" else len(pool) - setting.examples
    data = pool.take(torch.arange(first, first + setting.examples))
    return data, signal_of(model, data), cut.test


def run(setting: Setting, arms: list[Arm]) -> dict[str, list[float]]:
    """Test accuracy in percent of each arm and seed, from the cache where it is there."""
    if setting.data not in FRESH_STUDENTS:
        return regret.run(setting, arms)
    path = _kept("fresh", setting)
    known: dict[str, list[float]] = json.loads(path.read_text()) if path.exists() else {}
    missing = [arm for arm in arms if str(arm) not in known]
    if missing:
        data, signal, test = inputs_of(setting)
        found = train([Objective(*arm) for arm in missing], data, signal, test, SEEDS, plan_of(setting))
        known |= {str(arm): found[:, i].tolist() for i, arm in enumerate(missing)}
        path.write_text(json.dumps(known))
    return {str(arm): known[str(arm)] for arm in arms}


def _kept(kind: str, setting: Setting, *more: object) -> Path:
    key = json.dumps([asdict(setting), asdict(plan_of(setting)), len(SEEDS), *map(str, more)])
    return CACHE / f"{kind}-{hashlib.sha256(key.encode()).hexdigest()[:16]}.json"


def diagnosed(setting: Setting, share: float | None, coverage: float) -> Diagnosis:
    """What diagnose says, with a pilot at this share of the steps and deciding at this coverage, or without (share None)."""
    path = _kept("piloted", setting, share, *([] if coverage == 0.8 else [coverage]))
    if path.exists() and share is not None:
        return Diagnosis.load(path)
    data, signal, _ = inputs_of(setting)
    held, plan = parts(setting.data).held, plan_of(setting)
    training = Training(epochs=plan.epochs, batch_size=plan.batch, learning_rate=plan.rate)
    pilot = None
    if share is not None:
        pilot = PilotPlan(
            20.0, held, training, share=share, first_seed=TRAINING_SEED, coverage=coverage, progress="off",
            out=_kept("answers", setting, share).with_suffix(""),
        )  # fmt: skip
    torch.manual_seed(0)
    found = diagnose(
        signal, lambda: MLP(data.inputs.shape[1], data.classes, (plan.hidden,)), data=data, pilot=pilot,
        held_out=signal_of(teacher_of(setting), held),
    )  # fmt: skip
    if share is not None:
        found.save(path)
    return found


def arm_of(recipe: Recommendation) -> Arm:
    return (recipe.cell, recipe.temperature, recipe.teacher_weight) if recipe.distil else GRID[0]


@dataclass(frozen=True)
class Row:
    """One setting: test accuracy in percent over seeds of each way to train."""

    setting: Setting
    ways: dict[str, Tensor]  # no teacher, T = 4 / 0.9, rule, pilot, best of grid
    rule: Arm
    piloted: Arm
    best: Arm
    diagnosis: Diagnosis

    def gain(self, way: str) -> float:
        return float((self.ways[way] - self.ways["none"]).mean())

    @property
    def covered(self) -> bool | None:
        """Whether the pilot's interval holds the gain on test data of the arm it chose, whether it advised it or not."""
        pilot = self.diagnosis.pilot
        if pilot is None:
            return None
        return pilot.interval.low <= self.gain("chosen") <= pilot.interval.high


def row(setting: Setting, share: float, coverage: float) -> Row:
    rule = arm_of(diagnosed(setting, None, coverage).recipe)
    found = diagnosed(setting, share, coverage)
    piloted = arm_of(found.recipe)
    chosen = piloted
    if found.pilot is not None:
        chosen = next(
            (t.cell, t.temperature, t.teacher_weight) for t in found.pilot.trials if t.arm == found.pilot.chosen
        )
    got = {arm: torch.tensor(v) for arm, v in run(setting, list(dict.fromkeys([*GRID, rule, piloted, chosen]))).items()}
    best = max(GRID, key=lambda arm: float(got[str(arm)].mean()))
    arms = {"none": GRID[0], "default": DEFAULT, "rule": rule, "pilot": piloted, "chosen": chosen, "best": best}
    return Row(setting, {name: got[str(arm)] for name, arm in arms.items()}, rule, piloted, best, found)


def summary(rows: list[Row]) -> list[str]:
    lines = [
        "| | significantly worse than no teacher | better than T = 4 / 0.9 | at least as good | mean gain, points | "
        "share of the best | mean of the shares |", "|---|---|---|---|---|---|---|", "| target | 0 | 80 % | | | 85 % | |",
    ]  # fmt: skip
    best, clear = sum(r.gain("best") for r in rows), [r for r in rows if r.gain("best") >= 0.5]
    for way, name in (
        ("default", "T = 4 / 0.9"),
        ("rule", "rule"),
        ("pilot", "rule + pilot"),
        ("best", "best of grid"),
    ):
        worse = [r for r in rows if significantly(r.ways["none"] - r.ways[way])]
        better = sum(r.gain(way) > r.gain("default") for r in rows) / len(rows)
        equal = sum(r.gain(way) >= r.gain("default") for r in rows) / len(rows)
        shares = sum(r.gain(way) / r.gain("best") for r in clear) / max(1, len(clear))
        lines.append(
            f"| {name} | {len(worse)} of {len(rows)} | {better:.0%} | {equal:.0%} | "
            f"{sum(r.gain(way) for r in rows) / len(rows):.2f} | {sum(r.gain(way) for r in rows) / best:.0%} | {shares:.0%} |"
        )
    piloted = [r for r in rows if r.covered is not None]
    held = sum(bool(r.covered) for r in piloted)
    worse = [f"{r.setting} ({r.gain('pilot'):+.2f})" for r in rows if significantly(r.ways["none"] - r.ways["pilot"])]
    students = sum(r.diagnosis.pilot.students for r in piloted if r.diagnosis.pilot) / max(1, len(piloted))
    wall = sum(r.diagnosis.pilot.wall_seconds for r in piloted if r.diagnosis.pilot) / max(1, len(piloted))
    return [
        *lines, "",
        f"- rule + pilot significantly worse than no teacher: {'; '.join(worse) or 'nowhere'}.",
        f"- *do not distil*: rule {sum(r.rule == GRID[0] for r in rows)}, "
        f"rule + pilot {sum(r.piloted == GRID[0] for r in rows)}; "
        f"right (nothing in the grid gains half a point) in {sum(r.gain('best') < 0.5 for r in rows)}.",
        f"- the pilot's 95 % interval (fresh seeds, validation data) holds the gain on test data in {held} of {len(piloted)}.",
        f"- a pilot: {students:.0f} students, "
        + (f"{wall:.0f} s on one thread of a shared machine, on average." if wall > 5 else "answers kept from an earlier part."),
    ]  # fmt: skip


def table(rows: list[Row]) -> list[str]:
    lines = ["| setting | no teacher | T = 4 / 0.9 | rule | rule + pilot | best of grid | rule said | pilot said | best arm |",
             "|---|---|---|---|---|---|---|---|---|"]  # fmt: skip
    for r in rows:
        points = " | ".join(f"{float(r.ways[w].mean()):.1f}" for w in ("none", "default", "rule", "pilot", "best"))
        told = " | ".join(
            "do not distil" if a == GRID[0] else f"{a[0]} {a[1]:g} / {a[2]:g}" for a in (r.rule, r.piloted, r.best)
        )
        lines.append(f"| {r.setting} | {points} | {told} |")
    return lines


def write(groups: dict[str, list[Row]], share: float) -> None:
    text = [
        "# Recipe regret with a pilot", "",
        f"Made by `python bench/regret_pilot.py{'' if share == 1 else f' --share {share:g}'}`. Test accuracy in percent, means "
        "over 6 seeds; students are MLPs with one hidden layer, all arms of a seed share initial weights and batches. The grid has "
        f"{len(GRID)} arms, and the best of it is chosen on the very test scores shown, so nothing can be expected to reach it. "
        "The pilot chooses on validation data (400 to 2,000 examples; fewer for digits and cancer), with other seeds, and never "
        f"sees the test data. Its students get {share:.0%} of the steps. *Share of the best*: mean gain over the mean gain of "
        "the best arm. *Mean of the shares*: setting by setting, where the best gains half a point or more.", "",
        "*Judged*: data, teachers and students that set nothing (letters, satellite images, DNA of mlbench; spam of kernlab; the "
        "test images of Fashion-MNIST; parts of speech of WordNet glosses), written down and put in a random order before any of "
        f"them was run. The first {FIRST} judged a pilot that decides at 80 % coverage. What they showed made it 70 %, so that "
        f"they no longer judge it; the other {len(FRESH) - FIRST} do, run once. *Seen*: settings of the earlier bench, some of "
        "which chose the number of rounds.",
    ]  # fmt: skip
    for name, rows in groups.items():
        if rows:
            text += ["", f"## {name}: {len(rows)} settings", "", *summary(rows), "", *table(rows)]
    path = RESULT if share == 1 else RESULT.with_stem(f"regret_pilot_{share:g}")
    path.write_text("\n".join(text) + "\n")
    print("\n".join(text))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", type=int, default=10**9)
    parser.add_argument("--seen", type=int, default=16)
    parser.add_argument("--share", type=float, default=1.0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    parts_of = {
        "Judged: decided at 70 %, the last of the order": (FRESH[FIRST:], 0.7),
        "The same at 80 %, as before": (FRESH[FIRST:], 0.8),
        "Judged earlier: decided at 80 %, the first of the order": (FRESH[:FIRST], 0.8),
        "Those again at 70 %, which they helped to choose": (FRESH[:FIRST], 0.7),
        "Seen": (SEEN[: options.seen], 0.7),
    }
    groups: dict[str, list[Row]] = {name: [] for name in parts_of}
    for name, (settings, coverage) in parts_of.items():
        for setting in settings[: options.only]:
            start = time.perf_counter()
            groups[name].append(row(setting, options.share, coverage))
            last = groups[name][-1]
            told = " ".join(f"{way} {float(v.mean()):.2f}" for way, v in last.ways.items())
            print(f"{setting!s:66s} {told} ({time.perf_counter() - start:.0f} s)", flush=True)
    write(groups, options.share)


if __name__ == "__main__":
    main()
