"""Where models live: a device for the time of a pass, and models that must stay where they are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from fractionate.errors import ConfigError, MismatchError, extra
from fractionate.models.outputs import device_of


def check_ready(model: Any, who: str = "student") -> None:
    """Raise `ConfigError` for what is no module, and `MismatchError` for one whose weights do not exist yet."""
    if not isinstance(model, nn.Module):
        kind = "a function" if callable(model) and not isinstance(model, type) else repr(model)[:80]
        raise ConfigError(
            f"the {who} is not a model",
            expected="an nn.Module",
            got=kind,
            fix="pass the model itself: MyModel(), or the function called once",
        )
    if getattr(model, "hf_device_map", None):  # what lies elsewhere is fetched when it is needed
        return
    for name, part in (*model.named_parameters(), *model.named_buffers()):
        if is_lazy(part):
            raise MismatchError(
                f"the {who} {type(model).__name__} has no weights yet",
                expected="parameters with shapes",
                got=f"{name} of a lazy module",
                fix="call it on one batch before, so that its layers take their shapes",
            )
        if part.is_meta:
            raise MismatchError(
                f"the {who} {type(model).__name__} has no weights",
                expected="parameters in memory",
                got=f"{name} on the device meta",
                fix="model.to_empty(device='cpu'), then load its state dict",
            )


def place(model: nn.Module, device: torch.device) -> torch.device:
    """Move a model to a device; gives the device its inputs belong on.

    A model that is there already is not moved, nor is one that is spread over devices (`hf_device_map`) or refuses to be
    (quantized models): it is used where it is.
    """
    if not any(True for _ in (*model.parameters(), *model.buffers())):
        return device
    home = device_of(model)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError("there is no GPU that torch can use", got=f"device {device}", fix="device='cpu'")
    if home == device or getattr(model, "hf_device_map", None):
        return home
    try:
        model.to(device)
    except ValueError:  # what quantized models of transformers raise, before anything was moved
        return home
    return device_of(model)


@contextmanager
def placed(model: nn.Module, device: torch.device) -> Iterator[torch.device]:
    """The model on a device, back on its own afterwards; gives the device its inputs belong on."""
    home = device_of(model)
    there = place(model, device)
    try:
        yield there
    finally:
        if device_of(model) != home:
            model.to(home)


@contextmanager
def spread(model: nn.Module, device_map: str | Mapping[str, Any]) -> Iterator[torch.device]:
    """The model over multiple devices, the processor and the disk by accelerate; back on its own device afterwards.

    Args:
        device_map: "auto" fills devices in their order, then memory; or a device ("cpu", "disk", a number) by path of module.

    Raises:
        ConfigError: for a map that leaves modules out.
        MissingExtraError: without accelerate.
    """
    with extra("hf", "a device map needs accelerate"):
        from accelerate import dispatch_model, infer_auto_device_map
        from accelerate.hooks import remove_hook_from_submodules
    home = device_of(model)
    if device_map == "auto":
        whole: list[str] | None = getattr(model, "_no_split_modules", None)
        device_map = infer_auto_device_map(model, no_split_module_classes=whole)
    if isinstance(device_map, str):
        raise ConfigError("unknown device map", expected='"auto", or a device by path of module', got=repr(device_map))
    devices = [str(device) for device in device_map.values()]
    computing = [device for device in devices if device not in ("cpu", "disk")]
    there = torch.device(
        f"cuda:{computing[0]}" if computing and computing[0].isdecimal() else (computing or ["cpu"])[0]
    )
    with TemporaryDirectory() as folder:
        try:
            dispatch_model(
                model, dict(device_map), main_device=there, offload_dir=Path(folder) if "disk" in devices else None
            )
        except ValueError as error:
            raise ConfigError("this device map does not fit the model", got=str(error).partition("\n")[0]) from error
        try:
            yield there
        finally:
            remove_hook_from_submodules(model)
            vars(model).pop("hf_device_map", None)
            model.to(home)
