"""Recipe regret on tokens: the pilot's recipe, T = 4 / 0.9 and no teacher against the best of 6 arms, by likelihood or accuracy.

    python bench/regret_tokens.py --minutes 5   # resumes where it was stopped; one line a setting in results/regret_tokens.jsonl

Written down on 2026-11-30 before the first run: characters of WordNet glosses, by part of speech. *next*: the next character,
judged by nats (language modelling); *words*: where the words end in a text without spaces, judged by accuracy (token
classification). Teachers: a convolution of 128 channels over 7 characters, healthy or over-trained; students: 16 channels over 4.
12 settings in a random order. Arms: no teacher; kd at 1/0.6, 1/1, 2/0.9, 4/0.9; kd-pt at 1/0.9; each at 1, 3, 9 and 27 times the
learning rate 2e-3 on 3 seeds (27 since the second run: pilots went there), judged on test data at the rate that validation data
chose. The pilot: PilotPlan.default, with seeds of its own. All through the loop of `distill`: nothing here knows that a
row is a token.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from bench.regret_pilot import short
from torch import Tensor, nn

from fractionate import Objective, Recipe, Task, diagnose, dissect, distill
from fractionate.records import Training
from fractionate.study import PilotPlan

LINES = Path(__file__).parent / "results" / "regret_tokens.jsonl"
LETTERS = "abcdefghijklmnopqrstuvwxyz ,;()-'"
LENGTH, IGNORED = 48, -100
ARMS = {
    "no teacher": None, "kd 1 0.6": ("kd", 1.0, 0.6), "kd 1 1": ("kd", 1.0, 1.0), "kd 2 0.9": ("kd", 2.0, 0.9),
    "kd 4 0.9": ("kd", 4.0, 0.9), "kd-pt 1 0.9": ("kd-pt", 1.0, 0.9),
}  # fmt: skip
FACTORS, SEEDS, T_OF_THREE = (1.0, 3.0, 9.0, 27.0), 3, 4.303
TRAINING = Training(steps=150, batch_size=16, learning_rate=2e-3)
SETTINGS = [
    (what, part, kind)
    for what, places in (("next", ("noun", "verb", "adj", "adv")), ("words", ("noun", "verb")))
    for part in places
    for kind in ("healthy", "over-trained")
]
random.Random(0).shuffle(SETTINGS)


class Reader(nn.Module):
    """Characters → logits of each place, from it and the ones before it (and after it, where the words are sought)."""

    def __init__(self, outputs: int, channels: int, width: int, ahead: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.embed, self.ahead, self.width = nn.Embedding(len(LETTERS), 16), ahead, width
        self.conv = nn.Conv1d(16, channels, width + ahead)
        self.drop, self.head = nn.Dropout(dropout), nn.Linear(channels, outputs)

    def forward(self, tokens: Tensor) -> Tensor:
        found = nn.functional.pad(self.embed(tokens).transpose(1, 2), (self.width - 1, self.ahead))
        return self.head(self.drop(self.conv(found).relu()).transpose(1, 2))


def texts(part: str, root: str = "/usr/share/wordnet") -> list[list[int]]:
    """Glosses of a part of speech as numbers of letters, LENGTH each, in a fixed random order."""
    found = []
    for line in Path(f"{root}/data.{part}").read_text(encoding="utf8").splitlines():
        gloss = line.partition(" | ")[2].split(';"')[0].lower()
        kept = [LETTERS.index(c) for c in gloss if c in LETTERS]
        if not line.startswith("  ") and len(kept) >= LENGTH:
            found.append(kept[:LENGTH])
    random.Random(1).shuffle(found)
    return found[:3000]


def task_of(what: str, part: str) -> tuple[Task, Any]:
    """The task with 80 transfer, 60 validation and 400 test texts; and what its teacher learns from."""
    rows = texts(part)
    if what == "next":
        inputs = torch.tensor(rows)
        labels, outputs, ahead = inputs.clone(), len(LETTERS), 0
    else:
        space = LETTERS.index(" ")
        pairs = [[(c, int(row[i + 1 : i + 2] == [space])) for i, c in enumerate(row) if c != space] for row in rows]
        short = min(map(len, pairs))
        inputs, labels = (torch.tensor([[pair[k] for pair in p[:short]] for p in pairs]) for k in (0, 1))
        outputs, ahead = 2, 3
    cuts = ((0, 80), (80, 140), (140, 540), (540, len(rows)))
    transfer, validation, test, teaching = ((inputs[a:b], labels[a:b]) for a, b in cuts)
    kind = "language-modelling" if what == "next" else "token-classification"
    task = Task(
        kind, transfer=transfer, validation=validation, test=test, student=lambda: Reader(outputs, 16, 4, ahead)
    )
    return task, (teaching, lambda: Reader(outputs, 128, 7, ahead, 0.2))


def teacher_of(task: Task, given: Any, kind: str) -> nn.Module:
    """Trained on all the rest (healthy), or long on 200 texts and the transfer set (over-trained)."""
    (inputs, labels), make = given
    if kind == "over-trained":
        whole = task.splits.transfer
        inputs, labels = torch.cat([whole.inputs, inputs[:200]]), torch.cat([whole.labels, labels[:200]])
    learning = Task(task.kind, transfer=(inputs, labels), student=make)
    steps = 400
    model, _ = distill(
        learning, recipe=Recipe(training=Training(steps=steps, batch_size=32, learning_rate=5e-3)), show="nothing"
    )
    return model.eval()


def measured(what: str, part: str, kind: str) -> dict[str, Any]:
    """One line of the results."""
    task, given = task_of(what, part)
    teacher = teacher_of(task, given, kind)
    begin = time.process_time()
    plan = PilotPlan.default(task, TRAINING, first_seed=100, progress="off")
    found = diagnose(teacher, data=task, pilot=plan)
    seconds, advice = time.process_time() - begin, found.recipe
    recipes = {
        f"{name} x{factor:g}": Recipe(
            objective=None if setting is None else Objective(*setting),
            training=Training(steps=150, batch_size=16, learning_rate=2e-3 * factor),
        )
        for name, setting in ARMS.items()
        for factor in FACTORS
    }
    repair = advice.repair
    if not repair:
        recipes["pilot"] = Recipe.recommended(advice, TRAINING)
    study = dissect(task, recipes, teacher, seeds=SEEDS, progress="off")
    scores = {
        arm: {
            "validation": [r.validation.values[study.metric] for r in study.runs if r.arm == arm],
            "test": [r.test.values[study.metric] for r in study.runs if r.arm == arm],
        }
        for arm in study.arms
    }
    if repair:
        scores["pilot"] = scores["no teacher x1"]
    return {
        "setting": [what, part, kind], "metric": study.metric, "scores": scores, "seconds": seconds, "recipe": str(advice)[:90],
        "repair": repair, "pilot": None if found.pilot is None else short(json.loads(found.pilot.to_json())),
    }  # fmt: skip


def gains(line: dict[str, Any]) -> dict[str, Tensor]:
    """Gain over no teacher at its best rate by seed, more is better; each arm at its best rate."""
    sign = -1 if line["metric"] == "token-nll" else 1
    best = {
        name: max(
            (arm for arm in line["scores"] if arm.rpartition(" x")[0] == name),
            key=lambda arm: sign * sum(line["scores"][arm]["validation"]),
        )
        for name in ARMS
    }
    tested = {
        name: sign * torch.tensor(line["scores"][arm]["test"]) for name, arm in [*best.items(), ("pilot", "pilot")]
    }
    return {name: value - tested["no teacher"] for name, value in tested.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=5.0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    lines = [json.loads(text) for text in LINES.read_text().splitlines()] if LINES.exists() else []
    for setting in SETTINGS:
        if list(setting) in [line["setting"] for line in lines] or time.process_time() > 60 * options.minutes:
            continue
        lines.append(measured(*setting))
        with LINES.open("a") as file:
            file.write(json.dumps(lines[-1]) + "\n")
        print(setting, {k: round(float(v.mean()), 3) for k, v in gains(lines[-1]).items()}, lines[-1]["recipe"],
              f"{time.process_time():.0f} s", flush=True)  # fmt: skip
    text = [
        "# Recipe regret on tokens",
        "",
        "Made by `python bench/regret_tokens.py`, which says what is judged. Gains over no teacher at its best rate, in nats a "
        "token (*next*) or points (*words*), means over 3 seeds; every arm at up to 27 times the rate, as far as pilots go.",
        "",
        "| setting | T = 4 / 0.9, best rate | pilot | best of 6 | share | by the pilot |",
        "|---|---|---|---|---|---|",
    ]
    shares, worse, better = [], 0, 0
    for line in lines:
        own = gains(line)
        best = max(float(own[name].mean()) for name in ARMS)
        pilot, usual = float(own["pilot"].mean()), float(own["kd 4 0.9"].mean())
        worse += pilot + T_OF_THREE * float(own["pilot"].std()) / SEEDS**0.5 < 0
        better += pilot > usual
        shares.append(pilot / best if best > 0 else 1.0)
        message = line["recipe"].partition(", cross-entropy")[0].partition(":")[0]
        where = " ".join(line["setting"])
        text.append(f"| {where} | {usual:+.3f} | {pilot:+.3f} | {best:+.3f} | {shares[-1]:.0%} | {message} |")
    count = max(1, len(lines))
    students = sum(line["pilot"]["students"] for line in lines if line["pilot"]) / count
    text += [
        "",
        f"{len(lines)} of {len(SETTINGS)} settings: significantly worse than no teacher {worse}, better than T = 4 / 0.9 in "
        f"{better}, mean share of the best arm's gain {sum(shares) / count:.0%}; a pilot of {students:.0f} students takes "
        f"{sum(line['seconds'] for line in lines) / count:.0f} s of CPU time on one thread.",
    ]
    LINES.with_suffix(".md").write_text("\n".join(text) + "\n")
    print("\n".join(text))


if __name__ == "__main__":
    main()
