"""Bundled data, models and names: real files, clear refusals."""

from __future__ import annotations

import sys
import zlib

import pytest
import torch

from fractionate.data.bundled import column_names, data_sets, split_parts
from fractionate.data.examples import Examples
from fractionate.data.packages import package_file
from fractionate.errors import (
    ConfigError,
    DamagedError,
    FractionateError,
    MismatchError,
    ResourceError,
    UnknownNameError,
)
from fractionate.models.names import find_model, find_parts, import_function
from fractionate.models.weights import load_weights, read_weights
from fractionate.models.zoo import logit_layer, models


def test_digits_are_the_real_digits():
    digits = data_sets["digits"]
    assert (len(digits), digits.classes, list(digits.inputs.shape[1:])) == (1797, 10, [1, 8, 8])
    assert float(digits.inputs.min()) == 0
    assert float(digits.inputs.max()) == 1


@pytest.mark.parametrize(
    ("name", "examples", "columns"), [("dna", 3186, 180), ("spam", 4601, 57), ("breast-cancer", 569, 30)]
)
def test_tables_are_the_real_tables(name, examples, columns):
    table, names = data_sets[name], column_names(name)
    assert table.inputs.shape == (examples, columns)
    assert len(set(names)) == columns
    assert int(table.labels.bincount().max()) == {"dna": 1654, "spam": 2788, "breast-cancer": 357}[name]
    if name == "dna":
        assert set(table.inputs.unique().tolist()) == {0.0, 1.0}
        assert int(table.inputs.view(-1, 60, 3).sum(2).max()) == 1, "one of four letters a position"
    else:
        torch.testing.assert_close(table.inputs.std(0), torch.ones(columns))
    with pytest.raises(ConfigError, match="no column names"):
        column_names("digits")


def test_parts_are_disjoint_and_stratified():
    digits = data_sets["digits"]
    parts = split_parts(digits, transfer=100, validation=300, test=600, seed=1)
    ids = [set(p.ids) for p in (parts.transfer, parts.validation, parts.test, parts.teaching)]
    assert sum(map(len, ids)) == len(set.union(*ids)) == 1797
    assert int((parts.transfer.labels.bincount(minlength=10) - 10).abs().max()) <= 1
    again = split_parts(digits, transfer=100, validation=300, test=600, seed=1)
    assert again.transfer.ids == parts.transfer.ids


def test_parts_larger_than_the_data_are_refused():
    with pytest.raises(ConfigError, match="1797 examples in all"):
        split_parts(data_sets["digits"], transfer=1000, validation=1000, test=1)


@pytest.mark.parametrize("name", ["linear", "mlp(8)", "mlp(8, 4, dropout=0.5)", "cnn(4)", "cnn(4, 8)"])
def test_every_model_gives_one_logit_a_class(name):
    model = models[name]((1, 8, 8), 7)
    assert model(torch.randn(3, 1, 8, 8)).shape == (3, 7)
    weight = logit_layer(model)
    assert weight is not None
    assert weight.shape[0] == 7


def test_a_cnn_refuses_a_table():
    with pytest.raises(MismatchError, match=r"\[channels, height, width\]"):
        models["cnn(4)"]((30,), 2)


def test_own_functions_by_name(tmp_path, monkeypatch):
    (tmp_path / "mine_of_test.py").write_text(
        "import torch\n"
        "def build(shape, classes):\n    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.LazyLinear(classes))\n"
        "def fixed():\n    return torch.nn.Linear(4, 3)\n"
        "def data():\n    return torch.randn(50, 4), torch.arange(50) % 3\n"
        "def wrong():\n    return 7\n"
    )
    monkeypatch.chdir(tmp_path)
    assert find_model("mine_of_test:build")((1, 2, 2), 5)(torch.randn(2, 1, 2, 2)).shape == (2, 5)
    assert find_model("mine_of_test:fixed")((4,), 3)(torch.randn(2, 4)).shape == (2, 3)
    parts = find_parts("mine_of_test:data", transfer=10, validation=10, test=10, seed=0)
    assert (len(parts.transfer), len(parts.teaching or ())) == (10, 20)
    with pytest.raises(ConfigError, match="did you mean mine_of_test:build"):
        find_model("mine_of_test:biuld")
    with pytest.raises(ConfigError, match=r"torch.nn.Module"):
        find_model("mine_of_test:wrong")((1,), 2)
    with pytest.raises(ConfigError, match="no module 'nowhere'"):
        find_model("nowhere:build")
    sys.modules.pop("mine_of_test", None)


def test_unknown_names_suggest_the_nearest():
    with pytest.raises(UnknownNameError, match="did you mean 'digits'"):
        data_sets["digit"]
    with pytest.raises(UnknownNameError, match="did you mean 'mlp'"):
        models["mpl(3)"]


