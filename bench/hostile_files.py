"""Hostile files in the place of every file that the package reads: is each refused by name, or read as what it is?

    python bench/hostile_files.py [--only parquet]

Each case runs in a process of its own that may take 1 GB more address space and 10 s of processor time. Its promise:
`refused`: an error of ours that names the file; `read`: what a harmless file of the same content gives; `either`: one of these, for
text that happens to be data. Broken in any case: another exception, a control character in what is printed, code that ran (a
canary), memory, time. Fixed seeds: the same files each time.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import resource
import select
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "src"))

import numpy as np
import torch
from fuzz_bench import parquet, picture
from hostile_contents import ROWS, Write, array_bytes, everywhere, npz_bytes, of_formats, torch_bytes
from mutations import damage
from safetensors.torch import save as to_safetensors

from fractionate.data import pictures, saved, table, texts
from fractionate.data.answers import read_answers
from fractionate.data.own_pairs import pairs
from fractionate.data.own_prompts import prompts
from fractionate.data.own_queries import queries, similar
from fractionate.data.own_tags import tagged
from fractionate.diagnosis import read_signal
from fractionate.errors import FractionateError
from fractionate.models import find_model, read_weights
from fractionate.page import read_record
from fractionate.run import read_run
from fractionate.store import Store

RESULT = Path(__file__).parent / "results" / "hostile_files.md"
GROWTH, SECONDS, WAIT = (
    1 << 30,
    10,
    60,
)  # a child's address space above its parent's, its processor time, how long it may hang


@dataclass(frozen=True)
class Reader:
    """A way into the package: the file's name in a folder, harmless content, and what reads it."""

    name: str
    good: bytes | None
    read: Callable[[Path], Any]
    text: bool = False  # any text is data to it


@dataclass(frozen=True)
class Case:
    kind: str
    name: str
    reader: Reader
    write: Write
    promise: str = "refused"
    file: str = ""  # another name than the reader's


def of(reader: Callable[..., Any], **settings: Any) -> Callable[[Path], Any]:
    return lambda path: str(reader(path, **settings))


