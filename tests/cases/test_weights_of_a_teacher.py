"""Weights of a teacher by file name: cases 57, 65 and 73 of the collected faults, with models from `fractionate.models`.

(Their look-up of names finds the folder of that name in place of the registry.)
"""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from fractionate.cli import main
from fractionate.models import models

TEACHER = '{model: "mlp(8)", weights: %s}'


@pytest.fixture(autouse=True)
def _folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    draw = random.Random(1)
    rows = (f"{draw.gauss(i % 3, 1):.4f},{draw.gauss(-(i % 3), 1):.4f},{'pqr'[i % 3]}\n" for i in range(200))
    Path("d.csv").write_text("a,b,c\n" + "".join(rows))


def weights(seed: int) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    return models["mlp(8)"]((2,), 3).state_dict()


def run(capsys, verb: str, teacher: str, *, out: str = "o", name: str = "run") -> tuple[int, str]:
    Path("r.yaml").write_text(
        f"name: {name}\nout: {out}\ndata: {{source: \"table('d.csv', label='c')\", transfer: 60, validation: 30, test: 30}}\n"
        f'teacher: {teacher}\nstudent: {{model: "mlp(4)"}}\ntraining: {{steps: 60}}\nstudy: {{cells: [hard, kd], seeds: 2}}\n'
        "export: {program: false}\ndiagnosis: {pilot: 0}\n"
    )
    with pytest.raises(SystemExit) as left:
        main([verb, "r.yaml"])
    shown = capsys.readouterr()
    return left.value.code or 0, shown.out + shown.err


def test_other_weights_in_the_file_are_another_teacher(capsys):
    save_file(weights(0), "w.safetensors")
    assert run(capsys, "report", TEACHER % "w.safetensors")[0] == 0
    save_file(weights(1), "w.safetensors")
    code, shown = run(capsys, "report", TEACHER % "w.safetensors")
    assert code == 4 and "teacher" in shown


@pytest.mark.parametrize("kind", ["empty", "sparse", "meta"])
def test_files_that_hold_no_weights_are_refused(kind, capsys):
    change = {"sparse": torch.Tensor.to_sparse, "meta": lambda part: part.to("meta")}
    if kind == "empty":
        Path("w.pt").write_bytes(b"")
    else:
        torch.save({name: change[kind](part) for name, part in weights(0).items()}, "w.pt")
    code, shown = run(capsys, "collect", TEACHER % "w.pt")
    assert code in (2, 3, 4) and "w.pt" in shown


def test_no_control_character_of_a_file_reaches_the_terminal(capsys):
    assert "\x1b" not in run(capsys, "collect", '{model: "mlp(8)", steps: 40}', name='"\\e]0;owned\\a\\e[31mred"')[1]
    torch.save({**weights(0), "\x1b[31mred": torch.zeros(1)}, "w.pt")
    code, shown = run(capsys, "collect", TEACHER % "w.pt", out="o2")
    assert code != 0 and "\x1b" not in shown
