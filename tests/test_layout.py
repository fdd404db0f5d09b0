"""The house: arrows point down, names come from the theory, files stay small, nothing is loaded or run that need not be."""

from __future__ import annotations

import ast
import importlib
import io
import itertools
import re
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

import layout

SOURCES = sorted(layout.SOURCE.rglob("*.py"))
FORBIDDEN = {"utils", "util", "helpers", "helper", "common", "manager", "misc"}
HEAVY = {  # imported inside the function that needs them, so that the rest works without
    "scipy", "matplotlib", "sklearn", "transformers", "datasets", "pyarrow", "pandas", "lightning", "PIL",
    "accelerate", "torchvision", "timm", "mlxtend", "nltk", "wandb", "tensorboard", "torchao", "peft", "safetensors.flax",
}  # fmt: skip
RECORDS_ONLY = (
    "errors",
    "records",
    "study.effects",
    "system.atomic",
    "system.lazy",
    "system.registry",
)  # and what is in them
UPDATE = "run `python tests/layout.py`, then move the row where it belongs"


def relative(path: Path) -> str:
    return str(path.relative_to(layout.ROOT))


def trees() -> Iterator[tuple[Path, ast.Module]]:
    for path in SOURCES:
        yield path, ast.parse(path.read_text(encoding="utf-8"))


def test_every_module_has_a_row_and_every_row_a_module() -> None:
    rows, rooms = [row.module for row in layout.table()], {*layout.rooms(), *layout.inner_rooms()}
    assert len(rows) == len(set(rows)), "a row is there twice"
    assert set(rows) - rooms == set(), f"rows without a module: {UPDATE}"
    assert rooms - set(rows) == set(), f"modules without a row: {UPDATE}"


def test_imports_point_down() -> None:
    height = {row.module: -i for i, row in enumerate(layout.table())}
    upward = [
        f"{module} imports {target}, which stands above it"
        for module, targets in layout.rooms().items()
        for target in targets
        if height[target] >= height[module]
    ]
    assert not upward, "\n".join(upward)


def test_there_is_no_cycle() -> None:
    """Of modules, inside packages too."""
    assert layout.cycle(layout.imports()) == []


def test_nothing_but_the_commands_imports_the_package_itself() -> None:
    edges = layout.imports()
    users = {layout.room(name) for name, targets in edges.items() if layout.PUBLIC in targets}
    assert users <= {"cli", "run"}


def test_folders_give_their_names_on_first_use() -> None:
    """An __init__ is a docstring and a table: code in it would load the folder, or run in a circle, with any file of it."""
    for path, tree in trees():
        if path.name != "__init__.py":
            continue
        body = [n for n in tree.body if not isinstance(n, (ast.Expr, ast.Import, ast.ImportFrom))]
        assert all(isinstance(n, ast.If) or ast.unparse(n).startswith("__version__") for n in body), relative(path)
        given = layout.exported(path)
        assert set(getattr(importlib.import_module(dotted(path)), "__all__", [])) == set(given), relative(path)
        neighbours = {p.stem for p in path.parent.glob("*.py")} | {
            p.parent.name for p in path.parent.glob("*/__init__.py")
        }
        assert not neighbours & set(given), f"{relative(path)}: a file or folder hides the name"
        for name, module in given.items():
            assert getattr(importlib.import_module(dotted(path)), name) is getattr(
                importlib.import_module(module), name
            )


