"""Which attention term does a ternary encoder need? The run file lab/small_encoders.yaml on three tasks, five seeds.

    PYTHONPATH=src OMP_NUM_THREADS=1 python lab/study_small_encoders.py    # lab/results/study_small_encoders.md; resumable

Kim et al. (arXiv 2211.11014) with an encoder of two layers that two cores can train for whole epochs: the definition of a word →
its topic (45 classes) and its part of speech (4), and the words of example sentences → their part of speech (tags).
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from fractionate.records import Effect, MetricInfo, Study
from fractionate.study.effects.contrasts import Contrast, effects

LAB = Path(__file__).parent
RESULTS = LAB / "results"
TASKS = {
    "topics": (),
    "parts of speech": ("data.source=definitions(20000)",),
    "tags": ("task=token-classification", "data.source=usage(8000)"),
}
TERMS = ("score", "map", "output", "unified")
CONTRASTS = (
    *(Contrast(arm, "no KD") for arm in ("hidden", *TERMS)),
    *(Contrast(arm, "hidden") for arm in TERMS),
    Contrast("map", "score"),
    Contrast("map", "output"),
)


def studied(name: str, settings: tuple[str, ...]) -> Study:
    """The study of a task, trained where it is missing."""
    out = Path("runs/small_encoders") / name.replace(" ", "-")
    command = [
        sys.executable,
        "-m",
        "fractionate",
        "dissect",
        str(LAB / "small_encoders.yaml"),
        f"out={out}",
        *settings,
    ]
    subprocess.run([*command, f"name=ternary encoder, {name}"], check=True)
    return Study.load(out / "study.json")


def cell(e: Effect, digits: int) -> str:
    return f"{e.gain:+.{digits}f} [{e.interval.low:+.{digits}f}, {e.interval.high:+.{digits}f}] {e.verdict}"


def written(metric: MetricInfo, value: float) -> str:
    return f"{value:.1f}%" if metric.unit == "points" else f"{metric.name} {value:.3f}"


def section(name: str, study: Study, contrasts: Sequence[Contrast]) -> list[str]:
    """Every contrast in accuracy, NLL, what became of attention and what else was measured."""
    kept = [m for m in study.metrics if m.name != "agreement"]
    found = {m.name: {(e.arm, e.against): e for e in effects(study.runs, contrasts, metric=m)} for m in kept}
    first, steps = study.deciding, max(run.steps for run in study.runs)
    base = [run.test.values[first.name] for run in study.runs if run.arm == "no KD" and run.test]
    words = [f"no KD {written(first, sum(base) / len(base))}"]
    words += [f"teacher {written(first, study.teacher.values[first.name])}"] if study.teacher else []
    lines = [
        f"## {name}", "", f"{len(study.seeds)} seeds, {steps} steps; {', '.join(words)}.", "",
        "| contrast | seeds | " + " | ".join(f"{m.name}, {m.unit}" if m.unit else m.name for m in kept) + " |",
        "|---" * (2 + len(kept)) + "|",
    ]  # fmt: skip
    for contrast in contrasts:
        there = [(m.name, found[m.name].get((contrast.arm, contrast.against))) for m in kept]
        cells = [cell(e, 2 if name == "accuracy" else 3) if e else "–" for name, e in there]
        lines.append(f"| {contrast.arm} − {contrast.against} | {len(study.seeds)} | {' | '.join(cells)} |")
    return [*lines, ""]


if __name__ == "__main__":
    text = [
        "# Ternary encoders of two layers: maps, outputs, or both?", "",
        "Made by `PYTHONPATH=src python lab/study_small_encoders.py`: lab/small_encoders.yaml on three tasks of WordNet's texts. "
        "W2A8; teacher and student of 2 layers, width 64, 2 heads; three epochs on 700 texts. Paired differences, 95 % intervals; "
        "verdicts after Holm over a column. Ranking loss and cover length: less is nearer to the teacher's attention.", "",
    ]  # fmt: skip
    for task, given in TASKS.items():
        text += section(task, studied(task, given), CONTRASTS)
        (RESULTS / "study_small_encoders.md").write_text("\n".join(text), encoding="utf-8")
    print("\n".join(text))