def lines(*rows: Any) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def readers() -> list[Reader]:
    csv = ("a,b,c\n" + "".join(",".join(row) + "\n" for row in ROWS)).encode()
    logits, labels = np.random.default_rng(0).normal(size=(30, 3)).astype("f4"), np.arange(30) % 3
    tensors = to_safetensors({"logits": torch.from_numpy(logits), "labels": torch.from_numpy(labels)})
    words = [{"text": f"word{n % 7} and word{n % 3}", "label": "ab"[n % 2]} for n in range(40)]
    two = [{"query": f"q {n}", "positive": f"a {n}", "source": f"s {n}", "target": f"t {n}"} for n in range(40)]
    lists = [{"query": f"q {n}", "relevant": f"a {n}", "others": [f"b {n}", f"c {n}"]} for n in range(30)]
    chats = [{"prompt": f"say {n}", "completion": f"{n}"} for n in range(30)]
    answers = [{"id": str(n), "logprobs": {"a": -0.1, "b": -3.0}} for n in range(20)]
    units = "".join(
        f'<tu><tuv xml:lang="en"><seg>word {n}</seg></tuv><tuv xml:lang="it"><seg>parola {n}</seg></tuv></tu>'
        for n in range(30)
    )
    tmx = f'<?xml version="1.0"?><tmx version="1.4"><header srclang="en"/><body>{units}</body></tmx>'.encode()
    conll = "".join(f"word{n} A\nother B\n\n" for n in range(30)).encode()
    weights = {"weight": torch.ones(3, 2)}

    def inside(name: str, read: Callable[[Path], Any], more: dict[str, bytes]) -> Callable[[Path], Any]:
        """A file of a folder whose other files are harmless."""

        def whole(path: Path) -> Any:
            for other, content in more.items():
                (path.parent / other).parent.mkdir(parents=True, exist_ok=True)
                (path.parent / other).write_bytes(content)
            return read(path.parent)

        return whole

    def outputs(path: Path) -> Any:
        apart = path.parent.parent / "labels.npy"
        np.save(apart, labels)
        return read_signal(path, apart).logits.sum()

    def built(text: str) -> Callable[[Path], Any]:
        return lambda path: str(find_model(f"{text}({str(path)!r})")((2,), 3))

    of_table = lambda path: str(table(path, label="c"))  # noqa: E731
    of_signal = lambda path: read_signal(path).logits.sum()  # noqa: E731
    png = {"a/0.png": picture(), "b/1.png": picture(), "b/2.png": picture()}
    small = {"a/0.txt": b"some words", "b/1.txt": b"other words", "b/2.txt": b"words"}
    return [
        Reader("t.csv", csv, of_table),
        Reader("t.tsv", csv.replace(b",", b"\t"), of_table),
        Reader("t.parquet", parquet(ROWS), of_table),
        Reader("t.jsonl", lines(*({"a": float(r[0]), "b": r[1], "c": r[2]} for r in ROWS)), of_table),
        Reader(
            "x.csv",
            b"text,label\n" + b"".join(f"{w['text']},{w['label']}\n".encode() for w in words),
            lambda p: str(texts(p, repeats=True)),
        ),
        Reader("x.jsonl", lines(*words), lambda p: str(texts(p, repeats=True))),
        Reader("chats.jsonl", lines(*chats), of(prompts)),
        Reader("plain.txt", b"some words\n" * 30, of(prompts), text=True),
        Reader("pairs.tmx", tmx, of(pairs, source="en", target="it")),
        Reader("pairs.jsonl", lines(*two), of(pairs)),
        Reader("similar.jsonl", lines(*two), of(similar)),
        Reader("queries.jsonl", lines(*lists), of(queries)),
        Reader("tags.conll", conll, of(tagged), text=True),
        Reader("o.npy", array_bytes(logits), outputs),
        Reader("o.npz", npz_bytes(logits=logits, labels=labels), of_signal),
        Reader("o.safetensors", tensors, of_signal),
        Reader("w.safetensors", to_safetensors(weights), lambda p: sorted(read_weights(p))),
        Reader("w.pt", torch_bytes(weights), lambda p: sorted(read_weights(p))),
        Reader("run.yaml", b"name: x\nobjective: {cell: kd}\n", lambda p: str(read_run(p))),
        Reader("record.json", None, lambda p: str(read_record(p))),
        Reader("answers.jsonl", lines(*answers), lambda p: len(list(read_answers(p)))),
        Reader("m.onnx", None, built("onnx")),
        Reader("m.skops", None, built("sklearn")),
        Reader("m.gguf", None, built("hf")),
        Reader("hf/config.json", None, inside("hf", lambda p: built("hf")(p), {})),
        Reader(
            "a/9.png",
            picture(),
            inside(
                "pictures",
                lambda p: str(pictures(p.parent, side=8, repeats=True)),
                {f"../{n}": c for n, c in png.items()},
            ),
        ),
        Reader(
            "a/9.txt",
            b"more words",
            inside("texts", lambda p: str(texts(p.parent, repeats=True)), {f"../{n}": c for n, c in small.items()}),
            text=True,
        ),
        Reader("saved/state.json", None, inside("saved", saved, {"dataset_info.json": b'{"features": {}}'})),
        Reader(
            "saved/dataset_info.json",
            None,
            inside("saved", saved, {"state.json": b'{"_data_files": [], "_split": null}'}),
        ),
        Reader("store/head.json", None, inside("store", lambda p: len(Store.open(p)), {})),
    ]


NAMES = ("a\x1b[31m", "a\x07b", "a\u202eb", "a\nb", "<b>", "a b#c%20?")


EMPTY = ("run.yaml", "answers.jsonl")  # all that is left out has a default; no answer is an answer
LEAVES_OUT = ("a/9.png", "a/9.txt")  # folders, of which what is no file is left out with a warning


def cases(canary: str) -> Iterator[Case]:
    known = {reader.name: reader for reader in readers()}
    for reader in known.values():
        for kind, name, write in everywhere(canary):
            either = (reader.text and kind != "special files") or (name == "nothing" and reader.name in EMPTY)
            either |= kind == "special files" and reader.name in LEAVES_OUT
            yield Case(kind, name, reader, write, "either" if either else "refused")
        if reader.good is None:
            continue
        good = reader.good
        yield Case("harmless", "as it is", reader, lambda path, c=good: path.write_bytes(c), "read")  # type: ignore[misc]
        folder, _, last = reader.name.rpartition("/")
        for name in NAMES if not folder else ():
            yield Case("names of files", name, reader, lambda path, c=good: path.write_bytes(c), "either", name + last)  # type: ignore[misc]
        draw = random.Random(reader.name)
        for number in range(10):
            spoilt = damage(good, draw, good)
            yield Case("accidents", str(number), reader, lambda path, c=spoilt: path.write_bytes(c), "either")  # type: ignore[misc]
    for kind, names, name, content, promise in of_formats(canary):
        for reader_name in names:
            yield Case(kind, name, known[reader_name], lambda path, c=content: path.write_bytes(c), promise)  # type: ignore[misc]


