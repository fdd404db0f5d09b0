"""Weights from a file: safetensors first, tensors-only `.pt` second, anything that could run code refused.

Weights that this package writes for itself carry a digest of their names and values.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import xxhash
from torch import Tensor, nn

from fractionate.errors import DamagedError, FractionateError, MismatchError, ResourceError, printable, reason
from fractionate.models.modes import plain_names, plain_state
from fractionate.system.atomic import write_file
from fractionate.system.files import existing_file
from fractionate.system.hashing import content_hash

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
    """The tensors of a `.safetensors` or tensors-only `.pt` file. Nothing in it is executed.

    Args:
        path: The file.

    Returns:
        Tensors by name.

    Raises:
        ConfigError: for a missing file.
        DamagedError: for a file that is damaged, or holds anything but dense tensors with their values.
        ResourceError: for one that cannot be opened.

    Example:
        import torch
        from torch import nn
        from safetensors.torch import save_file
        from fractionate.models import read_weights

        save_file(nn.Linear(8, 4).state_dict(), "model.safetensors")
        print(list(read_weights("model.safetensors")))
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


def check_saveable(model: nn.Module) -> None:
    """Raise `MismatchError` naming what of a model's state no file of weights holds: objects, sparse and quantized tensors."""
    for name, value in plain_state(model).items():
        plain = (
            isinstance(value, Tensor) and value.layout == torch.strided and not (value.is_nested or value.is_quantized)
        )
        if not plain:
            raise MismatchError(
                f"the state of {type(model).__name__} cannot be saved: {printable(name)}",
                expected="dense tensors",
                got=str(value.layout) if isinstance(value, Tensor) else type(value).__name__,
                fix="keep it out of the state dict: register_buffer(..., persistent=False), or an attribute that the class sets",
            )


def save_weights(path: Path | str, tensors: Mapping[str, Tensor], *, made_by: str = "") -> Path:
    """Write weights with their digest, as safetensors; `made_by` says what made them and is part of it.

    Raises `ResourceError` where the disk refuses.
    """
    from safetensors.torch import save

    # tied weights are written under each of their names: a file holds no two names of one memory
    owned = {name: value.detach().cpu().clone(memory_format=torch.contiguous_format) for name, value in tensors.items()}
    # one entry: safetensors writes more than one in an order that differs from process to process
    return write_file(path, save(owned, {DIGEST: _digest(owned, made_by)}))


def read_own_weights(path: Path | str, *, fix: str, made_by: str = "") -> dict[str, Tensor]:
    """The weights that `save_weights` wrote. Raises `DamagedError`, naming the file, for others, or those of another maker."""
    from safetensors import safe_open

    try:
        tensors = read_weights(path)
        with safe_open(path, framework="pt") as file:
            notes = (file.metadata() or {}).get(DIGEST)
    except ResourceError:
        raise
    except FractionateError as error:
        raise DamagedError(f"{path} is damaged: {error.what}", got=error.got, fix=fix) from error
    found = _digest(tensors, made_by)
    if notes != found:
        raise DamagedError(
            f"{path} is damaged",
            expected="a digest" if notes is None else f"xxh3-128 {notes}",
            got=f"xxh3-128 {found}",
            fix=fix,
        )
    return tensors


def _digest(tensors: Mapping[str, Tensor], made_by: str) -> str:
    names = sorted(tensors)
    content = [names, content_hash(*(tensors[name] for name in names)), *([made_by] if made_by else [])]
    return xxhash.xxh3_128_hexdigest(json.dumps(content).encode())


def to_bytes(tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> tuple[bytes, dict[str, str]]:
    """Tensors as the bytes of a safetensors file. Names that share one tensor are written once; the second tells which."""
    from safetensors.torch import save

    first: dict[tuple[Any, ...], str] = {}
    unique: dict[str, Tensor] = {}
    aliases: dict[str, str] = {}
    for name, tensor in tensors.items():
        tensor = tensor.detach()
        key = (tensor.device, tensor.data_ptr(), tuple(tensor.shape), tensor.stride(), tensor.dtype)
        if tensor.numel() and key in first:
            aliases[name] = first[key]
            continue
        first[key] = name
        # views of one storage are legal in a model; safetensors wants each to own its memory
        owns = tensor.is_contiguous() and tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()
        unique[name] = (tensor if owns else tensor.clone(memory_format=torch.contiguous_format)).cpu()
    return save(unique, metadata), aliases


def from_bytes(content: bytes, aliases: Mapping[str, str]) -> dict[str, Tensor]:
    """The tensors that `to_bytes` wrote, shared names included."""
    from safetensors.torch import load

    tensors: dict[str, Tensor] = load(content)
    for name, of in aliases.items():
        tensors[name] = tensors[of]
    return tensors


def load_weights(model: nn.Module, tensors: Mapping[str, Tensor], origin: str = "the checkpoint") -> None:
    """Put weights and buffers into a model. Raises `MismatchError` listing what is missing, unknown or of another shape."""
    names = plain_names(model)  # weights are exported without wrappers, and checkpoints have the model's own names
    own = {names[name]: value for name, value in model.state_dict().items()}
    tensors = {names.get(name, name): value for name, value in tensors.items()}
    faults = [f"missing {name}" for name in own if name not in tensors]
    faults += [f"unknown {name}" for name in tensors if name not in own]
    faults += [
        f"{name}: {list(tensors[name].shape)} for {list(own[name].shape)}"
        for name in own
        if name in tensors and tensors[name].shape != own[name].shape
    ]
    faults += [  # a copy would cut fractions and imaginary parts off
        f"{name}: {tensors[name].dtype} for {own[name].dtype}"
        for name in own
        if name in tensors and _kind(tensors[name]) != _kind(own[name])
    ]
    if faults:
        raise MismatchError(
            f"{origin} belongs to another model",
            expected=f"{len(own)} tensors as the model's",
            got="; ".join(faults[:4]) + (f"; and {len(faults) - 4} more" if len(faults) > 4 else ""),
            fix="build the same model, or choose another file or output folder",
        )
    model.load_state_dict({name: tensors[plain] for name, plain in names.items()})


def _kind(tensor: Tensor) -> tuple[bool, bool]:
    return tensor.is_floating_point(), tensor.is_complex()
