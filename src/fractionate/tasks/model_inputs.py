"""What a model is called with on a batch: its view, in its floating-point type, with a decoder's inputs made of the labels."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fractionate.data.batch import Batch, mapped
from fractionate.errors import MismatchError, printable

DECODER_INPUTS = "decoder_input_ids"  # transformers' name
MAKES_THEM = "prepare_decoder_input_ids_from_labels"  # and that of the method by which a model makes them of labels


@dataclass(frozen=True, eq=False)
class ModelInputs:
    """Called with a batch, gives what one model takes.

    Floating-point inputs are cast to the model's type where all its parameters have one (a teacher in bfloat16, data in
    float64). An encoder-decoder that is given labels alone gets its decoder's inputs as it makes them itself.

    Args:
        dtype: The one floating-point type of the model's parameters; None: more than one, or none.
        decoder: The model's method that makes a decoder's inputs of labels; None where it has none.
        reads: The names that its `forward` can use; None: any.
        first: The name of its first input.
    """

    dtype: torch.dtype | None
    decoder: Callable[..., Tensor] | None
    reads: frozenset[str] | None = None
    first: str = "input_ids"

    @classmethod
    def of(cls, model: nn.Module) -> ModelInputs:
        """What this model takes."""
        decoder = getattr(model, MAKES_THEM, None)
        first = str(getattr(model, "main_input_name", "input_ids"))
        return cls(dtype_of(model), decoder if callable(decoder) else None, names_read(model), first)

    def __call__(self, batch: Batch, view: str = "") -> Any:
        """The inputs, of one of the batch's views ("": the student's).

        Raises `MismatchError` where a decoder's inputs cannot be made of the labels.
        """
        inputs = batch.view(view)
        if self.decoder is not None and batch.labels.ndim == 2:
            if isinstance(inputs, Tensor):  # the data's only column, which the decoder's inputs are put next to
                inputs = {self.first: inputs}
            inputs = self._with_decoder_inputs(inputs, batch.labels)
        if self.reads is not None and isinstance(inputs, Mapping) and not self.reads.issuperset(inputs):
            inputs = self._without_unread(inputs)
        return in_dtype(inputs, self.dtype)

    def _without_unread(self, inputs: Mapping[str, Any]) -> Mapping[str, Any]:
        assert self.reads is not None
        unread = [printable(str(name)) for name in inputs if name not in self.reads]
        warnings.warn(
            f"a model does not read the columns {', '.join(map(repr, unread))}: they are left out of what it is given "
            "(data.remove_columns(...) leaves them out of the data; views= gives teacher and student inputs of their own)",
            stacklevel=2,
        )
        return {name: part for name, part in inputs.items() if name in self.reads}

    def _with_decoder_inputs(self, inputs: Any, labels: Tensor) -> Any:
        if not isinstance(inputs, Mapping) or DECODER_INPUTS in inputs or "decoder_inputs_embeds" in inputs:
            return inputs
        assert self.decoder is not None
        try:
            return {**inputs, DECODER_INPUTS: self.decoder(labels=labels)}
        except (
            ValueError,
            TypeError,
        ) as error:  # the model's own, where its settings lack the token a sequence starts with
            raise MismatchError(
                "the model cannot make its decoder's inputs of the labels",
                expected=f"{DECODER_INPUTS} among the inputs, or a model with config.decoder_start_token_id and pad_token_id",
                got=str(error).splitlines()[0],
                fix=f"give {DECODER_INPUTS} in the data (DataCollatorForSeq2Seq(tokenizer, model=model) makes them)",
            ) from error


def dtype_of(model: nn.Module) -> torch.dtype | None:
    """The one floating-point type of a model's parameters; None: more than one, or none."""
    dtypes = {p.dtype for p in model.parameters() if p.is_floating_point()}
    return dtypes.pop() if len(dtypes) == 1 else None


def in_dtype(inputs: Any, dtype: torch.dtype | None) -> Any:
    """Inputs with their floating-point tensors in a model's type; as they are where it has none."""
    if dtype is None:
        return inputs
    return mapped(inputs, lambda part: part.to(dtype) if part.is_floating_point() and part.dtype != dtype else part)


def names_read(model: nn.Module) -> frozenset[str] | None:
    """The names that a model's `forward` can use; None where it takes any.

    transformers writes into its `**kwargs` which further names there are (`Unpack[TransformersKwargs]`): others would vanish.
    """
    try:
        parameters = inspect.signature(model.forward).parameters
    except (ValueError, TypeError):  # a compiled function, such as that of a traced module
        return None
    rest = [one.annotation for one in parameters.values() if one.kind is inspect.Parameter.VAR_KEYWORD]
    further: Mapping[str, Any] | None = None
    if rest:
        further = getattr(next(iter(getattr(rest[0], "__args__", ())), None), "__annotations__", None)
    return None if further is None else frozenset({*parameters, *further})
