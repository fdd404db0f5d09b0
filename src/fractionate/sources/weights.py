"""Weights from a file: safetensors first, tensors-only `.pt` second, anything that could run code refused."""

from __future__ import annotations

import zipfile
from pathlib import Path

import torch
from torch import Tensor

from fractionate.errors import DamagedError
from fractionate.files import existing_file


def _refuse_bomb(path: Path) -> None:
    """torch stores what it saves as it is; a compressed member can unfold to a thousand times the file."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            unfolded = sum(member.file_size for member in archive.infolist())
            if unfolded > path.stat().st_size or any(m.compress_type for m in archive.infolist()):
                raise ValueError(f"compressed members, {unfolded:,} bytes in a file of {path.stat().st_size:,}")


def read_weights(path: Path | str) -> dict[str, Tensor]:
    """The tensors of a `.safetensors` or tensors-only `.pt` file.

    Raises `ConfigError` for a missing file and `DamagedError` for one that is damaged or holds more than tensors.
    """
    from safetensors.torch import load_file

    path = existing_file(path, what="weights file", fix="check teacher.weights")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        _refuse_bomb(path)
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the readers' own errors differ by format; none may pass as a crash of ours
        raise DamagedError(
            f"{path} cannot be read as weights",
            expected="safetensors, or a .pt file that holds tensors only",
            got=str(error).splitlines()[0][:200],
            fix="save it with safetensors.torch.save_file(model.state_dict(), path)",
        ) from None
    if not (isinstance(loaded, dict) and all(isinstance(value, Tensor) for value in loaded.values())):
        raise DamagedError(f"{path} is not a state dict", expected="a dict of tensors", got=type(loaded).__name__)
    return loaded
