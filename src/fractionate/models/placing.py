"""Where models live: a device for the time of a pass, and models that must stay where they are."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from fractionate.models.outputs import device_of


def place(model: nn.Module, device: torch.device) -> torch.device:
    """Move a model to a device; gives the device its inputs belong on.

    A model that is there already is not moved, nor is one that is spread over devices (`hf_device_map`) or refuses to be
    (quantized models): it is used where it is.
    """
    if not any(True for _ in (*model.parameters(), *model.buffers())):
        return device
    home = device_of(model)
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
