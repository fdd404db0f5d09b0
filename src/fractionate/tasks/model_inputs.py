"""What a model is called with on a batch: its view, in its floating-point type, with a decoder's inputs made of the labels."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fractionate.data.batch import Batch, mapped
from fractionate.errors import MismatchError

DECODER_INPUTS = "decoder_input_ids"  # transformers' name
MAKES_THEM = "prepare_decoder_input_ids_from_labels"  # and that of the method by which a model makes them of labels


@dataclass(frozen=True, eq=False)
class ModelInputs:
    """Called with a batch, gives what one model takes.

    Floating-point inputs are cast to the model's type where all its parameters have one (a teacher in bfloat16, data in
    float64). An encoder-decoder that is given labels alone gets its decoder's inputs as it makes them itself.

    Args:
        dtype: The one floating-point type of the model's parameters; None: several, or none.
        decoder: The model's method that makes a decoder's inputs of labels; None where it has none.
    """

    dtype: torch.dtype | None
    decoder: Callable[..., Tensor] | None

    @classmethod
    def of(cls, model: nn.Module) -> ModelInputs:
        """What this model takes."""
        dtypes = {p.dtype for p in model.parameters() if p.is_floating_point()}
        decoder = getattr(model, MAKES_THEM, None)
        return cls(dtypes.pop() if len(dtypes) == 1 else None, decoder if callable(decoder) else None)

    def __call__(self, batch: Batch, view: str = "") -> Any:
        """The inputs, of one of the batch's views ("": the student's).

        Raises `MismatchError` where a decoder's inputs cannot be made of the labels.
        """
        inputs = batch.view(view)
        if self.decoder is not None and isinstance(inputs, Mapping) and batch.labels.ndim == 2:
            inputs = self._with_decoder_inputs(inputs, batch.labels)
        return inputs if self.dtype is None else mapped(inputs, self._cast)

    def _cast(self, part: Tensor) -> Tensor:
        return part.to(self.dtype) if part.is_floating_point() and part.dtype != self.dtype else part

    def _with_decoder_inputs(self, inputs: Mapping[str, Any], labels: Tensor) -> Mapping[str, Any]:
        if DECODER_INPUTS in inputs or "decoder_inputs_embeds" in inputs:
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
