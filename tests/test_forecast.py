"""--dry-run: everything is checked and told, no teacher is asked, nothing is written."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from fractionate.cli import main

RUN = """
name: small
out: runs/small
data: {transfer: 60, validation: 60, test: 60}
teacher: {model: mlp(16), steps: 20}
student: {model: mlp(8)}
training: {steps: 30}
study: {cells: [hard, kd], seeds: 2}
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run.yaml").write_text(RUN)
    return tmp_path


def run(*arguments: str) -> int:
    try:
        main(list(arguments))
    except SystemExit as left:
        return int(left.code or 0)
    return 0


def test_a_dry_run_tells_what_would_be_done_and_writes_nothing(here, capsys):
    assert run("dissect", "run.yaml", "--dry-run", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert [task["name"] for task in told["tasks"]] == ["teacher", "collect", "dissect", "distill"]
    assert told["tasks"][2]["what"] == "2 arms × 2 seeds = 4 students of 30 steps"
    assert told["memory_bytes"] > 0
    assert sorted(path.name for path in here.iterdir()) == ["run.yaml"]


def test_the_disk_is_foretold(here, capsys):
    assert run("report", "run.yaml", "--dry-run") == 0
    assert "in all" in capsys.readouterr().out
    from fractionate.chain import Chain, read_run
    from fractionate.forecast import forecast

    chain = Chain(read_run("run.yaml"))
    tasks = {task.name: task for task in forecast(chain).tasks}
    chain.store  # noqa: B018  # collects
    weights = (here / "runs/small/teacher.safetensors").stat().st_size
    assert tasks["teacher"].disk_bytes == pytest.approx(weights, rel=0.1)
    numbers = sum(path.stat().st_size for path in (here / "runs/small/store").rglob("*.safetensors"))
    assert tasks["collect"].disk_bytes == pytest.approx(numbers, rel=0.25)  # headers weigh in a store this small


@pytest.mark.parametrize(
    ("settings", "code", "said"),
    [
        (("study.cells=[hard, kd-tpok]",), 2, "did you mean 'kd-topk'"),
        (("training.steps=0",), 2, "training.steps"),
        (("student.model=cnn(4)", "data.source=breast-cancer"), None, ""),
        (("data.transfer=100000",), None, "100000"),
        (("teacher.weights=missing.safetensors",), None, "missing.safetensors"),
        (("teacher.weights=other.safetensors",), 4, "the weights in other.safetensors are not those of mlp(16)"),
    ],
)
def test_what_cannot_work_is_found_before_anything_is_asked(here, capsys, settings, code, said):
    torch.manual_seed(0)
    save_file(nn.Linear(3, 2).state_dict(), "other.safetensors")
    left = run("report", "run.yaml", *settings, "--dry-run")
    told = capsys.readouterr().err
    assert left in ((2, 3, 4) if code is None else (code,)), told
    assert said in told and "Traceback" not in told
    assert not (here / "runs").exists()
