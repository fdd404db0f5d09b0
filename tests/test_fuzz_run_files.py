"""A slice of `bench/fuzz_run_files.py`: whatever lies in a file or a setting, a command ends in a result or in an error of ours."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from bench.fuzz_run_files import TARGETS, Bench, bench_in, fuzz, run

SLICE = {
    "run files": 60,
    "overrides": 40,
    "settings": 2,
    "names": 60,
    "tables": 20,
    "transforms": 40,
    "weights": 30,
    "outputs": 40,
    "records": 60,
    "folder": 6,
}


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    with bench_in(Path(tmp_path_factory.mktemp("fuzz"))) as made:
        yield made


@pytest.mark.parametrize("target", TARGETS)
def test_a_file_or_setting_ends_in_a_result_or_an_error_of_ours(bench: Bench, target: str) -> None:
    notes: list[str] = []
    codes, found = fuzz(bench, target, SLICE[target], say=notes.append)
    assert not found, "\n".join(notes)
    assert sum(codes.values()) == SLICE[target] and set(codes) <= {0, 2, 3, 4, 5, 6}
    assert set(codes) - {0} or target in ("settings", "folder"), "nothing was refused: the mutations reach nothing"


def test_what_a_kill_left_of_finished_trainings_is_removed(bench: Bench) -> None:
    """Killed when all was written, and before the checkpoints and the teacher's training were removed."""
    out = bench.base / "o"
    (out / "training" / "checkpoints").mkdir()
    (out / "teacher").mkdir()
    (out / "teacher" / "run.json").write_bytes(b"{}")
    shutil.rmtree(out / "student")
    shutil.rmtree(out / "store")
    assert run("collect", str(bench.page)) == run("distill", str(bench.page)) == 0
    assert (out / "student").is_dir() and not (out / "training" / "checkpoints").exists()
    assert not (out / "teacher").exists() and not [*out.rglob(".partial-*")]
