"""Hashes of content: what tells one tensor from another, in every process."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
import xxhash
from torch import Tensor


def content_hash(*tensors: Tensor) -> str:
    """xxh3-128 of tensors: their dtypes, shapes and values."""
    digest = xxhash.xxh3_128()
    for tensor in tensors:
        digest.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def parts_of(value: Any) -> Iterator[Tensor]:
    """The plain tensors that a state dict holds; of quantized tensors and packed weights what they are made of."""
    if isinstance(value, Tensor):
        if value.is_quantized:
            yield value.dequantize()
        elif hasattr(value, "__tensor_flatten__"):  # torch's protocol of tensors that are made of others
            for name in value.__tensor_flatten__()[0]:
                yield from parts_of(getattr(value, name))
        else:
            yield value
    elif isinstance(value, (Mapping, list, tuple)):
        for part in value.values() if isinstance(value, Mapping) else value:
            yield from parts_of(part)
    else:
        yield torch.tensor(list(repr(value).encode()), dtype=torch.uint8)
