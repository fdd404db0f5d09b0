"""kill -9 at random moments of a training, then the same command again: is the student bitwise the one of an undisturbed run?

    python bench/kill.py --kills 300          # resumable: figures are appended to bench/results/kill.jsonl, the table is made of it

A figure holds for the sources it was measured on: after a change of `src/` the ledger begins anew.

A fork server: this process has torch imported, each training is a fork of it. Compared bit for bit with an undisturbed
run: weights, optimiser, averages, best weights, random states, the rows of metrics.jsonl with the rolling hash of the
order of examples, and the record (less its seconds).
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1] / "src"))

from fractionate import Objective, TeacherSignal, distill
from fractionate.data import Examples
from fractionate.records import Run, Training
from fractionate.system import TEMPORARY
from fractionate.training import CHECKPOINTS, METRICS, RUN, STUDENT, steps_in

RESULTS = Path(__file__).parent / "results"
TRAINING = Training(
    steps=60, batch_size=32, micro_batch_size=16, average_decay=0.9, evaluate_every=7, keep="best", clip_norm=1.0
)


def sources() -> str:
    """A digest of the package as it is: figures of other sources are not counted."""
    seen = hashlib.sha256()
    for path in sorted((Path(__file__).parents[1] / "src").rglob("*.py")):
        seen.update(path.read_bytes())
    return seen.hexdigest()[:16]


def digits() -> tuple[Examples, Examples, TeacherSignal]:
    """Digits, and a teacher that is a linear map drawn once."""
    from sklearn.datasets import load_digits

    pictures, labels = load_digits(return_X_y=True)
    data = Examples(torch.tensor(pictures, dtype=torch.float32) / 16, torch.tensor(labels), name="digits")
    train, validation = data.split(1000, 300)
    outputs = train.inputs @ torch.randn(64, 10, generator=torch.Generator().manual_seed(0))
    return train, validation, TeacherSignal(outputs, train.labels)


def student(width: int = 256) -> nn.Module:
    """A student with everything that has a state: batch normalisation, dropout."""
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Linear(64, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Dropout(0.2),
        nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 10),
    )  # fmt: skip


def train_in(out: Path, data: tuple[Examples, Examples, TeacherSignal], *, every: int = 5) -> None:
    """The training that is killed. Its last checkpoint is left in place, to be compared too."""
    import fractionate.training.run_folder

    train, validation, outputs = data
    real = fractionate.training.run_folder.remove_folder
    fractionate.training.run_folder.remove_folder = lambda _: None
    try:
        distill(
            student(), train, outputs, objective=Objective("kd", temperature=2.0), training=TRAINING, validation=validation,
            out=out, save_every_steps=every, log_every=1, show="nothing",
        )  # fmt: skip
    finally:
        fractionate.training.run_folder.remove_folder = real


def forked(work: Callable[[], None]) -> int:
    """Run in a fork of this process; gives its process id."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        work()
        code = 0
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        os._exit(code)


def compare(reference: Path, other: Path) -> list[str]:
    """What differs between two finished runs, by name; empty where all is bitwise equal."""
    differing = [name for name in (STUDENT, METRICS) if (reference / name).read_bytes() != (other / name).read_bytes()]
    runs = [dataclasses.replace(Run.load(folder / RUN), wall_seconds=0.0, cost={}) for folder in (reference, other)]
    differing += ["run.json"] if runs[0] != runs[1] else []
    last = [steps_in(folder / CHECKPOINTS)[-1] for folder in (reference, other)]
    names = [
        folder / CHECKPOINTS / f"step-{step:08d}.safetensors"
        for folder, step in zip((reference, other), last, strict=False)
    ]
    differing += ["checkpoint"] if names[0].read_bytes() != names[1].read_bytes() else []
    return differing


