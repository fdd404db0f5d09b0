"""Residual networks for small pictures (He et al., arXiv 1512.03385): `resnet_cifar(20)`; large ones are torchvision's."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from fractionate.errors import ConfigError
from fractionate.models.zoo import Builder, models


class Basic(nn.Module):
    """Two 3 × 3 convolutions next to a shortcut."""

    def __init__(self, before: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, width, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = None
        if stride > 1 or before != width:
            self.downsample = nn.Sequential(nn.Conv2d(before, width, 1, stride, bias=False), nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        inside = functional.relu(self.bn1(self.conv1(x)))
        aside = x if self.downsample is None else self.downsample(x)
        return functional.relu(self.bn2(self.conv2(inside)) + aside)


class ResNet(nn.Module):
    """A convolution, three stages of residual blocks, the mean over the picture, one linear layer; torchvision's names."""

    def __init__(self, channels: int, count: int, classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        before = 16
        for number, width in enumerate((16, 32, 64), start=1):
            blocks = []
            for place in range(count):
                blocks.append(Basic(before, width, 2 if number > 1 and place == 0 else 1))
                before = width
            self.add_module(f"layer{number}", nn.Sequential(*blocks))
        self.fc = nn.Linear(before, classes)
        for part in self.modules():
            if isinstance(part, nn.Conv2d):
                nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.bn1(self.conv1(x)))
        for number in (1, 2, 3):
            x = self.get_submodule(f"layer{number}")(x)
        logits: Tensor = self.fc(torch.flatten(functional.adaptive_avg_pool2d(x, 1), 1))
        return logits


@models.register("resnet_cifar")
def resnet_cifar(depth: int = 20) -> Builder:
    """A ResNet for small pictures with 16, 32 and 64 channels; depth 6 n + 2: 8, 14, 20, 32, 44, 56, 110."""
    if depth < 8 or (depth - 2) % 6:
        raise ConfigError(f"there is no resnet_cifar of depth {depth}", expected="6 n + 2: 8, 14, 20, 32, 44, 56, 110")
    return lambda shape, classes: ResNet(shape[0], (depth - 2) // 6, classes)
