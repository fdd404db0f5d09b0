"""Save and resume a training: weights, optimiser, random states, place in the data; whole or absent, verified on reading.

A checkpoint is two files: `step-N.safetensors` with every tensor, then `step-N.json` with its size, its hash and what is not
a tensor. The second is written last: without it the first does not count. No pickle anywhere.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xxhash
from torch import Tensor

from fractionate.errors import DamagedError
from fractionate.models.weights import from_bytes, to_bytes
from fractionate.system.atomic import make_directory, read_file, sweep, write_file

BEFORE = "the checkpoint before it is used where there is one"
KEPT = 2  # the newest, and the one before it in case the newest is damaged
_NAME = re.compile(r"step-(\d{8,})\.json")


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """Where a training stood after `step` optimiser steps: tensors by name, and facts that go into JSON."""

    step: int
    tensors: dict[str, Tensor]
    facts: dict[str, Any]

    def part(self, name: str) -> dict[str, Tensor]:
        """The tensors under `name/`, without that prefix."""
        return {
            key.removeprefix(f"{name}/"): value for key, value in self.tensors.items() if key.startswith(f"{name}/")
        }


def save_checkpoint(folder: Path | str, checkpoint: Checkpoint) -> Path:
    """Write a checkpoint so that a kill at any moment leaves it whole or absent, then drop all but the newest `KEPT`.

    Raises `ResourceError` where the disk refuses; older checkpoints are then still there.
    """
    folder = make_directory(folder)
    name = f"step-{checkpoint.step:08d}"
    content, aliases = to_bytes(checkpoint.tensors)
    write_file(folder / f"{name}.safetensors", content)
    manifest = {
        "step": checkpoint.step,
        "bytes": len(content),
        "xxh3_128": xxhash.xxh3_128_hexdigest(content),
        "aliases": aliases,
        "facts": checkpoint.facts,
    }
    manifest["self_xxh3_128"] = _seal(manifest)
    path = write_file(folder / f"{name}.json", json.dumps(manifest, sort_keys=True).encode())
    for old in steps_in(folder)[:-KEPT]:
        # the manifest first: tensors without one do not count, a manifest without tensors would be damage
        (folder / f"step-{old:08d}.json").unlink(missing_ok=True)
        (folder / f"step-{old:08d}.safetensors").unlink(missing_ok=True)
    return path


def steps_in(folder: Path | str) -> list[int]:
    """The steps of all committed checkpoints in a folder, oldest first.

    Args:
        folder: Of the training.

    Returns:
        Steps; [] where there is no checkpoint.

    Example:
        from fractionate.training import steps_in

        print(steps_in("run"))
    """
    found = (_NAME.fullmatch(path.name) for path in Path(folder).glob("step-*.json"))
    return sorted(int(match[1]) for match in found if match)


def load_checkpoint(folder: Path | str, step: int) -> Checkpoint:
    """Read one checkpoint and verify every byte. Raises `DamagedError` naming the file that does not hold what was written."""
    path = Path(folder) / f"step-{step:08d}.json"
    try:
        manifest = json.loads(read_file(path, fix=BEFORE))
        seal = manifest.pop("self_xxh3_128")
        sound = seal == _seal(manifest) and manifest["step"] == step
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        sound = False
    if not sound:
        raise DamagedError(f"{path} is damaged", fix=BEFORE)
    tensors_path = path.with_suffix(".safetensors")
    content = read_file(tensors_path, fix=BEFORE)
    if len(content) != manifest["bytes"] or xxhash.xxh3_128_hexdigest(content) != manifest["xxh3_128"]:
        raise DamagedError(
            f"{tensors_path} is damaged",
            expected=f"{manifest['bytes']:,} bytes, xxh3-128 {manifest['xxh3_128']}",
            got=f"{len(content):,} bytes, xxh3-128 {xxhash.xxh3_128_hexdigest(content)}",
            fix=BEFORE,
        )
    return Checkpoint(step, from_bytes(content, manifest["aliases"]), manifest["facts"])


def latest_checkpoint(folder: Path | str, *, clean: bool = True) -> tuple[Checkpoint | None, tuple[DamagedError, ...]]:
    """The newest checkpoint that is sound, and what was found damaged on the way to it.

    `clean` also removes what killed writers left: only the one process that writes may ask for it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        return None, ()
    if clean:
        sweep(folder)
    damage: list[DamagedError] = []
    for step in reversed(steps_in(folder)):
        try:
            return load_checkpoint(folder, step), tuple(damage)
        except DamagedError as error:
            damage.append(error)
    return None, tuple(damage)


def _seal(manifest: Mapping[str, Any]) -> str:
    return xxhash.xxh3_128_hexdigest(json.dumps(manifest, sort_keys=True).encode())


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimiser's state as flat tensors: `3/exp_avg` for the third parameter's."""
    state: dict[int, dict[str, Any]] = optimizer.state_dict()["state"]
    return {
        f"{place}/{name}": torch.as_tensor(value)
        for place, values in state.items()
        for name, value in values.items()
        if value is not None
    }


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Put back what `optimizer_tensors` gave. Settings such as the learning rate stay those of the optimiser."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        place, name = key.split("/", 1)
        state.setdefault(int(place), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def random_state() -> dict[str, Tensor]:
    """The states of the generators of torch (CPU and CUDA), numpy and Python."""
    kind, keys, place, has_gauss, gauss = np.random.get_state(legacy=True)
    assert kind == "MT19937"
    version, internal, next_gauss = random.getstate()
    assert version == 3
    state = {
        "torch": torch.get_rng_state(),
        "numpy": torch.from_numpy(np.asarray(keys, dtype=np.int64)),
        "numpy_rest": torch.tensor([place, has_gauss, gauss], dtype=torch.float64),
        "python": torch.tensor(internal, dtype=torch.int64),
        "python_rest": torch.tensor([] if next_gauss is None else [next_gauss], dtype=torch.float64),
    }
    if torch.cuda.is_available() and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        state |= {f"cuda{i}": each for i, each in enumerate(torch.cuda.get_rng_state_all())}
    return state


def restore_random_state(state: Mapping[str, Tensor]) -> None:
    """Put the generators back to where `random_state` found them."""
    torch.set_rng_state(state["torch"])
    place, has_gauss, gauss = state["numpy_rest"].tolist()
    np.random.set_state(("MT19937", state["numpy"].numpy().astype(np.uint32), int(place), int(has_gauss), gauss))
    rest = state["python_rest"].tolist()
    random.setstate((3, tuple(state["python"].tolist()), rest[0] if rest else None))
    for name, each in state.items():
        if name.startswith("cuda") and torch.cuda.is_available() and int(name[4:]) < torch.cuda.device_count():
            torch.cuda.set_rng_state(each, int(name[4:]))
