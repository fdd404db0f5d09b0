"""The committed pages made anew by the renderer of this checkout, from the records that they carry.

PYTHONPATH=src python lab/pages.py          # every page of lab/results and of lab/results/examples, and lab/results/pages.md

A page of lab/results/examples is what `fractionate report` wrote in an empty folder for the run file of its name; four of them were
run with the smaller settings of `SMALLER`.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from fractionate.page import read_page
from fractionate.page.document import write_page
from fractionate.page.template import renderer

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "lab" / "results"
RENDERER = "src/fractionate/page"
SMALLER = {
    "black-box-logprobs": "data.transfer=100 data.validation=60 data.test=100 training.steps=100 study.seeds=3",
    "nmt-tie-kd": "teacher.train.steps=50 training.steps=25",
    "tagger": "teacher.train.steps=15 training.steps=80 study.seeds=2",
    "text-classifier": "teacher.train.steps=15 training.steps=80 study.seeds=2 data.transfer=600",
}
SEEN = [  # what a person has seen, by whom the next faults are found
    "",
    "## Screenshots that were viewed",
    "",
    "Headless Chromium, 2026-11-30, renderer of commit 46e0d98 (width in pixels, theme; folded where not said otherwise):",
    "",
    "| page | 1280 light | 1280 dark | 390 light | 390 dark | print |",
    "|---|---|---|---|---|---|",
    "| demo | yes | no | no | no | 10 pages, counted only |",
    "| text-classifier | yes | no | no | no | no |",
    "| language-model | yes | no | no | yes | no |",
    "| nmt-tie-kd | yes | no | no | no | no |",
    "| qat-encoder | yes | no | no | no | no |",
    "| ked-table | yes | no | yes | no | no |",
    "| black-box-table | yes | no | no | no | no |",
    "| pictures | yes, unfolded too | no | no | no | no |",
    "| tagger | no | unfolded | no | no | no |",
    "",
    "Mended since: per cent signs stood in the line after their number, with and without a space; findings named tokens by number "
    "(nmt-tie-kd was run anew for it; language-model still has the numbers of its older run).",
]
MADE_BY = re.compile(r'<meta name="generator" content="Fractionate ([^,"]+), renderer ([0-9a-f]+)">')


def commit() -> str:
    """The last commit that changed the renderer; refused where the checkout differs from it."""

    def git(*words: str) -> str:
        return subprocess.run(
            ["git", "-C", str(ROOT), *words], check=True, capture_output=True, text=True
        ).stdout.strip()

    if git("status", "--porcelain", RENDERER):
        sys.exit(
            f"{RENDERER} has changes that are not committed: commit them first, so that the table can name the commit"
        )
    return git("log", "-1", "--format=%h %cs", "--", RENDERER)


def main() -> None:
    """Every page, and the table of what made it."""
    by = commit()
    lines = [
        "# The committed pages", "",
        "`PYTHONPATH=src python lab/pages.py` makes each page anew from the records that it carries (without matrices of runs that "
        "are not drawn; numbers that no decision rests on with six digits). Renderer: a digest of the files in "
        "src/fractionate/page.", "",
        "| page | holds | Fractionate | renderer | last commit of the renderer |", "|---|---|---|---|---|",
    ]  # fmt: skip
    for page in sorted(RESULTS.rglob("*.html")):
        records, settings = read_page(page)
        write_page(records, page, settings)
        made = MADE_BY.search(page.read_text(encoding="utf-8"))
        assert made is not None and made[2] == renderer()
        kinds = [type(record).__name__ for record in records]
        holds = ", ".join(f"{kinds.count(kind)} {kind}" for kind in dict.fromkeys(kinds))
        lines.append(f"| {page.relative_to(RESULTS).as_posix()} | {holds} | {made[1]} | {made[2]} | {by} |")
    lines += [
        "",
        "The diagnoses of language-model and tagger are older than their field `row` and got its value (token) later.",
        "",
        "Pages of examples are of the run file as it stands, made in an empty folder, but for these, which show the path only:",
        "",
    ]
    lines += [f"- {name}: `fractionate report {name}.yaml {words}`" for name, words in SMALLER.items()]
    lines += SEEN
    (RESULTS / "pages.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
