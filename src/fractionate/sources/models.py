"""Bundled networks by name: `mlp(64, 64)`, `cnn(16)`, `linear`. Each is built for the shape of an input and a class count."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import nn

from fractionate.errors import MismatchError
from fractionate.registry import Registry

Builder = Callable[[Sequence[int], int], nn.Module]

models: Registry[Builder] = Registry("model", "fractionate.models")


@models.register("linear")
def linear() -> Builder:
    """One linear layer on the flattened input."""
    return mlp()


@models.register("mlp")
def mlp(*widths: int, dropout: float = 0.0) -> Builder:
    """Fully connected layers with ReLU on the flattened input: `mlp(256, 256)`."""

    def build(shape: Sequence[int], classes: int) -> nn.Module:
        sizes = [math.prod(shape), *widths]
        layers: list[nn.Module] = [nn.Flatten()]
        for before, after in pairwise(sizes):
            layers += [nn.Linear(before, after), nn.ReLU()]
            layers += [nn.Dropout(dropout)] * (dropout > 0)
        return nn.Sequential(*layers, nn.Linear(sizes[-1], classes))

    return build


@models.register("cnn")
def cnn(*channels: int, dropout: float = 0.0) -> Builder:
    """3×3 convolutions with batch normalisation, ReLU and halving of the picture, then global mean: `cnn(16, 32)`."""
    widths = channels or (16, 32)

    def build(shape: Sequence[int], classes: int) -> nn.Module:
        if len(shape) != 3:
            raise MismatchError(
                "a cnn needs pictures",
                expected="inputs [channels, height, width]",
                got=str(list(shape)),
                fix="use mlp(...)",
            )
        layers: list[nn.Module] = []
        for before, after in pairwise((shape[0], *widths)):
            layers += [nn.Conv2d(before, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
            layers += [nn.MaxPool2d(2, ceil_mode=True)]
        layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
        layers += [nn.Dropout(dropout)] * (dropout > 0)
        return nn.Sequential(*layers, nn.Linear(widths[-1], classes))

    return build


def logit_layer(model: nn.Module) -> torch.Tensor | None:
    """The weight [classes, features] of the last linear layer, which holds the class relations; None if there is none."""
    found = [m.weight for m in model.modules() if isinstance(m, nn.Linear)]
    return found[-1].detach() if found else None
