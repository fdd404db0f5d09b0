"""What a planned temperature, and the teacher's own, costs a student: on the tuning sets of bench/planted.py.

    python bench/planted_temperatures.py              # what is not yet in the results, then bench/results/planted_temperatures.md
    python bench/planted_temperatures.py --table      # the table alone

Sound, soft and too sure teachers; kd at weight 0.9, 6 students of one learning rate. One thread, minutes a set.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from bench import planted
from bench.planted_cases import Case, fitted, sound
from bench.planted_faults import FAULTS

from fractionate import Objective, TeacherSignal
from fractionate.diagnosis.label_mixture import label_mixture
from fractionate.diagnosis.reading import read

RESULT = Path(__file__).parent / "results" / "planted_temperatures.jsonl"
TEMPERATURES = (1.0, 2.0, 4.0, 8.0, 12.0, 30.0)
CLASSICAL = ("forest", "extra trees", "logistic regression", "one tree", "discriminant analysis", "neighbours")
PLANTED = (
    "trained with label smoothing 0.4", "trained on half wrong labels", "over-trained, on new examples", "multiplied by 6",
)  # fmt: skip


def measured(case: Case, base: Case) -> dict[str, Any]:
    """Accuracy of students at each temperature, in percent, and with the logits divided by the teacher's best temperature."""
    assert case.held_logits is not None
    there = TeacherSignal(case.held_logits, case.held.labels)
    found, held = label_mixture(there), read(there)
    row: dict[str, Any] = {"K": held.classes, "hacc": held.accuracy, "htop": float(held.top.mean())}
    row |= {"T": found.temperature, "gain": found.gained}
    for temperature in TEMPERATURES:
        row[f"s{temperature:g}"] = planted.accuracy(replace(case, plan=Objective("kd", temperature, 0.9)), base.test)
    row["scaled2"] = planted.accuracy(replace(case, logits=case.logits / found.temperature), base.test)
    return row


def table(rows: list[dict[str, Any]]) -> str:
    """The table: accuracy at T = 1, and what other temperatures change."""
    lines = [
        "# What a temperature costs a student",
        "",
        "Made by `python bench/planted_temperatures.py` on sets that thresholds were set on. Teacher: accuracy and mean top "
        "probability on held-out data, its best temperature there and what that gains in nats. Students: accuracy under kd at T = "
        "1 (weight 0.9, 6 students), what another T changes, and what dividing the logits by the teacher's best temperature "
        "changes at T = 2. Points. Rows of income and waveform, and some of wardrobe, were not run yet where they are missing.",
        "",
        "| set | teacher | right | sure | best T | gains | T = 1 | 2 | 4 | 8 | 12 | 30 | divided |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for r in rows:
        apart = " | ".join(f"{r[f's{t:g}'] - r['s1']:+.1f}" for t in TEMPERATURES[1:])
        divided = f"{r['scaled2'] - r['s2']:+.1f}" if "scaled2" in r else "0"
        lines.append(
            f"| {r['set']} | {r['teacher']} | {r['hacc']:.1%} | {r['htop']:.1%} | {r['T']:.2g} | {r['gain']:.2f} | {r['s1']:.1f} | "
            f"{apart} | {divided} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--table", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    planted.STUDENTS = 6
    rows = [json.loads(line) for line in RESULT.read_text().splitlines()] if RESULT.exists() else []
    done = {(row["set"], row["teacher"]) for row in rows}
    for name in () if options.table else planted.TUNING:
        base = sound(name, 0)
        cases = {"regularised": lambda base=base: base}
        cases |= {
            label: lambda label=label, name=name: sound(name, 0, dict(fitted(name, 0))[label]) for label in CLASSICAL
        }
        cases |= {kind: lambda kind=kind, base=base: FAULTS[kind].plant(base) for kind in PLANTED}
        for label, make in cases.items():
            if (name, label) not in done:
                rows.append({"set": name, "teacher": label} | measured(make(), base))
                with RESULT.open("a") as file:
                    file.write(json.dumps(rows[-1]) + "\n")
    RESULT.with_suffix(".md").write_text(table(rows))


if __name__ == "__main__":
    main()