def dotted(path: Path) -> str:
    parts = path.relative_to(layout.SOURCE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def test_a_registry_loads_every_file_that_registers_a_part() -> None:
    for registry in layout.registries().values():
        for name, factory in ((name, registry.factory(name)) for name in registry):
            module = factory.__module__.removeprefix("fractionate.")
            own = re.search(rf"= Registry\(\s*\"{registry.kind}\"", layout.paths()[module].read_text(encoding="utf-8"))
            assert own or module in registry.files, f"{registry.kind} {name}: its registry does not load {module}"


def test_the_table_says_what_the_modules_say() -> None:
    for row in layout.table():
        assert row.sentence == layout.sentence(row.module), f"{row.module}: {UPDATE}"
        assert row.sentence, f"{row.module} has no docstring"


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_a_file_is_one_idea(path: Path) -> None:
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines < 400, f"{relative(path)} has {lines} lines: split it by idea"


def test_modules_are_named_by_the_theory() -> None:
    for path in SOURCES:
        words = set(path.stem.lower().split("_"))
        assert not words & FORBIDDEN, relative(path)
        if path.stem not in ("__init__", "__main__"):
            assert path.stem not in sys.stdlib_module_names, (
                f"{relative(path)} neighbours a script hides the standard library's"
            )
            assert path.stem == path.stem.lower()


def names(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """Every name that the code itself gives: not the keywords of functions that others wrote."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            yield node.id, node.lineno
        elif isinstance(node, ast.arg):
            yield node.arg, node.lineno
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            yield node.name, node.lineno
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.attr, node.lineno


def test_no_name_is_empty_greek_or_a_bare_alpha() -> None:
    for path, tree in trees():
        for name, line in names(tree):
            where = f"{relative(path)}:{line} {name}"
            assert name.isascii(), where
            assert name != "alpha", f"{where}: say what it weighs"
        for node in ast.walk(tree):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                words = {word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+", node.name)}
                assert not words & FORBIDDEN, f"{relative(path)}:{node.lineno} {node.name}"


def test_code_is_ascii_outside_of_text_and_comments() -> None:
    for path in SOURCES:
        for token in tokenize.generate_tokens(io.StringIO(path.read_text(encoding="utf-8")).readline):
            if token.type in (tokenize.NAME, tokenize.OP, tokenize.NUMBER):
                assert token.string.isascii(), f"{relative(path)}:{token.start[0]} {token.string}"


def top_level_imports(tree: ast.Module) -> Iterator[tuple[str, int]]:
    for node in tree.body:
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module, node.lineno


def test_heavy_libraries_are_imported_where_they_are_needed() -> None:
    for path, tree in trees():
        for name, line in top_level_imports(tree):
            assert name.split(".")[0] not in HEAVY, f"{relative(path)}:{line} {name}: import it inside the function"


def test_what_reads_records_needs_no_torch() -> None:
    modules = layout.paths()
    for name in RECORDS_ONLY:
        inside = [module for module in modules if module == name or module.startswith(f"{name}.")]
        assert inside, name
        for module in inside:
            for imported, line in top_level_imports(ast.parse(modules[module].read_text(encoding="utf-8"))):
                assert imported.split(".")[0] not in ("torch", "jaxtyping"), f"{module}:{line}"


def called(node: ast.Call) -> str:
    parts, target = [], node.func
    while isinstance(target, ast.Attribute):
        parts.append(target.attr)
        target = target.value
    return ".".join([target.id if isinstance(target, ast.Name) else "?", *reversed(parts)])


def test_data_is_never_run() -> None:
    """No pickle, no eval or exec, no yaml.load, torch.load with weights only, no shell, no unfiltered archive."""
    for path, tree in trees():
        for node in ast.walk(tree):
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                modules = [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module or ""]
                banned = {"pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve", "joblib", "yaml"}
                assert not {m.split(".")[0] for m in modules} & banned, f"{relative(path)}:{node.lineno}"
            if not isinstance(node, ast.Call):
                continue
            where, name = f"{relative(path)}:{node.lineno}", called(node)
            keywords = {k.arg: k.value for k in node.keywords}
            assert name not in ("eval", "exec", "compile", "__import__", "os.system", "os.popen"), where
            if name == "torch.load":
                weights_only = keywords.get("weights_only")
                assert isinstance(weights_only, ast.Constant) and weights_only.value is True, where
            shell = keywords.get("shell")
            assert shell is None or (isinstance(shell, ast.Constant) and shell.value is False), where
            if name.endswith((".extractall", ".extract")):
                assert "filter" in keywords, where


def test_the_order_of_the_folders() -> None:
    """The few arrows that the design names, whatever else the table says."""
    height = {row.module: -i for i, row in enumerate(layout.table())}
    ladder = [
        "errors", "system", "records", "theory", "data", "models", "tasks", "losses", "teachers", "training", "study", "run", "cli",
    ]  # fmt: skip
    for low, high in itertools.pairwise(ladder):
        assert height[low] < height[high], f"{low} stands above {high}"
    assert height["theory"] < height["store"] < height["diagnosis"] < height["run"]


def test_the_check_can_fail() -> None:
    assert layout.cycle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]
    assert layout.cycle({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []
    assert "torch" in {n.split(".")[0] for n, _ in top_level_imports(ast.parse("import torch.nn"))}
    assert {"alpha", "f", "x", "y"} <= {n for n, _ in names(ast.parse("def f(x, *, y): alpha = 1"))}
