"""The bench of `fuzz_run_files.py`: a finished run with small models on a small table, and commands run in this process."""

from __future__ import annotations

import contextlib
import csv
import io
import os
import random
import resource
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from fractionate.cli import main as command
from fractionate.errors import FractionateError
from fractionate.run import RunFile, dump_run

ALLOWED = (0, 2, 3, 4, 5, 6)
PAGE = """\
name: small
out: {out}
data: {{source: "table('{csv}', label='c')", transfer: 40, validation: 20, test: 20, seed: 1}}
teacher: {{model: 'mlp(6)', train: {{steps: 6}}}}
student: {{model: 'mlp(3)'}}
diagnosis: {{pilot: 0}}
objective: {{cell: kd, temperature: 2, teacher_weight: 0.5}}
training: {{steps: 4, batch_size: 16, learning_rate: 0.01}}
study: {{cells: [hard, kd], seeds: 2, temperatures: [1, 4], tune: null}}
distill: {{save_every_seconds: 0, log_every: 1}}
export: {{program: false, licence: mit}}
"""


class FoundError(Exception):
    """Something that may not come."""


def run(*arguments: str) -> int:
    """A command of the command line in this process; its exit code. Raises `FoundError` for what it may not print."""
    return printed(*arguments)[0]


def printed(*arguments: str) -> tuple[int, str]:
    """As `run`, with what it printed."""
    out, err = io.StringIO(), io.StringIO()
    code = 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            command(list(arguments))
        except SystemExit as left:
            code = left.code if isinstance(left.code, int) else 0 if left.code is None else 1
    text = out.getvalue() + err.getvalue()
    odd = {c for c in text if not c.isprintable() and c not in "\n\t"}
    if odd:
        raise FoundError(f"printed {odd}")
    if code not in ALLOWED or "Traceback" in text:
        raise FoundError(f"exit code {code}: {text[-2000:]}")
    return code, text


def code_of(read: Callable[[], object]) -> int:
    """The exit code that reading something ends in."""
    try:
        read()
    except FractionateError as error:
        odd = {c for c in str(error) if not c.isprintable() and c not in "\n\t"}
        if odd:
            raise FoundError(f"printed {odd}") from error
        return error.exit_code
    return 0


class Bench:
    """A finished run with small models on a small table, its files, and a folder to damage copies in."""

    def __init__(self, base: Path) -> None:
        self.base, self.place = base, base / "place"
        draw = random.Random(1)
        rows = [[f"{draw.gauss(i % 3, 1):.3f}", f"{draw.gauss(-(i % 3), 1):.3f}", "pqr"[i % 3]] for i in range(120)]
        self.csv = base / "d.csv"
        with self.csv.open("w", newline="") as file:
            csv.writer(file).writerows([["a", "b", "c"], *rows])
        self.page = base / "r.yaml"
        self.page.write_text(PAGE.format(out=base / "o", csv=self.csv))
        assert run("report", str(self.page)) == 0
        self.files = {
            path.relative_to(base / "o"): path.read_bytes() for path in (base / "o").rglob("*") if path.is_file()
        }
        self.picture, self.parquet = picture(), parquet(rows)
        self.example = (dump_run(RunFile()) + "objective: {cell: kd}\n").encode()
        self.peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    def fresh(self) -> Path:
        shutil.rmtree(self.place, ignore_errors=True)
        self.place.mkdir()
        return self.place


def picture() -> bytes:
    from PIL import Image

    made = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (9, 9, 3), np.uint8)).save(made, "PNG")
    return made.getvalue()


def parquet(rows: list[list[str]]) -> bytes:
    import pyarrow
    from pyarrow import parquet as library

    made = io.BytesIO()
    columns = {
        "a": [float(row[0]) for row in rows],
        "b": [float(row[1]) for row in rows],
        "c": [row[2] for row in rows],
    }
    library.write_table(pyarrow.table(columns), made)
    return made.getvalue()


@contextlib.contextmanager
def bench_in(base: Path) -> Iterator[Bench]:
    """A bench whose files are not waited for on the disk."""
    before = os.fsync
    os.fsync = lambda _: None  # waiting for a disk finds nothing
    try:
        yield Bench(base)
    finally:
        os.fsync = before
