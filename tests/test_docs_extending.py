"""The changes on the page "Add a part" apply to the package as it is, and what they add works."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import layout

PROGRAM = """
import numpy as np, torch
from torch import nn
from fractionate import Cell, Recipe, Task, distill
from fractionate.data import data_sets
from fractionate.losses.terms import term_specs
from fractionate.plugins import check
from fractionate.records import Training
from fractionate.tasks import kinds
from fractionate.theory import shapes

check(shapes["zipf(2.0)"]), check(term_specs["mean-square('0', '0')"]), Cell("instance", "zipf(2.0)")
np.save("x.npy", np.random.default_rng(0).normal(size=(60, 4))), np.save("y.npy", np.arange(60) % 3)
parts = data_sets["arrays('x.npy', 'y.npy')"].parts(transfer=40, validation=10, test=10, seed=0)
student = lambda: nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
task = Task("balanced", transfer=parts.transfer, test=parts.test, student=student)
recipe = Recipe(preparations=("redrawn('2')",), terms=("mean-square('0', '0')",), training=Training(steps=2))
_, run = distill(task, teacher=student(), recipe=recipe)
assert run.status == "completed" and list(kinds["balanced"].metrics)[0] == "balanced-accuracy"
"""


def test_the_changes_apply_and_work(tmp_path: Path) -> None:
    if shutil.which("patch") is None:
        pytest.skip("there is no patch program")
    diffs = re.findall(r"```diff\n(.*?)```", layout.page("extending"), re.DOTALL)
    assert len(diffs) == 5
    shutil.copytree(layout.ROOT / "src", tmp_path / "src", ignore=shutil.ignore_patterns("__pycache__"))
    for diff in diffs:
        assert sum(line.startswith("+") and line != "+" for line in diff.splitlines()) <= 25, "a part is a small change"
        done = subprocess.run(
            ["patch", "-p1", "--no-backup-if-mismatch"], cwd=tmp_path, input=diff, text=True, capture_output=True
        )
        assert done.returncode == 0, done.stdout + done.stderr
    environment = {
        "PYTHONPATH": str(tmp_path / "src"),
        "PATH": "/usr/bin:/bin",
        "OMP_NUM_THREADS": "1",
        "HOME": str(tmp_path),
    }
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=tmp_path, env=environment, text=True, capture_output=True
    )
    assert done.returncode == 0, done.stderr
