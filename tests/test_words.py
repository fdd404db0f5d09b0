"""Plain technical English: words that only this project used do not come back, in identifiers, messages, documents and comments."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
WORDS = (  # the left column of the list of terms, and the phrases next to it
    "asked", "asking", "beside", "council", "entrants?", "forecasts?", "foret(?:ell|ells|elling|old)", "go on", "goes on",
    "hand(?:s|ed)? over", "handed out", "is told", "living", "(?:a )?looked at", "looks? at", "a look", "portions?", "prechecks?",
    "rehears(?:al|als|ed)", "remainder", "said", "several", "spoken", "taught", "told", "workshops?", "cannot be meant",
    "cannot be used so",
)  # fmt: skip
ANYWHERE = "|".join(WORDS).replace(" ", r"\s+(?:#\s+)?")  # a phrase may end on the next line
FOUND = re.compile(rf"(?<![A-Za-z])(?:{ANYWHERE})(?![A-Za-z])", re.IGNORECASE)
KEPT = {  # (file, what stays there): why
    ("src/fractionate/data/answers.py", "remainder"): "a key of the files of answers",
    ("docs/how-to/api-teacher.md", "remainder"): "a key of the files of answers",
    ("bench/results/seeded_bugs.md", "remainder"): "the name of a test",
    ("bench/results/seeded_bugs.md", "a look"): "the name of a test",
    ("bench/results/seeded_bugs.md", "several"): "the name of a test",
    ("bench/results/seeded_bugs.md", "beside"): "the name of a test",
}
TEXTS = [
    *sorted((ROOT / "src").rglob("*.py")),
    *(p for p in sorted((ROOT / "docs").rglob("*.md")) if not {"decisions", "made", "_build"} & set(p.parts)),
    *(ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "lab/LOG.md")),
    *(p for p in sorted((ROOT / "bench").rglob("*")) if p.suffix in (".py", ".md")),
    *sorted((ROOT / "recipes").glob("*.py")),
    *sorted((ROOT / "examples").glob("*.yaml")),
]


@pytest.mark.parametrize("folder", ["src", "docs", "bench", "others"])
def test_words_are_those_of_the_field(folder: str) -> None:
    """Decision records are left out: they stay as they were written."""
    wrong = []
    for path in TEXTS:
        name = path.relative_to(ROOT).as_posix()
        if folder == (name.partition("/")[0] if name.startswith(("src/", "docs/", "bench/")) else "others"):
            text = path.read_text(encoding="utf-8")
            for found in FOUND.finditer(text):
                word = " ".join(found[0].replace("#", " ").lower().split())
                if (name, word) not in KEPT:
                    wrong.append(f"{name}:{text.count(chr(10), 0, found.start()) + 1} {word}")
    assert not wrong, "\n".join(wrong)


def test_what_is_kept_is_there() -> None:
    for name, word in KEPT:
        assert re.search(
            rf"(?<![A-Za-z]){word}(?![A-Za-z])".replace(" ", "[ _]"),
            (ROOT / name).read_text(encoding="utf-8"),
            re.IGNORECASE,
        ), (name, word)
