"""Rules of the pilot compared on stored answers: every candidate is trained once, pilots are then replayed on few examples.

    python lab/pilot_rules.py train   # 49 settings, a file each in runs/pilot_rules; run it again to continue
    python lab/pilot_rules.py table   # replays pilots on what is there, writes lab/results/pilot_rules.md
    python lab/pilot_rules.py plans   # smaller and stopped pilots: lab/results/pilot_plans.md
    python lab/pilot_rules.py apart   # whether transfer examples left out should judge too: lab/results/pilot_apart.md

Data that bench/regret_pilot.py does not judge on: digits, letters, satellite, dna, spam, wardrobe, speech, with 120 to 240 transfer
examples and teachers of 350 to 400. A replayed pilot sees a random part of the validation data. *True* is test accuracy over 10
seeds; *shown* is that of 5 seeds on 250 test examples, where also the best of the 8 arms is chosen, as in that bench.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from bench.fleet_of_mlps import Schedule, weights_of
from bench.regret_pilot import ARMS, USUAL, significantly_worse
from bench.teachers import Upbringing, parts, signal_of, teacher

from fractionate import Objective
from fractionate.records import Pilot, Recommendation, Training
from fractionate.study import PilotPlan
from fractionate.study.pilot import _Halving
from fractionate.study.pilot_arms import CAUTIOUS, FALLBACK, GRID, HARD, Candidate, Round
from fractionate.study.pilot_scores import FOLDS, SCALES, Answer, Compared, best_scale, folds_of, shrunken, variance

CACHE = Path(__file__).parent.parent / "runs" / "pilot_rules"
RESULTS = Path(__file__).parent / "results"
TABLES = {"table": RESULTS / "pilot_rules.md", "plans": RESULTS / "pilot_plans.md", "apart": RESULTS / "pilot_apart.md"}
SMALL = {  # hidden units of the student, examples of the teacher's training, new ones
    "digits": (16, 120, 150), "satellite": (12, 140, 180), "letters": (24, 220, 240), "dna": (8, 120, 160), "spam": (6, 120, 160),
    "wardrobe": (16, 150, 200), "speech": (12, 150, 200),
}  # fmt: skip
KINDS: dict[str, dict[str, Any]] = {
    "healthy": {"hidden": (256, 256), "epochs": 60, "dropout": 0.3},
    "over-trained": {"hidden": (384,), "epochs": 200, "dropout": 0.0, "decay": 0.0, "best": False},
    "smoothed": {"hidden": (256, 256), "epochs": 60, "smoothing": 0.1, "best": False},
    "rote": {"hidden": (256, 256), "epochs": 300, "dropout": 0.0, "decay": 0.0, "best": False},
}
SETTINGS = tuple(dict.fromkeys([HARD, CAUTIOUS, USUAL, *GRID]))
RATES, SEEDS = (1 / 3, 1.0, 3.0, 9.0, 27.0), range(10)
RULE = Recommendation(True, *CAUTIOUS, "cross-entropy", True, "")
TWO = (Round(None, 2), Round(10, 2), Round(4, 2))


def train(seconds: float) -> None:
    """Every candidate of every setting: rows right and nats of the validation data, rows right of the test data."""
    CACHE.mkdir(parents=True, exist_ok=True)
    places = {kind: ("all",) if kind == "rote" else ("train", "outside") for kind in KINDS}
    todo = [(data, kind, where) for kind, of in places.items() for where in of for data in SMALL]
    random.Random(1).shuffle(todo)
    for name, kind, where in todo:
        path = CACHE / f"{name}-{kind}-{where}.pt"
        if path.exists() or time.process_time() > seconds:
            continue
        hidden, inside, new = SMALL[name]
        cut, size = parts(name), 400 if name == "letters" else 350
        count = new if where == "outside" else inside
        share = (inside if kind == "rote" else size) / len(cut.train)
        model = teacher(name, Upbringing(**KINDS[kind], share=share))
        data = (cut.outside if where == "outside" else cut.train).take(torch.arange(count))
        held, test = (
            part.take(torch.arange(min(len(part), most))) for part, most in ((cut.held, 600), (cut.test, 2000))
        )
        found: dict[str, list[torch.Tensor]] = {}
        apart = torch.stack([torch.randperm(count, generator=torch.Generator().manual_seed(seed)) for seed in SEEDS])
        apart, kept = apart[:, : count // FOLDS], apart[:, count // FOLDS :]  # of each seed: judged, and trained on
        arms, signal = [Objective(*s) for s in SETTINGS], signal_of(model, data)
        for rate in RATES:
            for prefix, places, size in (("", None, count), ("part ", kept, count - count // FOLDS)):
                plan = Schedule(hidden=hidden, epochs=max(20, 600 // -(-size // 64)), rate=5e-3 * rate)
                weights = weights_of(arms, data, signal, SEEDS, plan, places)
                answers = {"": answers_of(weights, held.inputs.expand(len(SEEDS), -1, -1), held.labels)}
                if prefix:
                    answers["apart "] = answers_of(weights, data.inputs[apart], data.labels[apart])
                else:
                    w1, b1, w2, b2 = weights
                    shown = (test.inputs @ w1 + b1).relu() @ w2 + b2
                    found.setdefault("test", []).append(shown.argmax(-1) == test.labels.view(1, 1, -1))
                for where_, (right, nats) in answers.items():
                    found.setdefault(f"{prefix}{where_}right", []).append(right)
                    found.setdefault(f"{prefix}{where_}nats", []).append(nats)
        stacked = {key: torch.stack(values, 3 if "nats" in key else 2) for key, values in found.items()}
        torch.save(stacked | {"examples": count, "apart": apart}, path)
        print(path.stem, f"{time.process_time():.0f} s", flush=True)


def answers_of(
    weights: list[torch.Tensor], inputs: torch.Tensor, labels: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows right [seeds, arms, examples] and nats [scales, seeds, arms, examples] on inputs [seeds, examples, features]."""
    w1, b1, w2, b2 = weights
    logits = (inputs[:, None] @ w1 + b1).relu() @ w2 + b2
    labels = labels.view(-1, 1, inputs.shape[1])
    chosen = labels[..., None].expand(*logits.shape[:3], 1)
    nats = [-torch.log_softmax(logits * scale, -1).gather(-1, chosen)[..., 0] for scale in SCALES]
    return logits.argmax(-1) == labels, torch.stack(nats).half()


