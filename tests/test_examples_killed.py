"""kill -9 in each of the five verbs, for three example run files: the same command ends in what an undisturbed one makes."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from bench.kill import forked

from fractionate.cli.commands import main
from fractionate.data.bundled import data_sets
from fractionate.errors import ResourceError
from fractionate.records import Study
from fractionate.run.runfile import load_run
from fractionate.store.reading import Store
from test_examples import EXAMPLES, TINY, tiny
from tiny_hub import bert

CHOSEN = [path for path in EXAMPLES if path.stem in ("tang-digits", "ked-table", "tagger")]
MOMENTS = {  # what is there when the command is killed
    "collect": "store/shards/*",
    "diagnose": "diagnosis.json",
    "dissect": "study/runs/*",
    "distill": "training/run.json",
    "report": "student/run.json",
}


def report(path: Path, settings: tuple[str, ...]) -> Callable[[], None]:
    def work() -> None:
        try:
            main(["report", str(path), *settings, "--force"])  # students of three steps may be surely worse
        except SystemExit as left:
            os._exit(int(left.code or 0))

    return work


def killed_at(pattern: str, out: Path, work: Callable[[], None]) -> Callable[[], None]:
    """The work, killed by itself as soon as a file is there: a busy machine delays both alike."""

    def watch() -> None:
        while not list(out.glob(pattern)):
            time.sleep(0.001)
        os.kill(os.getpid(), signal.SIGKILL)

    def watched() -> None:
        threading.Thread(target=watch, daemon=True).start()
        work()

    return watched


def made(out: Path) -> dict[str, Any]:
    """What a run left, without times."""
    study = Study.load(out / "study.json")
    runs = tuple(replace(run, wall_seconds=0.0, cost={}, history=()) for run in study.runs)
    return {
        "store": Store.open(out / "store").head.identity,
        "study": (runs, study.effects),
        "student": (out / "student" / "model.safetensors").read_bytes(),
    }


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("path", CHOSEN, ids=lambda path: path.stem)
def test_a_killed_report_ends_as_an_undisturbed_one(path: Path, tmp_path: Path) -> None:
    assert TINY
    try:
        _ = data_sets[load_run(path).data.source]
    except ResourceError as error:
        pytest.skip(f"its data cannot be had here: {error.what}")
    bert(tmp_path / "bert")
    whole, out = tmp_path / "whole", tmp_path / "killed"
    assert os.waitpid(forked(report(path, tiny(path, tmp_path, whole))), 0)[1] == 0
    work = report(path, tiny(path, tmp_path, out))
    for verb, pattern in MOMENTS.items():  # one folder: each command goes on where the one before was killed
        assert list(whole.glob(pattern)), (verb, pattern)
        status = os.waitpid(forked(killed_at(pattern, out, work)), 0)[1]
        assert os.WIFSIGNALED(status) or status == 0, verb
    assert os.waitpid(forked(work), 0)[1] == 0
    expected, found = made(whole), made(out)
    for part, value in expected.items():
        assert found[part] == value, part
    assert (out / "report.html").is_file()
