"""Recipe regret: the untried rule, the rule refined by a pilot, T = 4 / 0.9 and no teacher, against the best of 8 arms.

    python bench/regret_pilot.py --minutes 5   # resumes where it was stopped; one line a setting in results/regret_pilot.jsonl
    python bench/regret_pilot.py --table       # writes results/regret_pilot.md from the lines that are there
    python bench/regret_pilot.py --again       # after a change of the pilot or the rule: those two anew, the arms' scores kept
    python bench/regret_pilot.py --again --budget 50  # that of larger students, which may cost 50 (28) trainings; other files
    python bench/regret_pilot.py --later       # 35 settings on data that the pilot's last change had not seen; another file
    python bench/regret_pilot.py --seen        # 18 settings on data of the earlier bench, for the predicted gain; another file
    python bench/regret_pilot.py --halves      # the best arm chosen on half of the test examples, judged on the others
    python bench/regret_pilot.py --weak        # 19 settings with teachers that know next to nothing, for the same; no pilots

Written down on 2026-11-30 before the first run, and not changed since:

* Judged on data that set nothing: shuttle, vowel, vehicle (mlbench), income (kernlab), waveform (Breiman's generator), coats (the
  last 10,000 training images of Fashion-MNIST, 14 × 14), headwords (part of speech by a word's letters). Teachers: healthy,
  over-trained, smoothed, each on examples of its training and on new ones, and one that learned the transfer set by rote: 49
  settings in a random order, so that any first part of the list is a fair sample.
* The 8 arms: no teacher; kd at T/w 1/0.6, 1/1, 2/0.9, 4/0.6, 4/0.9, 8/0.9; kd-pt+sim at 4/0.9. Each is trained at 1/3, 1, 3 and 9
  times the learning rate 5e-3 (the run file's; at 27 times too since the second judging, since pilots go there) on 5 seeds, and
  judged on test data at the rate that validation data chose. The best of the 8 is chosen on the very test scores shown.
* The rule and the given T = 4 / 0.9 are judged at the rate given, against no teacher at the rate given. The pilot, T = 4 / 0.9 at
  its best rate and the best arm are judged against no teacher at its best rate. The pilot has seeds of its own.
* Later: the default where nothing is shown became T = 4 / 0.6 after the first 49 settings had been judged, chosen on other data
  (lab/pilot_rules.py) but with these known. So it is judged once on five more sets, named before the first run: bags (topics of
  glosses by hashed counts), mnist1d, nouns (topics of nouns), threenorm, ringnorm (Breiman's generators); same teachers and arms.
* Targets: significantly worse than no teacher (paired over seeds, 95 %) in 0; 85 % of the gain of the best arm; better than
  T = 4 / 0.9 in 80 %.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from bench.fleet_of_mlps import Schedule, accuracy, weights_of
from bench.teachers import MLP, Upbringing, parts, signal_of, teacher
from torch import Tensor

from fractionate import Objective, TeacherSignal, diagnose
from fractionate.data import Examples
from fractionate.diagnosis.case import Case
from fractionate.diagnosis.predicted_gain import Known
from fractionate.diagnosis.student_fit import student_fit
from fractionate.diagnosis.transfer import read_transfer, task_of
from fractionate.records import Diagnosis, Recommendation, Training
from fractionate.study import PilotPlan

Arm = tuple[str, float, float]  # cell, temperature, teacher weight


@dataclass(frozen=True)
class Setting:
    data: str
    teacher: str
    examples: int
    where: str  # train: inside the teacher's training set; outside: new to it; all: the very set it was trained on

    def __str__(self) -> str:
        place = {"train": "of its training", "outside": "new to it", "all": "and no others trained it"}[self.where]
        return f"{self.data}, {self.teacher} teacher, {self.examples} examples {place}"


HERE = Path(__file__).parent / "results"
LINES = HERE / "regret_pilot.jsonl"
HARD, USUAL = ("hard", 1.0, 0.0), ("kd", 4.0, 0.9)
ARMS: tuple[Arm, ...] = (
    HARD, ("kd", 1.0, 0.6), ("kd", 1.0, 1.0), ("kd", 2.0, 0.9), ("kd", 4.0, 0.6), USUAL, ("kd", 8.0, 0.9), ("kd-pt+sim", 4.0, 0.9)
)  # fmt: skip
RATE, FACTORS, FURTHER = 5e-3, (1 / 3, 1.0, 3.0, 9.0), 27.0
SEEDS, T_OF_FIVE, FIRST_PILOT_SEED = range(5), 2.776, 100
TEACHERS = {
    "healthy": Upbringing(hidden=(256, 256), epochs=30, dropout=0.3),
    "over-trained": Upbringing(hidden=(384,), epochs=150, dropout=0.0, decay=0.0, best=False),
    "smoothed": Upbringing(hidden=(256, 256), epochs=30, smoothing=0.1, best=False),
}
WEAK = {  # brought up on a twentieth of the data for three epochs; and the class shares for every example, give or take a tenth
    "brief": Upbringing(hidden=(16,), epochs=3, share=0.05, dropout=0.0, best=False),
    "ignorant": Upbringing(hidden=(16,), epochs=0, dropout=0.0, best=False),
}
HIDDEN = {
    "shuttle": 8, "vowel": 16, "vehicle": 8, "income": 12, "waveform": 8, "coats": 16, "headwords": 16,
    "letters": 32, "satellite": 12, "dna": 8, "spam": 6, "wardrobe": 20, "speech": 12,
    "bags": 24, "mnist1d": 16, "nouns": 24, "threenorm": 8, "ringnorm": 8,
}  # fmt: skip
SEEN = ("letters", "satellite", "dna", "spam", "wardrobe", "speech")
LATER = ("bags", "mnist1d", "nouns", "threenorm", "ringnorm")
SIZES = {  # examples of the teacher's training, and new ones
    "shuttle": (300, 1200), "vowel": (220, 200), "vehicle": (120, 160), "income": (300, 1200), "waveform": (200, 1000),
    "coats": (400, 1500), "headwords": (400, 1500),
    "letters": (600, 2000), "satellite": (300, 1000), "dna": (200, 600), "spam": (200, 800), "wardrobe": (300, 1200),
    "speech": (300, 1200),
    "bags": (600, 1200), "mnist1d": (400, 1500), "nouns": (500, 1500), "threenorm": (200, 1000), "ringnorm": (200, 1000),
}  # fmt: skip


def settings_of(names: Sequence[str]) -> list[Setting]:
    """Every teacher on examples of its training and on new ones, and one that learned them by rote, in a random order."""
    places = [(kind, i, where) for kind in TEACHERS for i, where in enumerate(("train", "outside"))]
    found = [Setting(data, kind, SIZES[data][i], where) for data in names for kind, i, where in places]
    found += [Setting(data, "rote", SIZES[data][0], "all") for data in names]
    random.Random(0).shuffle(found)
    return found


SETTINGS = settings_of([data for data in SIZES if data not in (*SEEN, *LATER)])
LATER_SETTINGS = settings_of(LATER)
SEEN_SETTINGS = [
    Setting(data, kind, SIZES[data][i], ("train", "outside")[i])
    for kind, i in (("healthy", 0), ("over-trained", 1), ("smoothed", 0))
    for data in SEEN
]
HALVES = LINES.with_stem("regret_pilot_halves")
BUDGETS = {budget: LINES.with_stem(f"regret_pilot_{budget}") for budget in (50, 28)}
FURTHER_LINES = LINES.with_stem(
    "regret_pilot_27"
)  # the arms at the further rate: what is fitted on the others stays as it is
LATER_LINES = LINES.with_stem("regret_pilot_later")
SEEN_LINES = LINES.with_stem("regret_pilot_seen")
WEAK_SETTINGS = [
    Setting(data, "brief", SIZES[data][i % 2], ("train", "outside")[i % 2])
    for i, data in enumerate(SIZES)
    if data not in LATER
] + [
    Setting(data, "ignorant", SIZES[data][0], "outside")
    for data in ("income", "headwords", "shuttle", "spam", "dna", "speech")
]
WEAK_LINES = LINES.with_stem("regret_pilot_weak")


def inputs_of(setting: Setting) -> tuple[Examples, TeacherSignal, TeacherSignal]:
    """Transfer set, the teacher's signal on it, and its signal on held-out data."""
    cut = parts(setting.data)
    upbringing = (TEACHERS | WEAK).get(setting.teacher)
    if upbringing is None:
        share = setting.examples / len(cut.train)
        upbringing = Upbringing(hidden=(256, 256), epochs=300, dropout=0.0, decay=0.0, best=False, share=share)
    model = teacher(setting.data, upbringing)
    pool = cut.outside if setting.where == "outside" else cut.train
    first = 0 if setting.where == "all" else len(pool) - setting.examples
    data = pool.take(torch.arange(first, first + setting.examples))
    if setting.teacher == "ignorant":
        shares = torch.bincount(cut.train.labels, minlength=data.classes).clamp_min(1).float().log()
        draw = torch.Generator().manual_seed(0)
        logits = [shares + 0.1 * torch.randn(len(part), data.classes, generator=draw) for part in (data, cut.held)]
        return data, TeacherSignal(logits[0], data.labels), TeacherSignal(logits[1], cut.held.labels)
    return data, signal_of(model, data), signal_of(model, cut.held)


