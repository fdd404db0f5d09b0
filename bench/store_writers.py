"""Eight processes write one store at once, twenty rounds, while two others read it: the same content as one writer, no torn row.

    python bench/store_writers.py [--rounds 20] [--writers 8]

In every second round one writer is killed at a random moment. Goal R9.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "src"))

from fractionate import collect
from fractionate.data import Examples
from fractionate.store import Store, verify

RESULT = Path(__file__).parent / "results" / "store_writers.md"


def say(inputs: torch.Tensor) -> torch.Tensor:
    return inputs * 2


def write(place: Path, data: Examples) -> None:
    collect(say, data, place, named="twice", batch_size=32, shard_bytes=1)


def read(place: Path, expected: torch.Tensor, report: Path) -> None:
    """Read random rows until stopped; a torn or wrong row shows in the exit code."""
    reads, random_rows = 0, np.random.default_rng(os.getpid())
    while not (place.parent / "stop").exists():
        if not (place / "head.json").exists():
            continue
        store = Store.open(place)
        there = np.flatnonzero(store.present())
        for _ in range(20):
            if len(there):
                rows = random_rows.choice(there, 8)
                if not torch.equal(store.logits(rows), expected[torch.from_numpy(rows)]):
                    os._exit(9)
                reads += len(rows)
    report.write_text(str(reads))


def child(work: object, *arguments: object) -> int:
    number = os.fork()
    if number == 0:
        try:
            work(*arguments)  # type: ignore[operator]
        except BaseException as error:
            print(error, file=sys.stderr)
            os._exit(1)
        os._exit(0)
    return number


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--writers", type=int, default=8)
    options = parser.parse_args()
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    data = Examples(torch.randn(512, 20, generator=generator), torch.randint(20, (512,), generator=generator))
    expected = data.inputs * 2
    equal = whole = reads = torn = failed = killed = 0
    with tempfile.TemporaryDirectory() as base:
        write(Path(base) / "one", data)
        content = Store.open(Path(base) / "one").content()
        for number in range(options.rounds):
            place = Path(base) / f"round-{number}" / "s"
            place.parent.mkdir()
            readers = [child(read, place, expected, place.parent / f"reads-{n}") for n in range(2)]
            writers = [child(write, place, data) for _ in range(options.writers)]
            if number % 2:
                time.sleep(random.random() * 0.2)
                os.kill(writers[0], signal.SIGKILL)
            codes = [os.waitstatus_to_exitcode(os.waitpid(writer, 0)[1]) for writer in writers]
            killed += codes.count(-9)
            failed += sum(code not in (0, -9) for code in codes)
            (place.parent / "stop").touch()
            torn += sum(os.waitstatus_to_exitcode(os.waitpid(reader, 0)[1]) != 0 for reader in readers)
            reads += sum(int(path.read_text()) for path in place.parent.glob("reads-*"))
            equal += Store.open(place).content() == content
            whole += verify(place).whole
    text = (
        f"{options.writers} writers on the same ids, {options.rounds} rounds; made by `python bench/store_writers.py --rounds "
        f"{options.rounds} --writers {options.writers}`.\n\n"
        "| | |\n| --- | --- |\n"
        f"| rounds with the content of a single writer | {equal} of {options.rounds} |\n"
        f"| rounds in which every byte verifies | {whole} of {options.rounds} |\n"
        f"| writers that failed (killed on purpose) | {failed} ({killed}) |\n"
        f"| rows read next to the writers | {reads:,} |\n"
        f"| readers that met a wrong row or an error | {torn} |\n"
    )
    print(text)
    RESULT.write_text(text)


if __name__ == "__main__":
    main()
