"""The folder of a run: it belongs to one run file, its data and its teacher."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch
import xxhash

from fractionate.data.parts import subset
from fractionate.errors import DamagedError, MismatchError, printable
from fractionate.records.base import DIGEST
from fractionate.run.assembly import Assembly
from fractionate.run.runfile import dump_run
from fractionate.system.atomic import make_directory, read_file, sweep, write_file
from fractionate.system.fingerprints import model_hash
from fractionate.teachers.online import Online
from fractionate.theory.number_signal import NumberSignal

SOURCES, ANSWERS = "sources.json", "teacher_answers"
PROBED = 8  # examples by whose answers a teacher without parameters is known


def claim(assembly: Assembly) -> Path:
    """The folder of a run, made where it is not there. Raises what `check_folder` raises."""
    check_folder(assembly)
    out = Path(assembly.run.out)
    found = sources_of(assembly)  # data that cannot be read are named before the folder belongs to this run
    make_directory(out)
    sweep(out, deep=True)
    if not (out / "run.yaml").exists():
        write_file(out / "run.yaml", dump_run(assembly.run).encode())
    if not (out / SOURCES).exists():
        write_file(out / SOURCES, json.dumps(found | {DIGEST: _digest(found)}, indent=2).encode())
    return out


def folder_key(out: Path) -> str:
    """What the records of a claimed folder are made for: a hash of its run file, but for the folder's name, and of its sources."""
    lines = [line for line in (out / "run.yaml").read_bytes().splitlines() if not line.startswith(b"out:")]
    return xxhash.xxh3_128_hexdigest(b"\0".join([*lines, (out / SOURCES).read_bytes()]))


def _digest(found: dict[str, Any]) -> str:
    return f"xxh3-128 {xxhash.xxh3_128_hexdigest(json.dumps(found, sort_keys=True).encode())}"


def check_folder(assembly: Assembly) -> None:
    """Raise `MismatchError` where the folder belongs to another run file, data or teacher, `DamagedError` for a broken one."""
    run = assembly.run
    written, again = Path(run.out) / "run.yaml", f"restore it, or remove {run.out}"
    if not os.path.lexists(written):
        return
    try:
        found, text = read_file(written, fix=again).decode(), dump_run(run)
    except UnicodeDecodeError as error:
        raise DamagedError(f"{written} is damaged: it is not UTF-8 text", got=str(error), fix=again) from None
    if found != text:
        pairs = zip(found.splitlines(), text.splitlines(), strict=False)
        changed = [f"{printable(a.strip())} → {printable(b.strip())}" for a, b in pairs if a != b]
        raise MismatchError(
            f"{run.out} holds another run: {written} differs",
            got="; ".join(changed[:3]) or "more settings",
            fix="write elsewhere with out=FOLDER, or remove that folder",
        )
    written = Path(run.out) / SOURCES
    if os.path.lexists(written):
        try:
            before = json.loads(read_file(written, fix=again))
        except ValueError as error:
            raise DamagedError(f"{written} is damaged", got=str(error), fix=again) from None
        kept = before.pop(DIGEST, None) if isinstance(before, dict) else None
        if not isinstance(before, dict) or kept != _digest(before):
            raise DamagedError(
                f"{written} is damaged", expected="the digest of its values", got=printable(str(kept)), fix=again
            )
        changed = _changed(before, sources_of(assembly))
        if changed:
            raise MismatchError(
                f"{run.out} holds results of other data or another teacher: {', '.join(changed)} changed",
                expected="what the folder's results were made of",
                got=", ".join(changed),
                fix="write elsewhere with out=FOLDER, or remove that folder to make all of it anew",
            )


def sources_of(assembly: Assembly) -> dict[str, Any]:
    """What a run is made of beside its file: fingerprints of the data, and of a teacher that is not trained here."""
    data = assembly.data
    parts = {name: getattr(data, name) for name in ("transfer", "validation", "test")}
    found: dict[str, Any] = {name: part.fingerprint() for name, part in parts.items()}
    if assembly.teacher_training is None:
        teacher = assembly.given_teacher
        found["teacher"] = model_hash(teacher)
        if not any(True for _ in teacher.parameters()):
            few = subset(data.transfer, torch.arange(min(PROBED, len(data.transfer))))
            signal = Online(teacher).signal(assembly.task, few)
            rows = signal.values if isinstance(signal, NumberSignal) else signal.logits
            found[ANSWERS] = rows[:PROBED, :PROBED].flatten().tolist()
    return found


def _changed(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    fixed = [name for name in now if name != ANSWERS and before.get(name) != now[name]]
    changed = [name if name == "teacher" else f"{name} data" for name in fixed]
    theirs, ours = (torch.tensor(each.get(ANSWERS, []), dtype=torch.float64) for each in (before, now))
    if theirs.shape != ours.shape or not torch.allclose(theirs, ours, rtol=1e-3, atol=1e-4, equal_nan=True):
        changed.append("the teacher's answers")
    return changed
