"""The documentation as a site: Sphinx and MyST over the Markdown pages of this folder, and those that generate.py makes."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from generate import generate, relinked
from notebooks import PAGES

from fractionate import __version__

generate()

project = "Fractionate"
author = "The Fractionate authors"
release = version = __version__
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.intersphinx",
    "sphinx_design",
    "sphinx_copybutton",
]
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 4
exclude_patterns = ["_build"]
html_theme = "furo"
html_show_copyright = False  # the license says it
html_title = f"Fractionate {version}"
html_static_path = ["images"]
html_css_files = ["site.css"]
html_theme_options = {"source_directory": "docs/"}
autodoc_typehints = "description"
autodoc_member_order = "bysource"
copybutton_prompt_text = "$ "
copybutton_selector = "div:not(.highlight-text) > div.highlight pre"  # not what a program printed
default_role = "code"  # docstrings mark code by single backticks
nitpick_ignore_regex = [("py:.*", ".*")]  # types of other projects are linked where their inventories can be had
intersphinx_mapping = (  # FRACTIONATE_DOCS_ONLINE=1: a build without a network would warn of each
    {
        "python": ("https://docs.python.org/3", None),
        "torch": ("https://docs.pytorch.org/docs/stable", None),
        "numpy": ("https://numpy.org/doc/stable", None),
    }
    if os.environ.get("FRACTIONATE_DOCS_ONLINE")
    else {}
)


def plain(app: object, what: str, name: str, part: object, options: object, lines: list[str]) -> None:
    """Docstrings are plain text with code in backticks: bars and stars outside of code are no markup of Sphinx."""
    found: list[str] = []
    literal = False
    for line in lines:
        literal = literal and (line.startswith(" ") or not line)
        if line == "Example:":
            found += ["Example::", ""]
            literal = True
        elif literal:
            found.append(line)
        else:
            pieces = line.split("`")
            pieces[::2] = [piece.replace("|", "\\|").replace("*", "\\*") for piece in pieces[::2]]
            found.append("`".join(pieces))
    lines[:] = found


def at_home(app: Any, name: str, source: list[str]) -> None:
    """Links to documents of the repository lead to their pages of the site, tutorials to their notebooks."""
    page = Path(app.srcdir) / f"{name}.md"
    source[0] = relinked(source[0], page, page)
    if page in PAGES.values():
        link = f"{{download}}`Download as a notebook <../made/notebooks/{page.stem}.ipynb>`"
        source[0] = source[0].replace("\n\n", f"\n\n{link}\n\n", 1)


def setup(app: Any) -> None:
    """What the build does beyond its extensions; docstrings before napoleon, which is at 500."""
    app.connect("autodoc-process-docstring", plain, priority=400)
    app.connect("source-read", at_home)
