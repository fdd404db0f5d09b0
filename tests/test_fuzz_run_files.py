"""A slice of `bench/fuzz_run_files.py`: whatever lies in a file or a setting, a command ends in a result or in an error of ours."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from bench.fuzz_run_files import TARGETS, Bench, bench_in, fuzz

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
