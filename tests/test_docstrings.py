"""Public names are documented by one template: Args, Returns, Raises where there are any, and an example that runs.

Names that are not there yet are listed in docstrings.txt, which only shrinks: `python tests/test_docstrings.py` writes it anew.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import layout

LISTED = Path(__file__).with_name("docstrings.txt")
LACKS = ("args", "returns", "raises", "example")
FETCHED = {  # examples that need the network or a system package: they are compiled and not run
    "fractionate.data.fashion.fashion_mnist",
    "fractionate.data.glosses.read_glosses",
    "fractionate.data.packages.package_file",
    "fractionate.data.translation.descriptions",
    "fractionate.models.hub_push.push_to_hub",
}


def public() -> Iterator[tuple[str, Any]]:
    """Every function and class that a folder gives, once."""
    seen: set[int] = set()
    for name, path in layout.paths().items():
        if path.name != "__init__.py":
            continue
        folder = "fractionate" if name == layout.PUBLIC else f"fractionate.{name}"
        for given in layout.exported(path):
            part = getattr(importlib.import_module(folder), given)
            if (inspect.isfunction(part) or inspect.isclass(part)) and id(part) not in seen:
                seen.add(id(part))
                yield f"{part.__module__}.{part.__qualname__}", part


def parameters(part: Any) -> list[str]:
    """What a caller may pass; the fields of a dataclass."""
    try:
        found = inspect.signature(part).parameters.values()
    except (TypeError, ValueError):
        return []
    return [p.name for p in found if p.name not in ("self", "args", "kwargs") and not p.name.startswith("_")]


def raises(part: Any) -> bool:
    """Whether the body itself raises an error of the package."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(part)))
    return any(isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) for node in ast.walk(tree))


def lacks(part: Any) -> list[str]:
    """What the template asks for and the docstring of a public name lacks."""
    text = inspect.getdoc(part) or ""
    function = inspect.isfunction(part)
    missing = []
    if not all(re.search(rf"\b{name}\b", text) for name in parameters(part)):
        missing.append("args")
    gives = function and inspect.signature(part).return_annotation not in (None, "None", inspect.Signature.empty)
    if gives and not re.search(r"^Returns:|\b[Gg]ives\b", text, re.MULTILINE) and len(text.splitlines()) > 1:
        missing.append("returns")
    if function and raises(part) and not re.search(r"\bRaises\b", text):
        missing.append("raises")
    if function and not examples(text):
        missing.append("example")
    return missing


def examples(text: str) -> list[str]:
    """The programs of a docstring: what is indented after a line `Example:`."""
    return [textwrap.dedent(block) for block in re.findall(r"^Example:\n((?:    .*\n|\n)+)", f"{text}\n", re.MULTILINE)]


def listed() -> dict[str, list[str]]:
    rows = (line.split(": ") for line in LISTED.read_text(encoding="utf-8").splitlines())
    return {name: what.split(", ") for name, what in rows}


def test_public_names_are_documented_by_the_template() -> None:
    allowed = listed()
    found = {name: missing for name, part in public() if (missing := lacks(part))}
    worse = {name: set(missing) - set(allowed.get(name, ())) for name, missing in found.items()}
    assert not {name: what for name, what in worse.items() if what}, "write what the docstring lacks"
    better = {name: set(what) - set(found.get(name, ())) for name, what in allowed.items()}
    assert not {name: what for name, what in better.items() if what}, (
        "run `python tests/test_docstrings.py`: the list shrinks"
    )


def test_every_public_name_has_a_sentence() -> None:
    for name, part in public():
        first = (inspect.getdoc(part) or "").splitlines()
        assert first and first[0].strip(), name


@pytest.mark.parametrize("name", [name for name, part in public() if examples(inspect.getdoc(part) or "")])
def test_the_example_of_the_docstring_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for code in examples(inspect.getdoc(dict(public())[name]) or ""):
        program = compile(code, name, "exec")
        if name not in FETCHED:
            exec(program, {"__name__": "__main__"})


if __name__ == "__main__":
    rows = [f"{name}: {', '.join(missing)}\n" for name, part in public() if (missing := lacks(part))]
    LISTED.write_text("".join(sorted(rows)), encoding="utf-8")
