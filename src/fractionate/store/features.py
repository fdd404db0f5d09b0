"""Features of named layers in a store: float16 columns next to each row, so that losses that read inside need no online teacher."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fractionate.errors import ConfigError, MismatchError, NumericsError

PREFIX = "feature."  # of a column's name; the layer's path follows
LARGEST = 65_504.0  # of float16


def check_features(features: Sequence[str], *, tokens: str, non_finite: str, by_place: bool) -> tuple[str, ...]:
    """The paths, each once. Raises `ConfigError` where rows are not one per example, or there is no module to read."""
    if not features:
        return ()
    if isinstance(features, str) or not all(isinstance(path, str) and path for path in features):
        raise ConfigError("features are paths of modules", expected='("layer3", "pool")', got=repr(features))
    if tokens or non_finite == "skip" or by_place:
        raise ConfigError(
            "features are kept one per example, of a module",
            expected='a teacher that is a module, tokens="" and non_finite="refuse"',
            got=f"tokens={tokens!r}, non_finite={non_finite!r}" + (", a function" if by_place else ""),
            fix='leave features= out; form="hidden" keeps what enters the output layer at each token',
        )
    return tuple(dict.fromkeys(features))


def feature_columns(captured: Mapping[str, Tensor], paths: Sequence[str], rows: int) -> dict[str, NDArray[Any]]:
    """The columns of a batch. Raises `MismatchError` for features that are not one per example, `NumericsError` beyond float16."""
    found = {}
    for path in paths:
        value = captured[path].detach().float().cpu()
        if value.ndim < 2 or len(value) != rows:
            raise MismatchError(
                f"features of {path!r} are not one per example", expected=f"[{rows}, …]", got=str(list(value.shape)),
                fix="choose a module whose output has the batch as its first dimension",
            )  # fmt: skip
        if not bool(torch.isfinite(value).all()) or float(value.abs().max()) > LARGEST:
            raise NumericsError(
                f"features of {path!r} cannot be kept in float16", expected=f"finite numbers up to {LARGEST:,.0f} in size",
                got=f"{float(value.abs().max()):g}", fix="choose a layer after a normalization",
            )  # fmt: skip
        found[PREFIX + path] = value.half().contiguous().numpy()
    return found


def check_alike(columns: Mapping[str, NDArray[Any]], before: Mapping[str, NDArray[Any]]) -> None:
    """Raise `MismatchError` where a layer's features differ in shape from batch to batch: padding to the longest of each."""
    for name, column in columns.items():
        if name.startswith(PREFIX) and name in before and before[name].shape[1:] != column.shape[1:]:
            raise MismatchError(
                f"features of {name.removeprefix(PREFIX)!r} differ in shape from batch to batch",
                expected=str(list(before[name].shape[1:])), got=str(list(column.shape[1:])),
                fix="pad all examples to one length, or choose a layer after pooling",
            )  # fmt: skip


def read_features(columns: Mapping[str, NDArray[Any]]) -> dict[str, Tensor]:
    """Features by path, out of the columns of some rows."""
    names = [name for name in columns if name.startswith(PREFIX)]
    return {name.removeprefix(PREFIX): torch.from_numpy(np.ascontiguousarray(columns[name])) for name in names}
