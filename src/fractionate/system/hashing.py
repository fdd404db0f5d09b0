"""Hashes of content: what tells one tensor from another, in every process."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import xxhash
from torch import Tensor


def content_hash(*parts: Tensor | str) -> str:
    """xxh3-128 of tensors (their dtypes, shapes and values) and texts."""
    digest = xxhash.xxh3_128()
    for part in parts:
        if isinstance(part, str):
            digest.update(f"{len(part)}:{part}".encode())
            continue
        feed_tensor(digest, part)
    return digest.hexdigest()


def feed_tensor(digest: Any, tensor: Tensor) -> None:
    """Add a tensor to a hash: its dtype, its shape and its values."""
    part = tensor.detach().cpu().contiguous()
    digest.update(f"{part.dtype}{tuple(part.shape)}".encode())
    digest.update(part.reshape(-1).view(torch.uint8).numpy().data)


def file_hash(path: Path) -> str:
    """xxh3-128 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, xxhash.xxh3_128).hexdigest()


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
