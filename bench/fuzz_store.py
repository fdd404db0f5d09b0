"""Fuzz what reads a store: head, segment, shard, imported arrays. Goal R16.

    pip install atheris
    python bench/fuzz_store.py [--seconds 60]

Coverage-guided (atheris, libFuzzer), one process a target. An input is a damaged file, or a *forged* one: changed, then sealed
and hashed anew as a hostile writer would. What may come: the right values, or a typed error. What may not: another exception, a
crash, a hang (10 s), a value that was not written (of a forged file anything may be read, it is what the forger wrote), or more
memory than 64 MB and twice the file.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "src"))

import numpy as np
import torch
import xxhash

from fractionate import collect
from fractionate.data import Examples
from fractionate.errors import FractionateError
from fractionate.store import (
    HEAD,
    SEGMENTS,
    SHARDS,
    Store,
    canonical,
    columns_in,
    index_hash,
    read_array,
    read_header,
    repair,
)

RESULT = Path(__file__).parent / "results" / "fuzz_store.md"
ALLOWED = 64 << 20  # bytes beyond twice the file
ROWS, CLASSES = 24, 5
FORMS: dict[str, dict[str, Any]] = {
    "dense": {}, "top-k": {"form": "top-k", "k": 2, "dtype": "float16"}, "sampled": {"form": "sampled", "k": 6},
    "skipped": {"non_finite": "skip"},
}  # fmt: skip


class Bench:
    """Small honest stores, and one place where a copy of one of them is damaged."""

    def __init__(self, base: Path) -> None:
        generator = torch.Generator().manual_seed(0)
        data = Examples(torch.randn(ROWS, CLASSES, generator=generator), torch.arange(ROWS) % CLASSES)
        self.place = base / "s"
        self.files: dict[str, dict[str, bytes]] = {}
        self.good: dict[str, dict[str, Any]] = {}
        for name, options in FORMS.items():
            made = collect(lambda x: x * 2, data, base / name, named="twice", batch_size=12, shard_bytes=1, **options)
            self.files[name] = {
                str(path.relative_to(made.path)): path.read_bytes() for path in made.path.rglob("*") if path.is_file()
            }
            self.good[name] = made.read(made.slots())
        self.peak = peak()

    def lay(self, form: str, **changed: bytes | None) -> None:
        """A fresh copy of a store, with some of its files changed, added or (None) left out."""
        shutil.rmtree(self.place, ignore_errors=True)
        for name, content in {**self.files[form], **changed}.items():
            if content is not None:
                (self.place / name).parent.mkdir(parents=True, exist_ok=True)
                (self.place / name).write_bytes(content)

    def first(self, form: str, folder: str) -> str:
        """The name of the first file of a folder."""
        return min(name for name in self.files[form] if name.startswith(folder))

    def read(self, form: str, *, honest: bool, size: int) -> str:
        """Open, read every row, mend; says what happened. Raises `AssertionError` for a wrong value or too much memory."""
        try:
            store = Store.open(self.place)
            found = store.read(store._slots[:10_000])
            if store.form.kind != "dense":
                store.form.compact(found)
            text = "read"
            if honest:
                for name, column in self.good[form].items():
                    assert np.array_equal(found[name], column, equal_nan=column.dtype.kind == "f"), (
                        f"wrong value in {name}"
                    )
        except FractionateError:
            text = "refused"
        try:
            repair(self.place)
        except FractionateError:
            text += ", not mended"
        grown = peak() - self.peak
        assert grown <= ALLOWED + 2 * size, f"{grown:,} bytes of memory for {size:,} bytes of file"
        return text


def peak() -> int:
    """The largest memory this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def seal(body: object) -> bytes:
    """JSON under a seal that holds."""
    return canonical({"body": body, "sha256": sha256(canonical(body)).hexdigest()})


def forge_json(good: bytes, given: bytes) -> bytes:
    """One field of a sealed file set to what the input says (JSON, else text), or the input as the whole body."""
    body = json.loads(good)["body"]
    try:
        value: Any = json.loads(given[1:])
        canonical(value)
    except (ValueError, RecursionError):
        value = given[1:].decode("latin-1")
    names = sorted(body)
    at = given[0] if given else 0
    if at >= 250 and isinstance(value, dict):
        return seal(value)
    return seal(body | {names[at % len(names)]: value})


def head(bench: Bench, given: bytes) -> str:
    form = [*FORMS][given[0] % len(FORMS)] if given else "dense"
    good = bench.files[form][HEAD]
    honest = len(given) > 1 and given[1] % 4 == 0
    content = given[2:] if honest else forge_json(good, given[2:])
    bench.lay(form, **{HEAD: content})
    return bench.read(form, honest=honest, size=len(content))


def segment(bench: Bench, given: bytes) -> str:
    form = [*FORMS][given[0] % len(FORMS)] if given else "dense"
    name = bench.first(form, SEGMENTS)
    honest = len(given) > 1 and given[1] % 4 == 0
    if honest:
        bench.lay(form, **{name: given[2:]})
    else:
        content = forge_json(bench.files[form][name], given[2:])
        renamed = f"{SEGMENTS}/{sha256(canonical(json.loads(content)['body'])).hexdigest()[:32]}.json"
        bench.lay(form, **{name: None, renamed: content})
    return bench.read(form, honest=honest, size=len(given))


def damage(good: bytes, given: bytes) -> bytes:
    """Pieces of a file overwritten, cut or lengthened as the input says: (place, length, bytes) again and again."""
    content = bytearray(good)
    at = 0
    while at + 3 <= len(given):
        place, length = int.from_bytes(given[at : at + 2], "little") % (len(content) + 1), given[at + 2] % 32
        content[place : place + length] = given[at + 3 : at + 3 + length]
        at += 3 + length
    return bytes(content)


