"""Weights from a file: safetensors first, tensors-only `.pt` second, anything that could run code refused.

Weights that this package writes for itself carry a digest of their names and values.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch
import xxhash
from torch import Tensor

from fractionate.checkpoint import content_hash
from fractionate.durable import write_file
from fractionate.errors import DamagedError, FractionateError, ResourceError, printable, reason
from fractionate.files import existing_file

DIGEST = "xxh3_128"  # in the metadata of the file
CODE = "Python objects, which can run code when they are read"  # torch's own words say how to read them all the same


def _refuse_bomb(path: Path) -> None:
    """torch stores what it saves as it is; a compressed member can unfold to a thousand times the file."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            unfolded = sum(member.file_size for member in archive.infolist())
            if unfolded > path.stat().st_size or any(m.compress_type for m in archive.infolist()):
                raise ValueError(f"compressed members, {unfolded:,} bytes in a file of {path.stat().st_size:,}")


def read_weights(path: Path | str) -> dict[str, Tensor]:
    """The tensors of a `.safetensors` or tensors-only `.pt` file.

    Raises:
        ConfigError: for a missing file.
        DamagedError: for a file that is damaged, or holds anything but dense tensors with their values.
        ResourceError: for one that cannot be opened.
    """
    path = existing_file(path, what="weights file", fix="check teacher.weights")
    fix = "save it with safetensors.torch.save_file(model.state_dict(), path)"
    try:
        loaded = _loaded(path)
    except PermissionError as error:
        raise ResourceError(f"cannot read {path}: {error.strerror}", fix="check its permissions") from error
    except Exception as error:  # the readers' own errors differ by format; none may pass as a crash of ours
        raise DamagedError(
            f"{path} cannot be read as weights",
            expected="safetensors, or a .pt file that holds tensors only",
            got=CODE if str(error).startswith("Weights only load failed") else reason(error),
            fix=fix,
        ) from None
    if not isinstance(loaded, dict):
        raise DamagedError(
            f"{path} is not a state dict", expected="a dict of tensors", got=type(loaded).__name__, fix=fix
        )
    size = path.stat().st_size
    for name, value in loaded.items():
        fault = _fault(name, value, size)
        if fault:
            shown = printable(str(name)) if isinstance(name, str) else type(name).__name__
            raise DamagedError(
                f"{path} is not a state dict: {shown!r} is {fault}", expected="dense tensors by name", fix=fix
            )
    return {name: value.detach() for name, value in loaded.items()}


def _loaded(path: Path) -> object:
    from safetensors.torch import load_file

    if path.suffix == ".safetensors":
        return load_file(path)
    _refuse_bomb(path)
    return torch.load(path, map_location="cpu", weights_only=True)


def _fault(name: object, value: object, file_bytes: int) -> str | None:
    """What keeps an entry from being a weight; views of one number in many places claim more than the file holds."""
    if not isinstance(name, str):
        return "no name"
    if not isinstance(value, Tensor):
        return f"of type {type(value).__name__}"
    if value.is_meta:
        return "without values, on the device meta"
    if value.layout != torch.strided or value.is_nested or value.is_quantized:
        return f"not dense: {value.layout}, {value.dtype}"
    if value.numel() * value.element_size() > file_bytes:
        return f"larger than the file: {list(value.shape)}"
    return None


def save_weights(path: Path | str, tensors: Mapping[str, Tensor]) -> Path:
    """Write weights with their digest, as safetensors. Raises `ResourceError` where the disk refuses."""
    from safetensors.torch import save

    # tied weights are written under each of their names: a file holds no two names of one memory
    owned = {name: value.detach().cpu().clone(memory_format=torch.contiguous_format) for name, value in tensors.items()}
    # one entry: safetensors writes several in an order that differs from process to process
    return write_file(path, save(owned, {DIGEST: _digest(owned)}))


def read_own_weights(path: Path | str, *, fix: str) -> dict[str, Tensor]:
    """The weights that `save_weights` wrote. Raises `DamagedError`, naming the file, where they are not those."""
    from safetensors import safe_open

    try:
        tensors = read_weights(path)
        with safe_open(path, framework="pt") as file:
            told = (file.metadata() or {}).get(DIGEST)
    except ResourceError:
        raise
    except FractionateError as error:
        raise DamagedError(f"{path} is damaged: {error.what}", got=error.got, fix=fix) from error
    found = _digest(tensors)
    if told != found:
        raise DamagedError(
            f"{path} is damaged",
            expected="a digest" if told is None else f"xxh3-128 {told}",
            got=f"xxh3-128 {found}",
            fix=fix,
        )
    return tensors


def _digest(tensors: Mapping[str, Tensor]) -> str:
    names = sorted(tensors)
    return xxhash.xxh3_128_hexdigest(json.dumps([names, content_hash(*(tensors[name] for name in names))]).encode())
