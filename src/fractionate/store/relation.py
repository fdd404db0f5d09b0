"""Which classes a teacher takes for similar, found in its last layer, and that layer itself: kept with its rows in one file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import xxhash
from jaxtyping import Float
from torch import Tensor, nn

from fractionate.errors import MismatchError
from fractionate.store.hidden import OutputLayer
from fractionate.store.layout import RELATION
from fractionate.system.atomic import write_file
from fractionate.theory.teacher_signal import relation_from_rows

RELATION_CLASSES = 4096  # above it a classes × classes table is larger than it is useful


def find_relation(teacher: Any, classes: int) -> Float[Tensor, "classes classes"] | None:
    """The cosines of the rows of the teacher's last linear layer that has one row a class; None where there is none.

    None too where a device map has moved that layer off its device: then `collect(..., class_relation=)` gives it.
    """
    if not isinstance(teacher, nn.Module) or classes > RELATION_CLASSES:
        return None
    head: Callable[[], Any] | None = getattr(teacher, "get_output_embeddings", None)
    layers = [head() if head is not None else None, *reversed(list(teacher.modules()))]
    for layer in layers:
        if isinstance(layer, nn.Linear) and layer.out_features == classes and not layer.weight.is_meta:
            return relation_from_rows(layer.weight.float().cpu())
    return None


def tables_of(relation: Tensor | None, layer: OutputLayer | None, classes: int) -> bytes:
    """The file of class relation and output layer, empty without both. Raises `MismatchError` for a relation of another size."""
    if relation is not None and (relation.shape != (classes, classes) or not bool(torch.isfinite(relation).all())):
        raise MismatchError(
            "class_relation does not fit the logits",
            expected=f"finite [{classes}, {classes}]",
            got=str(list(relation.shape)),
        )
    from safetensors.torch import save

    tables = {} if relation is None else {"class_relation": relation.detach().cpu().contiguous()}
    if layer is not None:
        tables |= {"weight": layer.weight, "constant": layer.constant}
    return save(tables) if tables else b""


def write_tables(root: Path, raw: bytes) -> str:
    """Keep the file; gives its hash, empty for an empty one."""
    if not raw:
        return ""
    write_file(root / RELATION, raw)
    return str(xxhash.xxh3_128_hexdigest(raw))
