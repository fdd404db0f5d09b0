"""The rules of SECURITY.md: no code out of data, anywhere in the package; hostile files are refused and leave no trace."""

from __future__ import annotations

import ast
import contextlib
import json
import os
import pickle
import resource
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from fractionate.errors import DamagedError, FractionateError, MismatchError
from fractionate.models.weights import load_weights, read_own_weights, read_weights, save_weights
from fractionate.records import Run
from fractionate.records.base import Record
from fractionate.system.registry import parse_call
from fractionate.training import distill
from fractionate.training.checkpoint import Checkpoint, latest_checkpoint, save_checkpoint
from fractionate.training.run_folder import RUN, STUDENT
from test_engine import FAST, digits, mlp, teacher_signal

SOURCES = sorted((Path(__file__).parents[1] / "src").rglob("*.py"))
FORBIDDEN_MODULES = {
    "pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "yaml", "commands", "telnetlib", "requests",
    "urllib.request", "http.client", "socket", "ftplib", "xml.etree.ElementTree",
}  # fmt: skip
FORBIDDEN_CALLS = {"eval", "exec", "compile", "__import__", "os.system", "os.popen", "torch.hub.load", "pickle.loads"}
IMPORTS_BY_NAME = {  # who may import what a name says, and whose name it is
    "lazy.py": "our own modules, from the table of a folder's __init__",
    "registry.py": "our own modules, from the registry's declaration",
    "trackers.py": "a tracking library the program names",
    "base.py": "a constant: the card of a record in notebooks, which stands above the records",
    "fitted_estimators.py": "a module of scikit-learn, from the table of estimators in that file",
    "names.py": "a module the user typed, or the run file names and `trust` allows (decision 0002)",
}


