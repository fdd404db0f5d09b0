"""Trackers as they are, offline: what a training says is found again by the library's own reading."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

TRAIN = """
import os, sys, warnings
warnings.simplefilter("ignore")
import torch
from torch import nn
from fractionate.training import distill
from fractionate.integrations.trackers import MLflow, TensorBoard, Wandb
from fractionate.records import Training
torch.manual_seed(0)
tracker = {
    "tensorboard": lambda: TensorBoard("board"),
    "wandb": lambda: Wandb("fractionate", mode="offline", dir="."),
    "trackio": lambda: Wandb("fractionate", module="trackio"),
    "mlflow": MLflow,
}[sys.argv[1]]()
data = torch.randn(32, 4), torch.arange(32) % 3
distill(nn.Linear(4, 3), data, training=Training(steps=4, batch_size=8), validation=data, log_every=1, trackers=[tracker],
        arm="tried", show="nothing")
"""
READ = {
    "tensorboard": """
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
found = EventAccumulator("board"); found.Reload()
assert [e.step for e in found.Scalars("loss")] == [1, 2, 3, 4]
""",
    "wandb": """
from pathlib import Path
files = list(Path("wandb").glob("offline-run-*/run-*.wandb"))
assert len(files) == 1 and files[0].stat().st_size > 500
""",
    "trackio": """
import sqlite3, json
from pathlib import Path
bases = [p for p in Path("kept").rglob("*.db")]
rows = [r for p in bases for r in sqlite3.connect(p).execute("select step, metrics from metrics order by id")]
assert [step for step, told in rows if "loss" in json.loads(told)] == [1, 2, 3, 4], rows
""",
    "mlflow": """
import mlflow
client = mlflow.MlflowClient()
run = client.search_runs(["0"])[0]
assert run.info.run_name == "tried" and run.info.status == "FINISHED"
assert [m.step for m in client.get_metric_history(run.info.run_id, "loss")] == [1, 2, 3, 4]
""",
}


@pytest.mark.parametrize("name", READ)
def test_a_training_is_found_again(name, tmp_path):
    pytest.importorskip(name, reason=f"pip install {'mlflow-skinny' if name == 'mlflow' else name}")
    environment = os.environ | {
        "PYTHONPATH": str(Path(__file__).parents[1] / "src"),
        "TRACKIO_DIR": str(tmp_path / "kept"),
        "MLFLOW_TRACKING_URI": (tmp_path / "mlruns").as_uri(),
        "MLFLOW_ALLOW_FILE_STORE": "true",
        "WANDB_SILENT": "true",
        "OMP_NUM_THREADS": "1",
    }
    for code in (TRAIN, "import warnings; warnings.simplefilter('ignore')" + READ[name]):
        done = subprocess.run(
            [sys.executable, "-c", code, name],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env=environment,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr[-2000:]
        assert "left out" not in done.stderr, done.stderr[-2000:]
