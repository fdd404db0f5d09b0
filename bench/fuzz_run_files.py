"""Fuzz what a command reads: run files, settings, names, weights, outputs, records, and the folder of a run.

    python bench/fuzz_run_files.py [--times 1.0] [--target run-files]

In this process, with fixed seeds: the same mutations each time. What may come: success, or an error of ours whose exit code says
what is wrong (2, 3, 4, 6; 5 where a training with odd settings gives numbers that are not finite). What may not: another
exception (exit code 1), a control character on the terminal, an input that takes longer than 20 s.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "src"))
sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
import torch
from fuzz_bench import ALLOWED, Bench, FoundError, bench_in, code_of, run
from mutations import TOKENS, VALUES, damage, modest
from safetensors.torch import save_file

from fractionate.data import as_split
from fractionate.data.transforms import transforms
from fractionate.diagnosis import read_signal
from fractionate.models import find_model, find_parts, read_weights
from fractionate.page import read_record
from fractionate.records import Diagnosis, Run, Study
from fractionate.run import all_keys, dump_run, read_run

RESULT = Path(__file__).parent / "results" / "fuzz_run_files.md"
TIMED = (
    "wall_seconds",
    "cost",
    "settings",
    "digest",
    "made_for",
    "versions",
    "path",
    "out",
)  # of a record: not the same each time
LONGEST = 20  # seconds an input may take


class Slow(BaseException):
    """An input took too long."""


@contextlib.contextmanager
def alarm(seconds: int) -> Iterator[None]:
    def ring(*_: object) -> None:
        raise Slow

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def run_files(bench: Bench, draw: random.Random) -> int:
    """The text of a run file, damaged or with hostile tokens in it; read as the verbs read it."""
    whole = draw.choice((bench.example, bench.page.read_bytes()))
    lines = whole.decode().splitlines(keepends=True)
    for _ in range(draw.choice((0, 1, 2))):
        kind, at = draw.randrange(5), draw.randrange(len(lines) or 1)
        token = draw.choice(TOKENS)
        if kind == 0:
            lines.insert(at, token)
        elif kind == 1 and lines:
            key, colon, _ = lines[at].partition(":")
            lines[at] = f"{key}{colon} {token}\n"
        elif kind == 2 and lines:
            lines[at] = lines[at].replace(": ", f": {token}", 1)
        elif kind == 3 and lines:
            lines.insert(at, draw.choice(lines))
        elif lines:
            del lines[at]
    text = "".join(lines).encode(errors="surrogatepass")
    path = bench.fresh() / "r.yaml"
    path.write_bytes(damage(text, draw, whole) if draw.random() < 0.5 else text)
    if draw.random() < 0.1:
        return run("config", "print", str(path), *(["--json"] if draw.random() < 0.5 else []))
    return code_of(lambda: read_run(path))


def overrides(bench: Bench, draw: random.Random) -> int:
    """Settings on the command line: any key, any value, any text."""
    given = []
    for _ in range(draw.choice((1, 1, 2, 3))):
        key = draw.choice(all_keys())
        value = draw.choice(VALUES)
        text = draw.choice(TOKENS) if draw.random() < 0.4 else value if isinstance(value, str) else json.dumps(value)
        if draw.random() < 0.1:
            key = key[: draw.randrange(len(key))] + draw.choice((".", "..", "x", "", " ", "[0]"))
        given.append(f"{key}={text}".replace("\0", ""))  # no command line holds NUL
    if draw.random() < 0.15:
        return run("config", "print", *given)
    return code_of(lambda: read_run(bench.page if draw.random() < 0.5 else None, tuple(given)))


def settings(bench: Bench, draw: random.Random) -> int:
    """A run file with odd values that are allowed where they stand, carried out: checked, timed, or run."""
    os.chdir(bench.fresh())
    small = read_run(bench.page).model_dump(mode="json") | {"out": "o"}
    for _ in range(draw.choice((1, 2, 3))):
        for _ in range(20):  # until one is allowed; now and then one that is not
            *heads, last = draw.choice(all_keys()).split(".")
            tree = copy.deepcopy(small)
            node = tree
            for head in heads:
                node[head] = node.get(head) or {}
                node = node[head]
            node[last] = modest(last, draw.choice(VALUES))
            Path("r.yaml").write_text(json.dumps(tree), encoding="utf-8")
            if code_of(lambda: read_run("r.yaml")) == 0 or draw.random() < 0.01:
                small = tree
                break
    Path("r.yaml").write_text(json.dumps(small), encoding="utf-8")
    verb = draw.choice(("collect", "diagnose", "dissect", "distill", "report"))
    return run(verb, "r.yaml", *(["--dry-run"] if draw.random() < 0.2 else []))


def names(bench: Bench, draw: random.Random) -> int:
    """Names of models and data with any arguments, and the thing itself made."""
    name = draw.choice(
        ("mlp", "cnn", "linear", "bag", "table", "texts", "pictures", "saved", "digits", "hierarchy", "timm", "x")
    )
    texts = [repr(value) for value in VALUES] + [
        repr(str(bench.csv)),
        repr(str(bench.base)),
        "label='c'",
        "label='a'",
        "side=9",
        "*[1]",
    ]
    texts += [
        "dropout=0.5",
        "kinds={'a': 'category'}",
        "drop=['a']",
        "missing=['p']",
        "separator=';'",
        "separator='xx'",
        "buckets=3",
        *(
            "target='b'",
            "label=['a', 'b']",
            "part='c'",
            "group='c'",
            "repeats=False",
            "class_weights=True",
            "validation=3",
        ),
        *(
            "mean='clip'",
            "std=0.5",
            "mean=[1, 2, 3]",
            "crop=0.5",
            "teacher={'side': 9}",
            "in_memory=False",
            "workers=1",
        ),
        *("superclasses=2", "features=4", "examples=50"),
    ]
    arguments = [draw.choice(texts) for _ in range(draw.choice((0, 1, 2, 2, 3)))]
    if name == "table" and draw.random() < 0.7:
        arguments = [repr(str(bench.csv)), *arguments]
    text = f"{name}({', '.join(arguments)})"
    if draw.random() < 0.2:
        text = damage(text.encode(errors="surrogatepass"), draw).decode(errors="replace")
    if name in ("mlp", "cnn", "linear", "bag", "timm"):
        return code_of(lambda: find_model(text)(draw.choice(((2,), (1, 4, 4), (3,))), 3))
    return code_of(lambda: find_parts(text, transfer=draw.choice((None, 20)), validation=None, test=None, seed=0))


def augmented(bench: Bench, draw: random.Random) -> int:
    """Transforms of pictures with any arguments, and a batch of them."""
    settings = [
        f"{name}={draw.choice(VALUES)!r}" for name in ("crop", "flip", "noise", "scale", "erase", "views", "part")
    ]
    plain = ["crop=2", "flip=True", "scale=0.3", "erase=0.5", "noise=0.1", "views=True"]
    text = f"augment({', '.join(draw.sample([*settings, *plain], draw.choice((1, 2, 3))))})"
    shape = draw.choice(((12, 3, 8, 8), (12, 5), (12, 1, 3, 9)))
    data = as_split((torch.rand(shape), torch.arange(12) % 2), views={"teacher": torch.rand(12, 3, 20, 20)})
    return code_of(lambda: list(transforms[text].bind(data, None, None, 0).batches([(0, torch.arange(12))], 0)))


def tables(bench: Bench, draw: random.Random) -> int:
    """Data files damaged: CSV, Parquet, JSON lines, texts and pictures in folders; read into parts."""
    place = bench.fresh()
    kind = draw.choice(("csv", "parquet", "jsonl", "texts", "pictures"))
    if kind in ("csv", "parquet"):
        path = place / f"d.{kind}"
        path.write_bytes(bench.csv.read_bytes() if kind == "csv" else bench.parquet)
        path.write_bytes(damage(path.read_bytes(), draw, bench.csv.read_bytes()))
        text = f"table({str(path)!r}, label='c')"
    elif kind == "jsonl":
        lines = [json.dumps({"text": f"word{n % 7} and word{n % 3}", "label": "ab"[n % 2]}) for n in range(60)]
        path = place / "t.jsonl"
        path.write_bytes(damage("\n".join(lines).encode(), draw))
        text = f"texts({str(path)!r}, buckets=50, places=4, repeats=True)"
        if draw.random() < 0.3:
            text = f"table({str(path)!r}, 'label', kinds={{'text': 'category'}})"
    else:
        for n in range(24):
            file = place / "d" / "ab"[n % 2] / (f"{n}.txt" if kind == "texts" else f"{n}.png")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(f"word{n % 5} two".encode() if kind == "texts" else bench.picture)
            if n == 7:
                file.write_bytes(damage(file.read_bytes(), draw))
        text = f"texts({str(place / 'd')!r}, repeats=True)"
        if kind != "texts":
            text = f"pictures({str(place / 'd')!r}, side=8, repeats=True)"
    return code_of(lambda: find_parts(text, transfer=draw.choice((None, 10)), validation=None, test=None, seed=0))


def weights(bench: Bench, draw: random.Random) -> int:
    """Files of weights: safetensors and tensors-only .pt, damaged; loaded into the teacher's place."""
    state = find_model("mlp(6)")((2,), 3).state_dict()
    path = bench.fresh() / draw.choice(("w.safetensors", "w.pt"))
    if path.suffix == ".pt":
        torch.save(state, path)
    else:
        save_file(state, path)
    path.write_bytes(damage(path.read_bytes(), draw, bench.files[Path("teacher.safetensors")]))
    if draw.random() < 0.05:
        os.chdir(bench.place)
        return run("collect", str(bench.page), f"teacher.weights={path}", f"out={bench.place / 'o'}")
    return code_of(lambda: read_weights(path))


