"""Does a report begin with what its numbers say, and is the student it exports no worse than one without a teacher?

    python bench/first_sentence.py          # five cases through `fractionate report`; writes results/first_sentence.md
    python bench/first_sentence.py tiny     # a few steps of each: that it runs

Cases: the untouched example (`fractionate config example`); a black box of 214 classes of which 37 occur; and three that hurt with
a recipe that is given or recommended: a teacher that learned its transfer set by rote, one that has hardly been trained, one that
takes two pairs of classes for each other. The first sentence is held against the test scores in study.json, with means and
intervals computed here, not by the package. The exported recipe is trained again next to no teacher, at each rate that the study
tried no teacher at, on seeds that neither pilot nor study used.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import tempfile
import time
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from functools import cache
from io import StringIO
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
from torch import nn

from fractionate import dissect
from fractionate.cli.commands import app, open_workflow
from fractionate.data import Examples, data_sets
from fractionate.data.bundled import Parts
from fractionate.study.effects.contrasts import statistics

RESULT = Path(__file__).parent / "results" / "first_sentence.md"
FRESH = range(1000, 1010)
CLASSES, PRESENT, FEATURES = 214, 37, 40


def _centres() -> torch.Tensor:
    draw = torch.Generator().manual_seed(0)
    families = torch.randn(24, FEATURES, generator=draw)
    return families[torch.arange(CLASSES) % 24] + 0.6 * torch.randn(CLASSES, FEATURES, generator=draw)


def _drawn(classes: torch.Tensor, count: int, seed: int) -> Examples:
    draw = torch.Generator().manual_seed(seed)
    labels = classes[torch.randint(len(classes), (count,), generator=draw)]
    inputs = _centres()[labels] + 1.2 * torch.randn(count, FEATURES, generator=draw)
    return Examples(inputs / 1.7, labels, tuple(f"class {i}" for i in range(CLASSES)), "214 classes")


def black_box_data() -> Parts:
    """Examples of 37 of the 214 classes: 8 of each to learn from."""
    here = torch.arange(PRESENT) * 5
    return Parts(*(_drawn(here, count, seed) for seed, count in ((1, 8 * PRESENT), (2, 300), (3, 2000))))


@cache
def black_box() -> nn.Module:
    """A network that knows all 214 classes."""
    return _trained(_drawn(torch.arange(CLASSES), 12000, 4), 1500, CLASSES)


@cache
def swapped() -> nn.Module:
    """A network for digits that was trained on 3 as 8, 8 as 3, 4 as 9 and 9 as 4."""
    data = data_sets["digits"]
    places = torch.arange(len(data.labels))
    other = torch.tensor([0, 1, 2, 8, 9, 5, 6, 7, 3, 4])
    return _trained(Examples(data.inputs[places], other[data.labels], data.class_names, "digits"), 300, 10)


def _trained(data: Examples, steps: int, classes: int) -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(data.inputs[0].numel(), 256), nn.ReLU(), nn.Linear(256, classes))
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.05)
    for _ in range(steps):
        batch = torch.randint(len(data.labels), (64,))
        loss = nn.functional.cross_entropy(model(data.inputs[batch]), data.labels[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


SMALL = "study: {cells: [hard, ls, kd-pt, kd], seeds: 5}"
USUAL = "objective: {cell: kd, temperature: 4.0, teacher_weight: 0.9}"
DIGITS = "data: {source: digits, transfer: 200, validation: 300, test: 700}"
CASES = {
    "untouched example": "",
    "214 classes, 37 occur": f"data: {{source: 'bench.first_sentence:black_box_data'}}\n"
    f"teacher: {{model: 'bench.first_sentence:black_box'}}\ntraining: {{steps: 300}}\n{SMALL}",
    "rote teacher, T = 4 / 0.9 given": f"{DIGITS}\nteacher: {{train: {{on: transfer, steps: 3000, weight_decay: 0.0}}}}\n"
    f"training: {{steps: 200}}\n{USUAL}\n{SMALL}",
    "hardly trained teacher, T = 4 / 0.9 given": f"{DIGITS}\nteacher: {{train: {{steps: 12}}}}\ntraining: {{steps: 200}}\n"
    f"{USUAL}\n{SMALL}",
    "teacher that swaps classes, recommended recipe": f"{DIGITS}\nteacher: {{model: 'bench.first_sentence:swapped'}}\n"
    f"training: {{steps: 200}}\n{SMALL}",
}
TINY = ("training.steps=3", "study.cells=[hard, kd]", "study.seeds=2", "diagnosis.pilot=28")


@dataclass(frozen=True)
class Outcome:
    """What a report says and what is so."""

    case: str
    first: str
    numbers: str
    agrees: bool
    exported: str
    fresh: str
    surely_worse: bool


def difference(arm: dict[int, float], other: dict[int, float], coverage: float = 0.95) -> tuple[float, float, float]:
    """Mean paired difference over common seeds with its t interval."""
    found = [arm[seed] - other[seed] for seed in sorted(arm.keys() & other.keys())]
    half = float(statistics().t(len(found) - 1).ppf(0.5 + coverage / 2)) * stdev(found) / len(found) ** 0.5
    return mean(found), mean(found) - half, mean(found) + half


def judged(first: str, study: dict[str, Any]) -> tuple[str, bool]:
    """The best comparison with no teacher that the test scores of a study make, and whether the first sentence may follow.

    "Distil" needs a gain whose interval is above 0, and is due where it is with Bonferroni's correction. "Don't distil" needs 90 %
    intervals below half a point (two one-sided tests) in every variant; "No clear difference yet" one that is not surely worse.
    Each accuracy in the sentence has to be the mean of a variant.
    """
    table: dict[str, dict[int, float]] = {}
    with_teacher = set()
    for run in study["runs"]:
        table.setdefault(run["arm"], {})[run["seed"]] = run["test"]["values"]["accuracy"]
        contract = run["contract"]
        if contract and contract["teacher_weight"] > 0 and contract["cell"] not in ("hard", "ls"):
            with_teacher.add(run["arm"])
    alone = [values for arm, values in table.items() if arm.startswith("hard")]
    none = max(alone, key=lambda values: mean(values.values()))
    found = {arm: difference(table[arm], none) for arm in with_teacher}
    best = max(found, key=lambda arm: found[arm][0])
    gain, low, high = found[best]
    numbers = f"{best}: {gain:+.2f} [{low:+.2f}, {high:+.2f}] from {mean(none.values()):.1f} %"
    compared = sum(not arm.startswith("hard") for arm in table)  # what the study corrects for: label smoothing too
    surely = any(difference(table[arm], none, 1 - 0.05 / compared)[1] > 0 for arm in found)
    possible = {
        "Distil": max(lower for _, lower, _ in found.values()) > 0,
        "Don't distil": not surely and all(difference(table[arm], none, 0.9)[2] < 0.5 for arm in found),
        "Don't distil before this is repaired": not surely,
        "No clear difference yet": not surely and any(upper >= 0 for _, _, upper in found.values()),
    }
    shown = [float(number) for number in re.findall(r"(\d+\.\d+) % accuracy", first)]
    known = all(any(abs(mean(values.values()) - number) < 0.06 for values in table.values()) for number in shown)
    return numbers, known and possible[first.partition(":")[0]]


def outcome(case: str, settings: str, folder: Path, *, tiny: bool) -> Outcome:
    """One case through the command, and its recipe again on fresh seeds."""
    path = folder / "run.yaml"
    if not settings:
        with redirect_stdout(StringIO()) as text:
            app(["config", "example"], standalone_mode=False)
        settings = text.getvalue()
    path.write_text(settings)
    words = [str(path), f"out={folder / 'out'}", *(TINY if tiny else ())]
    app(["report", *words, "--trust", "bench"], standalone_mode=False)
    workflow = open_workflow(words, ["bench"])
    first, study = workflow.card.headline, json.loads((folder / "out" / "study.json").read_text())
    numbers, agrees = judged(first, study)
    if workflow.kept_back():
        return Outcome(case, first, numbers, agrees, f"nothing: {workflow.kept_back()[:60]} …", "", False)
    chosen = workflow.chosen
    objective = chosen.objective
    if objective is None:
        return Outcome(case, first, numbers, agrees, "labels alone", "", False)
    rates = sorted({workflow.training.learning_rate, chosen.training.learning_rate})
    recipes = {"exported": chosen} | {
        f"no teacher {rate:g}": replace(chosen, objective=None, training=replace(chosen.training, learning_rate=rate))
        for rate in rates
    }
    made = dissect(
        workflow.task,
        recipes,
        workflow.source_of(workflow.store, workflow.teacher, chosen),
        seeds=FRESH[:2] if tiny else FRESH,
        progress="off",
    )
    table = {arm: {r.seed: r.test.accuracy for r in made.runs if r.arm == arm and r.test} for arm in made.arms}
    none = max((table[arm] for arm in recipes if arm != "exported"), key=lambda values: mean(values.values()))
    gain, low, high = difference(table["exported"], none)
    name = f"{objective.cell} T = {objective.temperature:g} / {objective.teacher_weight:g}, rate {chosen.training.learning_rate:g}"
    return Outcome(
        case, first, numbers, agrees, name, f"{100 * gain:+.2f} [{100 * low:+.2f}, {100 * high:+.2f}]", high < 0
    )


def written(found: list[Outcome], seconds: float) -> str:
    """The table."""
    rows = [
        f"| {o.case} | {o.first} | {o.numbers} | {'yes' if o.agrees else '**no**'} | {o.exported} | {o.fresh} | "
        f"{'**yes**' if o.surely_worse else 'no'} |"
        for o in found
    ]
    agree, worse = sum(o.agrees for o in found), sum(o.surely_worse for o in found)
    text = [
        "# The first sentence of a report, and the student it exports",
        "",
        "Made by `python bench/first_sentence.py`, which says what the cases are. Numbers: the best variant with a teacher against "
        "the best without, points of test accuracy with 95 % intervals over the seeds of the study, computed by the bench. Again: "
        f"the exported recipe against no teacher on {len(FRESH)} fresh seeds. {seconds:.0f} s of CPU time on one thread.",
        "",
        "| case | first sentence | numbers of the study | agree | exported | again | surely worse |",
        "|---|---|---|---|---|---|---|",
        *rows,
        "",
        f"First sentences that are what the numbers say: {agree} of {len(found)}. Exported students that are surely worse than no "
        f"teacher: {worse}.",
    ]
    return "\n".join(text) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("size", nargs="?", choices=("full", "tiny"), default="full")
    options = parser.parse_args()
    torch.set_num_threads(1)
    found = []
    for case, settings in CASES.items():
        folder = Path(tempfile.mkdtemp(prefix="first-sentence-"))
        try:
            found.append(outcome(case, settings, folder, tiny=options.size == "tiny"))
        finally:
            shutil.rmtree(folder)
        print(found[-1], f"{time.process_time():.0f} s", flush=True)
    text = written(found, time.process_time())
    print(text)
    if options.size == "full":
        RESULT.write_text(text)


if __name__ == "__main__":
    main()
