"""The table of arrows: docs/project/architecture.md read, compared with the imports in src/, and brought up to date.

    python tests/layout.py     # writes the rows of new modules, their sentences, and the page of parts

A row is a folder of the package (or a file next to them). A folder may import from rows further down only. New folders are put as
low as their imports allow; move a row by hand where it belongs, and run this again. A folder inside another has a row of its own
under it, and is free among its siblings: within a folder, files alone must not import each other in a circle.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "src" / "fractionate"
TABLE = ROOT / "docs" / "project" / "architecture.md"
README = ROOT / "README.md"
PARTS = ROOT / "docs" / "reference" / "parts.md"
PUBLIC = "(the package)"  # the row of fractionate/__init__.py


@dataclass(frozen=True)
class Row:
    """A folder of the house: its name in the table (`study`, `study/effects`), its floor, the first line of its docstring."""

    module: str
    floor: str
    sentence: str


def page(name: str) -> str:
    """The text of a page of docs/ that is written, not made, in whatever folder it is."""
    (path,) = (p for p in (ROOT / "docs").rglob(f"{name}.md") if not {"made", "_build"} & set(p.parts))
    return path.read_text(encoding="utf-8")


def paths() -> dict[str, Path]:
    """Every module of the package by its dotted name below it; packages by the name of their folder."""
    found = {}
    for path in sorted(SOURCE.rglob("*.py")):
        parts = path.relative_to(SOURCE).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts) or PUBLIC] = path
    return found


def imports() -> dict[str, set[str]]:
    """What each module imports of the package, inside functions and for the type checker too.

    What the `__init__.py` of a folder gives on first use is no import of that folder; such a name counts as imported from the
    file that defines it.
    """
    known = paths()
    given = {name: exported(path) for name, path in known.items() if path.name == "__init__.py"}
    edges: dict[str, set[str]] = {name: set() for name in known}
    for name, path in known.items():
        for node in _walk(ast.parse(path.read_text(encoding="utf-8")), given=path.name == "__init__.py"):
            targets: list[str] = []
            if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
                homes = given.get(node.module.removeprefix("fractionate."), {})
                targets = [node.module, *(homes.get(a.name, f"{node.module}.{a.name}") for a in node.names)]
            elif isinstance(node, ast.Import):
                targets = [
                    alias.name for alias in node.names if alias.name != "fractionate"
                ]  # that asks for the version
            ours = [target.removeprefix("fractionate").lstrip(".") for target in targets if _is_ours(target)]
            inner = [target for target in ours if target in known]
            edges[name] |= set(inner) if inner else {PUBLIC} if ours else set()
    return {name: targets - {name} for name, targets in edges.items()}


def exported(path: Path) -> dict[str, str]:
    """Name to defining module, of what a package gives on first use: the imports that its type checker reads."""
    found = {}
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            for inner in node.body:
                if isinstance(inner, ast.ImportFrom) and inner.module:
                    found |= {alias.asname or alias.name: inner.module for alias in inner.names}
    return found


def _is_ours(target: str) -> bool:
    return target == "fractionate" or target.startswith("fractionate.")


def _walk(tree: ast.AST, *, given: bool) -> list[ast.AST]:
    """Every node; but for what a folder gives on first use."""
    found: list[ast.AST] = []
    for node in ast.iter_child_nodes(tree):
        if given and isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            continue
        found += [node, *_walk(node, given=given)]
    return found


def room(module: str) -> str:
    """The folder at the top that a module is in, or its own name where it is in none."""
    return module.split(".")[0] if module != PUBLIC else module


def inner_rooms() -> list[str]:
    """Folders inside folders: `study/effects`."""
    return sorted(n.replace(".", "/") for n, p in paths().items() if p.name == "__init__.py" and "." in n)


def rooms() -> dict[str, set[str]]:
    """Folder to the folders it imports from."""
    edges: dict[str, set[str]] = {}
    for module, targets in imports().items():
        edges.setdefault(room(module), set()).update(room(target) for target in targets)
    return {name: targets - {name} for name, targets in edges.items()}


def cycle(edges: dict[str, set[str]]) -> list[str]:
    """A way from a module back to itself, or nothing."""
    done: set[str] = set()

    def visit(name: str, way: list[str]) -> list[str]:
        if name in way:
            return [*way[way.index(name) :], name]
        if name in done:
            return []
        for target in sorted(edges.get(name, ())):
            if found := visit(target, [*way, name]):
                return found
        done.add(name)
        return []

    return next((found for name in sorted(edges) if (found := visit(name, []))), [])


def sentence(name: str) -> str:
    """The first sentence or line of a module's docstring, as a cell of a table."""
    path = SOURCE / "__init__.py" if name == PUBLIC else paths()[name.replace("/", ".")]
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return text.split("\n")[0].rstrip(".").replace("|", "\\|")