def test_weights_round_trip_and_refusals(tmp_path):
    from safetensors.torch import save_file

    model = models["mlp(4)"]((3,), 2)
    save_file(model.state_dict(), tmp_path / "w.safetensors")
    torch.save(model.state_dict(), tmp_path / "w.pt")
    for name in ("w.safetensors", "w.pt"):
        other = models["mlp(4)"]((3,), 2)
        load_weights(other, read_weights(tmp_path / name), name)
        for a, b in zip(model.parameters(), other.parameters(), strict=True):
            assert torch.equal(a, b)
    with pytest.raises(MismatchError, match=r"1.weight: \[4, 3\] for \[5, 3\]"):
        load_weights(models["mlp(5)"]((3,), 2), read_weights(tmp_path / "w.safetensors"), "w")
    with pytest.raises(ConfigError, match="no weights file"):
        read_weights(tmp_path / "none.safetensors")
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "w.safetensors").read_bytes()[:60])
    with pytest.raises(DamagedError, match="cannot be read as weights"):
        read_weights(tmp_path / "cut.safetensors")


class _Trap:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (self.path, "w"))


def test_a_weights_file_that_runs_code_is_refused(tmp_path):
    torch.save({"weight": _Trap(str(tmp_path / "ran"))}, tmp_path / "trap.pt")
    with pytest.raises(DamagedError, match="tensors only"):
        read_weights(tmp_path / "trap.pt")
    assert not (tmp_path / "ran").exists()


def test_package_files_are_checked(tmp_path, monkeypatch):
    monkeypatch.setenv("FRACTIONATE_DATA", str(tmp_path))
    (tmp_path / "some-package").mkdir()
    (tmp_path / "some-package" / "data.txt").write_text("hello\n")
    good = "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03"
    assert package_file("some-package", "data.txt", good).read_text() == "hello\n"
    with pytest.raises(DamagedError, match="not the file it should be"):
        package_file("some-package", "data.txt", "0" * 64)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ResourceError, match="apt-get install some-package"):
        package_file("some-package", "other.txt", good)


@pytest.mark.wrong_types
@pytest.mark.parametrize(
    ("inputs", "labels", "message"),
    [
        (torch.randn(0, 2), torch.zeros(0, dtype=torch.long), "at least one"),
        (torch.randn(3, 2), torch.zeros(2, dtype=torch.long), "3 inputs, 2 labels"),
        (torch.randn(3, 2), torch.zeros(3), "whole numbers"),
        (torch.randn(3, 2), torch.tensor([-1, 0, 1]), "label below 0"),
    ],
)
def test_examples_that_do_not_fit_are_refused(inputs, labels, message):
    with pytest.raises(MismatchError, match=message):
        Examples(inputs, labels)


@pytest.mark.parametrize(
    "name",
    ["mlp(-1)", "mlp(0)", "mlp('a')", "mlp(1.5)", "mlp(True)", "mlp([8])", "mlp(8, dropout=1)", "mlp(8, dropout='a')", "cnn(0)",
     "bag(0)", "bag(hidden=-1)", "linear(3)", "mlp(8, widths=3)", "timm()", "mlp(None)",
     "mlp(1000000000)", "mlp(4611686018427387904)", "bag(1000000000000)"],
)  # fmt: skip
def test_sizes_that_no_model_has_are_refused(name):
    with pytest.raises(ConfigError, match=name.partition("(")[0]):
        find_model(name)


@pytest.mark.parametrize(
    ("name", "shape"),
    [("mlp(10000000, 10000000)", (4,)), ("cnn(1000000, 1000000)", (1, 8, 8)), ("bag(10000000, 10000000)", (8,))],
)  # fmt: skip
def test_a_model_that_cannot_fit_is_refused_before_it_is_made(name, shape):
    with pytest.raises(ResourceError, match="does not fit into memory"):
        find_model(name)(shape, 3)


OWN = {
    "import nothing_of_that_name": "there is no module",
    "raise RuntimeError('\x1b[31m')": "RuntimeError",
    "raise SystemExit(3)": "SystemExit",
    "def (": "SyntaxError",
    "build = 3": "cannot be called",
    "other = 3": "has no 'build'",
    "def build(): raise KeyError('x')": "KeyError",
    "def build(): raise MemoryError": "not enough memory",
    "def build(): return 3": "does not give",
    "def build(*, x): pass": "TypeError",
    "from builtins import dict as build": "does not give|gives no|without a length|cannot be built",
}


@pytest.mark.parametrize("code", OWN)
def test_whatever_own_code_raises_ends_in_a_message(tmp_path, monkeypatch, code):
    module = f"own_{zlib.crc32(code.encode())}"
    (tmp_path / f"{module}.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    for find in (
        lambda name: find_model(name)((4,), 3),
        lambda name: find_parts(name, transfer=None, validation=None, test=None, seed=0),
    ):
        with pytest.raises(FractionateError) as error:
            find(f"{module}:build")
        assert "\x1b" not in str(error.value)
        sys.modules.pop(module, None)
    with pytest.raises(FractionateError, match=OWN[code]):
        find_model(f"{module}:build")((4,), 3)
    sys.modules.pop(module, None)


@pytest.mark.parametrize(
    "name", [":", "a:", ":b", "..a:b", "a b:c", "a:b.c", "a:b c", "a.:b", "a\0:b", "a\x1b:b", "1:2", "a:b:c"]
)
def test_what_is_no_place_in_a_module_is_refused(name):
    with pytest.raises(ConfigError, match="no place in a module"):
        import_function(name)
