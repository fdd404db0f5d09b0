"""kill -9 all over a whole run (collect, dissect with two workers, distill, report), then the same commands again.

    python bench/kill_workflow.py --kills 300       # resumable: trials are appended to bench/results/kill_workflow.jsonl

A figure holds for the sources it was measured on: after a change of `src/` the ledger begins anew.

A fork server: this process has torch imported, each run is a fork of it in a process group of its own. Moments are counted and not
waited for, so that they do not depend on load: two of three kills come right before a change of a file or folder, spread evenly
over all of them, the others at a share of the processor time, in the middle of the computing. Every second kill ends the command
alone, whose workers have to notice; the others end the whole group. Afterwards the same commands have to end with 0 and
leave what an undisturbed run leaves: the same files and no other, the same bytes of weights and stored outputs, the same numbers in
every record (less seconds and cost).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import mmap
import os
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "src"))

import torch
from fuzz_bench import Bench, bench_in, run
from fuzz_run_files import numbers
from kill import RESULTS, forked, sources

from fractionate.store import Store

GOLDEN = 0.6180339887498949  # multiples of it are spread evenly, however many there are
VERBS = (("collect",), ("dissect", "--workers", "2"), ("distill",), ("report",))
PAGES = (".html", ".md", ".jsonl")  # hold times


CHANGES = ("open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.link", "os.truncate", "shutil.rmtree")


def changes_file(event: str, arguments: tuple[Any, ...]) -> bool:
    """Whether an event of Python's audit hooks changes a file or folder."""
    flags = arguments[2] if event == "open" and len(arguments) > 2 else os.O_RDONLY
    return event in CHANGES and (event != "open" or bool((flags or 0) & (os.O_WRONLY | os.O_RDWR)))


def count_changes(count: mmap.mmap, number: int, *, group: bool) -> None:
    """Count changes in this process and its forks from now on; before the one of that number, the process is killed."""
    first = os.getpid()

    def notice(event: str, arguments: tuple[Any, ...]) -> None:
        if changes_file(event, arguments):
            seen = int.from_bytes(count[:8], "little") + 1
            count[:8] = seen.to_bytes(8, "little")
            if seen == number:
                os.killpg(first, signal.SIGKILL) if group else os.kill(first, signal.SIGKILL)

    sys.addaudithook(notice)


def commands(page: Path, progress: Path, before: Callable[[], None] = lambda: None) -> None:
    """All verbs, one after the other; `progress` says which one is at work."""
    os.setpgrp()
    before()
    for verb, *options in VERBS:
        progress.write_text(verb)
        code = run(verb, str(page), *options)
        if code:
            raise SystemExit(code)
    progress.write_text("end")


def left_by(out: Path) -> dict[str, Any]:
    """What a finished run left, by file: bytes where they are the same each time, else the numbers."""
    found: dict[str, Any] = {}
    for path in sorted(out.rglob("*")):
        if path.is_dir() or path.is_relative_to(out / "store"):
            continue
        name = path.relative_to(out).as_posix()
        if path.suffix == ".json":
            found[name] = numbers(path)
        else:
            found[name] = path.read_bytes() if path.suffix not in PAGES and path.name != "run.yaml" else ""
    held = Counter(path.parent.name for path in (out / "store").rglob("*") if path.is_file())
    return found | {"store": (Store.open(out / "store").content(), held)}  # its files have names of their own each time


def compare(ours: dict[str, Any], theirs: dict[str, Any]) -> list[str]:
    """The files that differ, or that only one has."""
    return sorted(
        name
        for name in ours.keys() | theirs.keys()
        if name not in ours or name not in theirs or ours[name] != theirs[name]
    )


def once(
    bench: Bench, place: Path, reference: dict[str, Any], moment: Callable[[], None], *, group: bool
) -> dict[str, Any]:
    """Start, be killed at a moment that the command sets itself, start again, compare."""
    place.mkdir()
    page, progress, out = place / "r.yaml", place / "progress", place / "o"
    page.write_text(bench.page.read_text().replace(str(bench.base / "o"), str(out)))
    started = time.monotonic()
    child = forked(lambda: commands(page, progress, moment))
    _, status = os.waitpid(child, 0)
    verb = "end" if not os.WIFSIGNALED(status) else progress.read_text() if progress.exists() else "start"
    if group:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)
    half = [path.name for path in out.rglob(".partial-*")] if out.exists() else []
    _, status = os.waitpid(forked(lambda: commands(page, progress)), 0)
    differing = compare(reference, left_by(out)) if status == 0 else [f"exit status {status}"]
    shutil.rmtree(place)
    return {"verb": verb or "start", "group": group, "in_write": bool(half), "differing": differing,
            "seconds": time.monotonic() - started}  # fmt: skip


