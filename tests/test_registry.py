"""Registries: one name one part, near names suggested, arguments that are literals and never run, plug-ins."""

from __future__ import annotations

import contextlib
import importlib
import sys
import textwrap
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fractionate import CELLS
from fractionate.errors import ConfigError, ResourceError, UnknownNameError
from fractionate.losses.divergences.base import divergences
from fractionate.system.registry import Registry, nearest, parse_call
from fractionate.theory.confidence import confidences
from fractionate.theory.shape import shapes


def colours() -> Registry[str]:
    registry: Registry[str] = Registry("colour", "fractionate.test-colours")
    registry.register("red")(lambda depth=1: f"red {depth}")
    registry.register("green")(lambda: "green")
    return registry


def test_a_name_builds_its_part() -> None:
    registry = colours()
    assert registry["red"] == registry["red()"] == registry[" red( 1 ) "] == registry["red(depth=1)"] == "red 1"
    assert list(registry) == ["red", "green"]
    assert len(registry) == 2
    assert "red" in registry
    assert "red(7)" in registry
    assert "blue" not in registry
    assert 7 not in registry
    assert "red((" in registry, "whether the arguments can be read is asked when it is built"
    assert "red, green" in repr(registry)


def test_a_registry_is_a_mapping() -> None:
    registry = colours()
    assert list(registry.keys()) == ["red", "green"]
    assert list(registry.values()) == ["red 1", "green"]
    assert dict(registry.items()) == {"red": "red 1", "green": "green"}
    assert registry.get("green") == "green"
    assert registry.get("blue") is None
    assert registry != colours()
    assert registry in {registry}


def test_a_name_is_taken_once() -> None:
    registry = colours()
    with pytest.raises(ConfigError, match="registered already") as error:
        registry.register("red")(lambda: "other")
    assert error.value.fix
    assert registry["red"] == "red 1"


@pytest.mark.parametrize(
    ("registry", "meant", "typed"),
    [
        (CELLS, "kd-pt+sim", "kd-pt-sim"), (CELLS, "class-mean", "classmean"), (CELLS, "kd-topk", "kd_topk(5)"),
        (confidences, "instance", "instanse"), (shapes, "uniform", "unifrom"), (divergences, "forward-kl", "forward_kl"),
    ],
)  # fmt: skip
def test_an_unknown_name_suggests_the_nearest(registry: Registry[object], meant: str, typed: str) -> None:
    with pytest.raises(UnknownNameError) as error:
        registry[typed]
    assert f"did you mean {meant!r}?" in str(error.value)
    assert "one of" in str(error.value)
    assert isinstance(error.value, KeyError)
    assert error.value.exit_code == 2


def test_a_name_far_from_all_suggests_nothing() -> None:
    assert nearest("zzzzzz", ["kd", "ls"]) is None
    with pytest.raises(UnknownNameError) as error:
        CELLS["zzzzzzzzz"]
    assert "did you mean" not in str(error.value)


