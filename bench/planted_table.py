"""The table of bench/planted.py: recall where the fault costs a student more than a point, and false alarms."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

RESULT = Path(__file__).parent / "results" / "planted.md"
HALVES = {"judged": "Judged half (odd seeds)", "set": "Half on which thresholds were set (even seeds)"}


def keep(cache: Path, half: str, healthy: dict[str, Any] | None, rows: list[dict[str, Any]]) -> None:
    """Put what was run in the place of the last figures of the same kinds; kinds that were not run keep theirs."""
    path = cache / f"planted-{half}.json"
    found = json.loads(path.read_text()) if path.exists() else {"healthy": None, "rows": []}
    run = {row["kind"]: [other for other in rows if other["kind"] == row["kind"]] for row in rows}
    order = list(dict.fromkeys([*(row["kind"] for row in found["rows"]), *run]))
    kept = {kind: run.get(kind, [row for row in found["rows"] if row["kind"] == kind]) for kind in order}
    whole = {"healthy": healthy or found["healthy"], "rows": [row for kind in order for row in kept[kind]]}
    if whole["healthy"] is None:
        raise SystemExit(f"{path} has no healthy controls yet: run once with --kind healthy, or with no --kind")
    path.write_text(json.dumps(whole))


def write_table(cache: Path) -> None:
    """Write bench/results/planted.md from what the halves left in the cache."""
    lines = [
        "# Planted failures", "", "Made by `python bench/planted.py --half judged` (and `--half set` for the other half).",
        "Teachers: MLPs on digits, Fashion-MNIST, WordNet glosses and the breast cancer table, two seeds a half; halves share "
        "the data sets and the kinds of fault, not teachers, splits or draws. *Named*: the finding of that name (or one that means "
        "the same) is raised as warning or error. *Alarm*: something is raised that the sound teacher of the same case does not "
        "raise. *Cost*: points of student accuracy, 4 seeds, one case a data set; negative: the student gains. *Costly*: of the "
        "cases whose cost was measured, those above one point.",
    ]  # fmt: skip
    for half, title in HALVES.items():
        path = cache / f"planted-{half}.json"
        if path.exists():
            found = json.loads(path.read_text())
            lines += ["", f"## {title}", "", *_half(found["healthy"], found["rows"])]
    RESULT.write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


def _half(healthy: dict[str, Any], rows: list[dict[str, Any]]) -> list[str]:
    warnings = ", ".join(f"{name} {count}" for name, count in sorted(healthy["warnings"].items())) or "none"
    costly = [case for row in rows for case in row["costs"] if case[1] > 1]
    named, alarmed = sum(case[2] for case in costly), sum(case[3] for case in costly)
    kinds = sorted({row["kind"] for row in rows if any(case[1] > 1 for case in row["costs"])})
    enough = [k for k in kinds if _recall(rows, k) >= 0.95]
    return [
        f"- {healthy['controls']} healthy teachers: {len(healthy['errors'])} false alarms of severity error (target 0); "
        f"warnings: {warnings}.",
        f"- Costly cases: {len(costly)}; named {named} ({named / len(costly):.0%}), some alarm {alarmed} "
        f"({alarmed / len(costly):.0%}) (target 95 % for every kind).",
        f"- Kinds with a costly case: {len(kinds)}; named in at least 95 % of them: {len(enough)}. Below: "
        + ", ".join(f"{k} ({_recall(rows, k):.0%})" for k in kinds if k not in enough) + ".",
        "", "| fault | strength | named | some alarm | cost | costly: named / all |", "|---|---|---|---|---|---|",
        *(_line(row) for row in rows),
    ]  # fmt: skip


def _recall(rows: list[dict[str, Any]], kind: str) -> float:
    costly = [case for row in rows if row["kind"] == kind for case in row["costs"] if case[1] > 1]
    return sum(case[2] for case in costly) / len(costly)


def _line(row: dict[str, Any]) -> str:
    costly = [case for case in row["costs"] if case[1] > 1]
    cost = f"{row['cost']:.1f}" if row["costs"] else "not measured"
    share = f"{sum(case[2] for case in costly)} / {len(costly)}" if costly else ""
    counts = f"{row['hits']} / {row['cases']} | {row['alarms']} / {row['cases']}"
    return f"| {row['kind']} | {row['strength']} | {counts} | {cost} | {share} |"
