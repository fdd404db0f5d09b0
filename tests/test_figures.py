"""Every measured figure in README and docs stands in a committed table that the page names, or is no measurement."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import layout
from fractionate.diagnosis.recipe import UNTRIED

UNTRIED_ROW = "rule, untried, at the rate given"
UNITS = "%|points?|nats|CPU-s|GB/s|MiB|GiB|kB|MB|GB|ms|s|seconds|minutes|×"
FIGURE = re.compile(rf"(?<![\w.,])[-+−]?(\d[\d,]*(?:\.\d+)?)[ \u00a0](?:{UNITS})(?!\w)")
TABLE = re.compile(r"(?:bench|lab)/results/\w+\.md|lab/LOG\.md")
CONVENTION = re.compile(
    r"(?:90|95|70) %(?:\s\S+){0,3}\s(?:intervals?|coverage)|intervals?\s(?:of|at)\s95 %|chance of 80 %|\d+ × \d+"
)
PAGES = [
    layout.README,
    *(p for p in sorted((layout.ROOT / "docs").rglob("*.md")) if not {"decisions", "made"} & set(p.parts)),
]
DEFINED = "a constant of the code"
WORKED_OUT = "worked out from the table that is named"
NO_MEASUREMENT: dict[str, dict[str, str]] = {  # by page: the figure, and why no table has it
    "docs/evidence/peers-conformance.md": {"0.313 nats": "written by the conformance program"},
    "docs/how-to/data.md": {"12 ×": "bytes a pixel"},
    "docs/how-to/quantized.md": {"54 %": WORKED_OUT, "35 %": WORKED_OUT, "10 %": WORKED_OUT, "4 %": WORKED_OUT},
    "docs/how-to/store.md": {"0.12 %": "0.9 to the power of 64 rows that are asked again"},
    "docs/reference/dissect.md": {"0.02 nats": DEFINED},
    "docs/reference/findings.md": {"95 %": DEFINED},
    "docs/reference/parts.md": {"10 ×": "how many columns a measure has"},
    "docs/reference/report.md": {"0.001 nats": DEFINED, "10 kB": "the script's size, held by tests/test_page.py"},
    "docs/theory/recipe.md": {
        "23 points": "lab/LOG.md: the rule that was given up",
        "47 %": "lab/LOG.md; rows in bench/results/regret_pilot_seen.jsonl",
        "69 %": "lab/LOG.md: the rule changed after it was judged",
        "93 %": "lab/LOG.md; rows in bench/results/regret_pilot_seen.jsonl",
    },
}


def prose(page: Path) -> str:
    """A page without its programs and what they print."""
    return re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)


def numbers(text: str) -> list[float]:
    return [float(found.replace(",", "")) for found in re.findall(r"\d[\d,]*(?:\.\d+)?", text) if found.strip(",")]


def stands_in(figure: str, table: list[float]) -> bool:
    """Whether a table has a number that is this one once rounded as it is; shares are written as per cent too."""
    digits = len(figure.partition(".")[2])
    wanted = float(figure.replace(",", ""))
    return any(abs(round(scale * number, digits) - wanted) < 1e-9 for number in table for scale in (1, 100))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(layout.ROOT)))
def test_every_figure_stands_in_a_table(page: Path) -> None:
    name, text = str(page.relative_to(layout.ROOT)), prose(page)
    tables = sorted(set(TABLE.findall(text)))
    measured = [number for table in tables for number in numbers((layout.ROOT / table).read_text(encoding="utf-8"))]
    spoken = CONVENTION.sub(" ", text)
    missing = {
        found[0] + " … " + " ".join(spoken[found.start() - 60 : found.end() + 20].split())
        for found in FIGURE.finditer(spoken)
        if found[0] not in NO_MEASUREMENT.get(name, {}) and not stands_in(found[1], measured)
    }
    assert not missing, f"{name} names {', '.join(tables) or 'no table'}; not there: " + "\n".join(sorted(missing))


def test_exceptions_are_needed() -> None:
    for name, figures in NO_MEASUREMENT.items():
        text = prose(layout.ROOT / name)
        for figure, reason in figures.items():
            number, _, unit = figure.partition(" ")
            assert reason and (figure in text or (number in text and unit in text)), f"{name} no longer says {figure}"


def test_what_an_untried_recipe_says_of_pilots_is_the_table() -> None:
    """Both against no teacher at its best learning rate, the first table of two."""
    rows = [line.split("|") for line in (layout.ROOT / "bench/results/regret_pilot.md").read_text().splitlines()]
    gains = [next(float(r[5]) for r in rows if r[1:2] == [f" {way} "]) for way in ("**rule + pilot**", UNTRIED_ROW)]
    stated = float(re.findall(r"([\d.]+) points", UNTRIED)[0])
    assert abs(gains[0] - gains[1] - stated) < 0.06  # either gain is rounded to a hundredth
    commands = (layout.ROOT / "src/fractionate/cli/commands.py").read_text(encoding="utf-8")
    assert f"untried: {stated} points less" in commands
