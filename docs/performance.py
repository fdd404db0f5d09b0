"""The page "What it costs": figures of the committed bench tables next to their goals and peers, and for what is missed the cause.

A row names a table, a row and a column of it; the figure is read there, so that the page cannot say anything else. The rows are in
`performance_goals`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?|\.\d+")


@dataclass(frozen=True)
class Figure:
    """One figure: what it measures, where it stands, and the least or most it should be.

    `table` is a file of bench/results, or a path from the root. `section` begins the heading, `row` the first cell, `column` the
    head of its column; `bracket` takes the figure in brackets, `other` the row of a peer; of a `sentence` that begins with `row`,
    the figure stands after `column`. `why` is the cause where a goal is missed, and what comes next.
    """

    what: str
    table: str
    row: str
    column: str
    least: float | None = None
    most: float | None = None
    section: str = ""
    bracket: bool = False
    sentence: bool = False
    other: str = ""
    why: str = ""

    @property
    def place(self) -> str:
        """The table's path from the root."""
        return self.table if "/" in self.table else f"bench/results/{self.table}.md"

    def read(self, row: str) -> str:
        """A cell of the figure's column as the table has it. Raises `LookupError` where the table has no such row."""
        inside, columns = not self.section, []
        for line in (ROOT / self.place).read_text(encoding="utf-8").splitlines():
            if line.startswith("## "):
                inside, columns = line[3:].startswith(self.section), []
            if inside and self.sentence and line.startswith(row):
                return line.split(f"{self.column} ")[1].split()[0]
            cells = (
                [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
                if line.startswith("|")
                else []
            )
            if not inside or not cells:
                columns = [] if not cells else columns
            elif not columns:
                columns = cells
            elif cells[0].strip("*").startswith(row):
                return next(
                    cells[i] for i, head in enumerate(columns) if head.startswith(self.column)
                ).strip("*")
        raise LookupError(f"{self.table} has no row {row!r} in {self.section!r}")

    @property
    def cell(self) -> str:
        """The figure as the table has it, without what stands in brackets; or that alone."""
        whole = self.read(self.row)
        return whole.split("(")[1].strip(")") if self.bracket else whole.split(" (")[0]

    @property
    def met(self) -> bool:
        """Whether the goal is reached."""
        number = NUMBER.search(self.cell)
        assert number is not None, self
        value = float(number[0].replace(",", ""))
        return (self.least is None or value >= self.least) and (
            self.most is None or value <= self.most
        )

    @property
    def goal(self) -> str:
        """The goal in words."""
        return f"at least {self.least:g}" if self.least is not None else f"at most {self.most:g}"

    @property
    def peer(self) -> str:
        """The peer's figure in the same column, with its name."""
        return (
            f"{self.other.strip('`*')}: {self.read(self.other).split(' (')[0]}"
            if self.other
            else "–"
        )


def machine(figure: Figure) -> str:
    """The first sentence of a table that says how it was made."""
    text = (ROOT / figure.place).read_text(encoding="utf-8")
    found = re.search(
        r"^[^|#\n]*`[^`]*(?:python bench/|python lab/|fractionate )[^`]*`[^\n]*", text, re.MULTILINE
    )
    return "" if found is None else found[0].strip()


def page() -> str:
    """The page in Markdown."""
    from performance_goals import GROUPS, NOT_MEASURED

    figures = [figure for group in GROUPS.values() for figure in group]
    missed = sum(not figure.met for figure in figures)
    lines = [
        "# What it costs", "",
        f"{len(figures)} goals, {missed} missed. Every figure is read from a committed table, which names its command, machine and "
        "sizes; goals are the project's own. All were measured on processors, most on two cores shared with other work: read "
        "ratios, not times. Nothing here was measured on a GPU.", "",
    ]  # fmt: skip
    for heading, group in GROUPS.items():
        lines += [
            f"## {heading}",
            "",
            "| what | figure | goal | peer | |",
            "| --- | --- | --- | --- | --- |",
        ]
        for figure in group:
            verdict = "met" if figure.met else f"missed. {figure.why}"
            lines.append(
                f"| [{figure.what}](../{figure.place}) | {figure.cell} | {figure.goal} | {figure.peer} | {verdict} |"
            )
        lines.append("")
    lines += [
        "## Goals that nothing here was measured for",
        "",
        *(f"- {goal}" for goal in NOT_MEASURED),
        "",
    ]
    made = {figure.place: machine(figure) for figure in figures}
    lines += [
        "## How each table was made",
        "",
        *(f"- [{Path(place).stem}](../{place}): {how}" for place, how in made.items()),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(page())
