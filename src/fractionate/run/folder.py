"""The folder of a run: each artifact in it belongs to the settings, the data and the teacher that it was made of."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import xxhash

from fractionate.data.parts import subset
from fractionate.errors import DamagedError, MismatchError, printable
from fractionate.records.base import DIGEST
from fractionate.run.assembly import Assembly
from fractionate.run.runfile import dump_run
from fractionate.run.schema import all_keys
from fractionate.system.atomic import make_directory, read_file, sweep, write_file
from fractionate.system.fingerprints import model_hash
from fractionate.teachers.online import Online
from fractionate.theory.number_signal import NumberSignal

SOURCES, ANSWERS = "sources.json", "the teacher's answers"
PROBED = 8  # examples by whose answers a teacher without parameters is known
SHOWN = 6  # changed settings of an error


@dataclass(frozen=True)
class Artifact:
    """Something that a run keeps, and what it depends on.

    Args:
        files: Files and folders of the run's folder.
        keys: Settings and sections of the run file; what begins with "-" is left out of a section.
        data: Parts of the data.
        of: Artifacts that it is made of: what they depend on, it depends on.
        advised: Whether it is made by the recommended recipe where the run file has no objective, and so of the diagnosis.
        derived: Whether it costs no training and no teacher: made anew without a question.
    """

    files: tuple[str, ...]
    keys: tuple[str, ...]
    data: tuple[str, ...] = ()
    of: tuple[str, ...] = ()
    advised: bool = False
    derived: bool = False


LEARNED = ("metrics", "student", "objective", "terms", "transforms", "training")  # of every student
ASIDE = (
    "device",
    "save_every_steps",
    "save_every_seconds",
    "trackers",
)  # of the loop: where it runs and who receives it
JUDGED = ("validation", "test")
ARTIFACTS = {
    "teacher": Artifact(
        ("teacher.safetensors", "teacher"), ("task", "data.source", "data.seed", "data.length", "teacher"), ("teaching",),
    ),
    "store": Artifact(("store",), ("collect", "-collect.device"), ("transfer",), ("teacher",)),
    "diagnosis": Artifact(
        ("diagnosis.json", "pilot"), ("seed", "diagnosis", *LEARNED), ("validation",), ("store",)
    ),
    "study": Artifact(
        ("study",), ("study", "-study.seeds", "-study.metric", "-study.margin", *LEARNED), JUDGED, ("store",), advised=True
    ),
    "study.json": Artifact(("study.json",), ("name", "study"), (), ("study",), derived=True),
    "training": Artifact(
        ("training", "tensorboard"),
        ("seed", "study.tune", "distill", *(f"-distill.{key}" for key in ASIDE), *LEARNED),
        JUDGED, ("store",), advised=True,
    ),
    "student": Artifact(("student",), ("name", "export"), (), ("training",)),
    "examples": Artifact(("examples.json", "explanations.json"), ("name", "report"), (), ("student",), derived=True),
}  # fmt: skip


def claimed(assembly: Assembly) -> bool:
    """Whether the folder is that of this run file."""
    written = Path(assembly.run.out) / "run.yaml"
    return written.is_file() and written.read_bytes() == dump_run(assembly.run).encode()


def claim(assembly: Assembly, *, remake: bool = False) -> Path:
    """The folder of a run, made where it is not there; what is outdated is removed. Raises what `check_folder` raises."""
    outdated = check_folder(assembly, remake=remake)
    out = Path(assembly.run.out)
    found = made_of(assembly)  # data that cannot be read are named before the folder belongs to this run
    make_directory(out)
    sweep(out, deep=True)
    for name in outdated:
        for file in ARTIFACTS[name].files:
            _remove(out / file)
    before = _kept(out) or {}
    found |= {name: before[name] for name in before if not _changed(before[name], found[name])}
    if found != before:
        write_file(out / SOURCES, json.dumps(found | {DIGEST: _digest(found)}, indent=2).encode())
    if not claimed(assembly):
        write_file(out / "run.yaml", dump_run(assembly.run).encode())
    return out


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def folder_key(out: Path, artifact: str) -> str:
    """What the records of a claimed folder are made for: a hash of what an artifact was made of."""
    return xxhash.xxh3_128_hexdigest(json.dumps((_kept(out) or {})[artifact], sort_keys=True).encode())


def _digest(found: dict[str, Any]) -> str:
    return f"xxh3-128 {xxhash.xxh3_128_hexdigest(json.dumps(found, sort_keys=True).encode())}"


def check_folder(assembly: Assembly, *, remake: bool = False) -> tuple[str, ...]:
    """The artifacts of the folder that have to be made anew for this run.

    Raises:
        MismatchError: where one belongs to other settings, data or teacher and `remake` was not given; for a folder of another
            program's or another version's run.
        DamagedError: where it is not known what the folder was made of.
    """
    out = Path(assembly.run.out)
    if os.path.lexists(out / "run.yaml") and not (out / "run.yaml").is_file():
        raise DamagedError(f"{out / 'run.yaml'} is no file", fix=f"remove it, or all of {out}")
    before = _kept(out)
    there = {name: [file for file in one.files if os.path.lexists(out / file)] for name, one in ARTIFACTS.items()}
    if before is None:
        made = [file for files in there.values() for file in files]
        if made:
            raise DamagedError(
                f"{out / SOURCES} is missing: it is not known what {made[0]} was made of",
                fix=f"restore it, or remove {out}",
            )
        if os.path.lexists(out / "run.yaml") and not claimed(assembly):
            raise MismatchError(
                f"{out} holds another run: {out / 'run.yaml'} differs", fix="write elsewhere with out=FOLDER"
            )
        return ()
    if set(before) != set(ARTIFACTS):
        raise MismatchError(f"{out} was made by another version of fractionate", fix="write elsewhere with out=FOLDER")
    now = made_of(assembly)
    changed = {name: _changed(before[name], now[name]) for name, files in there.items() if files}
    outdated = tuple(name for name, changes in changed.items() if changes)
    costly = [name for name in outdated if not ARTIFACTS[name].derived]
    if costly and not remake:
        whys = list(dict.fromkeys(change for name in costly for change in changed[name]))
        kept = [name for name in changed if name not in outdated]
        raise MismatchError(
            f"{out} holds what was made of other settings, data or teacher: {', '.join(costly)}",
            expected="what they were made of",
            got="; ".join([*whys[:SHOWN], *([f"and {len(whys) - SHOWN} more"] if len(whys) > SHOWN else [])]),
            fix=f"--remake makes {', '.join(costly)} anew and keeps {', '.join(kept) or 'nothing'}; "
            "or write elsewhere with out=FOLDER",
        )
    return outdated


def _kept(out: Path) -> dict[str, dict[str, Any]] | None:
    """What each artifact of a folder was made of; None for a folder without it. Raises `DamagedError` where it was changed."""
    written, again = out / SOURCES, f"restore it, or remove {out}"
    if not os.path.lexists(written):
        return None
    try:
        found = json.loads(read_file(written, fix=again))
    except ValueError as error:
        raise DamagedError(f"{written} is damaged", got=str(error), fix=again) from None
    kept = found.pop(DIGEST, None) if isinstance(found, dict) else None
    if not isinstance(found, dict) or kept != _digest(found):
        raise DamagedError(
            f"{written} is damaged", expected="the digest of its values", got=printable(str(kept)), fix=again
        )
    return found


def made_of(assembly: Assembly) -> dict[str, dict[str, Any]]:
    """What each artifact of a run is made of: settings by key, fingerprints of the data, and of a teacher not trained here."""
    settings = {key: _at(assembly.run.model_dump(mode="json"), key) for key in all_keys() if ".NAME." not in key}
    settings["study.arms"] = _at(assembly.run.model_dump(mode="json"), "study.arms")
    data = assembly.data
    fingerprints = {name: part.fingerprint() for name in ("transfer", *JUDGED) for part in (getattr(data, name),)}
    if assembly.teacher_training is not None:
        fingerprints["teaching"] = assembly.teaching.fingerprint()
    found: dict[str, dict[str, Any]] = {}
    for name, artifact in ARTIFACTS.items():
        chosen = {key: value for key, value in settings.items() if _belongs(key, artifact.keys)}
        chosen |= {f"{part} data": fingerprints[part] for part in artifact.data if part in fingerprints}
        of = (*artifact.of, *(("diagnosis",) if artifact.advised and assembly.run.objective is None else ()))
        for other in of:
            chosen = found[other] | chosen
        if name in ("study", "training") and assembly.run.study.tune is not None:
            chosen["study.metric"] = settings["study.metric"]  # by which a learning rate is chosen
        if name == "teacher":
            chosen |= {"class names": list(data.need.class_names)} | _teacher_of(assembly)
        found[name] = chosen
    return found


def _belongs(key: str, keys: tuple[str, ...]) -> bool:
    within = [one for one in keys if f"{key}.".startswith(f"{one.removeprefix('-')}.")]
    return bool(within) and not any(one.startswith("-") for one in within)


def _at(tree: Any, key: str) -> Any:
    for step in key.split("."):
        tree = tree.get(step) if isinstance(tree, dict) else None
    return tree


def _teacher_of(assembly: Assembly) -> dict[str, Any]:
    """The weights of a teacher that is not trained here, or the answers of one without parameters."""
    if assembly.teacher_training is not None:
        return {}
    teacher = assembly.given_teacher
    found: dict[str, Any] = {"the teacher": model_hash(teacher)}
    if not any(True for _ in teacher.parameters()):
        transfer = assembly.data.transfer
        few = subset(transfer, torch.arange(min(PROBED, len(transfer))))
        signal = Online(teacher).signal(assembly.task, few)
        rows = signal.values if isinstance(signal, NumberSignal) else signal.logits
        found[ANSWERS] = rows[:PROBED, :PROBED].flatten().tolist()
    return found


def _changed(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What differs, in words."""
    changed = []
    for key in dict.fromkeys([*before, *now]):
        old, new = before.get(key), now.get(key)
        if key == ANSWERS:
            theirs, ours = (torch.tensor(each or [], dtype=torch.float64) for each in (old, new))
            if theirs.shape != ours.shape or not torch.allclose(theirs, ours, rtol=1e-3, atol=1e-4, equal_nan=True):
                changed.append(f"{key} changed")
        elif old != new:
            named = key.endswith(" data") or key == "the teacher"
            changed.append(f"{key} changed" if named else f"{key} {_shown(old)} → {_shown(new)}")
    return changed


def _shown(value: Any) -> str:
    return "(not set)" if value is None else printable(str(value), 60)