def outputs(bench: Bench, draw: random.Random) -> int:
    """Files of a teacher's outputs, damaged; and whole ones with odd numbers."""
    generator = np.random.default_rng(draw.randrange(2**32))
    rows, classes = draw.choice(((30, 3), (30, 3), (1, 2), (30, 1), (0, 3), (3, 30)))
    kind = draw.choice(("f4", "f8", "f2", "g", "i2", "u1", "u8", "?", "c8", "U3", ">f4", "M8[s]"))
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        values = (generator.normal(size=(rows, classes)) * draw.choice((1, 1, 1e3, 1e30, 1e300, 0))).astype(kind)
    if values.dtype.kind == "f" and values.size and draw.random() < 0.3:
        values.flat[draw.randrange(values.size)] = draw.choice((np.nan, np.inf, -np.inf))
    labels = generator.integers(0, max(classes, 1), rows)
    if draw.random() < 0.2:
        labels = labels.astype(draw.choice(("f4", "U2", "i1", "u1", "?", "f8"))) if draw.random() < 0.5 else labels - 1
    place = bench.fresh()
    form = draw.choice(("npy", "npz", "safetensors", "parquet"))
    path, apart = place / f"x.{form}", None
    if form == "npy":
        np.save(path, values)
        apart = place / "labels.npy"
        np.save(apart, labels)
    elif form == "npz":
        draw.choice((np.savez, np.savez_compressed))(path, logits=values, labels=labels)
    elif form == "parquet":
        import pyarrow
        from pyarrow import parquet

        with contextlib.suppress(pyarrow.ArrowException, OverflowError, TypeError):
            parquet.write_table(pyarrow.table({"logits": values.tolist(), "labels": labels.tolist()}), path)
    elif values.dtype.kind in "fi" and values.dtype.itemsize <= 8 and labels.dtype.kind in "fi":
        native = values.astype(values.dtype.newbyteorder("="))
        save_file({"logits": torch.from_numpy(native), "labels": torch.from_numpy(labels)}, path)
    if path.is_file() and draw.random() < 0.6:
        path.write_bytes(damage(path.read_bytes(), draw))
    if draw.random() < 0.1:
        return run("diagnose", str(path), *(["--labels", str(apart)] if apart else []))
    return code_of(lambda: read_signal(path, apart))