def dotted(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else "?"


def keyword(call: ast.Call, name: str) -> object:
    for each in call.keywords:
        if each.arg == name:
            return each.value.value if isinstance(each.value, ast.Constant) else "?"
    return None


def sins(tree: ast.AST, name: str) -> Iterator[str]:
    """What the rules forbid, found in a syntax tree."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (f"imports {alias.name}" for alias in node.names if alias.name in FORBIDDEN_MODULES)
        if isinstance(node, ast.ImportFrom) and node.module in FORBIDDEN_MODULES:
            yield f"imports from {node.module}"
        if not isinstance(node, ast.Call):
            continue
        called = dotted(node.func)
        last = called.rsplit(".", 1)[-1]
        if called in FORBIDDEN_CALLS:
            yield f"calls {called}"
        if called == "torch.load" and keyword(node, "weights_only") is not True:
            yield "torch.load without weights_only=True"
        if called in ("np.load", "numpy.load") and keyword(node, "allow_pickle") is not False:
            yield "np.load without allow_pickle=False"
        if keyword(node, "shell") not in (None, False):
            yield f"{called} with shell"
        if keyword(node, "trust_remote_code") not in (None, False):
            yield f"{called} with trust_remote_code"
        if last in ("extractall", "extract") and keyword(node, "filter") != "data":
            yield f"{called} without filter='data'"
        if last == "import_module" and name not in IMPORTS_BY_NAME:
            yield f"{called}: only {', '.join(IMPORTS_BY_NAME)} may import by name"
        if last == "Environment" and keyword(node, "autoescape") is not True:
            yield f"{called} without autoescape=True"
        if called == "YAML" and keyword(node, "typ") not in (None, "rt", "safe"):
            yield "YAML loader that is not safe"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.name))
def test_no_module_runs_code_from_data(path):
    assert not list(sins(ast.parse(path.read_text(encoding="utf-8")), path.name))


@pytest.mark.parametrize(
    "code",
    [
        "import pickle", "from pickle import loads", "import yaml", "eval(x)", "exec(x)", "os.system(x)", "torch.load(x)",
        "torch.load(x, weights_only=False)", "torch.load(x, weights_only=flag)", "np.load(x)",
        "np.load(x, allow_pickle=True)", "subprocess.run(x, shell=True)", "tar.extractall(x)", "zip.extractall(x)",
        "tar.extractall(x, filter='tar')", "importlib.import_module(x)", "AutoModel.from_pretrained(x, trust_remote_code=True)",
        "jinja2.Environment()", "YAML(typ='unsafe')", "import socket", "compile(x, '', 'exec')",
    ],
)  # fmt: skip
def test_the_lint_sees_each_sin(code):
    assert list(sins(ast.parse(code), "any.py"))


class Bomb:
    """What runs when a pickle of it is read."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self):
        return os.system, (f"touch {self.trace}",)


def hostile(folder: Path) -> dict[str, Path]:
    """Files that would run code, unfold, or lie about their size."""
    trace = folder / "ran"
    made: dict[str, Path] = {}

    def write(name: str, content: bytes) -> None:
        made[name] = folder / name
        made[name].write_bytes(content)

    torch.save({"weight": Bomb(trace)}, folder / "object.pt")
    made["object.pt"] = folder / "object.pt"
    torch.save(Bomb(trace), folder / "bare.pt")
    made["bare.pt"] = folder / "bare.pt"
    for protocol in range(6):
        write(f"pickle{protocol}.pt", pickle.dumps({"weight": Bomb(trace)}, protocol=protocol))
    write("pickle.safetensors", pickle.dumps(Bomb(trace)))
    write("renamed.safetensors", (folder / "object.pt").read_bytes())
    plain = torch.zeros(4)
    for name, content in {
        "list": [plain], "tensor": plain, "number": 3, "nothing": None, "numbered": {0: plain}, "nested": {"a": {"b": plain}},
        "mixed": {"a": plain, "epoch": 3}, "sparse": {"a": plain.to_sparse()},
        "meta": {"a": plain.to("meta")}, "spread": {"a": torch.zeros(1).expand(10**6, 10**6)},
    }.items():  # fmt: skip
        torch.save(content, folder / f"{name}.pt")
        made[f"{name}.pt"] = folder / f"{name}.pt"
    write("empty.pt", b"")
    write("cut.pt", (folder / "tensor.pt").read_bytes()[:-40])
    write("zeros.pt", bytes(400))
    torch.save({"a": torch.zeros(50_000_000 // 4)}, folder / "large.pt")
    with (
        zipfile.ZipFile(folder / "large.pt") as whole,
        zipfile.ZipFile(folder / "bomb.pt", "w", zipfile.ZIP_DEFLATED) as bomb,
    ):
        for member in whole.infolist():
            bomb.writestr(member.filename, whole.read(member))
    (folder / "large.pt").unlink()
    made["bomb.pt"] = folder / "bomb.pt"

    def header(fields: dict[str, object], size: int | None = None, body: bytes = b"\0" * 16) -> bytes:
        text = json.dumps(fields).encode()
        return struct.pack("<Q", len(text) if size is None else size) + text + body

    entry = {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}
    write("huge.safetensors", header({"a": {**entry, "shape": [10**12], "data_offsets": [0, 4 * 10**12]}}))
    write("overlap.safetensors", header({"a": entry, "b": {**entry, "data_offsets": [8, 24]}}, body=b"\0" * 24))
    write("hole.safetensors", header({"a": {**entry, "data_offsets": [4, 20]}}, body=b"\0" * 20))
    write("long_header.safetensors", header({"a": entry}, size=10**12))
    write("negative.safetensors", header({"a": {**entry, "shape": [-4]}}))
    write("not_json.safetensors", struct.pack("<Q", 4) + b"{{{{" + b"\0" * 16)
    write("empty.safetensors", b"")
    write("cut.safetensors", header({"a": entry})[:-5])
    write("zip.pt", b"PK\x03\x04" + b"\0" * 60)
    write("text.pt", b"hello")
    write("tar.pt", b"\0" * 257 + b"ustar" + b"\0" * 250)
    return made


def test_hostile_weights_are_refused_and_nothing_runs(tmp_path):
    files = hostile(tmp_path)
    assert len(files) >= 20
    before = {path.name for path in tmp_path.iterdir()}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for name, path in files.items():
        with pytest.raises(DamagedError) as caught:
            read_weights(path)
        assert caught.value.exit_code == 3 and str(path) in str(caught.value), name
        assert "can still be loaded" not in str(caught.value), "torch's advice is to trust the file"
    assert {path.name for path in tmp_path.iterdir()} == before and "ran" not in before
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak < 256 * 1024  # KiB: no bomb was unfolded


@pytest.mark.parametrize("wrong", [torch.int64, torch.bool, torch.complex64])
def test_weights_of_another_kind_of_number_are_not_cut(wrong):
    model = torch.nn.Linear(2, 2)
    with pytest.raises(MismatchError, match=f"weight: {wrong} for torch.float32"):
        load_weights(model, {"weight": torch.zeros(2, 2, dtype=wrong), "bias": torch.zeros(2)})
    load_weights(model, {"weight": torch.ones(2, 2, dtype=torch.bfloat16), "bias": torch.zeros(2, dtype=torch.float64)})
    assert model.weight.tolist() == [[1, 1], [1, 1]]


def test_weights_of_our_own_carry_a_digest(tmp_path):
    model = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Linear(3, 3))
    model[1].weight = model[0].weight  # tied
    path = save_weights(tmp_path / "teacher.safetensors", model.state_dict())
    read = read_own_weights(path, fix="train again")
    assert set(read) == set(model.state_dict()) and torch.equal(read["1.weight"], model[0].weight)
    whole = path.read_bytes()
    for place in range(0, len(whole), 3):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << place % 8]) + whole[place + 1 :])
        with contextlib.suppress(DamagedError):
            again = read_own_weights(path, fix="train again")
            assert all(torch.equal(again[name], read[name]) for name in read), f"byte {place}"
    for content in (whole[:-1], whole[:40], b"", whole + b"x"):
        path.write_bytes(content)
        with pytest.raises(DamagedError, match=r"teacher\.safetensors is damaged(.|\n)*train again"):
            read_own_weights(path, fix="train again")
    save_file(model[0].state_dict(), path)
    with pytest.raises(DamagedError, match=r"expected: a digest"):
        read_own_weights(path, fix="train again")