def main() -> None:
    """Kill until there are `--kills` trials, then write the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--commit", default="", help="the commit of these sources, for the table")
    parser.add_argument("--seconds", type=float, default=420.0, help="stop in good time; run again for the rest")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    ledger, present = RESULTS / "kill_workflow.jsonl", sources()
    rows = [json.loads(line) for line in ledger.read_text().splitlines()] if ledger.exists() else []
    done = [row for row in rows if row.get("sources") == present]
    if len(done) < len(rows):
        ledger.unlink()
        done = []
    scratch = "/dev/shm" if Path("/dev/shm").is_dir() else None
    with tempfile.TemporaryDirectory(dir=scratch) as base, bench_in(Path(base)) as bench:
        references, count = [], mmap.mmap(-1, 8)
        for name in ("warm", "a", "b"):  # here first, so that every fork finds all modules imported
            page = Path(base) / f"{name}.yaml"
            page.write_text(bench.page.read_text().replace(str(bench.base / "o"), str(bench.base / name)))
            count[:8] = bytes(8)
            note = partial(count_changes, count, -1, group=False)
            _, status, used = os.wait4(forked(partial(commands, page, page.with_suffix(".at"), note)), 0)
            assert status == 0
            references.append(left_by(bench.base / name))
        changes, processor = int.from_bytes(count[:8], "little"), used.ru_utime + used.ru_stime
        print(f"{changes} changes of files, {processor:.2f} s of processor time", flush=True)
        differing = compare(references[1], references[2])
        assert not differing, f"two undisturbed runs differ in {differing}"
        end = time.monotonic() + arguments.seconds
        while sum(row["verb"] != "end" for row in done) < arguments.kills and time.monotonic() < end:
            number = len(done)
            share, group = (number * GOLDEN) % 1, number % 2 == 0
            count[:8] = bytes(8)
            moment = partial(count_changes, count, 1 + int(share * changes), group=group)
            if number % 3 == 2:  # SIGPROF ends a process that does not handle it, as SIGKILL does
                moment = partial(signal.setitimer, signal.ITIMER_PROF, max(0.001, share * processor))  # type: ignore[assignment]
            trial = once(bench, Path(base) / "trial", references[1], moment, group=group)
            done.append({"sources": present, "at": "time" if number % 3 == 2 else "change", **trial})
            with ledger.open("a") as file:
                file.write(json.dumps(done[-1]) + "\n")
            if trial["differing"]:
                print(done[-1], flush=True)
    killed = [row for row in done if row["verb"] != "end"]
    failed = [row for row in killed if row["differing"]]
    by_verb = Counter(row["verb"] for row in killed)
    lines = [
        "# kill -9 all over a whole run, the same commands again",
        "",
        f"`python bench/kill_workflow.py --kills {len(killed)}`, torch {torch.__version__}, one thread, two workers"
        + (f", commit {arguments.commit}." if arguments.commit else "."),
        "",
        "| killed in | kills | of them while a file was written | failed, or other files, bytes or numbers |",
        "|---|---|---|---|",
    ]
    for verb in ("start", *(verb for verb, *_ in VERBS)):
        some = [row for row in killed if row["verb"] == verb]
        if some:
            wrong = sum(bool(row["differing"]) for row in some)
            lines.append(f"| {verb} | {by_verb[verb]} | {sum(row['in_write'] for row in some)} | {wrong} |")
    lines += [
        f"| all | {len(killed)} | {sum(row['in_write'] for row in killed)} | **{len(failed)}** |",
        "",
        f"{sum(row['group'] for row in killed)} kills ended the command with its workers, the others the command alone. Compared:",
        "the names of all files, the bytes of weights and stored outputs, the numbers of every record less seconds and cost.",
        "",
    ]
    (RESULTS / "kill_workflow.md").write_text("\n".join(lines))
    print("\n".join(lines))
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
