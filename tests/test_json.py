"""--json on every command that prints data, held to the schema that `fractionate schema` publishes; manners off a terminal."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from fractionate.cli.commands import app, main
from fractionate.cli.config import SCHEMAS, schema

jsonschema = pytest.importorskip("jsonschema")
SMALL = (
    "data: {transfer: 60, validation: 60, test: 120}\nteacher: {model: 'mlp(64)', train: {steps: 60}}\nstudent: {model: 'mlp(8)'}\n"
    "training: {steps: 20}\nstudy: {cells: [hard, kd-pt, kd], seeds: 2}\nexport: {program: false}\ndiagnosis: {pilot: 0}\n"
)
COMMANDS = [  # in an order in which each finds what it needs
    ("RunFile", "config example"),
    ("RunFile", "config print run.yaml"),
    ("Settings", "config explain"),
    ("Settings", "config explain study.seeds"),
    ("Differences", "config diff run.yaml other.yaml"),
    ("Estimate", "report run.yaml --dry-run"),
    ("Estimate", "collect run.yaml --dry-run"),
    ("Estimate", "diagnose run.yaml --dry-run"),
    ("StoreInfo", "collect run.yaml"),
    ("StoreInfo", "store info out/store"),
    ("Verification", "store verify out/store"),
    ("Repaired", "store repair out/store"),
    ("Compaction", "store compact out/store"),
    ("Written", "store export out/store signal --to npy"),
    ("Diagnosis", "diagnose run.yaml"),
    ("Study", "dissect run.yaml"),
    ("Run", "distill run.yaml"),
    ("Written", "report run.yaml"),
    ("Estimate", "report run.yaml --dry-run"),  # all is done
    ("Examination", "conformance forward-kl"),
    ("Written", "demo --out demo"),
    ("Written", "init rows.csv --out fitted.yaml"),
]


def leaves(command=None, way=()):
    command = command or typer.main.get_command(app)
    for name, below in getattr(command, "commands", {}).items():
        yield from leaves(below, (*way, name))
    if not getattr(command, "commands", {}):
        yield " ".join(way), command


def test_every_command_prints_json_and_each_json_has_a_schema():
    known = dict(leaves())
    silent = {"schema", "config schema", "examples", "explain"}  # these print nothing but JSON, or texts as they are
    assert {name for name, command in known.items() if not any("--json" in p.opts for p in command.params)} == silent
    assert {name for name in known if not any(text.startswith(name) for _, text in COMMANDS)} == silent
    assert {record for record, _ in COMMANDS} == set(SCHEMAS)
    for record, commands in SCHEMAS.items():
        entries = {text.split(" with ")[0] for text in commands.split(", ")}
        assert {
            name for name in known for kind, text in COMMANDS if kind == record and text.startswith(name)
        } <= entries | {""} or record


@pytest.mark.slow
def test_every_command_keeps_to_its_schema(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    import fractionate.cli.demo as demo

    real = demo.demo_runs
    few = {"training": {"steps": 20}, "diagnosis": {"pilot": 0}, "study": {"cells": ("hard", "kd"), "seeds": 2}}

    def small(out):
        return tuple(type(run).model_validate(run.model_dump() | few) for run in real(out))

    monkeypatch.setattr(demo, "demo_runs", small)  # the same chain with fewer students
    Path("run.yaml").write_text(f"out: out\n{SMALL}")
    Path("other.yaml").write_text(f"out: other\n{SMALL}")
    Path("rows.csv").write_text("size,kind\n" + "".join(f"{n / 7},{'ab'[n % 2]}\n" for n in range(40)))
    for record, text in COMMANDS:
        with pytest.raises(SystemExit) as left:
            main([*text.split(), "--json"])
        output = capsys.readouterr()
        assert not left.value.code, (text, output.err)
        found = json.loads(output.out)
        kept = schema(record)
        jsonschema.Draft202012Validator.check_schema(kept)
        jsonschema.validate(found, kept)
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(found | {"further": 1}, kept)


def test_nan_is_in_the_schema():
    from fractionate.records import Scores

    one = json.loads(Scores(3, 3, {"accuracy": 50.0, "nll": float("nan"), "ece": float("inf")}).to_json())
    jsonschema.validate(one, Scores.json_schema())
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(one | {"values": {"accuracy": "much"}}, Scores.json_schema())


def fractionate(*arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1] / "src")} | more
    command = [
        sys.executable,
        "-c",
        "import sys; sys.argv[0] = 'fractionate'; from fractionate.cli.commands import main; main()",
    ]
    return subprocess.run([*command, *arguments], capture_output=True, text=True, check=False, env=env)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(shell):
    alone = {"_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    script = fractionate("--show-completion", shell, **alone)
    assert script.returncode == 0 and f"complete_{shell}" in script.stdout and "fractionate" in script.stdout
    words = {"bash": {"COMP_WORDS": "fractionate dist", "COMP_CWORD": "1"}}.get(
        shell, {"_TYPER_COMPLETE_ARGS": "fractionate dist", "_TYPER_COMPLETE_FISH_ACTION": "get-args"}
    )
    offered = fractionate(**{"_FRACTIONATE_COMPLETE": f"complete_{shell}", **words})
    assert "distill" in offered.stdout and "collect" not in offered.stdout


def test_the_version_names_torch_cuda_and_the_commit_without_loading_torch():
    code = (
        "import sys; from fractionate.cli.commands import main\n"
        "try: main(['--version'])\nfinally: print('torch' in sys.modules, file=sys.stderr)"
    )
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1] / "src")}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env)
    import torch

    assert done.stderr.strip() == "False"
    assert f"torch {torch.__version__}" in done.stdout
    assert (f"CUDA {torch.version.cuda}" if torch.version.cuda else "no CUDA") in done.stdout
    from fractionate.system.versions import checkout_commit

    root = Path(__file__).parents[1]
    if (root / ".git").exists():
        head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True, check=True)
        assert checkout_commit(root) == head.stdout.strip()
        assert f"git {head.stdout[:12]}" in done.stdout


def test_a_commit_is_found_in_packed_references_and_none_without_a_checkout(tmp_path):
    from fractionate.system.versions import checkout_commit

    assert checkout_commit(tmp_path) == ""
    (tmp_path / "pyproject.toml").touch()
    (tmp_path / ".git").mkdir()
    assert checkout_commit(tmp_path) == ""
    (tmp_path / ".git" / "HEAD").write_text("ref: refs/heads/main\n")
    (tmp_path / ".git" / "packed-refs").write_text("# pack-refs\nabc refs/heads/other\nd0e1f2 refs/heads/main\n")
    assert checkout_commit(tmp_path) == "d0e1f2"
    (tmp_path / ".git" / "HEAD").write_text("0123abc\n")
    assert checkout_commit(tmp_path) == "0123abc"


@pytest.mark.parametrize("arguments", [("--help",), ("distill", "--help"), ("disect",), ("config", "explain", "sed")])
def test_no_colour_is_no_colour(arguments):
    done = fractionate(*arguments, NO_COLOR="1", FORCE_COLOR="", TERM="xterm-256color")
    assert "\x1b" not in done.stdout + done.stderr