def test_a_pickle_in_the_place_of_a_student_or_checkpoint_is_refused(tmp_path):
    train, _, _ = digits()
    out = tmp_path / "run"
    distill(mlp(), train, teacher_signal(), training=FAST, out=out)
    bombs = hostile(tmp_path)
    for name in ("object.pt", "pickle4.pt", "huge.safetensors"):
        whole = (out / STUDENT).read_bytes()
        (out / STUDENT).write_bytes(bombs[name].read_bytes())
        with pytest.raises(DamagedError, match="damaged"):
            distill(mlp(), train, teacher_signal(), training=FAST, out=out)
        (out / STUDENT).write_bytes(whole)
    save_checkpoint(tmp_path / "c", Checkpoint(1, {"a": torch.zeros(2)}, {}))
    (tmp_path / "c" / "step-00000001.safetensors").write_bytes(bombs["object.pt"].read_bytes())
    found, damaged = latest_checkpoint(tmp_path / "c")
    assert found is None and len(damaged) == 1
    assert not (tmp_path / "ran").exists()


def test_manifests_cannot_point_elsewhere(tmp_path):
    """A checkpoint's manifest holds no path: the tensors are those with it, whatever it says."""
    save_checkpoint(tmp_path, Checkpoint(1, {"a": torch.zeros(2)}, {}))
    for text in (
        "[]",
        "null",
        "{",
        '{"step": 1}',
        "[" * 100_000,
        '{"step": "../../etc", "self_xxh3_128": "x"}',
        "\xff\xfe",
    ):
        (tmp_path / "step-00000001.json").write_text(text, encoding="latin-1")
        found, damaged = latest_checkpoint(tmp_path)
        assert found is None and len(damaged) == 1, text[:20]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        '{"arm": 3}',
        "[" * 100_000,
        '{"arm": {"__class__": "os.system"}}',
        '{"_target_": "os.system"}',
        "\x00",
    ],
)
def test_records_out_of_hostile_json_are_typed_errors(tmp_path, text):
    (tmp_path / RUN).write_text(text)
    with pytest.raises(FractionateError):
        Run.load(tmp_path / RUN)
    for record in Record.__subclasses__():
        with pytest.raises(FractionateError):
            record.from_json(text)


@pytest.mark.parametrize(
    "text",
    [
        "kd(__import__('os').system('true'))",
        "ls(open('x'))",
        "kd(*[1])",
        "kd(**{})",
        "ls(lambda: 1)",
        "ls(" + "(" * 500,
        "ls(1",
    ],
)
def test_names_hold_literals_only(text):
    with pytest.raises(FractionateError):
        parse_call(text)


def test_no_environment_in_the_record(tmp_path, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "do-not-tell-7f3a")
    train, _, _ = digits()
    distill(mlp(), train, training=FAST, out=tmp_path)
    for path in tmp_path.rglob("*"):
        assert path.is_dir() or b"do-not-tell-7f3a" not in path.read_bytes()
