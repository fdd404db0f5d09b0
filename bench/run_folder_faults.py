"""The folder of a finished run damaged, edited, mixed with another run's, or run with other data or settings; then `report`.

    python bench/run_folder_faults.py [--trials 1200]

`refused`: exit code 3 or 4 with a message that names the file, its folder, or the field that differs. `mended`: exit code 0 and the
numbers, weights and files that a run of these data and settings gives from the start. `wrong`: anything else: other numbers or
weights, a refusal that names nothing, an exception, a file left behind. Fixed seeds: the same trials each time.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "src"))

import torch
from fuzz_bench import Bench, FoundError, bench_in, printed
from fuzz_run_files import numbers

RESULT = Path(__file__).parent / "results" / "run_folder_faults.md"
RECORDS = ("diagnosis.json", "study.json", "student/run.json")
WEIGHTS = ("teacher.safetensors", "student/model.safetensors")
SETTINGS: dict[str, tuple[str, str]] = {  # what is changed in the run file of a finished run
    "seed of the split": ("seed: 1", "seed: 2"),
    "size of the transfer set": ("transfer: 40", "transfer: 41"),
    "teacher's steps": ("train: {steps: 6}", "train: {steps: 7}"),
    "teacher's seed": ("train: {steps: 6}", "train: {steps: 6, seed: 3}"),
    "teacher's model": ("model: 'mlp(6)'", "model: 'mlp(7)'"),
    "student's model": ("model: 'mlp(3)'", "model: 'mlp(4)'"),
    "temperature": ("temperature: 2", "temperature: 3"),
    "cell": ("cell: kd", "cell: class-mean"),
    "steps of the training": ("steps: 4", "steps: 5"),
    "learning rate": ("learning_rate: 0.01", "learning_rate: 0.02"),
    "seeds of the study": ("seeds: 2", "seeds: 3"),
    "cells of the study": ("[hard, kd]", "[hard, class-mean]"),
    "temperatures of the study": ("[1, 4]", "[1, 2]"),
}
KEEPS_OUTPUTS = ("student's model", "temperature", "cell", "steps of the training", "learning rate", "seeds of the study",
                 "cells of the study", "temperatures of the study")  # fmt: skip


@dataclass
class Place:
    """Finished runs by name, and a folder in which one of them is spoilt."""

    bench: Bench
    runs: dict[str, dict[Path, bytes]] = field(default_factory=dict)  # files of finished runs
    results: dict[str, Any] = field(default_factory=dict)
    page_text: str = ""

    def __post_init__(self) -> None:
        self.out, self.csv = self.bench.place / "o", self.bench.place / "d.csv"
        self.page_text = self.bench.page.read_text()
        self.finish("whole", self.page_text, self.bench.csv.read_text())

    def lay(self, text: str, csv: str) -> Path:
        """A run file and its data in a fresh folder."""
        self.bench.fresh()
        page = self.bench.place / "r.yaml"
        self.csv.write_text(csv)
        page.write_text(
            text.replace(str(self.bench.base / "o"), str(self.out)).replace(str(self.bench.csv), str(self.csv))
        )
        return page

    def finish(self, name: str, text: str, csv: str) -> None:
        """Carry a run out from the start, and keep what it gives."""
        if name not in self.runs:
            code, output = printed("report", str(self.lay(text, csv)))
            assert code == 0, output[-500:]
            self.runs[name] = {p.relative_to(self.out): p.read_bytes() for p in self.out.rglob("*") if p.is_file()}
            self.results[name] = self.found()

    def found(self) -> Any:
        """The numbers of all records, and the weights."""
        return [numbers(self.out / name) for name in RECORDS] + [(self.out / name).read_bytes() for name in WEIGHTS]

    def restore(self, name: str = "whole") -> None:
        for path, content in self.runs[name].items():
            (self.out / path).parent.mkdir(parents=True, exist_ok=True)
            (self.out / path).write_bytes(content)


@dataclass
class Trial:
    """What was done to the folder, which run its result has to be, and what a refusal has to name (one of them)."""

    what: str
    named: tuple[str, ...]
    result: str = "whole"
    text: str = ""
    csv: str = ""


Fault = Callable[[Place, random.Random], Trial]


def some_file(place: Place, draw: random.Random) -> Path:
    return draw.choice(sorted(place.runs["whole"]))


def names_of(path: Path) -> tuple[str, ...]:
    """What a message may call a file: its name, or the folder of the run that it belongs to."""
    return path.name, *(part.name for part in path.parents if part.name in ("store", "study", "student", "training"))


def damaged(place: Place, draw: random.Random) -> Trial:
    """Bits, bytes, zeros, cuts, additions."""
    path = some_file(place, draw)
    content, kind = bytearray((place.out / path).read_bytes()), draw.randrange(5)
    at = draw.randrange(max(1, len(content)))
    if kind == 0 and content:
        content[at] ^= 1 << draw.randrange(8)
    elif kind == 1:
        content[at : at + 16] = draw.randbytes(16)
    elif kind == 2:
        content[at : at + 512] = bytes(len(content[at : at + 512]))
    elif kind == 3:
        del content[at:]
    else:
        content += draw.randbytes(draw.randrange(1, 600))
    (place.out / path).write_bytes(content)
    return Trial(f"damage to {path}", names_of(path))


def digit(place: Place, draw: random.Random) -> Trial:
    """Another digit in a number of a record."""
    path = draw.choice([p for p in sorted(place.runs["whole"]) if p.suffix in (".json", ".jsonl", ".yaml")])
    text = (place.out / path).read_text()
    at = draw.choice([found.start() for found in re.finditer(r"\d", text)])
    (place.out / path).write_text(text[:at] + draw.choice([c for c in "0123456789" if c != text[at]]) + text[at + 1 :])
    return Trial(f"a digit of {path}", names_of(path))


def missing(place: Place, draw: random.Random) -> Trial:
    """A file, or a folder, that is gone."""
    path = some_file(place, draw)
    if draw.random() < 0.2 and path.parent != Path():
        shutil.rmtree(place.out / path.parts[0])
        return Trial(f"{path.parts[0]} gone", names_of(path))
    (place.out / path).unlink()
    return Trial(f"{path} gone", names_of(path))


def mixed(place: Place, draw: random.Random) -> Trial:
    """A file, or a folder, of another run under the same name."""
    other = draw.choice([name for name in place.runs if name != "whole"])
    both = [
        p
        for p in sorted(place.runs["whole"])
        if p in place.runs[other] and place.runs[other][p] != place.runs["whole"][p]
    ]
    path = draw.choice(both)
    if draw.random() < 0.4 and path.parent != Path():
        top = path.parts[0]
        shutil.rmtree(place.out / top)
        for file, content in place.runs[other].items():
            if file.parts[0] == top:
                (place.out / file).parent.mkdir(parents=True, exist_ok=True)
                (place.out / file).write_bytes(content)
        return Trial(f"{top} of a run with another {other}", (top, "store", "run.json", "teacher", "data"))
    (place.out / path).write_bytes(place.runs[other][path])
    return Trial(f"{path} of a run with another {other}", (*names_of(path), "teacher", "data", "settings"))


def swapped(place: Place, draw: random.Random) -> Trial:
    """Two files of this run in each other's place."""
    path = some_file(place, draw)
    others = [
        p
        for p in sorted(place.runs["whole"])
        if p.suffix == path.suffix and place.runs["whole"][p] != place.runs["whole"][path]
    ]
    if not others:
        return damaged(place, draw)
    other = draw.choice(others)
    (place.out / path).write_bytes(place.runs["whole"][other])
    (place.out / other).write_bytes(place.runs["whole"][path])
    return Trial(f"{path} and {other} exchanged", names_of(path) + names_of(other))