def records(bench: Bench, draw: random.Random) -> int:
    """Saved records, damaged; read by their class, and by the page."""
    name, kind = draw.choice(
        (("diagnosis.json", Diagnosis), ("study.json", Study), ("student/run.json", Run), ("training/run.json", Run))
    )
    whole, other = bench.files[Path(name)], bench.files[Path(draw.choice(("diagnosis.json", "student/run.json")))]
    path = bench.fresh() / "x.json"
    content = damage(whole, draw, other)
    if draw.random() < 0.3:  # without its digest: the schema alone
        with contextlib.suppress(ValueError, RecursionError):
            fields = json.loads(whole)
            del fields["digest"]
            node, key = fields, draw.choice(list(fields))
            while isinstance(node[key], (dict, list)) and node[key] and draw.random() < 0.7:
                node = node[key]
                key = draw.choice(list(node)) if isinstance(node, dict) else draw.randrange(len(node))
            node[key] = draw.choice(VALUES)
            content = json.dumps(fields).encode()
    path.write_bytes(content)
    if draw.random() < 0.5:
        return code_of(lambda: kind.load(path))
    return code_of(lambda: read_record(path))


def folder(bench: Bench, draw: random.Random) -> int:
    """The folder of a finished run with one file damaged, replaced, gone, or a folder; then a verb on it."""
    out = bench.place / "o"
    bench.fresh()
    for name, content in bench.files.items():
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_bytes(content)
    page = bench.place / "r.yaml"
    page.write_text(bench.page.read_text().replace(str(bench.base / "o"), str(out)))
    (out / "run.yaml").write_text(dump_run(read_run(page)))
    names = sorted(bench.files)
    name = draw.choice(names)
    kind = draw.randrange(10)
    if kind < 6:
        (out / name).write_bytes(damage((out / name).read_bytes(), draw, bench.files[draw.choice(names)]))
    elif kind == 6:
        (out / name).unlink()
    elif kind == 7:
        (out / name).write_bytes(bench.files[draw.choice(names)])
    elif kind == 8:
        (out / name).unlink()
        (out / name).mkdir()
    else:
        shutil.rmtree(out / draw.choice(("store", "training", "student", "study")))
    verb = draw.choice(("collect", "diagnose", "dissect", "distill", "report"))
    code = run(verb, str(page))
    left = [*out.rglob(".partial-*")]
    if left:
        raise FoundError(f"left behind: {left}")
    shown = {
        "diagnose": "diagnosis.json",
        "dissect": "study.json",
        "distill": "student/run.json",
        "report": "study.json",
    }
    if code == 0 and verb in shown and numbers(out / shown[verb]) != numbers(bench.base / "o" / shown[verb]):
        raise FoundError(f"{verb} gives other numbers after damage to {name}")
    return code