def plan_of(setting: Setting) -> Schedule:
    return Schedule(hidden=HIDDEN[setting.data], epochs=max(20, 600 // -(-setting.examples // 64)), rate=RATE)


def trained(setting: Setting, arms: list[Arm], factor: float) -> dict[str, dict[str, list[float]]]:
    """Accuracy in percent of each arm by seed, on validation and on test data, at a multiple of the learning rate."""
    data, signal, _ = inputs_of(setting)
    plan, cut = plan_of(setting), parts(setting.data)
    weights = weights_of([Objective(*arm) for arm in arms], data, signal, SEEDS, replace(plan, rate=RATE * factor))
    validated, tested = accuracy(weights, cut.held), accuracy(weights, cut.test)
    return {
        key(arm, factor): {"validation": validated[:, i].tolist(), "test": tested[:, i].tolist()}
        for i, arm in enumerate(arms)
    }


def in_halves(setting: Setting) -> list[list[float]]:
    """Mean accuracy of each arm at the rate that validation data choose, on either half of the test data."""
    data, signal, _ = inputs_of(setting)
    cut, scores = parts(setting.data), []
    for factor in (*FACTORS, FURTHER):
        plan = replace(plan_of(setting), rate=RATE * factor)
        weights = weights_of([Objective(*arm) for arm in ARMS], data, signal, SEEDS, plan)
        halves = [cut.test.take(torch.arange(first, len(cut.test), 2)) for first in (0, 1)]
        scores.append(torch.stack([accuracy(weights, part).mean(0) for part in (cut.held, *halves)]))
    stacked = torch.stack(scores)  # [rates, validation and halves, arms]
    best = stacked[:, 0].argmax(0)
    found: list[list[float]] = stacked[best, 1:, torch.arange(len(ARMS))].T.tolist()
    return found


def honest_gain(halves: list[list[float]]) -> float:
    """Gain over no teacher of the arm that is best on one half, judged on the other, and the other way round."""
    gains = [
        other[max(range(len(ARMS)), key=own.__getitem__)] - other[ARMS.index(HARD)]
        for own, other in (halves, halves[::-1])
    ]
    return sum(gains) / 2


def key(arm: Arm, factor: float) -> str:
    return f"{arm[0]} {arm[1]:g} {arm[2]:g} x{factor:.3g}"


def diagnosed(setting: Setting, *, pilot: bool, budget: float = 200.0) -> Diagnosis:
    data, signal, held = inputs_of(setting)
    plan = plan_of(setting)
    training = Training(epochs=plan.epochs, batch_size=plan.batch, learning_rate=RATE)
    tried = PilotPlan.default(
        training=training,
        budget=budget,
        validation=parts(setting.data).held,
        first_seed=FIRST_PILOT_SEED,
        progress="off",
    )
    torch.manual_seed(0)
    return diagnose(
        signal, lambda: MLP(data.inputs.shape[1], data.classes, (plan.hidden,)), data=data, held_out=held,
        pilot=tried if pilot else None,
    )  # fmt: skip


def known(setting: Setting) -> Known:
    """What the predicted gain reads of a setting without a pilot."""
    data, signal, held = inputs_of(setting)
    torch.manual_seed(0)
    model = MLP(data.inputs.shape[1], data.classes, (HIDDEN[setting.data],))
    transfer = read_transfer(task_of(data, model, rows=len(data)), model)
    return Known.of(Case(signal, held_out=held, data=transfer, student=True, fit=student_fit(model, transfer)))


def arm_of(recipe: Recommendation) -> Arm:
    return (recipe.cell, recipe.temperature, recipe.teacher_weight) if recipe.distil else HARD


def measured(setting: Setting) -> dict[str, Any]:
    """One line of the results: every arm at every rate, and for a teacher that knows something the rule, the pilot, their cost."""
    found: dict[str, Any] = {"setting": asdict(setting), "known": asdict(known(setting)), "scores": {}}
    for factor in (*FACTORS, *[FURTHER] * (setting.data in LATER)):
        found["scores"] |= trained(setting, list(ARMS), factor)
    return found if setting.teacher in WEAK else recommended(setting, found)


def recommended(setting: Setting, found: dict[str, Any], budget: float = 200.0) -> dict[str, Any]:
    """What the rule and the pilot recommend, added to a line that has the scores of the arms."""
    found = dict(found)
    rule = diagnosed(setting, pilot=False)
    found["rule"] = {
        "arm": arm_of(rule.recipe),
        "factor": 1.0,
        "repair": rule.recipe.repair,
        "reason": rule.recipe.reason,
    }
    begin, used = time.perf_counter(), time.process_time()
    piloted = diagnosed(setting, pilot=True, budget=budget)
    found["seconds"] = {"wall": time.perf_counter() - begin, "cpu": time.process_time() - used}
    tried = piloted.pilot
    found["pilot"] = {
        "arm": arm_of(piloted.recipe), "factor": piloted.recipe.learning_rate_factor, "repair": piloted.recipe.repair,
        "reason": piloted.recipe.reason, "record": None if tried is None else short(json.loads(tried.to_json())),
    }  # fmt: skip
    found["diagnosis"] = {
        "nats": rule.spectrum.nats, "classes": rule.spectrum.classes, "examples": rule.spectrum.examples,
        "problems": [f"{f.severity} {f.name}" for f in rule.problems],
    }  # fmt: skip
    wanted = [(found["rule"]["arm"], 1.0), (found["pilot"]["arm"], found["pilot"]["factor"])]
    if tried is not None:
        best = next(t for t in tried.trials if t.arm == tried.chosen)
        wanted.append(((best.cell, best.temperature, best.teacher_weight), best.learning_rate_factor))
        found["pilot"]["best"] = wanted[-1]
    for arm, factor in wanted:
        if key(arm, factor) not in found["scores"]:
            found["scores"] |= trained(setting, [arm], factor)
    return found


def short(pilot: dict[str, Any]) -> dict[str, Any]:
    """A pilot's record without its trials, but for what the best one gained over all its seeds."""
    kept = ("chosen", "no_teacher", "gain_points", "interval", "confirming_seeds", "students", "nll_gain_nats", "note")
    best = next(trial for trial in pilot["trials"] if trial["arm"] == pilot["chosen"])
    return {name: pilot[name] for name in kept} | {"best_gain_points": best["gain_points"]}


class Row:
    """A line read back: test accuracy by seed of each way to train."""

    def __init__(self, line: dict[str, Any], factors: tuple[float, ...] = FACTORS) -> None:
        self.line, self.setting, scores = line, Setting(**line["setting"]), line["scores"]
        own = line["scores"]
        at_best = {arm: max(factors, key=lambda f, a=arm: sum(own[key(a, f)]["validation"])) for arm in ARMS}
        of_arm = {arm: torch.tensor(own[key(arm, at_best[arm])]["test"]) for arm in ARMS}
        self.best_arm = max(ARMS, key=lambda arm: float(of_arm[arm].mean()))

        def at(way: dict[str, Any]) -> Tensor:
            return torch.tensor(scores[key(tuple(way["arm"]), way["factor"])]["test"])

        self.ways = {
            "none": of_arm[HARD], "usual": of_arm[USUAL], "constant": of_arm["kd", 1.0, 0.6], "best": of_arm[self.best_arm],
            "none as given": torch.tensor(own[key(HARD, 1.0)]["test"]),
            "usual as given": torch.tensor(own[key(USUAL, 1.0)]["test"]),
        } | {way: at(line[way]) for way in ("pilot", "rule") if way in line}  # fmt: skip

    def gain(self, way: str, against: str = "none") -> Tensor:
        return self.ways[way] - self.ways[against]


def significantly_worse(gain: Tensor) -> bool:
    """Whether paired differences lie below 0: t interval of 95 % over 5 seeds."""
    return float(gain.mean()) + T_OF_FIVE * float(gain.std()) / len(gain) ** 0.5 < 0


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def rows(path: Path = LINES) -> list[Row]:
    return [Row(line) for line in lines_of(path)]


def judged() -> list[Row]:
    """The settings with every arm at the further rate too, which is trained where it is missing."""
    further = {str(Setting(**line["setting"])): line["scores"] for line in lines_of(FURTHER_LINES)}
    found = []
    for line in lines_of(LINES):
        setting = Setting(**line["setting"])
        if str(setting) not in further:
            further[str(setting)] = trained(setting, list(ARMS), FURTHER)
            with FURTHER_LINES.open("a") as file:
                file.write(json.dumps({"setting": asdict(setting), "scores": further[str(setting)]}) + "\n")
        found.append(Row(line | {"scores": line["scores"] | further[str(setting)]}, (*FACTORS, FURTHER)))
    return found


def table(found: list[Row]) -> list[str]:
    lines = ["| way | against | significantly worse | better than T = 4 / 0.9 | mean gain, points | share of the best arm's gain |",
             "|---|---|---|---|---|---|", "| target | | 0 | 80 % | | 85 % |"]  # fmt: skip
    best = sum(float(r.gain("best").mean()) for r in found)
    for budget, path in BUDGETS.items():
        cheaper = {str(Setting(**line["setting"])): line["test"] for line in lines_of(path)}
        for r in found:
            if str(r.setting) in cheaper:
                r.ways[f"pilot of {budget}"] = torch.tensor(cheaper[str(r.setting)])
    for way, name, none, usual in (
        ("pilot", "**rule + pilot**", "none", "usual"),
        *((f"pilot of {budget}", f"rule + pilot of at most {budget} trainings", "none", "usual") for budget in BUDGETS),
        ("usual", "T = 4 / 0.9, its best rate", "none", "usual"),
        ("constant", "T = 1 / 0.6, its best rate", "none", "usual"), ("best", "best of 8 arms", "none", "usual"),
        ("rule", "rule, untried, at the rate given", "none", "usual"),
        ("rule", "**rule, untried**", "none as given", "usual as given"),
        ("usual as given", "T = 4 / 0.9", "none as given", "usual as given"),
    ):  # fmt: skip
        if any(way not in r.ways for r in found):
            continue
        gains = [r.gain(way, none) for r in found]
        worse = [r for r, g in zip(found, gains, strict=True) if significantly_worse(g)]
        better = sum(float(r.gain(way, usual).mean()) > 0 for r in found) / len(found)
        total = sum(float(g.mean()) for g in gains)
        share = f"{total / best:.0%}" if none == "none" else ""
        given = "no teacher at the rate given" if none != "none" else "no teacher at its best rate"
        named = "; ".join(f"{r.setting} {float(r.gain(way, none).mean()):+.2f}" for r in worse[:4])
        lines.append(f"| {name} | {given} | {len(worse)} of {len(found)}{': ' * bool(named)}{named} | "
                     f"{'' if way == usual else f'{better:.0%}'} | {total / len(found):+.2f} | {share} |")  # fmt: skip
    return lines


def against_usual(found: list[Row]) -> str:
    """In how many settings the pilot is ahead of T = 4 / 0.9 or behind it, and in how many surely."""
    gains = [r.gain("pilot", "usual") for r in found]
    ahead, behind = (sum(sign * float(g.mean()) > 0 for g in gains) for sign in (1, -1))
    surely = [sum(significantly_worse(sign * g) for g in gains) for sign in (-1, 1)]
    return (
        f"- Against T = 4 / 0.9 at its best rate the pilot is ahead in {ahead} ({surely[0]} surely) and behind in {behind} "
        f"({surely[1]} surely), {sum(float(g.mean()) for g in gains) / len(gains):+.2f} points on average."
    )


def covered(found: list[Row]) -> list[str]:
    """Whether the pilot's interval holds what its best arm gains on test data, and what its decisions were worth."""
    held, tried = 0, [r for r in found if r.line["pilot"]["record"]]
    for r in tried:
        arm, factor = r.line["pilot"]["best"]
        gain = float((torch.tensor(r.line["scores"][key(tuple(arm), factor)]["test"]) - r.ways["none"]).mean())
        interval = r.line["pilot"]["record"]["interval"]
        held += interval["low"] <= gain <= interval["high"]
    alone = [r for r in tried if tuple(r.line["pilot"]["arm"]) == HARD]
    right = sum(float(r.gain("best").mean()) < 0.5 for r in alone)
    few = [r for r in tried if r.setting.data in ("vowel", "vehicle")]
    lost = sum(float((r.gain("best") - r.gain("pilot")).mean()) for r in few)
    every = sum(float((r.gain("best") - r.gain("pilot")).mean()) for r in found)
    rest = [r for r in found if r not in few]
    share = sum(float(r.gain("pilot").mean()) for r in rest) / max(
        1e-9, sum(float(r.gain("best").mean()) for r in rest)
    )
    better = sum(float(r.gain("pilot", "usual").mean()) > 0 for r in rest) / max(1, len(rest))
    halves = {str(Setting(**line["setting"])): line["halves"] for line in lines_of(HALVES)}
    both = [r for r in found if str(r.setting) in halves]
    honest = sum(honest_gain(halves[str(r.setting)]) for r in both) / len(both)
    own, shown = (sum(float(r.gain(way).mean()) for r in both) / len(both) for way in ("pilot", "best"))
    named = ", ".join(sorted({r.setting.data for r in both}))
    return [
        against_usual(found),
        f"- The pilot's 95 % interval (fresh seeds, validation data) holds what its best arm gains on test data in {held} of "
        f"{len(tried)}.",
        f"- *Do not distil* in {len(alone)}, where the best arm gains less than half a point in {right}.",
        f"- Of what the pilot loses to the best arm, {every:.1f} points in all, {lost:.1f} are lost in the {len(few)} settings of "
        "vowel and vehicle, with 110 and 120 validation examples, whose best arm is chosen on 260 and 246 test examples. In the "
        f"other {len(rest)} it has {share:.0%} of the best arm's gain, and beats T = 4 / 0.9 in {better:.0%}.",
        "- Best of 8 is chosen on the scores that it is judged by. Chosen on one half of the test examples and judged on the "
        f"other, in {len(both)} settings ({named}), it gains {honest:+.2f} points in place of "
        f"{shown:+.2f}; the pilot, on all of them, {own:+.2f}: {own / honest:.0%} in place of {own / shown:.0%}.",
    ]


def later() -> list[str]:
    """The same table of the sets that were named after the pilot's last change."""
    found = [Row(line, (*FACTORS, FURTHER)) for line in lines_of(LATER_LINES)]
    if not found:
        return []
    head = f"{len(found)} of {len(LATER_SETTINGS)} settings of {', '.join(LATER)}, judged once (`--later`)."
    return ["## Data that the last change had not seen", "", head, "", *table(found), "", against_usual(found), ""]


def write(found: list[Row]) -> None:
    message = [
        f"| {r.setting} | " + " | ".join(f"{float(r.ways[w].mean()):.1f}" for w in ("none", "usual", "pilot", "best")) + " | "
        + " | ".join(
            ("no teacher" if tuple(w["arm"]) == HARD else "{} {:g} / {:g}".format(*w["arm"])) + f" ×{w['factor']:.3g}"
            for w in (r.line["rule"], r.line["pilot"])
        ) + " | {} {:g} / {:g} |".format(*r.best_arm) for r in found
    ]  # fmt: skip
    records = [r.line["pilot"]["record"] for r in found if r.line["pilot"]["record"]]
    cpu = sum(r.line["seconds"]["cpu"] for r in found) / max(1, len(found))
    students = sum(p["students"] for p in records) / max(1, len(records))
    text = [
        "# Recipe regret",
        "",
        "Made by `python bench/regret_pilot.py`; what is judged, and how, was written down before the first run and stands at the "
        "top of that file. Test accuracy in percent, means over 5 seeds; students are MLPs with one hidden layer.",
        "",
        f"{len(found)} of {len(SETTINGS)} settings, the first of a random order. A pilot is {students:.0f} students, {cpu:.0f} s "
        "of CPU time on one thread.",
        "",
        *table(found), "", *covered(found), "", *later(), "## The settings", "",
        "| setting | no teacher, best rate | T = 4 / 0.9, best rate | pilot | best of 8 | rule | by the pilot | best arm |",
        "|---|---|---|---|---|---|---|---|", *message,
    ]  # fmt: skip
    (HERE / "regret_pilot.md").write_text("\n".join(text) + "\n")
    print("\n".join(text))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--minutes", type=float, default=5.0, help="starts no further setting after so many minutes of CPU time"
    )
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--seen", action="store_true")
    parser.add_argument("--later", action="store_true")
    parser.add_argument("--weak", action="store_true")
    parser.add_argument("--halves", action="store_true")
    parser.add_argument("--again", action="store_true")
    parser.add_argument("--budget", type=float, default=200.0, choices=(200.0, *BUDGETS))
    options = parser.parse_args()
    torch.set_num_threads(1)
    path, settings = (SEEN_LINES, SEEN_SETTINGS) if options.seen else (LINES, SETTINGS)
    path, settings = (WEAK_LINES, WEAK_SETTINGS) if options.weak else (path, settings)
    path, settings = (LATER_LINES, LATER_SETTINGS) if options.later else (path, settings)
    if options.halves:
        done = {str(Setting(**line["setting"])) for line in lines_of(HALVES)}
        for setting in sorted(SETTINGS, key=lambda s: s.examples):  # small ones first: they are what it matters for
            if str(setting) not in done and time.process_time() < 60 * options.minutes:
                with HALVES.open("a") as file:
                    file.write(json.dumps({"setting": asdict(setting), "halves": in_halves(setting)}) + "\n")
        return write(judged())
    if options.again:
        lines = lines_of(LINES)
        anew = [recommended(Setting(**line["setting"]), line, options.budget) for line in lines]
        if options.budget in BUDGETS:
            kept = [
                {
                    "setting": line["setting"],
                    "pilot": line["pilot"],
                    "seconds": line["seconds"],
                    "test": Row(line).ways["pilot"].tolist(),
                }
                for line in anew
            ]
            BUDGETS[int(options.budget)].write_text("".join(json.dumps(line) + "\n" for line in kept))
        else:
            LINES.write_text("".join(json.dumps(line) + "\n" for line in anew))
        return write(judged())
    done = {str(r.setting) for r in rows(path)}
    for setting in [] if options.table else settings:
        if str(setting) in done:
            continue
        if time.process_time() > 60 * options.minutes:
            break
        line = measured(setting)
        with path.open("a") as file:
            file.write(json.dumps(line) + "\n")
        r = Row(line)
        message = " ".join(f"{way} {float(v.mean()):.2f}" for way, v in r.ways.items())
        print(
            f"{setting!s:58s} {message} ({line.get('seconds', {}).get('cpu', 0):.0f} s pilot, {time.process_time():.0f} s in all)",
            flush=True,
        )
    if rows() and not (options.seen or options.weak):
        write(judged())


if __name__ == "__main__":
    main()