class Replayed(_Halving):
    """A pilot whose students were trained before."""

    def __init__(self, plan: PilotPlan, stored: dict[str, Any], subset: torch.Tensor, order: list[int]) -> None:
        self.plan, self.stored, self.subset, self.order = plan, stored, subset, order
        self.begin, self.stopped, self.likelihood, self.margin = time.perf_counter(), False, False, 0.5
        self.found, self.training, self.steps = {}, Training(), 1
        self.data, self.validation, self.folds = range(stored["examples"]), range(len(subset)), folds_of(len(subset))  # type: ignore[assignment]

    def _possible(self, setting: tuple[str, float, float]) -> bool:
        return True

    def _train(self, arms: Iterable[Candidate], seeds: Any, advance: Any, *, must: Any) -> None:
        for arm in arms:
            place = SETTINGS.index(arm.setting)
            rate = next((i for i, known in enumerate(RATES) if abs(known / arm.rate - 1) < 0.01), None)
            for seed in [] if rate is None else seeds:
                at = (self.order[seed], place, rate)
                nats = best_scale(self.stored["nats"][:, *at][:, self.subset].double(), self.folds)
                self.found[arm, seed] = Answer(self.stored["right"][at][self.subset].double(), nats)


def stopped_after(students: int) -> type[Replayed]:
    """A pilot whose time runs out after so many students; two seeds of the first two arms of a round are always trained."""

    class Stopped(Replayed):
        def _train(self, arms: Iterable[Candidate], seeds: Any, advance: Any, *, must: Any) -> None:
            for arm in arms:
                for seed in seeds:
                    if len(self.found) < students or (arm in must and seed in seeds[:2]):
                        super()._train([arm], [seed], advance, must=must)
                    else:
                        self.stopped = True

    return Stopped


class Bold(Replayed):
    """Takes the best arm where nothing is shown either way, in place of the cautious one."""

    def _decide(
        self, rule: Recommendation, pool: list[Candidate], seeds: list[int], fresh: list[int]
    ) -> tuple[Recommendation, Pilot]:
        recipe, record = super()._decide(rule, pool, seeds, fresh)
        if recipe.reason.startswith("nothing"):
            best = next(c for c in pool if c.name == record.chosen)
            cell, temperature, weight = best.setting
            recipe = replace(
                recipe, cell=cell, temperature=temperature, teacher_weight=weight, learning_rate_factor=best.rate
            )
        return recipe, record