def kill_once(
    folder: Path, reference: Path, data: tuple[Examples, Examples, TeacherSignal], wait: float, *, kills: int = 1
) -> dict[str, object]:
    """Start, kill after `wait` seconds (again on the way, if wanted), start again, compare."""
    started = time.monotonic()
    landed: dict[str, object] = {}
    for _ in range(kills):
        child = forked(lambda: train_in(folder, data))
        time.sleep(wait)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        saved = steps_in(folder / CHECKPOINTS) if (folder / CHECKPOINTS).is_dir() else []
        landed = {
            "at_step": saved[-1] if saved else 0,
            "in_save": any(folder.rglob(f"{TEMPORARY}*")),
            "finished": (folder / RUN).exists(),
        }
    _, status = os.waitpid(forked(lambda: train_in(folder, data)), 0)
    differing = compare(reference, folder) if status == 0 else [f"exit status {status}"]
    return {"wait": wait, **landed, "differing": differing, "seconds": time.monotonic() - started}


def prepare(folder: Path) -> tuple[Path, tuple[Examples, Examples, TeacherSignal], float]:
    """The undisturbed run, and how long it takes."""
    torch.set_num_threads(1)
    data = digits()
    reference = folder / "reference"
    times = []
    train_in(folder / "warm", data)  # here, so that every fork finds all modules imported
    for place in (folder / "again", reference):
        started = time.monotonic()
        _, status = os.waitpid(forked(lambda place=place: train_in(place, data)), 0)  # type: ignore[misc]
        assert status == 0
        times.append(time.monotonic() - started)
    differing = compare(folder / "warm", reference) + compare(folder / "again", reference)
    assert not differing, f"two undisturbed runs differ in {differing}"
    return reference, data, min(times)


def main() -> None:
    """Kill until there are `--kills` figures, then write the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=420.0, help="stop in good time; run again for the rest")
    arguments = parser.parse_args()
    RESULTS.mkdir(exist_ok=True)
    ledger = RESULTS / "kill.jsonl"
    present = sources()
    rows = [json.loads(line) for line in ledger.read_text().splitlines()] if ledger.exists() else []
    done = [row for row in rows if row.get("sources") == present]
    if len(done) < len(rows):
        ledger.unlink()
        done = []
    with tempfile.TemporaryDirectory() as scratch:
        reference, data, seconds = prepare(Path(scratch))
        draw = random.Random(len(done))
        end = time.monotonic() + arguments.seconds
        while sum(not e["finished"] for e in done) < arguments.kills and time.monotonic() < end:
            folder = Path(scratch) / f"kill-{len(done)}"
            done.append({"sources": present, **kill_once(folder, reference, data, draw.uniform(0, seconds))})
            # the machine's speed changes: a kill after the end says nothing, so aim earlier where one came too late
            seconds *= 0.97 if done[-1]["finished"] else 1.01
            with ledger.open("a") as file:
                file.write(json.dumps(done[-1]) + "\n")
            for path in sorted(folder.rglob("*"), reverse=True):
                path.unlink() if path.is_file() else path.rmdir()
    late = sum(bool(entry["finished"]) for entry in done)
    failed = [entry for entry in done if entry["differing"]]
    done = [entry for entry in done if not entry["finished"]]
    middle = sorted(entry["seconds"] for entry in done)[len(done) // 2]
    table = "\n".join(
        [
            "# kill -9 at a random moment, the same command again",
            "",
            f"`python bench/kill.py --kills {len(done)}`, torch {torch.__version__}, one thread.",
            "",
            "| | kills | in a save | before the first checkpoint | failed or not equal | (after the end: not counted) |",
            "|---|---|---|---|---|---|",
            f"| Fractionate | {len(done)} | {sum(e['in_save'] for e in done)} | {sum(e['at_step'] == 0 for e in done)} "
            f"| **{len(failed)}** | {late} |",
            "| Hugging Face Trainer 5.23 (measured by the project before, not in this run) | 30 | | | 6 | |",
            "",
            f"Median of kill, second run and comparison: {middle:.2f} s. Compared bit for bit: weights, optimiser, running",
            "average, best weights, random states, metrics.jsonl with the rolling hash of the order of examples, the record",
            "less its seconds.",
            "",
        ]
    )
    (RESULTS / "kill.md").write_text(table)
    print(table)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
