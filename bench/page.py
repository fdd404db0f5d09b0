"""How large a page is, how many elements it has, and how long Chromium takes to open it.

PYTHONPATH=src python bench/page.py     # writes bench/results/page.md
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.browser import drive
from tests.test_page import records

from fractionate.page import report
from fractionate.records.base import Record

OPENS = 5
SCRIPT = """
const entry = view.performance.getEntriesByType("navigation")[0];
return [entry.loadEventEnd - entry.startTime, page.querySelectorAll("*").length, page.documentElement.scrollHeight];
"""


def many_classes() -> list[Record]:
    """1,000 classes and 100 runs."""
    healthy, _, study = records()
    relation = np.random.default_rng(0).dirichlet(np.full(1000, 0.05), size=1000)
    np.fill_diagonal(relation, 0)
    wide = replace(healthy, class_names=(), class_relation=tuple(map(tuple, relation.tolist())))
    runs = tuple(
        replace(study.runs[i % 20], seed=i // 10, arm=study.arms[i % 10], student_relation=()) for i in range(100)
    )
    return [wide, replace(study, runs=runs, seeds=tuple(range(10)))]


def many_variants() -> list[Record]:
    """20 variants of 10 seeds."""
    healthy, _, study = records()
    arms = tuple(f"variant {i} of a study" for i in range(20))
    runs = tuple(replace(study.runs[(2 * i + s) % 20], arm=a, seed=s) for i, a in enumerate(arms) for s in range(10))
    one = study.effects[0]
    effects = tuple(
        replace(one, arm=a, against=arms[0], metric=m, placebo=False)
        for m in ("accuracy", "nll", "ece")
        for a in arms[1:]
    )
    return [healthy, replace(study, arms=arms, seeds=tuple(range(10)), baseline=arms[0], runs=runs, effects=effects)]


def main() -> None:
    lines = [
        "# Pages: size and time to open", "",
        f"`PYTHONPATH=src python bench/page.py`. Opened {OPENS} times in headless Chromium, from a file, until the load event; "
        "rendering: CPU seconds of `report`.", "",
        "| page | kB | elements | pixels at 1280 | rendering, s | opening, ms (least, most) |", "|---|---|---|---|---|---|",
    ]  # fmt: skip
    for name, made in (("1,000 classes, 100 runs", many_classes()), ("20 variants × 10 seeds", many_variants())):
        with tempfile.TemporaryDirectory() as folder:
            began = time.process_time()
            path = report(made, Path(folder) / "a.html")
            took = time.process_time() - began
            found = [drive(path, Path(tempfile.mkdtemp(dir=folder)), SCRIPT) for _ in range(OPENS)]
            times, (_, elements, pixels) = [one[0] for one in found], found[0]  # type: ignore[index,misc]
            kb, spread = path.stat().st_size / 1000, f"{min(times):.0f}, {max(times):.0f}"
            lines.append(f"| {name} | {kb:.0f} | {elements:,} | {pixels:,} | {took:.1f} | {spread} |")
            print(json.dumps(found))
    (Path(__file__).parent / "results" / "page.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
