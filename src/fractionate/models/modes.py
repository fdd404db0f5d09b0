"""Training and evaluation mode of modules, and what wrappers hide."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

COMPILED = "_orig_mod"  # the name under which torch.compile keeps the module in its state dict


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """The model in evaluation mode and without gradients; every module's own mode is put back."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, mode in modes:
            module.training = mode


def frozen_modules(model: nn.Module) -> tuple[nn.Module, ...]:
    """Modules in evaluation mode within a model that is itself in training mode: they were frozen on purpose."""
    return tuple(module for module in model.modules() if not module.training) if model.training else ()


def train_mode(model: nn.Module, frozen: tuple[nn.Module, ...]) -> None:
    """The model in training mode, but for the frozen modules."""
    model.train()
    for module in frozen:
        module.training = False


def plain_module(model: nn.Module) -> nn.Module:
    """The module inside the wrappers of torch.compile, DataParallel, DDP and averages, whose parameter names others know."""
    while name := _wrapped(model):
        model = model.get_submodule(name)
    return model


def _wrapped(model: nn.Module) -> str:
    """The name under which a wrapper keeps its module; empty for a module that is none."""
    if isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel, AveragedModel)):
        return "module"
    return COMPILED if [name for name, _ in model.named_children()] == [COMPILED] else ""


def plain_names(model: nn.Module) -> dict[str, str]:
    """Every name of a model's state dict with the name that it has without wrappers, of parts of the model too."""
    wrappers = {path: inner for path, module in model.named_modules() if (inner := _wrapped(module))}
    found = {}
    for name in model.state_dict():
        kept, path = [], ""
        for part in name.split("."):
            if wrappers.get(path) != part:
                kept.append(part)
            path = f"{path}.{part}" if path else part
        found[name] = ".".join(kept)
    return found


def plain_state(model: nn.Module) -> dict[str, Any]:
    """The state dict under the names that it has without wrappers."""
    names = plain_names(model)
    return {names[name]: value for name, value in model.state_dict().items()}


def replace_module(model: nn.Module, path: str, module: nn.Module) -> None:
    """Put another module in the place of the one at a dotted path."""
    above, _, name = path.rpartition(".")
    setattr(model.get_submodule(above), name, module)