def shard(bench: Bench, given: bytes) -> str:
    """A damaged shard; forged: its segment tells the size and hashes of what it is now."""
    form = [*FORMS][given[0] % len(FORMS)] if given else "dense"
    name, notes = bench.first(form, SHARDS), ""
    for notes in (n for n in bench.files[form] if n.startswith(SEGMENTS)):
        if json.loads(bench.files[form][notes])["body"]["shard"] == name.split("/")[1]:
            break
    content = damage(bench.files[form][name], given[2:])
    if content == bench.files[form][name]:
        return "unchanged"
    honest = len(given) > 1 and given[1] % 2 == 0
    if honest:
        bench.lay(form, **{name: content})
        return bench.read(form, honest=True, size=len(content))
    body = json.loads(bench.files[form][notes])["body"]
    length = int.from_bytes(content[:8], "little")
    body |= {"bytes": len(content), "header_xxh3": xxhash.xxh3_128_hexdigest(content[: 8 + length])}
    try:
        columns = columns_in(np.frombuffer(content, np.uint8), read_header(content, len(content), "x"))
        body["index_xxh3"] = index_hash(columns)
    except FractionateError:
        pass
    renamed = f"{SEGMENTS}/{sha256(canonical(body)).hexdigest()[:32]}.json"
    bench.lay(form, **{name: content, notes: None, renamed: seal(body)})
    return bench.read(form, honest=False, size=len(content))


def imported(bench: Bench, given: bytes) -> str:
    """Arrays of others: .npy, .safetensors, .parquet."""
    kind = (".npy", ".safetensors", ".parquet")[given[0] % 3] if given else ".npy"
    path = bench.place.with_suffix(kind)
    path.write_bytes(given[1:])
    try:
        read_array(path)
        text = "read"
    except FractionateError:
        text = "refused"
    grown = peak() - bench.peak
    assert grown <= ALLOWED + 2 * len(given), f"{grown:,} bytes of memory for {len(given):,} bytes of file"
    return text


TARGETS: dict[str, Callable[[Bench, bytes], str]] = {
    "head": head, "segment": segment, "shard": shard, "imported": imported,
}  # fmt: skip


def seeds(bench: Bench, target: str, folder: Path) -> None:
    """Inputs to start from."""
    random = np.random.default_rng(0)
    for number, form in enumerate(FORMS):
        start = bytes([number, 1])
        if target in ("head", "segment"):
            name = HEAD if target == "head" else bench.first(form, SEGMENTS)
            content = bench.files[form][name]
            (folder / f"{number}-whole").write_bytes(bytes([number, 0]) + content)
            for at, value in enumerate(json.loads(content)["body"].values()):
                (folder / f"{number}-{at}").write_bytes(start + bytes([at]) + json.dumps(value).encode())
        elif target == "shard":
            for at in range(4):
                (folder / f"{number}-{at}").write_bytes(bytes([number, at]) + random.bytes(20))
    if target == "imported":
        np.save(folder / "a.npy", np.eye(3))
        from safetensors.numpy import save

        (folder / "b").write_bytes(b"\x01" + save({"logits": np.eye(3)}))
        (folder / "a").write_bytes(b"\x00" + (folder / "a.npy").read_bytes())


def fuzz(target: str, seconds: int) -> None:
    """One target in this process, until the time is over or something is found."""
    import atheris

    with tempfile.TemporaryDirectory(dir="/dev/shm") as base:
        for module in [name for name in sys.modules if name.startswith("fractionate.store.")]:
            for value in list(vars(sys.modules[module]).values()):
                if getattr(value, "__module__", "") == module and callable(value) and hasattr(value, "__code__"):
                    atheris.instrument_func(value)
        os.fsync = lambda _: None  # waiting for a disk finds nothing
        bench = Bench(Path(base))
        corpus = Path(base) / "corpus"
        corpus.mkdir()
        seeds(bench, target, corpus)
        TARGETS[target](bench, b"\x00\x01\x00")  # what is loaded once is not counted
        bench.peak = peak()
        arguments = [sys.argv[0], f"-max_total_time={seconds}", "-timeout=10", "-max_len=4096", "-rss_limit_mb=4096"]
        arguments += ["-print_final_stats=1", f"-artifact_prefix={tempfile.gettempdir()}/fuzz-{target}-", str(corpus)]
        atheris.Setup(arguments, lambda given: TARGETS[target](bench, given) and None)
        atheris.Fuzz()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--target", choices=[*TARGETS])
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.target:
        return fuzz(options.target, options.seconds)
    lines = [
        f"Made by `python bench/fuzz_store.py --seconds {options.seconds}` (atheris, one process a target, on a shared machine).",
        "Found: exceptions without a type of ours, crashes, hangs, wrong values, memory above 64 MB and twice the file.",
        "",
        "| target | seconds | inputs | features covered | found |",
        "| --- | --- | --- | --- | --- |",
    ]
    found = 0
    for target in TARGETS:
        started = time.monotonic()
        done = subprocess.run(
            [sys.executable, __file__, "--target", target, "--seconds", str(options.seconds)],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        output = done.stderr + done.stdout
        runs = re.findall(r"number_of_executed_units: (\d+)", output)
        features = re.findall(r"ft: (\d+)", output)
        wrong = done.returncode != 0
        found += wrong
        lines.append(
            f"| {target} | {time.monotonic() - started:.0f} | {int(runs[-1]) if runs else 0:,} "
            f"| {features[-1] if features else '?'} | {'something' if wrong else 'nothing'} |"
        )
        print(lines[-1], flush=True)
        if wrong:
            print(output[-4000:], flush=True)
    RESULT.write_text("\n".join(lines) + "\n")
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
