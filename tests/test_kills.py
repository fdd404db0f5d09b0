"""A command that is killed while it writes: run again, it ends with the same numbers and leaves nothing half-written."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from bench.fuzz_run_files import bench_in, numbers, run

RECORDS = ("diagnosis.json", "study.json", "student/run.json")
KILLED = 99


def command(page: Path, at: int | None) -> int:
    """The exit code of `report` in a process of its own that ends without a word before it waits for the disk a certain time."""
    pid = os.fork()
    if pid == 0:
        waits = [0]

        def fsync(_: int) -> None:
            waits[0] += 1
            if waits[0] == at:
                os._exit(KILLED)

        os.fsync = fsync
        code = 98
        try:
            code = run("report", str(page))
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs processes that begin as a copy of this one")
def test_a_kill_at_any_write_costs_nothing(tmp_path: Path) -> None:
    with bench_in(tmp_path) as bench:
        page, out, half_written, at = tmp_path / "k.yaml", tmp_path / "k", 0, 3
        page.write_text(bench.page.read_text().replace(str(tmp_path / "o"), str(out)))
        while command(page, at) == KILLED:
            half_written += bool([*out.rglob(".partial-*")])
            assert command(page, None) == 0, f"after a kill at write {at}"
            assert not [*out.rglob(".partial-*")]
            for name in RECORDS:
                assert numbers(out / name) == numbers(tmp_path / "o" / name), f"{name} after a kill at write {at}"
            shutil.rmtree(out)
            at += 11
        assert at > 50 and half_written >= 1
