"""What users' models take and give: any `nn.Module`, called with a batch, read for its logits, made into rows."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from fractionate.data.labels import IGNORED, MULTI_LABEL, ONE_HOT
from fractionate.errors import FractionateError, MismatchError

FEWEST_SIGMOIDS = 16  # fewer numbers may all lie in 0..1 by chance
SUM_TOLERANCE = 1e-2  # half precision rounds the sum of a thousand probabilities by less than this
Head = int | str | Callable[[Any], Tensor] | None  # where the logits are in what a model gives


def call(model: nn.Module, inputs: Any) -> Any:
    """The model on a batch: a mapping as keyword arguments, a tuple as positional ones, anything else as it is.

    Raises `MismatchError` in place of an error of the model's where the inputs can be seen not to be its own: ids that its
    embedding does not have, names that it does not take, integers where it computes with floating-point numbers, other shapes.
    """
    try:
        if isinstance(inputs, (tuple, list)):
            return model(*inputs)
        # a tensor is checked first: whether something is a mapping takes a microsecond to tell
        return model(**inputs) if not isinstance(inputs, Tensor) and isinstance(inputs, Mapping) else model(inputs)
    except (IndexError, TypeError, ValueError, RuntimeError) as error:
        found = None if isinstance(error, FractionateError) else misfit(model, inputs, error)
        if found is None:
            raise
        raise found from error


def misfit(model: nn.Module, inputs: Any, error: Exception) -> MismatchError | None:
    """What about some inputs does not fit a model that failed on them, where it can be seen; None where it cannot."""
    who = type(model).__name__
    if not isinstance(inputs, Tensor) and isinstance(inputs, Mapping):
        parts, names = list(inputs.values()), list(map(str, inputs))
        taken = inspect.signature(model.forward).parameters
        unknown = [name for name in names if name not in taken]
        if unknown and not any(each.kind is inspect.Parameter.VAR_KEYWORD for each in taken.values()):
            return MismatchError(
                f"the model {who} does not take {', '.join(map(repr, unknown))}",
                expected=f"inputs named {', '.join(taken)}",
                got=", ".join(names),
                fix="leave these columns out of the data, data.remove_columns(...), or rename them",
            )
        if getattr(getattr(model, "config", None), "is_encoder_decoder", False) and "decoder_input_ids" not in names:
            return MismatchError(
                f"the encoder-decoder {who} was given no decoder_input_ids",
                expected="input_ids and decoder_input_ids",
                got=", ".join(names),
                fix="give decoder_input_ids in the data (DataCollatorForSeq2Seq(tokenizer, model=model) makes them)",
            )
    else:
        parts = list(inputs) if isinstance(inputs, (tuple, list)) else [inputs]
    whole = [p for p in parts if isinstance(p, Tensor) and p.numel() and not (p.is_floating_point() or p.is_complex())]
    sizes = [module.num_embeddings for module in model.modules() if isinstance(module, nn.Embedding)]
    if whole and sizes:
        largest, least = max(int(part.max()) for part in whole), min(int(part.min()) for part in whole)
        words = getattr(model, "get_input_embeddings", None)
        known = getattr(words() if callable(words) else None, "num_embeddings", max(sizes))
        if largest >= known or least < 0:
            return MismatchError(
                f"the data have token ids that the embedding of {who} does not: its vocabulary is smaller",
                expected=f"ids in 0..{known - 1}",
                got=f"ids {least}..{largest}",
                fix="use the tokenizer that belongs to this model, or model.resize_token_embeddings(len(tokenizer))",
            )
        places = getattr(getattr(model, "config", None), "max_position_embeddings", None)
        longest = max(part.shape[-1] for part in whole if part.ndim)
        if isinstance(places, int) and longest > places:
            return MismatchError(
                f"the data have longer sequences than {who} has positions",
                expected=f"at most {places} tokens",
                got=f"{longest}",
                fix="tokenizer(..., truncation=True, max_length=…)",
            )
        if isinstance(error, IndexError):
            named = inputs if isinstance(inputs, Mapping) else dict(enumerate(parts))
            return MismatchError(
                f"an embedding of {who} is smaller than the numbers it is given",
                expected=f"numbers below {', '.join(map(str, sorted(set(sizes))))}: the sizes of its embeddings",
                got=", ".join(
                    f"{name}: up to {int(p.max())}" for name, p in named.items() if any(p is one for one in whole)
                ),
                fix="give the model the inputs of its own tokenizer",
            )
    floats = {p.dtype for p in model.parameters() if p.is_floating_point()}
    if whole and not sizes and floats and len(whole) == len(parts):
        return MismatchError(
            f"the model {who} computes with floating-point numbers",
            expected=f"inputs of {', '.join(sorted(map(str, floats)))}",
            got=", ".join(sorted({str(part.dtype) for part in whole})),
            fix="inputs.float(); bytes of pictures: inputs.float() / 255",
        )
    text = str(error).partition("\n")[0]
    if sizes and not whole and "indices" in text:
        return MismatchError(
            f"the model {who} begins with an embedding", expected="whole numbers, ids of tokens or categories",
            got=", ".join(sorted({str(part.dtype) for part in parts if isinstance(part, Tensor)})),
            fix="inputs.long()",
        )  # fmt: skip
    memory = isinstance(error, torch.OutOfMemoryError) or "allocate" in text
    if (
        type(error) is RuntimeError
        and not memory
        and any(word in text for word in ("shape", "size", "channels", "dtype"))
    ):
        shapes = [f"{list(p.shape)} of {p.dtype}" for p in parts if isinstance(p, Tensor)]
        return MismatchError(
            f"the model {who} cannot compute with these inputs",
            expected="inputs of the shape that its layers take",
            got=f"{', '.join(shapes)}; torch says: {text[:200]}",
            fix="call the model on one batch to see where, and change the data or the model's first layer",
        )
    return None


def logits_of(output: Any, head: Head = None) -> Float[Tensor, "..."]:
    """The logits in a model's output: a tensor, `.logits` (Hugging Face, torchvision), a mapping, or the first of a tuple.

    `head` chooses where there is a choice: a place in a tuple, a name in a mapping or an attribute, or a function of the output.
    What is no tensor (an array of a function of one's own, lists of numbers) becomes one. Raises `MismatchError` where no
    floating-point numbers are found.
    """
    found: Any = output
    if head is None and (isinstance(output, Tensor) or _is_numbers(output)):
        pass
    elif callable(head):
        found = head(output)
    elif isinstance(head, int):
        with suppress(IndexError, KeyError, TypeError):  # no such place, or nothing that has places
            found = None
            found = output[head]
    elif isinstance(head, str):
        found = output.get(head) if isinstance(output, Mapping) else getattr(output, head, None)
    elif getattr(output, "logits", None) is not None:
        found = output.logits
    elif isinstance(output, Mapping):
        found = output.get("logits", output.get("out"))
    elif isinstance(output, (tuple, list)) and output:
        found = output[0]
    if not isinstance(found, Tensor) and _is_numbers(found):
        with suppress(TypeError, ValueError, RuntimeError):  # objects, or lists of different lengths
            found = torch.as_tensor(found)
    if not isinstance(found, Tensor):
        names = list(output) if isinstance(output, Mapping) else type(output).__name__
        raise MismatchError(
            "cannot find the logits in what the model gives",
            expected="a tensor, an output with .logits, or a tuple whose first entry are the logits",
            got=f"{names}" if found is None else f"{type(found).__name__} from {names}",
            fix="pass head=: a place in a tuple, a name, or a function of the output",
        )
    logits: Tensor = found.to_dense() if found.layout in (torch.sparse_coo, torch.sparse_csr) else found
    if logits.layout != torch.strided or not logits.is_floating_point():
        raise MismatchError(
            "these are not logits", expected="a dense floating-point tensor", got=f"{logits.dtype}, {logits.layout}"
        )
    return logits


def are_probabilities(values: Float[Tensor, "*rows classes"]) -> bool:
    """Whether all numbers lie in 0..1 and all rows sum to 1 (within `SUM_TOLERANCE`, as half precision rounds)."""
    inside = bool(((values >= 0) & (values <= 1 + SUM_TOLERANCE)).all())
    return inside and values.numel() > 0 and bool(((values.double().sum(-1) - 1).abs() < SUM_TOLERANCE).all())


def check_not_probabilities(logits: Float[Tensor, "rows classes"], fix: str, who: str = "teacher") -> None:
    """Raise `MismatchError` where what a model gives as logits are probabilities: a softmax of them is nearly flat.

    Rows (0, z) of labels of their own with every z in 0..1 are those of a sigmoid.
    """
    if logits.ndim == 2 and logits.shape[1] == 2 and len(logits) >= FEWEST_SIGMOIDS:
        found = logits[:, 1]
        if bool((logits[:, 0] == 0).all() and ((found >= 0) & (found <= 1)).all() and (found > 0).any()):
            raise MismatchError(
                f"the {who} gives probabilities of labels, not logits: the sigmoid would be taken twice",
                expected="logits, before the sigmoid",
                got=f"{len(logits)} numbers, all in 0..1",
                fix=fix.replace("softmax", "sigmoid"),
            )
    if len(logits) >= FEWEST_SIGMOIDS and are_probabilities(logits / 100):
        raise MismatchError(
            f"the {who} gives percentages, not logits",
            expected="logits, before the softmax",
            got=f"{len(logits)} rows of numbers in 0..100 that sum to 100",
            fix="of stored percentages: TeacherSignal((percentages / 100).log(), labels)",
        )
    if are_probabilities(logits):
        raise MismatchError(
            f"the {who} gives probabilities, not logits: the softmax would be taken twice",
            expected="logits, before the softmax",
            got=f"{len(logits)} rows of numbers in 0..1 that sum to 1",
            fix=fix,
        )


def _is_numbers(value: Any) -> bool:
    """An array, or lists of numbers, such as a function of one's own returns."""
    while isinstance(value, list) and value:
        value = value[0]
        if isinstance(value, (int, float)):
            return True
    return hasattr(value, "__array__") and not isinstance(value, Tensor)


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
        if logits.shape == labels.shape and labels.ndim == 2 and bool(((labels == 0) | (labels == 1)).all()):
            one = bool((labels.sum(dim=1) == 1).all())
            raise MismatchError(
                "the labels are rows of zeros and ones, one number per class",
                expected="one class number per example",
                got=f"{labels.dtype} {list(labels.shape)}",
                fix=ONE_HOT if one else MULTI_LABEL,
            )
        raise MismatchError(
            "the model's logits do not fit the labels",
            expected=f"[{', '.join(map(str, labels.shape))}, classes]",
            got=str(list(logits.shape)),
            fix="a column of labels is one label per row: labels.squeeze(1)"
            if logits.ndim == 2 and labels.ndim == 2 and labels.shape[1] == 1
            else "one row of logits for each label; choose another head= if this is not the classifying one",
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
