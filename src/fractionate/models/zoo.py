"""Networks by name: `mlp(64, 64)`, `cnn(16)`, `linear`, `timm('resnet18')`. Built for the shape of an input and a class count."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import nn

from fractionate.errors import ConfigError, MismatchError
from fractionate.system.memory import require_bytes
from fractionate.system.registry import Registry

Builder = Callable[[Sequence[int], int], nn.Module]

WIDEST = 10_000_000  # features of a layer, or buckets; more is a slip of the hand

models: Registry[Builder] = Registry(
    "model",
    "fractionate.models",
    files=(
        "models.answers",
        "models.fitted_estimators",
        "models.function",
        "models.hub",
        "models.picture_libraries",
        "models.prompted",
        "models.resnets",
    ),
)


class Flat(nn.Flatten):
    """`nn.Flatten` that refuses the numbers of words: they are names, and no layer of weights can read them."""

    def _get_name(self) -> str:
        return "Flatten"  # a store knows a teacher by how it prints

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        if not input.is_floating_point():
            raise MismatchError(
                "these inputs are whole numbers, names of words or subwords",
                expected="floating-point inputs",
                got=str(input.dtype),
                fix="use bag(...) for texts, or make the inputs floating-point",
            )
        return super().forward(input)


def _check(model: str, *counts: int, dropout: float = 0.0) -> None:
    """Raise `ConfigError` for settings of a model that are no counts, or no share."""
    wrong = [
        count for count in counts if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= WIDEST
    ]
    if wrong or isinstance(dropout, bool) or not isinstance(dropout, (int, float)) or not 0 <= dropout < 1:
        got = f"{wrong[0]!r}" if wrong else f"dropout={dropout!r}"
        raise ConfigError(
            f"invalid size of {model}",
            expected=f"whole numbers from 1 to {WIDEST:,}; dropout from 0 to below 1",
            got=got,
        )


def _check_memory(model: str, weights: int) -> None:
    """Raise `ResourceError` where that many weights do not fit into memory, before any is made."""
    require_bytes(4 * weights, f"{model} with {weights:,} weights", fix="make it smaller")


@models.register("linear")
def linear() -> Builder:
    """One linear layer on the flattened input."""
    return mlp()


@models.register("mlp")
def mlp(*widths: int, dropout: float = 0.0) -> Builder:
    """Fully connected layers with ReLU on the flattened input: `mlp(256, 256)`."""

    _check("mlp", *widths, dropout=dropout)

    def build(shape: Sequence[int], classes: int) -> nn.Module:
        sizes = [math.prod(shape), *widths]
        _check_memory("mlp", sum(before * after for before, after in pairwise((*sizes, classes))))
        layers: list[nn.Module] = [Flat()]
        for before, after in pairwise(sizes):
            layers += [nn.Linear(before, after), nn.ReLU()]
            layers += [nn.Dropout(dropout)] * (dropout > 0)
        return nn.Sequential(*layers, nn.Linear(sizes[-1], classes))

    return build


@models.register("cnn")
def cnn(*channels: int, dropout: float = 0.0) -> Builder:
    """3×3 convolutions with batch normalisation, ReLU and halving of the picture, then global mean: `cnn(16, 32)`.

    Args:
        channels: Of each convolution; none: 16 and 32.
        dropout: Share of features dropped before the output layer.

    Returns:
        A builder, called with the shape [channels, height, width] (others raise `MismatchError`) and the number of classes.

    Raises:
        ConfigError: for sizes below 1.

    Example:
        from fractionate.models import cnn

        model = cnn(8, 16)((1, 8, 8), 10)
    """
    _check("cnn", *channels, dropout=dropout)
    widths = channels or (16, 32)

    def build(shape: Sequence[int], classes: int) -> nn.Module:
        if len(shape) != 3:
            raise MismatchError(
                "a cnn needs pictures",
                expected="inputs [channels, height, width]",
                got=str(list(shape)),
                fix="use mlp(...)",
            )
        _check_memory("cnn", sum(9 * before * after for before, after in pairwise((shape[0], *widths))))
        layers: list[nn.Module] = []
        for before, after in pairwise((shape[0], *widths)):
            layers += [nn.Conv2d(before, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
            layers += [nn.MaxPool2d(2, ceil_mode=True)]
        layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
        layers += [nn.Dropout(dropout)] * (dropout > 0)
        return nn.Sequential(*layers, nn.Linear(widths[-1], classes))

    return build


class Bag(nn.Module):
    """Mean of the vectors of hashed words (0: no word), then two layers. Takes whole numbers [..., places].

    A pair is read as both means, their product and their distance: four times the width.
    """

    def __init__(
        self, buckets: int, width: int, hidden: int, classes: int, dropout: float, *, pairs: bool = False
    ) -> None:
        super().__init__()
        self.vectors = nn.Embedding(buckets + 1, width, padding_idx=0)
        self.pairs = pairs
        self.layers = nn.Sequential(
            nn.Dropout(dropout), nn.Linear(width * (4 if pairs else 1), hidden), nn.ReLU(), nn.Linear(hidden, classes)
        )

    def forward(self, words: torch.Tensor) -> torch.Tensor:
        mean = self.mean(words)
        if self.pairs:
            query, others = mean[:, :1].expand_as(mean[:, 1:]), mean[:, 1:]
            mean = torch.cat([query, others, query * others, (query - others).abs()], dim=-1)
        logits: torch.Tensor = self.layers(mean)
        return logits.squeeze(-1) if self.pairs else logits

    def mean(self, words: torch.Tensor) -> torch.Tensor:
        """The mean vector [..., width] of the words of each text."""
        if words.is_floating_point():
            raise MismatchError(
                "a bag takes the numbers of words", got=str(words.dtype), fix="use texts(...), or mlp(...)"
            )
        there = (words > 0).unsqueeze(-1)
        try:
            vectors = self.vectors(words)
        except IndexError as error:
            known = self.vectors.num_embeddings - 1
            raise MismatchError(
                "the texts have more buckets than this bag",
                expected=f"1 to {known:,}, and 0 for no word",
                got=f"{int(words.min())} to {int(words.max()):,}",
                fix="say the same number in texts(..., buckets=…) and bag(…)",
            ) from error
        found: torch.Tensor = (vectors * there).sum(-2) / there.sum(-2).clamp_min(1)
        return found


@models.register("bag")
def bag(buckets: int = 12_000, width: int = 96, hidden: int = 128, *, dropout: float = 0.3) -> Builder:
    """For `texts(...)`: the mean vector of a text's hashed words and pairs, then two layers; as many buckets as `texts` has.

    For `queries(...)` every text of an example becomes an embedding of `width` numbers.
    """
    _check("bag", buckets, width, hidden, dropout=dropout)

    def build(shape: Sequence[int], classes: int) -> nn.Module:
        if len(shape) not in (1, 2):
            raise MismatchError(
                "a bag needs texts",
                expected="inputs [places], or [texts, places]",
                got=str(list(shape)),
                fix="use texts(...), or another model",
            )
        outputs = classes if len(shape) == 1 else width
        _check_memory("bag", (buckets + hidden) * width + hidden * outputs)
        return Bag(buckets, width, hidden, outputs, dropout)

    return build


@models.register("cross")
def cross(buckets: int = 12_000, width: int = 96, hidden: int = 128, *, dropout: float = 0.3) -> Builder:
    """A cross-encoder for `queries(...)`: reads query and candidate together and scores them, [batch, candidates]."""
    _check("cross", buckets, width, hidden, dropout=dropout)

    def build(shape: Sequence[int], classes: int) -> nn.Module:
        if len(shape) != 2:
            raise MismatchError(
                "a cross-encoder reads a query and its candidates",
                expected="inputs [1 + candidates, places]",
                got=str(list(shape)),
                fix="use queries(...), or bag(...)",
            )
        _check_memory("cross", (buckets + 4 * hidden) * width + hidden)
        return Bag(buckets, width, hidden, 1, dropout, pairs=True)

    return build


def logit_layer(model: nn.Module) -> torch.Tensor | None:
    """The weight [classes, features] of the last linear layer, which holds the class relations; None if there is none."""
    found = [m.weight for m in model.modules() if isinstance(m, nn.Linear)]
    return found[-1].detach() if found else None
