"""The tutorials as notebooks: `python docs/notebooks.py [names]` runs those of docs/learn from top to bottom, in empty folders.

Writes what each program prints below it into the page (a block of `text`), the reports that a page shows as its pictures, and the
CPU seconds into lab/results/tutorials.md. A build of the site makes a notebook of each page, outputs and pictures in it.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import io
import os
import re
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import nbformat
from screenshots import screenshot

DOCS = Path(__file__).resolve().parent
TABLE = DOCS.parent / "lab" / "results" / "tutorials.md"
PAGES = {page.stem: page for page in sorted((DOCS / "learn").glob("*.md")) if page.stem != "index"}
PART = re.compile(r"```python\n(?P<code>.*?)```\n(?:\n```text\n(?P<output>.*?)```\n)?", re.DOTALL)
PICTURE = re.compile(r"!\[(?P<alt>[^\]]*)\]\(\.\./images/(?P<name>[\w-]+\.png)\)")
MARK = re.compile(r"\n<!-- outputs of the programs with hash (\w+) -->\n")
HEAD = """# Tutorials

`OMP_NUM_THREADS=1 python docs/notebooks.py`: each tutorial of the site from top to bottom in an empty folder, one thread.

| tutorial | CPU s |
|---|---|
"""


def programs(text: str) -> list[str]:
    """The programs of a page, in order."""
    return [found["code"] for found in PART.finditer(text)]


def fingerprint(text: str) -> str:
    """A hash of the programs of a page: outputs that stand in it are of these."""
    return hashlib.sha256("\n".join(programs(text)).encode()).hexdigest()[:12]


def notebook(page: Path) -> nbformat.NotebookNode:
    """A page as a notebook: its text, its programs with what they print, its pictures as attachments."""
    text, make = MARK.sub("", page.read_text(encoding="utf-8")), nbformat.v4
    cells: list[Any] = []
    start = 0

    def prose(piece: str) -> None:
        images = {found["name"]: (DOCS / "images" / found["name"]).read_bytes() for found in PICTURE.finditer(piece)}
        piece = PICTURE.sub(r"![\g<alt>](attachment:\g<name>)", piece)
        piece = re.sub(r"(?<!!)\[([^\]]+)\]\((?!\w+:)[^)]*\)", r"\1", piece).strip()  # pages that are not next to it
        shown = {name: {"image/png": base64.b64encode(data).decode()} for name, data in images.items()}
        if piece:
            more = {"attachments": shown} if shown else {}
            cells.append(make.new_markdown_cell(piece, id=f"cell-{len(cells)}", **more))

    for found in PART.finditer(text):
        prose(text[start : found.start()])
        printed = [make.new_output("stream", name="stdout", text=found["output"])] if found["output"] else []
        cells.append(make.new_code_cell(found["code"].rstrip(), outputs=printed, id=f"cell-{len(cells)}"))
        start = found.end()
    prose(text[start:])
    made = make.new_notebook(cells=cells, metadata={"language_info": {"name": "python"}})
    nbformat.validate(made)
    return made


def run(page: Path, folder: Path) -> tuple[str, float]:
    """The page with what its programs print now, and their CPU seconds; its pictures are written."""
    text = MARK.sub("", page.read_text(encoding="utf-8"))
    known: dict[str, Any] = {"__name__": "__main__"}
    parts, start, seconds, report = [], 0, 0.0, ""
    os.chdir(folder)
    for found in PART.finditer(text):
        between = text[start : found.start()]
        for picture in PICTURE.finditer(between):
            screenshot(
                Path(report),
                DOCS / "images" / picture["name"],
                width=1000,
                height=690,
                theme="light",
            )
        printed, begun = io.StringIO(), time.process_time()
        with contextlib.redirect_stdout(printed):
            exec(compile(found["code"], page.name, "exec"), known)  # noqa: S102
        seconds += time.process_time() - begun
        report = (re.findall(r'"(runs/[\w/-]+\.html)"', found["code"]) or [report])[-1]
        output = "\n".join(line.rstrip() for line in printed.getvalue().splitlines())
        parts += [
            between,
            f"```python\n{found['code']}```\n",
            f"\n```text\n{output}\n```\n" if output else "",
        ]
        start = found.end()
    for picture in PICTURE.finditer(text[start:]):
        screenshot(Path(report), DOCS / "images" / picture["name"], width=1000, height=690, theme="light")
    whole = "".join(parts) + text[start:]
    return f"{whole}\n<!-- outputs of the programs with hash {fingerprint(whole)} -->\n", seconds


def main(names: list[str]) -> None:
    """Run tutorials and write their pages and the table."""
    rows = dict(re.findall(r"^\| ([\w-]+) \| (\d+) \|$", TABLE.read_text(), re.MULTILINE)) if TABLE.exists() else {}
    for name in names or list(PAGES):
        with tempfile.TemporaryDirectory() as folder:
            text, seconds = run(PAGES[name], Path(folder))
        PAGES[name].write_text(text, encoding="utf-8")
        rows[name] = f"{seconds:.0f}"
        print(name, rows[name], "CPU s", flush=True)
        TABLE.write_text(
            HEAD + "".join(f"| {each} | {rows.get(each, '–')} |\n" for each in PAGES),
            encoding="utf-8",
        )


if __name__ == "__main__":
    main(sys.argv[1:])
