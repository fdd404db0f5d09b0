"""A study spread over workers is the study of one process; workers and whole studies may be killed."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from bench.kill import forked
from torch import nn

from fractionate.data.hierarchy import Hierarchy
from fractionate.errors import ConfigError, MismatchError
from fractionate.records import Run, Study, Training
from fractionate.study import dissect, workers
from fractionate.study.workers import one_thread, start_method
from fractionate.training.fleet import loop as fleet

ROOT = Path(__file__).parent.parent


def student() -> nn.Module:
    return nn.Sequential(nn.Linear(16, 12), nn.ReLU(), nn.Dropout(0.1), nn.Linear(12, 12))


def study(factory: Callable[[], nn.Module] = student, **changes: Any) -> Study:
    world = Hierarchy()
    settings: dict[str, Any] = {
        "cells": ("kd", "kd-pt"),
        "seeds": 3,
        "training": Training(epochs=2, batch_size=16, learning_rate=0.01),
        "test": world.draw(60, seed=3),
        "progress": "off",
        "points": 1,
        "backend": "stacked",
    }
    return dissect(factory, world.draw(60, seed=1), world.oracle(60, seed=1), **(settings | changes))


def timeless(found: Study) -> list[Run]:
    return [replace(run, wall_seconds=0.0) for run in found.runs]


@pytest.mark.parametrize("backend", ["stacked", "recorded", "loop"])
def test_workers_change_no_bit(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """`timeless` holds scores, history, spectra and histograms: every number of every run."""
    if backend == "recorded":
        backend = "stacked"
        monkeypatch.setattr(fleet, "RECORDED_STEPS", 1)
    alone, spread = study(backend=backend), study(backend=backend, workers=2)
    assert timeless(alone) == timeless(spread)
    assert alone.effects == spread.effects and alone.shares == spread.shares


@pytest.mark.slow
def test_fresh_processes_and_what_cannot_be_sent_to_them(monkeypatch: pytest.MonkeyPatch) -> None:
    assert start_method("cuda") == "spawn" and start_method("cpu") in ("fork", "spawn")
    monkeypatch.setattr(workers, "start_method", lambda _: "spawn")
    with pytest.raises(MismatchError, match=r"(?s)cannot be made in another process.*top level"):
        study(lambda: student(), workers=2)
    assert timeless(study(seeds=2, workers=2)) == timeless(study(seeds=2))


def killed_once(mark: Path, kills: int) -> Callable[[], nn.Module]:
    """A student whose making kills the process with SIGKILL, so many times, in workers only."""
    home = os.getpid()

    def make() -> nn.Module:
        times = len(list(mark.iterdir()))
        if os.getpid() != home and times < kills:
            (mark / str(times)).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return student()

    return make


@pytest.mark.skipif(start_method("cpu") != "fork", reason="the trap goes to the workers by fork")
def test_the_runs_of_a_killed_worker_are_done_again(tmp_path: Path) -> None:
    mark = tmp_path / "kills"
    mark.mkdir()
    found = study(killed_once(mark, 2), workers=2, out=tmp_path / "study")
    assert len(list(mark.iterdir())) == 2
    assert timeless(found) == timeless(study())
    assert len(list((tmp_path / "study" / "runs").iterdir())) == 9


@pytest.mark.skipif(start_method("cpu") != "fork", reason="the trap goes to the workers by fork")
def test_a_job_that_always_kills_its_worker_is_reported_and_the_study_goes_on(tmp_path: Path) -> None:
    home = os.getpid()

    def make() -> nn.Module:
        if os.getpid() != home and torch.initial_seed() == 1:  # the students of seed 1
            os.kill(os.getpid(), signal.SIGKILL)
        return student()

    found = study(make, workers=2, out=tmp_path)
    lost = [run for run in found.runs if run.status == "stopped"]
    assert {(run.arm, run.seed) for run in lost} == {("hard", 1), ("kd", 1), ("kd-pt", 1)}
    assert (
        "kd seed 1 is missing, and is tried again by the same call: its worker died 3 times, exit code -9"
        in found.notes
    )
    assert "kd − hard rests on 2 of 3 seeds" in found.notes
    assert {e.seeds for e in found.effects} == {2}
    assert timeless(study(out=tmp_path)) == timeless(study())  # the same command again, without the trap


def test_an_error_in_a_worker_is_the_error_of_the_study() -> None:
    home = os.getpid()

    def make() -> nn.Module:
        if os.getpid() != home:
            raise RuntimeError("no such layer")
        return student()

    with pytest.raises(RuntimeError, match="no such layer"):
        study(make, workers=2)


@pytest.mark.parametrize("count", [0, -1, True, 1.5, "many", ""])
@pytest.mark.wrong_types
def test_workers_that_cannot_be_meant(count: Any) -> None:
    with pytest.raises(ConfigError, match="invalid value for workers"):
        study(workers=count)


@pytest.mark.skipif(start_method("cpu") != "fork", reason="the trap goes to the workers by fork")
def test_a_killed_study_goes_on_by_the_same_command(tmp_path: Path) -> None:
    """A real kill -9 of the whole study after its first runs; the workers it leaves end by themselves."""
    out, home = tmp_path / "study", os.getpid()

    def waits() -> nn.Module:  # once there are two runs the workers go on only when the study is gone
        parent = os.getppid()
        while home != parent == os.getppid() and len(list((out / "runs").glob("*.json"))) >= 2:
            time.sleep(0.01)
        return student()

    def command(factory: Callable[[], nn.Module]) -> Study:
        return study(factory, backend="loop", workers=2, out=out)

    process = forked(lambda: command(waits))
    while len(list((out / "runs").glob("*.json"))) < 2:
        assert os.waitpid(process, os.WNOHANG) == (0, 0), "the study ended before it could be killed"
        time.sleep(0.01)
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)
    kept = {file: file.read_bytes() for file in (out / "runs").glob("*.json")}
    assert 2 <= len(kept) < 9 and not (out / "study.json").exists()
    again = command(student)
    assert all(file.read_bytes() == text for file, text in kept.items())  # what was done is not done again
    assert timeless(again) == timeless(study(backend="loop"))


@pytest.mark.skipif(start_method("cpu") != "fork", reason="threads are lost by fork")
def test_a_worker_starts_no_threads_in_scikit_learn() -> None:
    """Boosted trees as an online teacher waited forever for the OpenMP threads of the process that was copied."""
    threadpoolctl, _ = pytest.importorskip("threadpoolctl"), pytest.importorskip("sklearn.ensemble")

    def count() -> None:
        one_thread()
        assert {pool["num_threads"] for pool in threadpoolctl.threadpool_info()} == {1}

    with threadpoolctl.threadpool_limits(2):
        assert os.waitpid(forked(count), 0)[1] == 0


@pytest.mark.slow
def test_ray_gives_the_same_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray")
    monkeypatch.setenv("RAY_worker_niceness", "0")  # Ray's 15 gives its processes next to nothing on a busy machine
    assert timeless(study(seeds=2, workers="ray")) == timeless(study(seeds=2))