def outcome(case: Case, place: Path) -> str:
    """What reading ends in: "read", "refused", or what no file may bring about."""
    path = place / "here" / (case.file or case.reader.name)
    path.parent.mkdir(parents=True)
    case.write(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            case.reader.read(path)
        return "read"
    except FractionateError as error:
        text = str(error)
        odd = {c for c in text if not c.isprintable() and c not in "\n\t"}
        top = case.reader.name.partition("/")[0]
        stem = Path(case.file or case.reader.name).name
        named = any(part in text for part in (stem, top, "here")) or case.promise != "refused"
        return f"prints {odd}" if odd else "refused" if named else f"names no file: {text}"
    except BaseException as error:
        last = "".join(traceback.format_exception(error)[-4:])
        return f"{type(error).__name__}: {last}"


def tried(case: Case, place: Path) -> tuple[str, int, float]:
    """The outcome of a case in a fork with limits, the memory it took in MiB, and its seconds of processor time."""
    ours, theirs = os.pipe()
    child = os.fork()
    if not child:
        os.close(ours)
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, 1)
        os.dup2(nothing, 2)
        space = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (space + GROWTH, space + GROWTH))
        resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        found = outcome(case, place)
        used = resource.getrusage(resource.RUSAGE_SELF)
        report = json.dumps([found[-1500:], max(0, used.ru_maxrss - before) >> 10, used.ru_utime + used.ru_stime])
        os.write(theirs, report.encode())
        os._exit(0)
    os.close(theirs)
    ready = select.select([ours], [], [], WAIT)[0]
    written = os.read(ours, 60_000) if ready else b""
    os.close(ours)
    if not ready:
        os.kill(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    if written:
        found, grown, seconds = json.loads(written)
        return found, grown, seconds
    return ("waits for ever" if not ready else f"ended by signal {os.WTERMSIG(status)}"), 0, 0.0


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", default="", help="part of a reader's name or a kind")
    options = parser.parse_args()
    torch.set_num_threads(1)
    counts: dict[str, dict[str, int]] = {}
    wrong = most = 0
    longest, started = 0.0, time.monotonic()
    scratch = "/dev/shm" if Path("/dev/shm").is_dir() else None
    with tempfile.TemporaryDirectory(dir=scratch) as base, contextlib.chdir(base):
        canary, place = Path(base) / "ran", Path(base) / "place"
        everything = list(cases(str(canary)))
        for reader in readers():  # here first: a fork is charged for what it imports
            with contextlib.suppress(Exception), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                path = place / reader.name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(reader.good or b"{}")
                reader.read(path)
            shutil.rmtree(place)
        for case in everything:
            if options.only not in case.reader.name and options.only not in case.kind:
                continue
            place.mkdir()
            found, grown, seconds = tried(case, place)
            shutil.rmtree(place)
            fine = found in ("read", "refused") if case.promise == "either" else found == case.promise
            if canary.exists():
                canary.unlink()
                fine, found = False, "code of the file ran"
            most, longest = max(most, grown), max(longest, seconds)
            row = counts.setdefault(case.kind, {"cases": 0, "refused": 0, "read": 0, "wrong": 0})
            row["cases"] += 1
            row[found if fine else "wrong"] += 1
            if not fine:
                wrong += 1
                print(f"{case.reader.name}, {case.kind}, {case.name}: {case.promise}, but {found}", flush=True)
    total = {name: sum(row[name] for row in counts.values()) for name in ("cases", "refused", "read", "wrong")}
    table_lines = [
        f"| {kind} | " + " | ".join(f"{row[name]:,}" for name in total) + " |" for kind, row in sorted(counts.items())
    ]
    shown = [
        "Made by `python bench/hostile_files.py`: hostile files in the place of every file that the package reads,",
        f"each in a process that may take {GROWTH >> 30} GB more address space and {SECONDS} s of processor time.",
        "",
        "| kind | files | refused by name | read | not as promised |",
        "| --- | --- | --- | --- | --- |",
        *table_lines,
        f"| all | {total['cases']:,} | {total['refused']:,} | {total['read']:,} | **{total['wrong']:,}** |",
        "",
        f"{len(readers())} readers. At most {most:,} MiB more of memory and {longest:.1f} s of processor time for a file; "
        "no code of a file ran."
        if not wrong
        else f"{wrong} not as promised",
    ]
    print("\n".join(shown), f"\n{time.monotonic() - started:.0f} s")
    if not options.only and not wrong:
        RESULT.write_text("\n".join(shown) + "\n")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
