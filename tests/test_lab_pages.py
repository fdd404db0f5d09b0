"""The committed pages: which commit's renderer made each, and that a later one can make it anew from what it carries."""

from __future__ import annotations

import hashlib
import re
import subprocess
from pathlib import Path

import pytest

from fractionate.page import decide, read_page

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "lab" / "results"
PAGES = sorted(RESULTS.rglob("*.html"))
NAMES = [page.relative_to(RESULTS).as_posix() for page in PAGES]
ROW = re.compile(r"^\| (\S+\.html) \| [^|]+ \| [^|]+ \| ([0-9a-f]+) \| ([0-9a-f]+) \d{4}-\d\d-\d\d \|$", re.MULTILINE)
MADE = {
    name: (renderer, commit)
    for name, renderer, commit in ROW.findall((RESULTS / "pages.md").read_text(encoding="utf-8"))
}


def renderer_at(commit: str) -> str | None:
    """The digest of the renderer at a commit; None where this checkout does not have it (a shallow clone, an archive)."""

    def git(*words: str) -> bytes | None:
        done = subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, check=False)
        return done.stdout if done.returncode == 0 else None

    listed = git("ls-tree", "--name-only", commit, "src/fractionate/page/")
    if not listed:
        return None
    found = hashlib.sha256()
    for path in sorted(listed.decode().split()):
        if path.endswith((".py", ".js", ".css", ".j2")):
            found.update(Path(path).name.encode() + b"\0" + (git("show", f"{commit}:{path}") or b"") + b"\0")
    return found.hexdigest()[:12]


def test_every_committed_page_names_the_renderer_and_the_table_the_commit_that_made_it() -> None:
    assert PAGES and set(MADE) == set(NAMES), "PYTHONPATH=src python lab/pages.py makes them anew"
    for name, page in zip(NAMES, PAGES, strict=True):
        renderer, _ = MADE[name]
        assert f"renderer {renderer}" in page.read_text(encoding="utf-8"), page.name
    for renderer, commit in set(MADE.values()):
        assert renderer_at(commit) in (None, renderer), f"{commit} has another renderer than the pages say"


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_a_committed_page_carries_what_it_shows(page: Path) -> None:
    records, settings = read_page(page)
    text = page.read_text(encoding="utf-8")
    for decision in decide(records, settings.run_files).decisions:
        for contender in decision.contenders:
            assert " ".join(contender.variant.split()[:1]) in text
    assert page.stat().st_size < (600_000 if page.parent.name == "examples" else 1_500_000)


def test_every_example_has_its_page() -> None:
    pages = {page.stem: page for page in PAGES if page.parent.name == "examples"}
    assert set(pages) == {path.stem for path in (ROOT / "examples").glob("*.yaml")}
    for name, page in pages.items():
        _, settings = read_page(page)
        assert settings.command == f"fractionate report runs/{name}/run.yaml"
