"""Recipe regret: the student under our recipe, under T = 4 / 0.9, without a teacher, and under the best of a grid of 29 arms.

python bench/regret.py            # trains what is not in the cache yet, then prints and writes bench/results/regret.md
python bench/regret.py --only 12  # stop after 12 new settings (resumable)
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from dataclasses import asdict, dataclass

import torch
from bench.fleet_of_mlps import Schedule, train
from bench.teachers import CACHE, TEACHERS, parts, signal_of, teacher

from fractionate.objective import Objective

SEEDS = range(6)
DEFAULT = ("kd", 4.0, 0.9)
GRID = (
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
}  # fmt: skip
SET = ("digits", "fashion", "glosses", "hierarchy")  # the rule was set on these
JUDGED = (
    "mnist1d",
    "verbs",
    "families",
    "apparel",
    "cancer",
)  # and judged on these, chosen before a student was trained on them


@dataclass(frozen=True)
class Setting:
    data: str
    teacher: str
    examples: int
    where: str  # train: inside the teacher's training set; outside: never seen by it

    def __str__(self) -> str:
        place = "of its training" if self.where == "train" else "new to it"
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
]


def plan_of(setting: Setting) -> Schedule:
    batches = -(-setting.examples // 64)
    if setting.data in SET:
        return Schedule(hidden=STUDENTS[setting.data], epochs=max(40, 2000 // batches))
    return Schedule(hidden=STUDENTS[setting.data], epochs=max(20, 1000 // batches))


def run(setting: Setting, arms: list[tuple[str, float, float]]) -> dict[str, list[float]]:
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


def inputs_of(setting: Setting):
    cut = parts(setting.data)
    model = teacher(setting.data, setting.teacher)
    pool = cut.train if setting.where == "train" else cut.outside
    # the weak teacher saw the first twentieth only; take the others from the end
    data = pool.take(torch.arange(len(pool) - setting.examples, len(pool)))
    return data, signal_of(model, data), cut.test.take(torch.arange(min(4000, len(cut.test))))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", type=int, default=10**9)
    parser.add_argument("--data", nargs="*", default=[*SET, *JUDGED])
    options = parser.parse_args()
    torch.set_num_threads(1)
    fresh = 0
    for setting in (s for s in SETTINGS if s.data in options.data):
        start = time.perf_counter()
        found = run(setting, GRID)
        took = time.perf_counter() - start
        means = {arm: sum(v) / len(v) for arm, v in found.items()}
        best = max(means, key=means.get)
        print(f"{setting!s:70s} hard {means[str(GRID[0])]:.2f} default {means[str(DEFAULT)]:.2f} ", end="")
        print(f"best {best} {means[best]:.2f} ({took:.0f} s)", flush=True)
        fresh += took > 2
        if fresh >= options.only:
            break


if __name__ == "__main__":
    main()