@dataclass(frozen=True, eq=False)
class WithApart(Compared):
    """Answers on validation data, and of the students that chose on the transfer examples that they were not trained on."""

    apart_right: torch.Tensor = field(default_factory=torch.Tensor)  # [arms, seeds that chose, examples], in points
    apart_nats: torch.Tensor = field(default_factory=torch.Tensor)

    def scores(self, reference: int, kept: torch.Tensor | None = None) -> torch.Tensor:
        """As before, of both kinds of examples by their numbers: those of the transfer set are others for each seed."""
        right, nats = (part if kept is None else part[..., kept] for part in (self.right, self.nats))
        new = self.apart_right[0].numel()
        share = new / (new + right.shape[2])
        differences, apart = right - right[reference], (self.apart_right - self.apart_right[reference]).flatten(1)
        saved = (1 - share) * (nats[reference] - nats).mean((1, 2))
        saved = saved + share * (self.apart_nats[reference] - self.apart_nats).flatten(1).mean(1)
        gain = (1 - share) * differences.mean((1, 2)) + share * apart.mean(1)
        spread = torch.tensor([sum(variance(one)) for one in differences], dtype=torch.float64) * (1 - share) ** 2
        spread = spread + share**2 * apart.var(1) / new
        others, found = torch.arange(len(right)) != reference, torch.zeros(len(right), dtype=torch.float64)
        if bool(others.any()):
            found[others] = shrunken(gain[others], spread[others], saved[others])
        return found


class Apart(Replayed):
    """Seeds that choose leave a fifth of the transfer set out and are judged on it too; those that confirm are trained on all."""

    def _train(self, arms: Iterable[Candidate], seeds: Any, advance: Any, *, must: Any) -> None:
        arms, choosing = list(arms), sum(each.seeds for each in self.plan.rounds)
        super()._train(arms, [seed for seed in seeds if seed >= choosing], advance, must=must)
        whole = self.stored
        parts = {key.removeprefix("part "): value for key, value in whole.items() if key.startswith("part ")}
        self.stored = whole | parts
        super()._train(arms, [seed for seed in seeds if seed < choosing], advance, must=must)
        self.stored = whole

    def _compared(self, arms: Sequence[Candidate], seeds: Sequence[int]) -> Compared:
        plain = super()._compared(arms, seeds)
        choosing = [self.order[seed] for seed in seeds if seed < sum(each.seeds for each in self.plan.rounds)]
        places = [
            (SETTINGS.index(c.setting), min(range(len(RATES)), key=lambda i: abs(RATES[i] / c.rate - 1))) for c in arms
        ]
        right = [torch.stack([self.stored["part apart right"][(s, *at)].double() for s in choosing]) for at in places]
        nats = [torch.stack([self._scaled(s, at) for s in choosing]) for at in places]
        return WithApart(plain.right, plain.nats, plain.likelihood, 100 * torch.stack(right), torch.stack(nats))

    def _scaled(self, seed: int, at: tuple[int, int]) -> torch.Tensor:
        """The nats at the scale of the logits that validation data chose."""
        shown = self.stored["part nats"][(slice(None), seed, *at)][:, self.subset].double().mean(1)
        return self.stored["part apart nats"][(int(shown.argmin()), seed, *at)].double()


