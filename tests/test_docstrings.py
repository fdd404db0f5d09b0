"""Public names are documented by one template: Args, Returns, Raises where there are any, and an example that runs.

A class needs no example where another public name's example makes it. Records are what the verbs return; protocols and probes are
written by authors of parts, whose examples are docs/project/extending.md.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import textwrap
from functools import cache
from pathlib import Path
from typing import Any

import pytest

import layout
from fractionate.records.base import Record

FETCHED = {  # examples that need the network or a system package: they are compiled and not run
    "fractionate.data.bundled.fashion_mnist",
    "fractionate.data.language_sets.read_glosses",
    "fractionate.data.packages.package_file",
    "fractionate.models.hub_push.push_to_hub",
}

NOT_MADE = (  # returned by functions and verbs, whose examples they share, or given to a probe
    "BoundTerm", "Binding", "Card", "Case", "Conformance", "Decision", "FormLoss", "Head", "Identity", "Judgement", "Measurement",
    "OpenTeacher", "Predictions", "AttentionStates", "Reader", "Repaired", "StoreInfo", "Verification",
)  # fmt: skip
IN_DOCS = {"PilotPlan": "docs/theory/recipe.md"}  # classes whose example is a block of a page, which a test runs


@cache
def public() -> dict[str, Any]:
    """Every function and class that a folder gives, by its full name."""
    found: dict[str, Any] = {}
    for name, path in layout.paths().items():
        if path.name != "__init__.py":
            continue
        folder = "fractionate" if name == layout.PUBLIC else f"fractionate.{name}"
        for given in layout.exported(path):
            part = getattr(importlib.import_module(folder), given)
            if inspect.isfunction(part) or inspect.isclass(part):
                found[f"{part.__module__}.{part.__qualname__}"] = part
    return found


def parameters(part: Any) -> list[str]:
    """What a caller may pass; the fields of a dataclass."""
    try:
        found = inspect.signature(part).parameters.values()
    except (TypeError, ValueError):
        return []
    return [p.name for p in found if p.name not in ("self", "args", "kwargs") and not p.name.startswith("_")]


def raises(part: Any) -> bool:
    """Whether the body itself raises an error of the package; of a class, what makes one of it."""
    if inspect.isclass(part):
        made = [vars(part).get(name) for name in ("__init__", "__post_init__")]
        return not getattr(part, "_is_protocol", False) and any(
            raises(f)
            for f in made
            if inspect.isfunction(f) and f.__module__ == part.__module__ and "<string>" not in f.__code__.co_filename
        )
    tree = ast.parse(textwrap.dedent(inspect.getsource(part)))
    return any(isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) for node in ast.walk(tree))


def lacks(part: Any) -> list[str]:
    """What the template asks for and the docstring of a public name lacks."""
    text = inspect.getdoc(part) or ""
    function = inspect.isfunction(part)
    missing = []
    if parameters(part) and not re.search(r"^Args:", text, re.MULTILINE):
        missing.append("Args:")
    if not all(re.search(rf"\b{name}\b", text) for name in parameters(part)):
        missing.append("args")
    gives = function and inspect.signature(part).return_annotation not in (None, "None", inspect.Signature.empty)
    if gives and not re.search(r"^Returns:|\b[Gg]ives\b", text, re.MULTILINE) and len(text.splitlines()) > 1:
        missing.append("returns")
    if raises(part) and not re.search(r"\bRaises\b", text):
        missing.append("raises")
    if not examples(text) and (function or not made_elsewhere(part)):
        missing.append("example")
    return missing


def made_elsewhere(part: type) -> bool:
    """Whether a class is made in an example of another name, or is no class that a caller makes."""
    name = part.__name__
    if issubclass(part, Record) and name not in ("Training", "Tuning"):
        return True
    if getattr(part, "_is_protocol", False) or name in NOT_MADE:
        return True
    if name in IN_DOCS:
        return f"{name}" in (Path(__file__).parents[1] / IN_DOCS[name]).read_text(encoding="utf-8")
    return any(f"{name}(" in code for code in all_examples())


@cache
def all_examples() -> tuple[str, ...]:
    """Every example of a public name."""
    return tuple(code for part in public().values() for code in examples(inspect.getdoc(part) or ""))


def examples(text: str) -> list[str]:
    """The programs of a docstring: what is indented after a line `Example:`."""
    return [textwrap.dedent(block) for block in re.findall(r"^Example:\n((?:    .*\n|\n)+)", f"{text}\n", re.MULTILINE)]


def test_public_names_are_documented_by_the_template() -> None:
    found = {name: missing for name, part in public().items() if (missing := lacks(part))}
    assert not found, "write what these docstrings lack"


def test_every_public_name_has_a_sentence() -> None:
    for name, part in public().items():
        first = (inspect.getdoc(part) or "").splitlines()
        assert first and first[0].strip(), name


@pytest.mark.parametrize("name", [name for name, part in public().items() if examples(inspect.getdoc(part) or "")])
def test_the_example_of_the_docstring_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for code in examples(inspect.getdoc(public()[name]) or ""):
        program = compile(code, name, "exec")
        if name not in FETCHED:
            exec(program, {"__name__": "__main__"})
