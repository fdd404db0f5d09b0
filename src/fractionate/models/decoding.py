"""Translators run again: the decoder of one forward pass on other tokens, with or without its encoder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from fractionate.errors import MismatchError
from fractionate.models.outputs import Head, call, logits_of
from fractionate.system.registry import Registry


class Decoding(Protocol):
    """How a translator is run again on the same sources with other decoder inputs."""

    def encode(self, model: nn.Module, inputs: Any, output: Any) -> Any:
        """What the decoder reads of the sources; `output` is what the model returned for these inputs, None if it was not run."""
        ...

    def decode(
        self, model: nn.Module, inputs: Any, memory: Any, prefix: Int[Tensor, "batch tokens"]
    ) -> Float[Tensor, "batch tokens classes"]:
        """The logits at each token of the decoder inputs."""
        ...

    def prefix(self, inputs: Any) -> Int[Tensor, "batch tokens"]:
        """The decoder inputs that the model was called with."""
        ...


decodings: Registry[Decoding] = Registry("decoding", "fractionate.decodings")


@decodings.register("encoder-decoder")
@dataclass(frozen=True)
class EncoderDecoder:
    """Encoder-decoders of Hugging Face (Marian, BART, T5, …): the encoder runs once, its states go to the decoder again."""

    def encode(self, model: nn.Module, inputs: Any, output: Any) -> Any:
        known = getattr(output, "encoder_last_hidden_state", None)
        if known is not None:
            return known
        if not hasattr(model, "get_encoder"):
            raise MismatchError(
                f"{type(model).__name__} is no encoder-decoder of Hugging Face", expected="a model with get_encoder()",
                fix='decoding="call-again" calls any module as a whole',
            )  # fmt: skip
        encoder: Any = model.get_encoder()  # type: ignore[operator]
        return encoder(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"])[0]

    def decode(self, model: nn.Module, inputs: Any, memory: Any, prefix: Tensor) -> Tensor:
        return logits_of(
            model(encoder_outputs=(memory,), attention_mask=inputs["attention_mask"], decoder_input_ids=prefix)
        )

    def prefix(self, inputs: Any) -> Tensor:
        return _part(inputs, "decoder_input_ids")


@decodings.register("call-again")
@dataclass(frozen=True)
class CallAgain:
    """Any module: it is called again as a whole, encoder included. `where` finds the decoder inputs among its inputs."""

    where: str | int = "decoder_input_ids"
    head: Head = None

    def encode(self, model: nn.Module, inputs: Any, output: Any) -> Any:
        return None

    def decode(self, model: nn.Module, inputs: Any, memory: Any, prefix: Tensor) -> Tensor:
        if isinstance(inputs, Mapping):
            changed: Any = {**inputs, self.where: prefix}
        else:
            changed = tuple(prefix if place == self.where else part for place, part in enumerate(inputs))
        return logits_of(call(model, changed), self.head)

    def prefix(self, inputs: Any) -> Tensor:
        return _part(inputs, self.where)


def _part(inputs: Any, where: str | int) -> Tensor:
    try:
        found = inputs[where]
    except (KeyError, IndexError, TypeError):
        found = None
    if not (isinstance(found, Tensor) and found.ndim == 2 and isinstance(inputs, (Mapping, tuple, list))):
        known = ", ".join(map(str, inputs)) if isinstance(inputs, Mapping) else type(inputs).__name__
        raise MismatchError(
            f"there are no decoder inputs at {where!r}", expected="token ids [batch, tokens] there",
            got=known, fix="CallAgain(where=...) names the place",
        )  # fmt: skip
    return found


def shifted(prefix: Int[Tensor, "batch tokens"], chosen: Int[Tensor, "batch tokens"]) -> Int[Tensor, "batch tokens"]:
    """The decoder inputs of the next pass: the first token of this one's, then the chosen tokens, one place later."""
    return torch.cat([prefix[:, :1], chosen[:, :-1]], dim=1)