def numbers(path: Path) -> Any:
    """What a record measures, without how long it took."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(part) for key, part in value.items() if key not in TIMED}
        return [plain(part) for part in value] if isinstance(value, list) else value

    return plain(json.loads(path.read_bytes()))


TARGETS: dict[str, tuple[Callable[[Bench, random.Random], int], int]] = {  # and how many mutations
    "run files": (run_files, 3000), "overrides": (overrides, 2000), "settings": (settings, 500), "names": (names, 2000),
    "tables": (tables, 1000), "transforms": (augmented, 1000),
    "weights": (weights, 1000), "outputs": (outputs, 1500), "records": (records, 2000),
    "folder": (folder, 1000),
}  # fmt: skip


def fuzz(
    bench: Bench, target: str, count: int, *, first: int = 0, say: Callable[[str], None] = print
) -> tuple[Counter[int], int]:
    """Exit codes of so many mutations, and how many ended as none may."""
    work, _ = TARGETS[target]
    codes: Counter[int] = Counter()
    found = 0
    home = Path.cwd()
    for number in range(first, first + count):
        draw = random.Random(f"{target} {number}")
        torch.manual_seed(number)
        try:
            with alarm(LONGEST), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                codes[work(bench, draw)] += 1
        except (Exception, Slow) as error:
            found += 1
            message = (
                "".join(traceback.format_exception(error)[-12:]) if not isinstance(error, FoundError) else str(error)
            )
            say(f"{target} {number}: {type(error).__name__}\n{message}")
        finally:
            os.chdir(home)
    return codes, found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--times", type=float, default=1.0, help="so many times the usual number of mutations")
    parser.add_argument("--target", choices=[*TARGETS])
    parser.add_argument("--first", type=int, default=0, help="the first mutation, to see one again")
    options = parser.parse_args()
    torch.set_num_threads(1)
    lines = [
        "Made by `python bench/fuzz_run_files.py`. Mutations with fixed seeds; exit codes they ended in.",
        "Found: an exception that is not ours, exit code 1, a control character on the terminal, more than 20 s, a stray file,",
        "other numbers after damage.",
        "",
        "| target | mutations | " + " | ".join(map(str, ALLOWED)) + " | seconds | found |",
        "| --- | --- | " + "--- | " * (len(ALLOWED) + 2),
    ]
    total = wrong = 0
    scratch = "/dev/shm" if Path("/dev/shm").is_dir() else None
    with tempfile.TemporaryDirectory(dir=scratch) as base, bench_in(Path(base)) as bench:
        for target, (_, usual) in TARGETS.items():
            if options.target not in (None, target):
                continue
            count, started = max(1, round(usual * options.times)), time.monotonic()
            codes, found = fuzz(bench, target, count, first=options.first)
            total, wrong = total + count, wrong + found
            shown = " | ".join(f"{codes[code]:,}" for code in ALLOWED)
            lines.append(
                f"| {target} | {count:,} | {shown} | {time.monotonic() - started:.0f} | {found or 'nothing'} |"
            )
            print(lines[-1], flush=True)
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - bench.peak) // 1024
    lines += ["", f"{total:,} mutations; memory grew by at most {grown:,} MiB."]
    print(lines[-1])
    if options.target is None and options.times >= 1 and not wrong:
        RESULT.write_text("\n".join(lines) + "\n")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
