"""Two processes on gloo against one: copies (DDP), shards (FSDP2), elastic resume, a lost process."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from bench.kill import digits, forked
from torch import nn

from counting_term import Calling
from fractionate.errors import ConfigError, StoppedError
from fractionate.losses.objective import Objective
from fractionate.records import Run, Training
from fractionate.training import distill
from fractionate.training.run_folder import METRICS, RUN, STUDENT

if not torch.distributed.is_available():
    pytest.skip("this torch has no torch.distributed", allow_module_level=True)

TRAINING = Training(steps=24, batch_size=31, micro_batch_size=9, learning_rate=3e-3, clip_norm=1.0)


@pytest.fixture(scope="module")
def data():
    return digits()


def student() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(64, 32), nn.LayerNorm(32), nn.ReLU(), nn.Linear(32, 10))


def started_together(size: int, work: Callable[[], None]) -> list[int]:
    """Fork processes with the environment that torchrun would give them; their exit codes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def one(rank: int) -> None:
        os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(size), "LOCAL_RANK": str(rank)}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        try:
            work()
        except StoppedError as error:
            os._exit(error.exit_code)

    children = [forked(lambda rank=rank: one(rank)) for rank in range(size)]
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


def train(data, out: Path, *, stop_at: int | None = None, training: Training = TRAINING, **more) -> None:
    examples, validation, outputs = data

    def stop(predictions, signal_):
        calls.append(1)
        if stop_at is not None and len(calls) == stop_at:
            os.kill(os.getpid(), signal.SIGTERM)
        return torch.zeros(len(predictions))

    calls: list[int] = []
    distill(
        student(), examples, more.pop("teacher", outputs), training=training, validation=validation,
        **(
            {"objective": Objective(temperature=2.0), "out": out, "log_every": 1, "terms": [Calling(stop)]}
            | {"show": "nothing"}
            | more
        ),
    )  # fmt: skip


def near(first: Path, second: Path) -> None:
    from safetensors.torch import load_file

    a, b = load_file(first / STUDENT), load_file(second / STUDENT)
    assert set(a) == set(b)
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=1e-4, atol=1e-6)
    rows = [[json.loads(line) for line in (f / METRICS).read_text().splitlines()] for f in (first, second)]
    assert [row["order"] for row in rows[0]] == [row["order"] for row in rows[1]]
    assert [row["loss"] for row in rows[0]] == pytest.approx([row["loss"] for row in rows[1]], rel=1e-5)
    assert Run.load(first / RUN).validation.nll_nats == pytest.approx(
        Run.load(second / RUN).validation.nll_nats, rel=1e-4
    )