def replaced(place: Place, draw: random.Random) -> Trial:
    """A folder, a link, a pipe or an empty file in the place of a file."""
    path, kind = some_file(place, draw), draw.randrange(4)
    file = place.out / path
    content = file.read_bytes()
    file.unlink()
    if kind == 0:
        file.mkdir()
    elif kind == 1:
        (place.bench.place / "elsewhere").write_bytes(content if draw.random() < 0.5 else b"{}")
        file.symlink_to(place.bench.place / "elsewhere")
    elif kind == 2:
        os.mkfifo(file)
    else:
        file.write_bytes(b"")
    return Trial(f"{('a folder', 'a link', 'a pipe', 'nothing')[kind]} as {path}", names_of(path))


def stray(place: Place, draw: random.Random) -> Trial:
    """Files that are not the run's: rubbish, copies under other names, half-written ones."""
    path = some_file(place, draw)
    name = draw.choice(
        (f"copy-{path.name}", f".partial-{path.name}-1", f"{path.name}~", "notes.txt", f"x{path.suffix}")
    )
    (place.out / path.parent / name).write_bytes(draw.choice((place.runs["whole"][path], draw.randbytes(99), b"")))
    return Trial(f"{path.parent / name} added", (name, *names_of(path)))


def data_edited(place: Place, draw: random.Random) -> Trial:
    """Other data under the same name: a label, a value, the order, a row more or less."""
    head, *rows = place.bench.csv.read_text().splitlines()
    kind, at = draw.randrange(5), draw.randrange(len(rows))
    cells = rows[at].split(",")
    if kind == 0:
        cells[-1] = draw.choice([name for name in "pqr" if name != cells[-1]])
    elif kind == 1:
        cells[draw.randrange(2)] = f"{draw.gauss(0, 1):.4f}1"
    if kind < 2:
        rows[at] = ",".join(cells)
    elif kind == 2:
        other = draw.choice([n for n in range(len(rows)) if rows[n] != rows[at]])
        rows[at], rows[other] = rows[other], rows[at]
    elif kind == 3:
        del rows[at]
    else:
        rows.insert(at, rows[draw.randrange(len(rows))])
    csv = "\n".join([head, *rows]) + "\n"
    what = ("a label", "a value", "two rows exchanged", "a row less", "a row more")[kind]
    return Trial(f"data: {what}", ("data", "transfer", "validation", "test"), result="", csv=csv)


