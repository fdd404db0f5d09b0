"""What the documents say is there is there: the tables of names, the public names, the links."""

from __future__ import annotations

import importlib
import inspect
import os
import re
from pathlib import Path

import pytest

import fractionate
import layout

PAGES = [
    page for page in sorted((layout.ROOT / "docs").rglob("*.md")) if page.relative_to(layout.ROOT).parts[1] != "made"
]
DOCUMENTS = [layout.README, *PAGES]
REGISTRIES = layout.registries()  # by the heading of the first column


def tables(text: str) -> list[tuple[str, list[list[str]]]]:
    """Heading of the first column, and the cells of each row, of every table in a page."""
    found: list[tuple[str, list[list[str]]]] = []
    lines = re.sub(r"```.*?```", "", text, flags=re.DOTALL).splitlines()
    for i, line in enumerate(lines):
        if re.match(r"\|?\s*:?-{2,}", line) and "|" in line and i:
            rows = []
            for row in lines[i + 1 :]:
                if not row.lstrip().startswith("|"):
                    break
                rows.append([cell.strip() for cell in re.split(r"(?<!\\)\|", row.strip().strip("|"))])
            found.append((lines[i - 1].strip().strip("|").split("|")[0].strip().lower(), rows))
    return found


def named(cell: str) -> list[str]:
    """The names in backticks of a cell, without arguments."""
    return [name.partition("(")[0] for name in re.findall(r"`([^`]+)`", cell)]


@pytest.mark.parametrize("page", DOCUMENTS, ids=lambda p: p.name)
def test_tables_of_names_are_the_registries(page: Path) -> None:
    """A table whose first column is headed by a kind of part lists the names of that registry, all of them, once."""
    for head, rows in tables(page.read_text(encoding="utf-8")):
        if head in REGISTRIES:
            written = [name for row in rows for name in named(row[0])]
            assert sorted(written) == sorted(REGISTRIES[head]), f"{page.name}: the table of each {head}"


def test_every_registry_has_its_table_and_every_part_its_sentence() -> None:
    found = dict(tables(layout.PARTS.read_text(encoding="utf-8")))
    assert set(REGISTRIES) == set(found), "run `python tests/layout.py`"
    for kind, rows in found.items():
        for name, text in ((named(row[0])[0], row[1]) for row in rows):
            assert text == layout.explained(REGISTRIES[kind], name), f"{kind} {name}: run `python tests/layout.py`"


PUBLIC = {
    "collect", "diagnose", "dissect", "distill", "report",
    "Cell", "CELLS", "Objective", "Recipe", "Task", "TeacherSignal", "spectrum", "rescaling",
}  # fmt: skip


def test_the_public_names() -> None:
    """The surface is small and written down here: adding to it is a decision."""
    assert set(fractionate.__all__) == PUBLIC
    assert sorted(fractionate.__all__) == fractionate.__all__
    for name in fractionate.__all__:
        part = getattr(fractionate, name)
        assert inspect.getdoc(part), name
        assert name in dir(fractionate)
    assert re.fullmatch(r"\d+\.\d+\.\d+.*", fractionate.__version__)


def test_verbs_stay_functions_whatever_is_imported_first() -> None:
    """A module named as a verb or a function must not hide it."""
    for module in ("theory.spectrum", "store", "diagnosis", "study", "training", "page"):
        importlib.import_module(f"fractionate.{module}")
    for name in ("spectrum", "rescaling", "collect", "diagnose", "dissect", "distill", "report"):
        assert inspect.isfunction(getattr(fractionate, name)), name
    with pytest.raises(AttributeError, match="it has"):
        _ = fractionate.nothing_of_the_kind


@pytest.mark.parametrize("page", DOCUMENTS, ids=lambda p: p.name)
def test_links_inside_lead_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for link in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text):
        if not re.match(r"[a-z]+:", link):
            assert (page.parent / link).exists(), f"{page.name}: {link}"


def test_every_page_is_in_one_table_of_contents() -> None:
    docs = layout.ROOT / "docs"
    found: list[Path] = []
    for page in PAGES:
        for block in re.findall(r"```\{toctree\}\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
            for entry in (line for line in block.splitlines() if line and not line.startswith(":")):
                pattern = os.path.normpath(page.parent.relative_to(docs) / f"{entry}.md")
                found += [] if pattern.startswith(("made/", "../made/")) else docs.glob(pattern)
    assert sorted(found) == sorted(page for page in PAGES if page != docs / "index.md")


@pytest.mark.parametrize("page", DOCUMENTS, ids=lambda p: p.name)
def test_python_in_the_documents_is_python(page: Path) -> None:
    for block in re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
        compile(block, str(page), "exec")


def test_every_decision_has_its_number_and_its_row() -> None:
    numbers = [name[:4] for name, _ in layout.decisions()]
    assert len(numbers) == len(set(numbers)), "two decisions of one number"
    for name, title in layout.decisions():
        first = (layout.ROOT / "docs" / "decisions" / name).read_text(encoding="utf-8").splitlines()[0]
        assert re.match(rf"# {name[:4]}\b", first), f"{name} begins with its number: {first}"
        assert title
    listed = (layout.ROOT / "docs" / "decisions" / "README.md").read_text(encoding="utf-8")
    assert listed.endswith(layout.decision_rows()), "run `python tests/layout.py`"
