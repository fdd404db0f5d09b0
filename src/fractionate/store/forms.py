"""Forms of a signal on disk: dense logits, the k largest with the exact rest, k sampled classes.

A form turns logits into columns of rows and back. The label and its own logit are stored in every form, so the teacher's
confidence is exact in all of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
import xxhash
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from fractionate.errors import ConfigError, NumericsError

Array = NDArray[Any]
FormKind = Literal["dense", "top-k", "sampled"]
StoredDtype = Literal["float64", "float32", "float16", "bfloat16"]
TORCH = {"float64": torch.float64, "float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def smallest_unsigned(classes: int) -> np.dtype[Any]:
    """The narrowest unsigned integer that numbers the classes."""
    return np.dtype(next(code for code in ("u1", "<u2", "<u4", "<i8") if classes - 1 <= np.iinfo(code).max))


def to_numpy(values: Tensor, dtype: str) -> Array:
    """A tensor in its stored type; bfloat16 as its bits."""
    stored = values.detach().to("cpu", TORCH[dtype]).contiguous()
    if dtype == "bfloat16":
        return stored.view(torch.int16).numpy().view("<u2")
    return stored.numpy()


def to_torch(values: Array, dtype: str) -> Tensor:
    """The tensor of a stored array."""
    array = np.ascontiguousarray(values)
    if dtype == "bfloat16":
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


@dataclass(frozen=True)
class Form:
    """How rows of logits are kept."""

    kind: FormKind
    classes: int
    dtype: StoredDtype = "float32"
    k: int = 0
    temperatures: tuple[float, ...] = (1.0,)

    def __post_init__(self) -> None:
        if self.kind not in ("dense", "top-k", "sampled"):
            raise ConfigError(f"unknown form {self.kind!r}", expected="dense, top-k or sampled")
        if self.dtype not in TORCH:
            raise ConfigError(f"unknown dtype {self.dtype!r}", expected=", ".join(TORCH))
        if self.kind == "top-k" and not 1 <= self.k <= self.classes - 1:
            raise ConfigError(
                "k cannot be used",
                expected=f"1 to {self.classes - 1} for {self.classes} classes (the label is kept beside them)",
                got=str(self.k),
            )
        if self.kind == "sampled" and not 1 <= self.k <= 65_535:
            raise ConfigError("k cannot be used", expected="1 to 65,535 draws", got=str(self.k))

    def encode(
        self, logits: Float[Tensor, "rows classes"], labels: Int[Tensor, "rows"], seeds: Array | None = None
    ) -> dict[str, Array]:
        """The columns of some rows. Raises `NumericsError` where the stored type cannot hold a logit."""
        columns = {"labels": labels.cpu().numpy().astype(smallest_unsigned(self.classes))}
        if self.kind == "dense":
            return columns | {"values": self._narrow(logits)}
        raise NotImplementedError

    def decode(self, columns: Mapping[str, Array]) -> Float[Tensor, "rows classes"]:
        """The logits of some rows."""
        return to_torch(columns["values"], self.dtype)

    def _narrow(self, values: Tensor) -> Array:
        stored = values.to(TORCH[self.dtype])
        if self.dtype == "float16" and bool((torch.isinf(stored) & torch.isfinite(values)).any()):
            raise NumericsError(
                "a logit is too large for float16",
                expected="at most 65,504 in size",
                got=f"{values[torch.isfinite(values)].abs().max().item():g}",
                fix="store bfloat16 or float32",
            )
        return to_numpy(stored, self.dtype)

    @property
    def bfloat16(self) -> tuple[str, ...]:
        """The columns that hold bfloat16 as its bits."""
        return ("values", "label_values") if self.dtype == "bfloat16" else ()

    @property
    def row_bytes(self) -> float:
        """Bytes a row, with hash, place and key."""
        width = TORCH[self.dtype].itemsize
        return 8 + 8 + 16 + smallest_unsigned(self.classes).itemsize + self.classes * width


def row_hashes(columns: Mapping[str, Array]) -> NDArray[np.uint64]:
    """xxh3-64 of each row: its place, view and key, and all that is stored of it."""
    names = sorted(name for name in columns if name not in ("hashes", "row_offsets", "item_offsets"))
    rows = len(columns["labels"])
    matrix = np.concatenate(
        [np.ascontiguousarray(columns[name]).reshape(rows, -1).view(np.uint8).reshape(rows, -1) for name in names],
        axis=1,
    )
    width, raw, digest = matrix.shape[1], matrix.reshape(-1).data, xxhash.xxh3_64_intdigest
    return np.fromiter((digest(raw[at : at + width]) for at in range(0, rows * width, width)), np.uint64, rows)