@pytest.fixture(scope="module")
def alone(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone")
    train(data, folder)
    return folder


def test_two_copies_train_as_one(data, alone, tmp_path):
    assert started_together(2, lambda: train(data, tmp_path)) == [0, 0]
    near(alone, tmp_path)


def test_two_shards_train_as_one(data, alone, tmp_path):
    assert started_together(2, lambda: train(data, tmp_path, parallel="shards")) == [0, 0]
    near(alone, tmp_path)


@pytest.mark.parametrize("kinds", [("copies", "copies"), ("shards", "copies"), ("copies", "shards")])
def test_one_two_one_is_elastic(data, alone, tmp_path, kinds):
    """One process, then two, then one again, each stopped by SIGTERM."""
    with pytest.raises(StoppedError):
        train(data, tmp_path, stop_at=12)  # the fourth piece of a step: after step 3
    codes = started_together(2, lambda: train(data, tmp_path, stop_at=12, parallel=kinds[0]))
    assert codes == [143, 143]
    codes = started_together(2, lambda: train(data, tmp_path, stop_at=10, parallel=kinds[1]))
    assert codes == [143, 143]
    train(data, tmp_path)
    near(alone, tmp_path)


@pytest.mark.parametrize("parallel", ["copies", "shards"])
def test_terms_with_trained_parts_train_as_on_one_process(data, tmp_path, parallel):
    """A regressor is averaged, or cut into shards, as the student is."""
    torch.manual_seed(9)
    teacher = nn.Sequential(nn.Linear(64, 20), nn.ReLU(), nn.Linear(20, 10))
    terms = ["fitnets('0', '1', weight=0.5)", "ranking(3)"]
    train(data, tmp_path / "one", teacher=teacher, terms=terms)
    at = tmp_path / parallel
    assert started_together(2, lambda: train(data, at, teacher=teacher, terms=terms, parallel=parallel)) == [0, 0]
    near(tmp_path / "one", at)


def test_an_epoch_whose_last_batch_is_smaller_than_the_processes(data, tmp_path):
    examples, _, outputs = data
    odd = (examples.take(torch.arange(33)), examples, outputs.take(torch.arange(33)))
    training = dataclasses.replace(TRAINING, steps=6, batch_size=32)
    train(odd, tmp_path / "one", training=training)
    assert started_together(3, lambda: train(odd, tmp_path / "three", training=training)) == [0, 0, 0]
    near(tmp_path / "one", tmp_path / "three")


def test_a_loss_that_couples_the_batch_is_refused_on_every_process(data, tmp_path):
    """Each process sees a part of the batch alone: its loss would be another one. Nothing is written."""

    def refused() -> None:
        with pytest.raises(ConfigError, match=r"couples the examples of a batch.*\n.*\n.*2 processes"):
            train(data, tmp_path / "run", training=whole, objective=Objective(temperature=2.0, divergence="dist"))

    whole = dataclasses.replace(TRAINING, micro_batch_size=None)
    assert started_together(2, refused) == [0, 0]
    assert not (tmp_path / "run" / RUN).exists()


LOSING = """
import os, signal, sys
from pathlib import Path
sys.path[:0] = [sys.argv[1], sys.argv[1] + "/src", sys.argv[1] + "/tests"]
import torch
import test_engine_world as tests
from counting_term import Calling

def die(predictions, signal_, calls=[]):
    calls.append(1)
    if len(calls) == 20 and os.environ["RANK"] == "1" and sys.argv[3] == "lose":
        os.kill(os.getpid(), signal.SIGKILL)
    return torch.zeros(len(predictions))

torch.set_num_threads(1)
tests.train(tests.digits(), Path(sys.argv[2]), terms=[Calling(die)], save_every_steps=3)
"""


@pytest.mark.slow
def test_torchrun_and_a_lost_process(data, alone, tmp_path):
    """The launcher itself: one of two processes is killed; it stops the other, names the rank, and the run goes on."""
    script, out = tmp_path / "script.py", tmp_path / "out"
    script.write_text(LOSING)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(script)]
    command += [str(Path(__file__).parents[1]), str(out)]
    lost = subprocess.run([*command, "lose"], capture_output=True, text=True, check=False, timeout=300)
    assert lost.returncode == 1
    assert "Signal 9 (SIGKILL)" in lost.stderr and "rank      : 1" in lost.stderr
    assert not (out / RUN).exists()
    assert started_together(2, lambda: train(data, out)) == [0, 0]
    near(alone, out)


@pytest.mark.slow
def test_accelerate_launch(data, alone, tmp_path):
    pytest.importorskip("accelerate", reason="needs the extra hf")
    script, out = tmp_path / "script.py", tmp_path / "out"
    script.write_text(LOSING)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    # --multi_gpu is how accelerate is told to start multiple; without GPUs our processes meet on gloo
    command = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        "--multi_gpu",
        "--num_processes=2",
        "--num_machines=1",
    ]
    command += ["--mixed_precision=no", "--dynamo_backend=no", "--main_process_port", port, str(script)]
    subprocess.run(
        [*command, str(Path(__file__).parents[1]), str(out), "keep"], capture_output=True, check=True, timeout=300
    )
    near(alone, out)
