"""The page "What it costs": figures of the committed bench tables next to their goals, and for what is missed the cause.

A row names a table, a row and a column of it; the figure is read there, so that the page cannot say anything else.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

RESULTS = Path(__file__).resolve().parents[1] / "bench" / "results"


@dataclass(frozen=True)
class Figure:
    """One figure: what it measures, where it stands, and the least or most it should be.

    `section` begins the heading, `row` the first cell, `column` the head of its column. `missed` is why a goal is not met and
    what comes next.
    """

    what: str
    table: str
    row: str
    column: str
    least: float | None = None
    most: float | None = None
    section: str = ""
    missed: str = ""

    @property
    def cell(self) -> str:
        """The figure as the table has it. Raises `LookupError` where the table has no such row."""
        inside, columns = not self.section, []
        for line in (RESULTS / f"{self.table}.md").read_text(encoding="utf-8").splitlines():
            if line.startswith("## "):
                inside, columns = line[3:].startswith(self.section), []
            cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] if line.startswith("|") else []
            if not inside or not cells:
                columns = [] if not cells else columns
            elif not columns:
                columns = cells
            elif cells[0].strip("*").startswith(self.row):
                return next(cells[i] for i, head in enumerate(columns) if head.startswith(self.column)).strip("*")
        raise LookupError(f"{self.table}.md has no row {self.row!r} in {self.section!r}")

    @property
    def met(self) -> bool:
        """Whether the goal is reached."""
        number = re.search(r"\d[\d,]*(?:\.\d+)?", self.cell)
        assert number is not None, self
        value = float(number[0].replace(",", ""))
        return (self.least is None or value >= self.least) and (self.most is None or value <= self.most)

    @property
    def goal(self) -> str:
        """The goal in words."""
        return f"at least {self.least:g}" if self.least is not None else f"at most {self.most:g}"


FEWER_PASSES = (
    "Seven operators of torch walk over each chunk; a compiled kernel would walk once and save about 0.05 s on 400 MB "
    "(docs/decisions/0150), so none is built."
)
ARITHMETIC = (
    "The rest is spread: measurements 10 %, optimizer 9 %, recording the step 7 %, evaluation and records 7 %, gradients of the "
    "losses 7 %, making models 5 % (timed once, at load). Next: one stack over all seeds, which would leave a second worker "
    "nothing to do."
)
MEASURED = "Measuring each student (test data, points along the training) is part of it. Next: bfloat16 by default where it gains."
A_SHARD = "A shard of 64 MiB is collected before it is written: below that many bytes memory grows with the rows."
UNKNOWN = "The cause has not been looked for yet."
ELEMENTS = "Exponentials bound it: two an element. Next: the loss compiled, or a kernel."

GROUPS: dict[str, tuple[Figure, ...]] = {
    "A study of 21 students: how many times cheaper than 21 runs with a DataLoader and a live teacher": (
        Figure("MLP", "study", "peers' way / dissect, one core", "MLP", least=10, missed=ARITHMETIC),
        Figure("CNN", "study", "peers' way / dissect, one core", "CNN", least=3.5, missed=MEASURED),
        Figure("MLP, two workers, wall time", "study", "peers' way / dissect, two workers", "MLP", least=10, missed=ARITHMETIC),
        Figure("MLP, as a multiple of one plain student", "study", "dissect, as it chooses", "MLP", most=5, missed=ARITHMETIC),
        Figure(
            "2-layer BERT on texts, against Trainer", "study_transformers", "2-layer BERT", "peers' way / dissect", least=3,
            missed=UNKNOWN,
        ),
        Figure(
            "2-layer Llama, against TRL", "study_transformers", "2-layer Llama", "peers' way / dissect", least=3, missed=UNKNOWN
        ),
    ),
    "The loop of `distill`: time of a step, as a multiple of a bare loop's": (
        Figure(
            "MLP of 84 k parameters", "engine", "`distill`", "of the bare loop's", most=1.03, section="MLP",
            missed="0.06 ms a step go to checks (finite loss and gradients) and to the record of the order.",
        ),
        Figure(
            "CNN of 24 k parameters", "engine", "`distill`", "of the bare loop's", most=1.03, section="CNN",
            missed="Where 0.7 ms a step go has not been found; the interval of all steps holds 1.",
        ),
        Figure("a cached teacher, throughput against no teacher", "cached", "cached, views replayed", "throughput", least=0.95),
    ),
    "Losses, forward and backward: multiples of the memory traffic that cannot be avoided": (
        Figure("cross-entropy, 64 × 32,000", "losses", "ours: cross-entropy", "× limit", most=6, section="64 × 32,000, float32"),
        Figure(
            "forward KL, 64 × 32,000", "losses", "ours: forward-kl", "× limit", most=6, section="64 × 32,000, float32",
            missed=ELEMENTS,
        ),
        Figure("DKD, 64 × 32,000", "losses", "ours: dkd", "× limit", most=9, section="64 × 32,000, float32", missed=ELEMENTS),
        Figure("JSD, 64 × 32,000", "losses", "ours: jsd", "× limit", most=9, section="64 × 32,000, float32", missed=ELEMENTS),
        Figure(
            "top-32 against DistillKit's, 64 × 32,000 (times faster)", "compact_losses", "ours, compact: forward-kl",
            "speed against", least=4, section="64 × 32,000, float32",
        ),
        Figure(
            "top-32 against DistillKit's, 16 × 151,936 (times faster)", "compact_losses", "ours, compact: forward-kl",
            "speed against", least=4, section="16 × 151,936, float32",
            missed="At 64 × 32,000 it is met; why less is gained from longer rows has not been found.",
        ),
        Figure(
            "from hidden states, 512 × 151,936 (multiples of the products)", "vocabulary", "ours: forward-kl",
            "× the bare products", most=1.15, section="512 tokens", missed="Measured next to other work; top-32 targets reach it.",
        ),
    ),
    "Stores and the spectrum": (
        Figure("random rows of the store, times the fastest peer's", "store", "datasets (Arrow)", "ours / it", least=2),
        Figure(
            "spectrum of 100,000 × 1,000, % of the bandwidth of a copy", "spectrum", "100,000 × 1,000", "ours of copy", least=40,
            missed=FEWER_PASSES,
        ),
        Figure(
            "slope of time of `collect` over rows", "growth", "collect", "slope of time", most=1.1, section="Over rows",
            missed=UNKNOWN,
        ),
        Figure(
            "slope of time of `diagnose` over rows", "growth", "diagnose", "slope of time", most=1.1, section="Over rows",
            missed=UNKNOWN,
        ),
        Figure(
            "slope of memory of `collect` over rows", "growth", "collect", "of memory", most=0.2, section="Over rows",
            missed=A_SHARD,
        ),
        Figure(
            "slope of time of `distill` over classes", "growth", "distill", "slope of time", most=1.1, section="Over classes",
            missed=UNKNOWN,
        ),
    ),
}  # fmt: skip


def machine(table: str) -> str:
    """The first sentence of a table that says how it was made."""
    text = (RESULTS / f"{table}.md").read_text(encoding="utf-8")
    found = re.search(r"^[^|#\n]*`[^`]*python bench/[^`]*`[^\n]*", text, re.MULTILINE)
    return "" if found is None else found[0].strip()


def page() -> str:
    """The page in Markdown."""
    lines = [
        "# What it costs", "",
        "Every figure is read from a committed table, which names its command, machine and sizes; goals are the project's own. "
        "All were measured on processors, most on two cores shared with other work: read ratios, not times. Nothing here was "
        "measured on a GPU.", "",
    ]  # fmt: skip
    used: list[str] = []
    for heading, figures in GROUPS.items():
        there = [figure for figure in figures if (RESULTS / f"{figure.table}.md").exists()]
        lines += [f"## {heading}", "", "| what | figure | goal | |", "| --- | --- | --- | --- |"]
        for figure in there:
            verdict = "met" if figure.met else f"missed. {figure.missed}"
            lines.append(
                f"| [{figure.what}](../bench/results/{figure.table}.md) | {figure.cell} | {figure.goal} | {verdict} |"
            )
        lines.append("")
        used += [figure.table for figure in there]
    lines += ["## How each table was made", ""]
    lines += [f"- [{table}](../bench/results/{table}.md): {machine(table)}" for table in dict.fromkeys(used)]
    return "\n".join(lines) + "\n"
