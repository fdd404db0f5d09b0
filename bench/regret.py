"""Recipe regret: the student under our recipe, under T = 4 / 0.9, without a teacher, and under the best of a grid of 29 arms.

python bench/regret.py            # trains what is not in the cache yet, then prints and writes bench/results/regret.md
python bench/regret.py --only 12  # stop after 12 new settings (resumable)
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from bench.fleet_of_mlps import Schedule, train
from bench.teachers import CACHE, MLP, TEACHERS, parts, signal_of, teacher
from torch import Tensor, nn

from fractionate import Objective, TeacherSignal, diagnose
from fractionate.data import Examples
from fractionate.records import Recommendation

Arm = tuple[str, float, float]  # cell, temperature, teacher weight
SEEDS, T_OF_SIX = range(6), 2.571  # and the 97.5 % point of Student's t with 5 degrees of freedom
RESULT = Path(__file__).parent / "results" / "regret.md"
DEFAULT = ("kd", 4.0, 0.9)
GRID: list[Arm] = (
    [("hard", 1.0, 0.0)]
    + [("kd", t, w) for t in (1.0, 2.0, 4.0, 8.0) for w in (0.3, 0.6, 0.9, 1.0)]
    + [("kd-pt", t, w) for t in (1.0, 2.0) for w in (0.5, 0.9)]
    + [("class-mean", t, w) for t, w in ((1.0, 0.5), (1.0, 0.9), (4.0, 0.5), (4.0, 0.9))]
    + [("kd-pt+sim", 1.0, 0.9), ("kd-pt+sim", 4.0, 0.9)]
    + [("ls", 1.0, 0.5), ("ls", 1.0, 1.0)]
)
STUDENTS = {  # hidden units
    "digits": 12, "fashion": 24, "glosses": 24, "hierarchy": 24,
    "mnist1d": 32, "verbs": 16, "families": 12, "apparel": 20, "cancer": 6,
    "nouns": 20, "garments": 20,
}  # fmt: skip
SET = ("digits", "fashion", "glosses", "hierarchy")  # the rule was set on these
FIRST = ("mnist1d", "verbs", "families", "apparel", "cancer")  # judged the rule with temperatures up to 16; seen by now
FRESH = ("nouns", "garments")  # judge the rule as it is; no student was trained on them before


@dataclass(frozen=True)
class Setting:
    data: str
    teacher: str
    examples: int
    where: str  # train: inside the teacher's training set; outside: new to it; all: the very set it was trained on

    def __str__(self) -> str:
        place = {"train": "of its training", "outside": "new to it", "all": "and no others trained it"}[self.where]
        return f"{self.data}, {self.teacher} teacher, {self.examples} examples {place}"


SIZES = {
    "digits": ((200, "train"), (800, "train"), (300, "outside")),
    "cancer": ((60, "train"), (100, "outside")),
    "": ((300, "train"), (2000, "train"), (1000, "outside")),
    "judged": ((400, "train"), (1500, "outside")),
}
SETTINGS = [
    Setting(data, kind, examples, where)
    for kind in TEACHERS
    for data in STUDENTS
    for examples, where in SIZES.get(data, SIZES["" if data in SET else "judged"])
    if kind != "weak" or data in ("fashion", "hierarchy", "mnist1d", "verbs")  # all weak ones are answered alike
] + [
    Setting(data, "rote", examples, "all")  # certain of the transfer set, and knows nothing else
    for data, examples in (("digits", 100), ("digits", 300), ("fashion", 300), ("glosses", 300), ("hierarchy", 600),
                           ("mnist1d", 400), ("verbs", 400), ("families", 400), ("apparel", 400), ("cancer", 60),
                           ("nouns", 400), ("garments", 400))
]  # fmt: skip


def plan_of(setting: Setting) -> Schedule:
    batches = -(-setting.examples // 64)
    if setting.data in SET:
        return Schedule(hidden=STUDENTS[setting.data], epochs=max(40, 2000 // batches))
    return Schedule(hidden=STUDENTS[setting.data], epochs=max(20, 1000 // batches))


def run(setting: Setting, arms: list[Arm]) -> dict[str, list[float]]:
    """Test accuracy in percent of each arm and seed, from the cache where it is there."""
    plan = plan_of(setting)
    key = hashlib.sha256(json.dumps([asdict(setting), asdict(plan), len(SEEDS)]).encode()).hexdigest()[:16]
    path = CACHE / f"regret-{key}.json"
    known: dict[str, list[float]] = json.loads(path.read_text()) if path.exists() else {}
    missing = [arm for arm in arms if str(arm) not in known]
    if missing:
        data, signal, test = inputs_of(setting)
        found = train([Objective(*arm) for arm in missing], data, signal, test, SEEDS, plan)
        known |= {str(arm): found[:, i].tolist() for i, arm in enumerate(missing)}
        part = path.with_suffix(".part")
        part.write_text(json.dumps(known))
        part.rename(path)
    return {str(arm): known[str(arm)] for arm in arms}


def teacher_of(setting: Setting) -> nn.Module:
    if setting.teacher != "rote":
        return teacher(setting.data, setting.teacher)
    share = setting.examples / len(parts(setting.data).train)
    return teacher(setting.data, replace(TEACHERS["over-trained"], hidden=(256, 256), epochs=400, share=share))


def inputs_of(setting: Setting) -> tuple[Examples, TeacherSignal, Examples]:
    cut = parts(setting.data)
    model = teacher_of(setting)
    if setting.where == "all":
        data = cut.train.take(torch.arange(setting.examples))
        return data, signal_of(model, data), cut.test.take(torch.arange(min(4000, len(cut.test))))
    pool = cut.train if setting.where == "train" else cut.outside
    # the weak teacher saw the first twentieth only; take the others from the end
    data = pool.take(torch.arange(len(pool) - setting.examples, len(pool)))
    return data, signal_of(model, data), cut.test.take(torch.arange(min(4000, len(cut.test))))


def recipe_of(setting: Setting) -> Recommendation:
    """What diagnose recommends: it sees the signal, the inputs, a fresh student and the teacher on held-out data."""
    data, signal, _ = inputs_of(setting)
    torch.manual_seed(0)
    student = MLP(data.inputs.shape[1], data.classes, (STUDENTS[setting.data],))
    held_out = signal_of(teacher_of(setting), parts(setting.data).held)
    return diagnose(signal, student, data=data, held_out=held_out).recipe


@dataclass(frozen=True)
class Row:
    """One setting: test accuracy in percent over seeds of each way to train."""

    setting: Setting
    hard: Tensor
    default: Tensor
    ours: Tensor
    best: Tensor
    best_arm: Arm
    recipe: Recommendation

    @property
    def worse(self) -> bool:
        """Our recipe significantly worse than no teacher: paired over seeds, two-sided 95 %."""
        return significantly(self.hard - self.ours)


def significantly(difference: Tensor) -> bool:
    """Whether paired differences are above 0: t interval of 95 %, 6 seeds."""
    half = T_OF_SIX * float(difference.std()) / len(difference) ** 0.5
    return float(difference.mean()) > half


def row(setting: Setting) -> Row:
    recipe = recipe_of(setting)
    ours = (recipe.cell, recipe.temperature, recipe.teacher_weight) if recipe.distil else GRID[0]
    found = {arm: torch.tensor(v) for arm, v in run(setting, [*GRID, ours]).items()}
    best = max(GRID, key=lambda arm: float(found[str(arm)].mean()))
    return Row(setting, found[str(GRID[0])], found[str(DEFAULT)], found[str(ours)], found[str(best)], best, recipe)


def summary(rows: list[Row]) -> list[str]:
    ours = torch.stack([(r.ours - r.hard).mean() for r in rows])
    default = torch.stack([(r.default - r.hard).mean() for r in rows])
    best = torch.stack([(r.best - r.hard).mean() for r in rows])
    clear = best >= 0.5  # below half a point a share is noise over noise
    better, worse = int((ours > default).sum()), [str(r.setting) for r in rows if r.worse]
    harmed = sum(significantly(r.hard - r.default) for r in rows)
    return [
        f"- significantly worse than no teacher: {len(worse)} of {len(rows)} (target 0){''.join('; ' + w for w in worse)}; "
        f"T = 4 / 0.9: {harmed} of {len(rows)}",
        f"- better than T = 4 / 0.9: {better} of {len(rows)}, {better / len(rows):.0%} (target 80 %)",
        f"- gain over no teacher, mean: ours {ours.mean():.2f} points, T = 4 / 0.9 {default.mean():.2f}, best of grid "
        f"{best.mean():.2f}; share of the best of grid {ours.sum() / best.sum():.0%}, T = 4 / 0.9 "
        f"{default.sum() / best.sum():.0%} (target 85 %)",
        f"- the same share setting by setting where the best gains half a point or more, mean of {int(clear.sum())}: "
        f"ours {(ours / best)[clear].mean():.0%}, T = 4 / 0.9 {(default / best)[clear].mean():.0%}",
    ]


def table(rows: list[Row]) -> list[str]:
    lines = ["| setting | no teacher | T = 4 / 0.9 | our recipe | best of grid | recipe | best arm |",
             "|---|---|---|---|---|---|---|"]  # fmt: skip
    for r in rows:
        told = (
            f"{r.recipe.cell} {r.recipe.temperature:g} / {r.recipe.teacher_weight:g}"
            if r.recipe.distil
            else "do not distil"
        )
        best = "{} {:g} / {:g}".format(*r.best_arm)
        points = " | ".join(f"{float(v.mean()):.1f}" for v in (r.hard, r.default, r.ours, r.best))
        lines.append(f"| {r.setting} | {points} | {told} | {best} |")
    return lines


def write(rows: list[Row]) -> None:
    groups = {"Judged": FRESH, "Judged before the last change": FIRST, "Set": SET}
    text = [
        "# Recipe regret", "",
        "Made by `python bench/regret.py`. Test accuracy in percent, means over 6 seeds; students are MLPs with one "
        f"hidden layer, all arms of a seed share initial weights and batches. The grid has {len(GRID)} arms, and the best of it is "
        "chosen on the very test scores shown, so no rule can be expected to reach it.", "",
        f"The rule's constants were set on {', '.join(SET)}. The rule so set, with temperatures up to 16, was judged once on "
        f"{', '.join(FIRST)}: significantly worse than no teacher in 6 of 39, better than T = 4 / 0.9 in 74 %, 33 % of the best "
        "grid gain (certain teachers at temperatures above 10 lost up to 17 points). For that the cap was lowered to 8, which on "
        "the set half lowers the share from 96 % to 89 % and leaves its mean setting by setting at 72 %, and the rule so changed "
        f"was judged on two fresh sets: {', '.join(FRESH)}. Figures of the group between are of the present rule, which has "
        "seen it.",
    ]  # fmt: skip
    for name, data in groups.items():
        own = [r for r in rows if r.setting.data in data]
        text += ["", f"## {name}: {len(own)} settings", "", *summary(own), "", *table(own)]
    RESULT.write_text("\n".join(text) + "\n")
    print("\n".join(text))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", type=int, default=10**9)
    parser.add_argument("--data", nargs="*", default=[*SET, *FIRST, *FRESH])
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows, fresh = [], 0
    for setting in (s for s in SETTINGS if s.data in options.data):
        start = time.perf_counter()
        rows.append(row(setting))
        took = time.perf_counter() - start
        last = rows[-1]
        hard, default, ours, best = (float(v.mean()) for v in (last.hard, last.default, last.ours, last.best))
        print(f"{setting!s:70s} {hard:.2f} {default:.2f} ours {ours:.2f} best {best:.2f} ({took:.0f} s)", flush=True)
        fresh += took > 10
        if fresh >= options.only:
            return
    if len(rows) == len(SETTINGS):
        write(rows)
    else:
        print("\n".join(summary(rows)))


if __name__ == "__main__":
    main()
