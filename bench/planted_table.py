"""The table of bench/planted.py: what became of faults that cost a student a point or more, and false alarms."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from fractionate import Objective

RESULT = Path(__file__).parent / "results" / "planted.md"
OUTCOMES = ("named", "led to", "silent", "wrong")
COSTLY = 1.0


def write_table(rows: list[dict[str, Any]], *, judged: bool, plan: Objective, unfinished: list[str]) -> None:
    """Print the table; of the judging sets also write it. Faults of unfinished sets are not in the rows."""
    faults, healthy = ([row for row in rows if row["what"] == what] for what in ("fault", "healthy"))
    sets = list(dict.fromkeys(row["set"] for row in faults))
    costly = [row for row in faults if row["cost"] is None or row["cost"] >= COSTLY]
    kinds = list(dict.fromkeys(row["kind"] for row in faults))
    errors = [
        (row["kind"], name)
        for row in healthy
        for name, severity in row["raised"].items()
        if severity == "error" and not true(row, name)
    ]
    warned = [row for row in healthy if any(s == "warning" and not true(row, n) for n, s in row["raised"].items())]
    names = Counter(n for row in healthy for n, s in row["raised"].items() if s == "warning" and not true(row, n))
    lines = [
        "# Planted faults", "",
        f"Made by `python bench/planted.py`: {len(kinds)} kinds of fault in sound cases on {len(sets)} sets ({', '.join(sets)}) "
        "that set no threshold. *Named*: a finding that names the fault is raised as warning or error; *led to*: one that sends a "
        "person to the right place; *silent*: nothing that the sound case does not raise too; *wrong*: something else alone. "
        f"*Cost*: points of test accuracy taken from a student under {plan.cell.name} at T = {plan.temperature:g}, teacher weight "
        f"{plan.teacher_weight:g} (4 students; of wrong splits: points by which they misreport). Costly: a point or more, or no "
        "training possible. Students of tokens read the token before.", "",
        *([f"Faults not yet run on all of: {', '.join(unfinished)}.", ""] if unfinished else []),
        summary("Costly cases", costly, "target: named 90 %, silent or wrong 3 %"),
        summary("All cases", faults, "a fault without cost may be silent"),
        f"- Healthy teachers: {len(healthy)}; with a false error {len({kind for kind, _ in errors})} (target 0), with a false "
        f"warning {len(warned)} ({len(warned) / max(1, len(healthy)):.0%}, target 3 %): "
        + (", ".join(f"{name} {count}" for name, count in names.most_common()) or "none")
        + ". Not counted is what test data, which the probes do not read with the teacher, say too: *weak-teacher* where logistic "
        "regression or students without a teacher are better by a point, *held-out-calibration* where confidence is 8 points above "
        "accuracy, *class-balance* where class shares corrected by held-out data gain a point (a rule made after a first judging: "
        f"{sum('class-balance' in row['raised'] and true(row, 'class-balance') for row in healthy)} warnings), "
        "*leaked-examples* where rows of the data set do repeat "
        f"({sum(any(true(row, n) for n in row['raised']) for row in healthy)} teachers).",
        *(f"  - error: {kind}: {name}" for kind, name in errors),
        "", "| fault | named | led to | silent | wrong | costly: named / all | mean cost |", "|---|---|---|---|---|---|---|",
        *(line(kind, [row for row in faults if row["kind"] == kind]) for kind in kinds),
        "", "Costly and not named:", "",
        *(f"- {row['kind']}, {row['set']}: {row['outcome']} ({', '.join(row['raised']) or 'nothing raised'}), "
          + ("not priced" if row["cost"] is None else f"{row['cost']:.1f} points")
          for row in costly if row["outcome"] != "named"),
        "", "Healthy and warned of:", "",
        *(f"- {row['kind']}: {', '.join(n for n in row['raised'] if not true(row, n))}" for row in healthy
          if any(not true(row, n) for n in row["raised"])),
    ]  # fmt: skip
    if judged:
        RESULT.write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


def true(row: dict[str, Any], name: str) -> bool:
    """Whether the accusation of a healthy teacher is right."""
    return name in row["true"]


def summary(title: str, rows: list[dict[str, Any]], target: str) -> str:
    count = Counter(row["outcome"] for row in rows)
    return (
        f"- {title}: {len(rows)}; "
        + ", ".join(f"{o} {count[o]} ({count[o] / max(1, len(rows)):.0%})" for o in OUTCOMES)
        + f" ({target})."
    )


def line(kind: str, rows: list[dict[str, Any]]) -> str:
    count = Counter(row["outcome"] for row in rows)
    costly = [row for row in rows if row["cost"] is None or row["cost"] >= COSTLY]
    costs = [row["cost"] for row in rows if row["cost"] is not None]
    mean = f"{sum(costs) / len(costs):.1f}" if costs else "not priced"
    return (
        f"| {kind} | " + " | ".join(str(count[o]) for o in OUTCOMES)
        + f" | {sum(row['outcome'] == 'named' for row in costly)} / {len(costly)} | {mean} |"
    )  # fmt: skip
