"""Weights from a file into a model: safetensors first, tensors-only `.pt` second, anything that could run code refused."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from fractionate.errors import ConfigError, DamagedError, MismatchError


def read_weights(path: Path | str) -> dict[str, Tensor]:
    """The tensors of a `.safetensors` or tensors-only `.pt` file.

    Raises `ConfigError` for a missing file and `DamagedError` for one that is damaged or holds more than tensors.
    """
    from safetensors.torch import load_file

    path = Path(path)
    if not path.is_file():
        raise ConfigError(f"there is no weights file {str(path)!r}", fix="check teacher.weights")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
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


def load_weights(model: nn.Module, path: Path | str) -> nn.Module:
    """The model with the weights of a file. Raises `MismatchError` naming the tensors that do not fit."""
    weights = read_weights(path)
    own = model.state_dict()
    missing, extra = sorted(own.keys() - weights.keys()), sorted(weights.keys() - own.keys())
    shapes = [
        f"{k} is {list(weights[k].shape)}, the model's {list(own[k].shape)}"
        for k in own.keys() & weights.keys()
        if own[k].shape != weights[k].shape
    ]
    if missing or extra or shapes:
        told = [f"missing {', '.join(missing[:5])}"] * bool(missing) + [f"extra {', '.join(extra[:5])}"] * bool(extra)
        raise MismatchError(
            f"the weights of {path} do not fit the model",
            got="; ".join(told + shapes[:5]),
            fix="name the model these weights were saved from",
        )
    model.load_state_dict(weights)
    return model