def settings_changed(place: Place, draw: random.Random) -> Trial:
    """Another setting for the same folder."""
    name = draw.choice(list(SETTINGS))
    return Trial(f"settings: {name}", (str(place.out.name), "settings", "setting", "teacher", "data"), result=name,
                 text=place.page_text.replace(*SETTINGS[name]))  # fmt: skip


FAULTS: dict[str, Fault] = {
    "damage": damaged, "a digit of a record": digit, "a file or folder gone": missing, "another run's file or folder": mixed,
    "two files exchanged": swapped, "a folder, link, pipe or nothing as a file": replaced, "files that are not the run's": stray,
    "data edited": data_edited, "settings changed": settings_changed,
}  # fmt: skip


def judge(place: Place, trial: Trial, page: Path) -> str:
    """refused, mended, or what is wrong."""
    stored = [place.out / p for p in place.runs["whole"] if p.parts[0] == "store"]
    before = {p: p.stat().st_mtime_ns for p in stored if p.is_file()}
    try:
        code, output = printed("report", str(page))
    except FoundError as error:
        return f"wrong: {error}"
    if [*place.out.rglob(".partial-*")]:
        return "wrong: a half-written file is left"
    if code in (3, 4):
        return (
            "refused"
            if any(name in output for name in trial.named)
            else f"wrong: exit code {code} names nothing: {output[-600:]}"
        )
    if code:
        return f"wrong: exit code {code}: {output[-600:]}"
    if trial.csv:  # as a run from the start in another folder gives it
        kept = place.found()
        shutil.rmtree(place.out)
        code, output = printed("report", str(page))
        return "mended" if code == 0 and kept == place.found() else "wrong: the numbers of other data"
    if place.found() != place.results[trial.result]:
        return "wrong: other numbers or weights"
    if trial.result in KEEPS_OUTPUTS and any(p.stat().st_mtime_ns != when for p, when in before.items()):
        return "wrong: the teacher was run again for a setting that does not concern its outputs"
    return "mended"


def trials(place: Place, count: int) -> Iterator[tuple[str, Trial, str]]:
    """So many trials, the faults in turn."""
    for name, change in SETTINGS.items():
        place.finish(name, place.page_text.replace(*change), place.bench.csv.read_text())
    csv = place.bench.csv.read_text()
    kinds = list(FAULTS)
    for number in range(count):
        name = kinds[number % len(kinds)]
        draw = random.Random(f"{name} {number}")
        place.lay(place.page_text, csv)
        place.restore()
        trial = FAULTS[name](place, draw)
        page = place.bench.place / "r.yaml"
        if trial.csv:
            place.csv.write_text(trial.csv)
        if trial.text:
            page.write_text(
                trial.text.replace(str(place.bench.base / "o"), str(place.out)).replace(
                    str(place.bench.csv), str(place.csv)
                )
            )
        yield name, trial, judge(place, trial, page)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--trials", type=int, default=1200)
    options = parser.parse_args()
    torch.set_num_threads(1)
    counts = {name: dict.fromkeys(("refused", "mended", "wrong"), 0) for name in FAULTS}
    scratch, started = ("/dev/shm" if Path("/dev/shm").is_dir() else None), time.monotonic()
    with tempfile.TemporaryDirectory(dir=scratch) as base, bench_in(Path(base)) as bench:
        for name, trial, verdict in trials(Place(bench), options.trials):
            counts[name][verdict.partition(":")[0]] += 1
            if verdict.startswith("wrong"):
                print(f"{trial.what}: {verdict}", flush=True)
    lines = [
        f"Made by `python bench/run_folder_faults.py --trials {options.trials}`: a finished run spoilt, then `report`.",
        "Refused: exit code 3 or 4, naming file or field. Mended: exit code 0, numbers and weights as of a run from the start.",
        "",
        "| fault | trials | refused | mended | wrong |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, found in counts.items():
        lines.append(f"| {name} | {sum(found.values())} | {found['refused']} | {found['mended']} | {found['wrong']} |")
    wrong = sum(found["wrong"] for found in counts.values())
    lines += [f"| all | {options.trials} | {sum(f['refused'] for f in counts.values())} "
              f"| {sum(f['mended'] for f in counts.values())} | **{wrong}** |"]  # fmt: skip
    print("\n".join(lines), f"\n{time.monotonic() - started:.0f} s")
    if not wrong:
        RESULT.write_text("\n".join(lines) + "\n")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