@pytest.mark.parametrize(
    "text",
    [
        "ls(__import__('os').system('true'))", "ls(open('/etc/passwd').read())", "ls(exec('1'))", "ls((lambda: 0.1)())",
        "ls(*[0.1])", "ls(**{'epsilon': 0.1})", "ls(0.1)(0.2)", "ls(0.1", "ls 0.1)", "ls(0.1))", "ls(0.1); 1", "ls(x := 1)",
        "ls(nan)", "ls({[]: 1})", "ls(f'{1}')", "ls([i for i in (1,)])", "ls(" + "(" * 500, "ls(\0)", "ls(0.1) + f(1)",
        "ls(" + "9" * 5000 + ")", "ls(-" + "-" * 5000 + "1)",
    ],
)  # fmt: skip
def test_arguments_are_literals_and_code_never_runs(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.system", lambda *_: pytest.fail("code in a name ran"))
    with pytest.raises(ConfigError) as error:
        CELLS[text]
    assert "fix" in str(error.value) or "unknown" in str(error.value) or "cannot" in str(error.value)


@given(st.text(max_size=40) | st.text("ls(0.1,=)'[]{}*: f\\\"", max_size=25).map(lambda t: f"ls({t}"))
@settings(max_examples=300)
@pytest.mark.filterwarnings("ignore::SyntaxWarning", "ignore::DeprecationWarning")
def test_any_text_is_a_part_or_a_clear_error(text: str) -> None:
    with contextlib.suppress(ConfigError):
        CELLS[text]


@pytest.mark.parametrize("wrong", [None, 5, 0.1, b"kd", ["kd"], ("kd",)])
def test_what_is_not_a_name_is_said(wrong: object) -> None:
    with pytest.raises(ConfigError, match="not a name"):
        CELLS[wrong]  # type: ignore[index]


def test_arguments_a_part_does_not_take_are_said() -> None:
    for text in ("hard(1)", "ls(0.1, 0.2)", "ls(eps=0.1)", "kd-topk('a', 2)"):
        with pytest.raises(ConfigError, match="does not take"):
            CELLS[text]


def test_parse_call() -> None:
    assert parse_call("kd") == ("kd", [], {})
    assert parse_call("kd-sim(0.5, sharpness=1e-1)") == ("kd-sim", [0.5], {"sharpness": 0.1})
    assert parse_call("x('a', [1, 2], None, k={'b': -1})") == ("x", ["a", [1, 2], None], {"k": {"b": -1}})


PLUGIN = """
from dataclasses import dataclass
from typing import ClassVar
import torch
from fractionate.theory.confidence import Level; from fractionate.theory.shape import shapes, spread

@shapes.register("zipf")
@dataclass(frozen=True)
class Zipf:
    '''Mass falls as 1/rank in the teacher's order: rank information only.'''
    exponent: float = 1.0
    level: ClassVar[Level] = "instance"

    def __call__(self, signal):
        rank = signal.logits.argsort(dim=1, descending=True).argsort(dim=1) + 1
        return spread(signal, rank.to(signal.probabilities.dtype) ** -self.exponent)
"""


def test_a_plug_in_is_one_class_and_one_decorator_in_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package installed next to ours registers itself through its entry point, unasked until its name is met."""
    (tmp_path / "zipf_plugin.py").write_text(textwrap.dedent(PLUGIN))
    info = tmp_path / "zipf_plugin-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: zipf-plugin\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[fractionate.shapes]\nzipf = zipf_plugin\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()
    monkeypatch.setattr(shapes, "_plugins_loaded", False)
    monkeypatch.setattr(shapes, "_factories", dict(shapes._factories))
    assert "zipf_plugin" not in sys.modules
    import torch

    from fractionate import Cell, TeacherSignal

    signal = TeacherSignal(torch.tensor([[3.0, 2.0, 1.0, 0.0]]), torch.tensor([0]))
    target = Cell("instance", "zipf(2.0)").target(signal)
    weights = torch.tensor([1 / 4, 1 / 9, 1 / 16])
    torch.testing.assert_close(target[0, 1:], (1 - target[0, 0]) * weights / weights.sum())
    assert "zipf" in shapes
    assert "zipf" in list(shapes)
    monkeypatch.delitem(sys.modules, "zipf_plugin")


BROKEN = {
    "raises": ("raise RuntimeError('broken \\x1b[31m')", "RuntimeError: broken"),
    "leaves": ("raise SystemExit(3)", "SystemExit: 3"),
    "no such module": ("import nothing_of_that_name", "ModuleNotFoundError"),
    "not Python": ("def (", "SyntaxError"),
    "misspelt": ("colour = 1", "AttributeError"),
    "twice": ("from test_registry import HOST\nHOST[0].register('red')(str)", "registered already"),
}
HOST: list[Registry[str]] = []


@pytest.mark.parametrize("fault", BROKEN)
def test_a_broken_plug_in_is_left_out_with_a_word(fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code, message = BROKEN[fault]
    info = tmp_path / "broken_plugin-1.0.dist-info"
    info.mkdir()
    (tmp_path / "broken_plugin.py").write_text(code)
    (tmp_path / "sound_plugin.py").write_text(
        "from test_registry import HOST\nHOST[0].register('blue')(lambda: 'blue')"
    )
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: broken-plugin\nVersion: 1.0\n")
    points = "[fractionate.test-colours]\na = broken_plugin:color\nb = sound_plugin\n"
    (info / "entry_points.txt").write_text(points)
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()
    monkeypatch.setitem(sys.modules, "test_registry", sys.modules[__name__])
    monkeypatch.setattr(sys.modules[__name__], "HOST", [colours()])
    registry = HOST[0]
    assert registry["green"] == "green", "what is known needs no plug-in"
    with (
        pytest.warns(UserWarning, match="a plug-in of fractionate.test-colours is left out: a = broken_plugin:color"),
        pytest.raises(UnknownNameError, match="unknown colour 'gren'") as error,
    ):
        registry["gren"]
    assert (
        "did you mean 'green'?" in str(error.value) and message in str(error.value) and "\x1b" not in str(error.value)
    )
    assert registry["blue"] == "blue", "the other plug-in is there"
    for module in ("broken_plugin", "sound_plugin"):
        sys.modules.pop(module, None)


@pytest.mark.parametrize(
    "points", [b"[fractionate.test-colours]\nx\n", b"\xff\xfe\0", b"[fractionate.test-colours]\nx = \n", b"x = a:b"]
)
@pytest.mark.filterwarnings("ignore:a plug-in of")
def test_metadata_that_cannot_be_read_hide_no_other_plug_in(
    points: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, content in (("bad", points), ("good", b"[fractionate.test-colours]\ny = os:getcwd\n")):
        info = tmp_path / f"{name}_plugin-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}-plugin\nVersion: 1.0\n")
        (info / "entry_points.txt").write_bytes(content)
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()
    registry = colours()
    assert [point.name for point in registry._entry_points() if point.value] == ["y"]
    with pytest.raises(UnknownNameError, match="unknown colour 'gren'"):
        colours()["gren"]


@pytest.mark.parametrize("name", ["", "a(b)", " a", "a\x1b", 3, None])
def test_a_name_that_cannot_be_written_is_not_registered(name: object) -> None:
    with pytest.raises(ConfigError, match="cannot be the name of a colour"):
        colours().register(name)(str)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "value", ["1e999", "0x" + "f" * 400, "9" * 20, "1j", "b'x'", "{1, 2}", "...", "[1, [2, 1e999]]", "{'a': 1j}"]
)
def test_arguments_are_plain_values(value: str) -> None:
    with pytest.raises(ConfigError, match="cannot read"):
        parse_call(f"ls({value})")


def test_whatever_a_part_raises_for_its_arguments_is_an_error_with_its_name() -> None:
    registry = colours()

    def brown(size: int) -> str:
        return "x"[size] if size < 9 else "x" * size

    registry.register("brown")(brown)
    for name in ("brown(3)", "brown('a')", "brown(2.5)"):
        with pytest.raises(ConfigError, match="brown"):
            registry[name]
    with pytest.raises(ResourceError, match="brown"):
        registry[f"brown({2**60})"]


@pytest.mark.parametrize("registry", [CELLS, confidences, shapes, divergences], ids=lambda r: r.kind)
def test_every_part_builds_by_its_bare_name_and_says_what_it_is(registry: Registry[object]) -> None:
    for name in registry:
        part = registry[name]
        assert repr(part)
        assert registry.factory(name).__doc__, name
        assert parse_call(name) == (name, [], {}), "a name is not a call"
