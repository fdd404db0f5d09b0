"""Hidden states as a store form: what enters the teacher's output layer is kept a row, the layer itself once a store.

A row of logits is as long as the vocabulary, the hidden state it is made of a few hundred numbers: where rows are read,
logits = hidden · weightᵀ + constant are made again, a batch at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import xxhash
from jaxtyping import Float
from torch import Tensor, nn

from fractionate.errors import ConfigError, MismatchError
from fractionate.store.layout import RELATION
from fractionate.system.atomic import write_file
from fractionate.theory.teacher_signal import relation_from_rows

TOLERANCE = {
    "float32": 1e-3,
    "bfloat16": 3e-2,
    "float16": 5e-3,
}  # of the largest logit, by what the teacher computes in


@dataclass(frozen=True, eq=False)
class OutputLayer:
    """The last step of a teacher: logits = hidden · weightᵀ + constant."""

    weight: Float[Tensor, "classes width"]
    constant: Float[Tensor, "classes"]

    def logits(self, hidden: Float[Tensor, "rows width"]) -> Float[Tensor, "rows classes"]:
        """The logits of some rows, in float32."""
        return torch.addmm(self.constant, hidden.to(self.weight.dtype), self.weight.T)


class HiddenLogits:
    """Logits [rows, classes] that are made of hidden states for the rows that are indexed."""

    def __init__(self, hidden: Float[Tensor, "rows width"], layer: OutputLayer) -> None:
        self.hidden, self.layer = hidden, layer
        self.shape = (len(hidden), len(layer.weight))
        self.device, self.dtype = layer.weight.device, layer.weight.dtype

    def __getitem__(self, index: Any) -> Float[Tensor, "some classes"]:
        return self.layer.logits(self.hidden[index])


class HiddenWatch:
    """Keeps what entered a teacher's output layer in its last pass."""

    def __init__(self, layer: nn.Linear) -> None:
        self.layer = layer
        self.entered: Tensor | None = None

    def rows(self) -> Float[Tensor, "batch *tokens width"]:
        """What entered, on the CPU in float32."""
        assert self.entered is not None, "the teacher has not been run"
        return self.entered.detach().float().cpu()

    def plain(self, classes: int) -> OutputLayer:
        """The layer with its own bias, of so many classes."""
        weight, bias = self.layer.weight.detach().float().cpu()[:classes], self.layer.bias
        constant = weight.new_zeros(classes) if bias is None else bias.detach().float().cpu()[:classes]
        return OutputLayer(weight.clone().contiguous(), constant.clone().contiguous())

    def output_layer(
        self, hidden: Float[Tensor, "rows width"], logits: Float[Tensor, "rows classes"], precision: str
    ) -> OutputLayer:
        """The layer as it is kept. Raises `MismatchError` where the teacher does more to its logits than this layer does."""
        found, most = self.plain(logits.shape[1]), TOLERANCE[precision] * float(logits.abs().max())
        gap = float((found.logits(hidden) - logits).abs().max())
        if gap > most:  # a constant that is added after the layer, as in Marian's models
            found = OutputLayer(found.weight, found.constant + logits[0].float() - found.logits(hidden[:1])[0])
            gap = float((found.logits(hidden) - logits).abs().max())
        if not gap <= most:
            raise MismatchError(
                "the teacher's logits are not made by its output layer alone",
                expected="hidden · weightᵀ + a constant",
                got=f"a difference of {gap:.3g}",
                fix='a soft cap or a scale of the logits is part of the teacher: form="top-k" or "dense" keeps them',
            )
        return found


@contextmanager
def hidden_watch(teacher: Any) -> Iterator[HiddenWatch]:
    """Watch the output layer of a teacher: `get_output_embeddings()` of transformers models, else its last linear layer.

    Raises `ConfigError` for a teacher that is no torch module or has no linear layer.
    """
    ask: Callable[[], Any] | None = getattr(teacher, "get_output_embeddings", None)
    named = None if ask is None else ask()
    linear = (
        [part for part in teacher.modules() if isinstance(part, nn.Linear)] if isinstance(teacher, nn.Module) else []
    )
    layer = named if isinstance(named, nn.Linear) else linear[-1] if linear else None
    if layer is None or layer.weight.is_meta:
        raise ConfigError(
            'form="hidden" keeps what enters the output layer of a torch module',
            expected="a model with a linear output layer on one device",
            got=type(teacher).__name__,
            fix='form="dense" or "top-k"',
        )
    watch = HiddenWatch(layer)

    def enter(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        watch.entered = inputs[0]

    handle = layer.register_forward_pre_hook(enter)
    try:
        yield watch
    finally:
        handle.remove()


RELATION_CLASSES = 4096  # above it a classes × classes table is larger than it is useful


def find_relation(teacher: Any, classes: int) -> Float[Tensor, "classes classes"] | None:
    """The cosines of the rows of the teacher's last linear layer that has one row per class; None where there is none.

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