def replayed(kind: type[Replayed], changes: dict[str, Any], validation: int, times: int) -> str:
    """A row of the table: one rule of the pilot over all settings, each with so many random validation sets."""
    found = []
    files = sorted(CACHE.glob("*.pt"))
    for path in files:
        stored = torch.load(path)
        tested = stored["test"].float().mean(-1) * 100
        for time_ in range(times):
            draw = torch.Generator().manual_seed(1000 * sum(map(ord, path.stem)) + time_)
            subset = torch.randperm(stored["right"].shape[-1], generator=draw)[:validation]
            order = torch.randperm(len(SEEDS), generator=draw).tolist()
            recipe, _ = kind(PilotPlan(progress="off", **changes), stored, subset, order).refine(RULE)
            own = (recipe.cell, recipe.temperature, recipe.teacher_weight) if recipe.distil else HARD
            rate = min(range(len(RATES)), key=lambda i: abs(RATES[i] / recipe.learning_rate_factor - 1))
            five, few = order[:5], torch.randperm(stored["test"].shape[-1], generator=draw)[:250]
            valid = stored["right"][five][..., subset].float().mean((0, 3))
            at = {arm: (SETTINGS.index(arm), int(valid[SETTINGS.index(arm)].argmax())) for arm in ARMS}
            true = {arm: float(tested[:, *at[arm]].mean()) for arm in ARMS}
            shown = {arm: 100 * stored["test"][five][:, *at[arm]][:, few].float().mean(-1) for arm in ARMS}
            mine = 100 * stored["test"][five][:, SETTINGS.index(own), rate][:, few].float().mean(-1)
            found.append((
                float(tested[:, SETTINGS.index(own), rate].mean()) - true[HARD], max(true.values()) - true[HARD],
                float((mine - shown[HARD]).mean()), max(float(v.mean()) for v in shown.values()) - float(shown[HARD].mean()),
                float((mine - shown[USUAL]).mean()) > 0, significantly_worse(mine - shown[HARD]),
            ))  # fmt: skip
    means = [sum(map(float, column)) / len(found) for column in zip(*found, strict=True)]
    gain, best, shown_gain, shown_best, better, worse = means
    shares = f"{gain / best:.0%} | {shown_gain / shown_best:.0%}"
    return f"{validation} | {len(files)} × {times} | {gain:+.2f} | {shares} | {better:.0%} | {worse:.1%} |"


def planned(budget: float, **changes: Any) -> dict[str, Any]:
    """What a plan of so many trainings changes of the whole one."""
    plan = PilotPlan.default(budget=budget)
    return {
        "rounds": plan.rounds,
        "grid": plan.grid,
        "confirming_seeds": plan.confirming_seeds,
        "fallback": plan.fallback,
    } | changes


RULES: dict[str, tuple[tuple[str, type[Replayed], dict[str, Any]], ...]] = {
    "table": (
        ("today's: T = 4 / 0.6 where nothing is shown", Replayed, {}),
        ("T = 1 / 0.6 there, as before", Replayed, {"fallback": CAUTIOUS}),
        ("T = 2 / 0.9 there", Replayed, {"fallback": ("kd", 2.0, 0.9)}),
        ("T = 8 / 0.3 there", Replayed, {"fallback": ("kd", 8.0, 0.3)}),
        ("T = 4 / 0.9 there", Replayed, {"fallback": USUAL}),
        ("the best arm there", Bold, {}),
        ("the best arm there, and two seeds for all arms first", Bold, {"rounds": TWO}),
        ("kd alone in the grid", Replayed, {"grid": tuple(s for s in GRID if s[0] == "kd")}),
        ("distil where a 50 % interval lies above 0", Replayed, {"coverage": 0.5}),
        ("distil where a 90 % interval lies above 0", Replayed, {"coverage": 0.9}),
    ),
    "plans": (
        ("whole", Replayed, {}),
        ("whole, stopped after 80 students", stopped_after(80), {}),
        ("whole, stopped after 40", stopped_after(40), {}),
        ("at most 50 trainings", Replayed, planned(50)),
        ("at most 50, T = 4 / 0.6 where nothing is shown", Replayed, planned(50, fallback=FALLBACK)),
        ("at most 28", Replayed, planned(28)),
        ("at most 50, stopped after 24", stopped_after(24), planned(50)),
        ("at most 50, stopped after 12", stopped_after(12), planned(50)),
    ),
    "apart": (("today's", Replayed, {}), ("a fifth of the transfer set judges too", Apart, {})),
}


def table(what: str, times: int) -> str:
    """Today's rule and its rivals."""
    text = [
        "# Rules of the pilot, replayed",
        "",
        f"Made by `python lab/pilot_rules.py {what}`, which says what is replayed. Share: of the gain of the best of 8 arms.",
        "",
        "| rule | validation examples | pilots | true gain, points | true share | shown share | better than T = 4 / 0.9 | "
        "significantly worse than no teacher |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, kind, changes in RULES[what]:
        for validation, share in ((110, 1), (500, 4)):
            text.append(f"| {name} | {replayed(kind, changes, validation, times // share)}")
            print(text[-1], flush=True)
    return "\n".join(text) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("train", *RULES))
    parser.add_argument(
        "--seconds", type=float, default=900.0, help="of CPU time after which no further setting is trained"
    )
    parser.add_argument("--times", type=int, default=4, help="random validation sets of each setting")
    torch.set_num_threads(1)
    options = parser.parse_args()
    if options.what == "train":
        return train(options.seconds)
    TABLES[options.what].write_text(table(options.what, options.times))


if __name__ == "__main__":
    main()