def table() -> list[Row]:
    """The rows of docs/project/architecture.md from the top floor down."""
    rows, floor = [], ""
    for line in TABLE.read_text(encoding="utf-8").splitlines():
        if line.startswith("### "):
            floor = line.removeprefix("### ").strip()
        if match := re.match(r"\| `([^`]+)` \| (.*) \|$", line):
            rows.append(Row(match[1].removesuffix(".py").removesuffix("/"), floor, match[2]))
    return rows


def shown(name: str) -> str:
    """A module as a file name: `cells.py`, `store/`."""
    return name if name == PUBLIC else f"{name}/" if (SOURCE / name).is_dir() else f"{name}.py"


def place_new(rows: list[Row]) -> list[Row]:
    """The rows with new modules as low as their imports allow, without those that are gone, with today's sentences."""
    edges = rooms()
    rows = [Row(row.module, row.floor, sentence(row.module)) for row in rows if row.module in edges]
    missing = sorted(set(edges) - {row.module for row in rows})
    while missing:
        ready = next((m for m in missing if not edges[m] & set(missing)), missing[0])
        below = [i for i, row in enumerate(rows) if row.module in edges[ready]]
        at = min(below, default=len(rows))
        floor = rows[min(at, len(rows) - 1)].floor
        rows.insert(at, Row(ready, floor, sentence(ready)))
        missing.remove(ready)
    inner = inner_rooms()
    return [
        each
        for row in rows
        for each in [row, *(Row(n, row.floor, sentence(n)) for n in inner if n.split("/")[0] == row.module)]
    ]


def write() -> None:
    """Bring the table up to date."""
    rows = place_new(table())
    text = TABLE.read_text(encoding="utf-8")
    for floor in dict.fromkeys(row.floor for row in rows):
        lines = [f"| `{shown(r.module)}` | {r.sentence} |" for r in rows if r.floor == floor]
        block = "\n".join([f"### {floor}", "", "| folder | what it is |", "| --- | --- |", *lines])
        text = re.sub(rf"### {re.escape(floor)}\n\n(\|.*\n)*(\|.*)?", lambda _, b=block: b + "\n", text, count=1)
    TABLE.write_text(text.rstrip("\n") + "\n", encoding="utf-8")


def registries() -> dict[str, Any]:
    """Every registry of the package by the kind of part it holds, as the source declares them."""
    found = {}
    for name, path in paths().items():
        for match in re.finditer(r"^(\w+): Registry\[", path.read_text(encoding="utf-8"), re.MULTILINE):
            registry = getattr(importlib.import_module(f"fractionate.{name}"), match[1])
            found[registry.kind] = registry
    return found


def explained(registry: Any, name: str) -> str:
    """The first line of a part's docstring, as a cell of a table."""
    return (inspect.getdoc(registry.factory(name)) or "").split("\n")[0].replace("|", "\\|")


PARTS_HEAD = """# The parts by name

Every part that has a name, from the registries (`python tests/layout.py` writes this page). A name may carry arguments:
`ls(0.1)`, `kd-topk(5)`, `relation(power=0.5)`. They are literals; a name never runs code. Two rules make a cell:
`as_cell("class-mean * instance")`. Packages add parts through the entry point group in brackets."""


def write_parts() -> None:
    """Write docs/reference/parts.md from the registries."""
    text = PARTS_HEAD
    for kind, registry in registries().items():
        title = kind[0].upper() + kind[1:] + "s"
        rows = "\n".join(f"| `{name}` | {explained(registry, name)} |" for name in registry)
        text += f"\n\n## {title}\n\n(`{registry.group}`)\n\n| {kind} | what it is |\n| --- | --- |\n{rows}"
    PARTS.write_text(text + "\n", encoding="utf-8")


def decisions() -> list[tuple[str, str]]:
    """File name and title of every decision record."""
    found = []
    for path in sorted((ROOT / "docs" / "decisions").glob("[0-9]*.md")):
        title = path.read_text(encoding="utf-8").splitlines()[0].removeprefix("# ").removeprefix(path.name[:4])
        found.append((path.name, title.lstrip(" :.-–—").strip()))
    return found


def decision_rows() -> str:
    """The table of docs/decisions/README.md."""
    return "".join(f"| [{name[:4]}]({name}) | {title} |\n" for name, title in decisions())


def write_decisions() -> None:
    """Write the table of decisions."""
    path = ROOT / "docs" / "decisions" / "README.md"
    head, rule, _ = path.read_text(encoding="utf-8").partition("| --- | --- |\n")
    path.write_text(head + rule + decision_rows(), encoding="utf-8")


if __name__ == "__main__":
    sys.path.insert(0, str(SOURCE.parent))
    write()
    write_parts()
    write_decisions()
