"""kill -9, SIGTERM and damage: the same command again gives bitwise the same student (bench/kill.py kills 300 times)."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import signal
import time
from pathlib import Path

import pytest
import torch
from bench.kill import TRAINING, compare, digits, forked, kill_once, prepare, student
from torch import nn

from counting_term import Calling
from fractionate.data.dataset import FINGERPRINTED, PROBED
from fractionate.errors import MismatchError, NumericsError, StoppedError
from fractionate.records import Run, Training
from fractionate.tasks.fit import FEW
from fractionate.training import distill
from fractionate.training.checkpoint import steps_in
from fractionate.training.run_folder import CHECKPOINTS, METRICS, RUN, STUDENT


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    return prepare(tmp_path_factory.mktemp("undisturbed"))


@pytest.mark.parametrize("number", range(3))
def test_kill_nine_at_a_random_moment(undisturbed, tmp_path, number):
    reference, data, seconds = undisturbed
    figures = kill_once(tmp_path, reference, data, random.Random(number).uniform(0.1, 0.9) * seconds, kills=2)
    assert figures["differing"] == [], figures


def test_a_damaged_checkpoint_costs_one_interval_and_nothing_else(undisturbed, tmp_path):
    reference, data, _seconds = undisturbed
    folder = tmp_path
    for place in reference.rglob("*"):  # the undisturbed run as it was before its end
        target = folder / place.relative_to(reference)
        target.mkdir(parents=True, exist_ok=True) if place.is_dir() else target.write_bytes(place.read_bytes())
    (folder / RUN).unlink()
    (folder / STUDENT).unlink()
    newest = sorted((folder / CHECKPOINTS).glob("*.safetensors"))[-1]
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 4
    newest.write_bytes(content)
    child = forked(lambda: train_again(folder, data))
    assert os.waitpid(child, 0)[1] == 0
    assert compare(reference, folder) == []


def undated(run: Run) -> Run:
    """A record less what the clock said."""
    return dataclasses.replace(run, wall_seconds=0.0, cost={})


def train_again(folder: Path, data) -> None:
    from bench.kill import train_in

    train_in(folder, data)


def until(path: Path, child: int) -> None:
    """Wait for a file that a child makes."""
    while not path.exists():
        assert os.waitpid(child, os.WNOHANG) == (0, 0), f"the child has ended without {path.name}"
        time.sleep(0.01)


def stoppable(folder: Path, data, *, steps: int = 100_000) -> None:
    train, _, outputs = data
    training = dataclasses.replace(TRAINING, steps=steps, evaluate_every=None, keep="last")
    try:
        distill(
            student(),
            train,
            outputs,
            training=training,
            out=folder,
            save_every_seconds=1e9,
            log_every=9,
            show="nothing",
        )
    except StoppedError as error:
        os._exit(error.exit_code)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_and_stops(undisturbed, tmp_path, number, code):
    _, data, _ = undisturbed
    child = forked(lambda: stoppable(tmp_path, data))
    until(tmp_path / METRICS, child)
    time.sleep(0.2)
    os.kill(child, number)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == code
    (step,) = steps_in(tmp_path / CHECKPOINTS)
    assert step > 0 and not (tmp_path / RUN).exists()


def test_a_signal_within_a_look_at_validation_data_does_not_wait_for_its_end(undisturbed, tmp_path):
    """The look is taken anew when the run goes on, and all is as if nobody had disturbed it."""
    _, (train, validation, outputs), _ = undisturbed
    training = dataclasses.replace(TRAINING, steps=20, evaluate_every=10, keep="best")

    class Slow(torch.utils.data.Dataset):
        """Validation data that send a signal on their way."""

        def __init__(self, at: int | None) -> None:
            # so many are read before anything is trained
            self.at, self.reads = at, -PROBED - min(FINGERPRINTED, len(validation)) - FEW

        def __len__(self) -> int:
            return len(validation)

        def __getitem__(self, place: int):
            self.reads += 1
            if self.reads == self.at:
                os.kill(os.getpid(), signal.SIGTERM)
            return validation.inputs[place], int(validation.labels[place])

    def run(name: str, at: int | None) -> None:
        distill(student(), train, outputs, training=training, validation=Slow(at), out=tmp_path / name, show="nothing")

    run("whole", None)
    # in the first look, again where it is taken anew, in the second look
    for at, step in ((1, 10), (1, 10), (len(validation) + 1, 20)):
        with pytest.raises(StoppedError, match=f"after step {step} of 20"):
            run("cut", at)
        assert not (tmp_path / "cut" / RUN).exists()
    run("cut", None)
    for name in (STUDENT, METRICS):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_a_second_signal_stops_at_once(tmp_path):
    class Slow(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(64, 10)

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            (tmp_path / "in").touch()
            time.sleep(60)
            return self.layer(inputs)

    def work() -> None:
        train, _, _ = digits()
        distill(Slow(), train, training=Training(steps=60), out=tmp_path / "run", show="nothing")

    child = forked(work)
    until(tmp_path / "in", child)
    gone, began = 0, time.monotonic()
    while not gone and time.monotonic() < began + 50:  # two that come together on a busy machine are one
        os.kill(child, signal.SIGINT)
        time.sleep(0.1)
        gone, status = os.waitpid(child, os.WNOHANG)
    assert gone and os.waitstatus_to_exitcode(status) == 130


def test_stopping_and_going_on_is_bitwise_the_undisturbed_run(undisturbed, tmp_path):
    """In one process: a signal at a step that is chosen, then the same call again."""
    _, (train, _, outputs), _ = undisturbed
    training = Training(steps=30, batch_size=32, precision="bfloat16", optimizer="sgd", clip_norm=0.5)

    def run(folder: Path, stop_at: int | None) -> None:
        def stop(predictions, signal_):
            calls.append(1)
            if len(calls) == stop_at:
                os.kill(os.getpid(), signal.SIGTERM)
            return torch.zeros(len(predictions))

        calls: list[int] = []
        distill(student(32), train, outputs, training=training, terms=[Calling(stop)], out=folder, log_every=1)

    run(tmp_path / "whole", None)
    with pytest.raises(StoppedError, match="after step 11 of 30"):
        run(tmp_path / "cut", 11)
    with pytest.raises(StoppedError, match="after step 17 of 30"):
        run(tmp_path / "cut", 6)
    run(tmp_path / "cut", None)
    for name in (STUDENT, METRICS):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "cut" / name).read_bytes(), name
    first, second = (Run.load(tmp_path / name / RUN) for name in ("whole", "cut"))
    assert undated(first) == undated(second)
    assert not (tmp_path / "cut" / CHECKPOINTS).exists()
    rows = [json.loads(line) for line in (tmp_path / "cut" / METRICS).read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(1, 31))


def test_a_folder_of_another_run_is_refused(undisturbed, tmp_path):
    _, (train, _, outputs), _ = undisturbed

    def failing(predictions, signal_):
        calls.append(1)
        return torch.full((len(predictions),), float("nan") if len(calls) > 4 else 0.0)

    calls: list[int] = []
    silent = Calling(lambda predictions, signal_: torch.zeros(len(predictions)))
    short = Training(steps=8, batch_size=32)
    with pytest.raises(NumericsError, match="step 4"):
        distill(student(16), train, outputs, training=short, terms=[Calling(failing)], out=tmp_path, save_every_steps=2)
    for other, name in [
        ({"seed": 1}, "seed"),
        ({"training": Training(steps=8, batch_size=16)}, "training.batch_size"),
    ]:
        with pytest.raises(MismatchError, match=f"another run: .*{name}"):
            distill(student(16), train, outputs, **({"training": short, "out": tmp_path, "terms": [silent]} | other))
    with pytest.raises(MismatchError, match="student"):
        distill(student(17), train, outputs, training=short, terms=[silent], out=tmp_path)
    with pytest.raises(MismatchError, match="teacher"):
        distill(student(16), train, training=short, arm="kd", out=tmp_path)
    with pytest.raises(MismatchError, match="terms"):
        distill(student(16), train, outputs, training=short, out=tmp_path)
    distill(student(16), train, outputs, training=short, terms=[silent], out=tmp_path)
