"""The template, filled: every text is cleaned and escaped, the one script is allowed by its hash, nothing is fetched."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from fractionate.page.chapters import content
from fractionate.page.glossary import glossed
from fractionate.page.page_settings import PageSettings
from fractionate.page.settings_text import patch_text
from fractionate.page.text import number, percent, sentence, short, unparted
from fractionate.records.base import Record
from fractionate.system.plain_text import clean
from fractionate.system.versions import package_version


@cache
def renderer() -> str:
    """A digest of the code that makes pages: a page with another one was made by other code."""
    folder = files("fractionate.page")
    found = hashlib.sha256()
    for file in sorted(folder.iterdir(), key=lambda file: file.name):
        if file.name.endswith((".py", ".js", ".css", ".j2")):
            found.update(file.name.encode() + b"\0" + file.read_bytes() + b"\0")
    return found.hexdigest()[:12]


def _finalize(value: Any) -> Any:
    """Clean what the template writes; `Markup` has been cleaned when it was made."""
    return value if isinstance(value, Markup) or not isinstance(value, str) else clean(value)


def fill(records: Sequence[Record], settings: PageSettings) -> str:
    """The page about these records as text."""
    folder = files("fractionate.page")
    script = folder.joinpath("script.js").read_text(encoding="utf-8")
    style = folder.joinpath("style.css").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, finalize=_finalize, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {
        "number": number,
        "percent": percent,
        "short": short,
        "patch": patch_text,
        "sentence": lambda words: unparted(sentence(words)),
        "unparted": unparted,
        "glossed": glossed,
        "own": Markup,  # what we encoded ourselves, longer than a text of a record may be
    }
    template = environment.from_string(folder.joinpath("template.html.j2").read_text(encoding="utf-8"))
    # our own two files are the only text that is not escaped
    own = {"script": Markup(script), "style": Markup(style), "version": package_version(), "renderer": renderer()}  # noqa: S704
    page = template.render(page=content(records, settings), script_hash=digest, **own)
    return page + "\n"
