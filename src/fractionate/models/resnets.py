"""Residual networks (He et al., arXiv 1512.03385): `resnet_cifar(20)` for 32 × 32 pictures, `resnet(50)` for large ones.

Parameters carry torchvision's names (`layer1.0.conv1.weight`), so its weights load; `resnet` has the stride in the 3 × 3
convolution of a bottleneck as torchvision's has.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from fractionate.errors import ConfigError
from fractionate.models.zoo import Builder, models

DEPTHS: dict[int, tuple[bool, tuple[int, int, int, int]]] = {  # whether blocks are bottlenecks, and blocks a stage
    18: (False, (2, 2, 2, 2)),
    34: (False, (3, 4, 6, 3)),
    50: (True, (3, 4, 6, 3)),
    101: (True, (3, 4, 23, 3)),
    152: (True, (3, 8, 36, 3)),
}


def _shortcut(before: int, after: int, stride: int) -> nn.Sequential | None:
    if stride == 1 and before == after:
        return None
    return nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after))


class Basic(nn.Module):
    """Two 3 × 3 convolutions next to a shortcut."""

    expansion = 1

    def __init__(self, before: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, width, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = _shortcut(before, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        inside = functional.relu(self.bn1(self.conv1(x)))
        aside = x if self.downsample is None else self.downsample(x)
        return functional.relu(self.bn2(self.conv2(inside)) + aside)


class Bottleneck(nn.Module):
    """A 3 × 3 convolution between two 1 × 1 ones, four times as wide outside as inside, next to a shortcut."""

    expansion = 4

    def __init__(self, before: int, width: int, stride: int) -> None:
        super().__init__()
        after = width * self.expansion
        self.conv1 = nn.Conv2d(before, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, after, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(after)
        self.downsample = _shortcut(before, after, stride)

    def forward(self, x: Tensor) -> Tensor:
        inside = functional.relu(self.bn1(self.conv1(x)))
        inside = functional.relu(self.bn2(self.conv2(inside)))
        aside = x if self.downsample is None else self.downsample(x)
        return functional.relu(self.bn3(self.conv3(inside)) + aside)


class ResNet(nn.Module):
    """A stem, stages of residual blocks, the mean over the picture, one linear layer."""

    def __init__(
        self,
        block: type[Basic] | type[Bottleneck],
        stem: Sequence[tuple[str, nn.Module]],
        before: int,
        stages: Sequence[tuple[int, int]],
        classes: int,
    ) -> None:
        super().__init__()
        self.stem: list[str] = []
        for name, part in stem:
            self.add_module(name, part)
            self.stem.append(name)
        self.stages = len(stages)
        for number, (width, count) in enumerate(stages, start=1):
            blocks = []
            for place in range(count):
                blocks.append(block(before, width, 2 if number > 1 and place == 0 else 1))
                before = width * block.expansion
            self.add_module(f"layer{number}", nn.Sequential(*blocks))
        self.fc = nn.Linear(before, classes)
        for part in self.modules():
            if isinstance(part, nn.Conv2d):
                nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        for name in (*self.stem, *(f"layer{number + 1}" for number in range(self.stages))):
            x = self.get_submodule(name)(x)
        logits: Tensor = self.fc(torch.flatten(functional.adaptive_avg_pool2d(x, 1), 1))
        return logits


@models.register("resnet_cifar")
def resnet_cifar(depth: int = 20) -> Builder:
    """A ResNet for small pictures with 16, 32 and 64 channels; depth 6 n + 2: 8, 14, 20, 32, 44, 56, 110."""
    if depth < 8 or (depth - 2) % 6:
        raise ConfigError(f"there is no resnet_cifar of depth {depth}", expected="6 n + 2: 8, 14, 20, 32, 44, 56, 110")

    def build(shape: Sequence[int], classes: int) -> nn.Module:
        stem = (
            ("conv1", nn.Conv2d(shape[0], 16, 3, padding=1, bias=False)),
            ("bn1", nn.BatchNorm2d(16)),
            ("relu", nn.ReLU()),
        )
        count = (depth - 2) // 6
        return ResNet(Basic, stem, 16, [(16, count), (32, count), (64, count)], classes)

    return build


@models.register("resnet")
def resnet(depth: int = 50) -> Builder:
    """A ResNet for large pictures as torchvision builds it: depth 18, 34, 50, 101 or 152."""
    if depth not in DEPTHS:
        raise ConfigError(f"there is no resnet of depth {depth}", expected=", ".join(map(str, DEPTHS)))

    def build(shape: Sequence[int], classes: int) -> nn.Module:
        stem = (
            ("conv1", nn.Conv2d(shape[0], 64, 7, 2, padding=3, bias=False)),
            ("bn1", nn.BatchNorm2d(64)),
            ("relu", nn.ReLU()),
            ("maxpool", nn.MaxPool2d(3, 2, padding=1)),
        )
        deep, counts = DEPTHS[depth]
        stages = list(zip((64, 128, 256, 512), counts, strict=True))
        return ResNet(Bottleneck if deep else Basic, stem, 64, stages, classes)

    return build
