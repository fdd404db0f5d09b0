"""Arrays of a caller in the form that torch takes: dense, in this machine's byte order, with every value meant."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from fractionate.errors import MismatchError


def dense_array(value: Any, name: str) -> np.ndarray[Any, Any]:
    """An array, frame or series as a NumPy array. Raises `MismatchError` for masked values, which would be read as numbers."""
    masked = int(np.ma.getmaskarray(value).sum()) if isinstance(value, np.ma.MaskedArray) else 0
    if masked:
        raise MismatchError(
            f"{name}: {masked} values are masked",
            expected="an array without masked values",
            got=f"masked_array {list(value.shape)}",
            fix="leave these examples out, or say what stands for them: array.filled(0)",
        )
    array = np.asarray(value)
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


def tensor_of(array: np.ndarray[Any, Any]) -> Tensor:
    """A tensor of an array; copies those that torch cannot share: read-only ones and those read backwards."""
    shared = array.flags.writeable and all(stride >= 0 for stride in array.strides)
    return torch.as_tensor(array if shared else array.copy())


def check_dense(value: Any, name: str) -> None:
    """Raise `MismatchError` for sparse and nested tensors and SciPy's sparse matrices, whose rows cannot be taken one by one."""
    kind, fix = "", "inputs.to_dense()"
    if isinstance(value, Tensor):
        if value.is_nested:
            kind, fix = "a nested tensor", "torch.nested.to_padded_tensor(inputs, 0.0)"
        elif value.layout != torch.strided:
            kind = str(value.layout)
    elif hasattr(value, "toarray") and hasattr(value, "nnz"):
        kind, fix = type(value).__name__, "inputs.toarray()"
    if kind:
        raise MismatchError(f"{name}: inputs are sparse", expected="dense tensors or arrays", got=kind, fix=fix)
