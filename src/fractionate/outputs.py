"""What users' models take and give: any `nn.Module`, called with a batch, read for its logits, made into rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from fractionate.errors import MismatchError

IGNORED = -100  # the label of examples and tokens that count for nothing (the convention of torch's cross_entropy)
Head = int | str | Callable[[Any], Tensor] | None  # where the logits are in what a model gives


def call(model: nn.Module, inputs: Any) -> Any:
    """The model on a batch: a mapping as keyword arguments, a tuple as positional ones, anything else as it is."""
    if isinstance(inputs, (tuple, list)):
        return model(*inputs)
    # a tensor is asked for first: whether something is a mapping takes a microsecond to tell
    return model(**inputs) if not isinstance(inputs, Tensor) and isinstance(inputs, Mapping) else model(inputs)


def logits_of(output: Any, head: Head = None) -> Float[Tensor, "..."]:
    """The logits in a model's output: a tensor, `.logits` (Hugging Face, torchvision), a mapping, or the first of a tuple.

    `head` chooses among several: a place in a tuple, a name in a mapping or an attribute, or a function of the output.
    Raises `MismatchError` where no floating-point tensor is found.
    """
    found: Any = output
    if head is None and isinstance(output, Tensor):
        pass
    elif callable(head):
        found = head(output)
    elif isinstance(head, int):
        found = output[head]
    elif isinstance(head, str):
        found = output[head] if isinstance(output, Mapping) else getattr(output, head, None)
    elif getattr(output, "logits", None) is not None:
        found = output.logits
    elif isinstance(output, Mapping):
        found = output.get("logits", output.get("out"))
    elif isinstance(output, (tuple, list)) and output:
        found = output[0]
    if not isinstance(found, Tensor):
        names = list(output) if isinstance(output, Mapping) else type(output).__name__
        raise MismatchError(
            "cannot find the logits in what the model gives",
            expected="a tensor, an output with .logits, or a tuple whose first entry are the logits",
            got=f"{names}" if found is None else f"{type(found).__name__} from {names}",
            fix="pass head=: a place in a tuple, a name, or a function of the output",
        )
    if found.layout != torch.strided or not found.is_floating_point():
        raise MismatchError(
            "these are not logits", expected="a dense floating-point tensor", got=f"{found.dtype}, {found.layout}"
        )
    return found


def rows(
    logits: Float[Tensor, "..."], labels: Int[Tensor, "..."], *, predicts_next: bool = False, complete: bool = False
) -> tuple[Float[Tensor, "rows classes"], Int[Tensor, "rows"], Int[Tensor, "rows"] | None]:
    """Logits and labels as rows, one a thing to predict: examples, or the tokens whose label is not `IGNORED`.

    Logits [batch, classes] with labels [batch], or [batch, tokens, classes] with [batch, tokens]. `predicts_next` lets token t
    predict label t + 1, as causal language models do; `complete` promises that no label is `IGNORED`.
    The third is the batch place of each row, None where it is 0..batch-1.
    Raises `MismatchError` for shapes that do not fit: nothing is broadcast.
    """
    if logits.ndim != labels.ndim + 1 or logits.shape[:-1] != labels.shape or logits.ndim not in (2, 3):
        raise MismatchError(
            "the model's logits do not fit the labels",
            expected=f"[{', '.join(map(str, labels.shape))}, classes]",
            got=str(list(logits.shape)),
            fix="one row of logits for each label; choose another head= if this is not the classifying one",
        )
    place = None
    if logits.ndim == 3:
        if predicts_next:
            logits, labels = logits[:, :-1], labels[:, 1:]
        batch, tokens = labels.shape
        place = torch.arange(batch, device=labels.device)[:, None].expand(batch, tokens).reshape(-1)
        logits, labels = logits.reshape(-1, logits.shape[-1]), labels.reshape(-1)
    if complete:
        return logits, labels, place
    ignored = labels == IGNORED
    if bool(ignored.any()):
        kept = ~ignored
        place = kept.nonzero().flatten() if place is None else place[kept]
        logits, labels = logits[kept], labels[kept]
    return logits, labels, place


def device_of(model: nn.Module) -> torch.device:
    """Where a model's first parameter or buffer lives."""
    for tensor in (*model.parameters(), *model.buffers()):
        return tensor.device
    return torch.device("cpu")
