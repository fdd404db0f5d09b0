"""The tutorials as notebooks: each runs from top to bottom at a small setting, and its outputs are those of its programs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest

import layout
from test_docs_blocks import small

sys.path.insert(0, str(layout.ROOT / "docs"))

from notebooks import MARK, PAGES, PICTURE, fingerprint, notebook


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", PAGES)
def test_the_notebook_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    made = nbformat.reads(nbformat.writes(notebook(PAGES[name])), as_version=4)
    known: dict[str, Any] = {"__name__": "__main__"}
    cells = [cell for cell in made.cells if cell.cell_type == "code"]
    for number, cell in enumerate(cells):
        exec(compile(small(cell.source), f"{name}, cell {number}", "exec"), known)
    assert sum(bool(cell.outputs) for cell in cells) >= 3 and "```python" not in "".join(c.source for c in made.cells)


@pytest.mark.parametrize("name", PAGES)
def test_outputs_and_pictures_are_those_of_the_programs(name: str) -> None:
    text = PAGES[name].read_text(encoding="utf-8")
    mark = MARK.search(text)
    assert mark and mark[1] == fingerprint(text), f"run `python docs/notebooks.py {name}`"
    shown = [cell for cell in notebook(PAGES[name]).cells if cell.get("attachments")]
    assert len(shown) == len(PICTURE.findall(text)) >= 1
