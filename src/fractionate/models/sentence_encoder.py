"""An encoder of transformers as a model of embeddings: the mean of its hidden states over the tokens of each text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn


class SentenceEncoder(nn.Module):
    """Embeddings [batch, width] of [batch, tokens], and [batch, texts, width] of [batch, texts, tokens].

    Source: Reimers and Gurevych (2019), arXiv 1908.10084, mean pooling.
    """

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    @property
    def config(self) -> Any:
        """The encoder's."""
        return self.encoder.config

    def forward(
        self,
        input_ids: Int[Tensor, "*batch tokens"],
        attention_mask: Int[Tensor, "*batch tokens"],
        token_type_ids: Int[Tensor, "*batch tokens"] | None = None,
    ) -> Float[Tensor, "*batch width"]:
        """The mean over tokens that are no padding."""
        rows = input_ids.shape[:-1]
        given = {"input_ids": input_ids, "attention_mask": attention_mask}
        if token_type_ids is not None:
            given["token_type_ids"] = token_type_ids
        flat = {name: part.flatten(0, -2) for name, part in given.items()}
        states = self.encoder(**flat).last_hidden_state
        mask = flat["attention_mask"].unsqueeze(-1).to(states.dtype)
        means: Tensor = (states * mask).sum(dim=1) / mask.sum(dim=1).clamp_min(1)
        return means.reshape(*rows, -1)

    def save_pretrained(self, folder: Path | str, state_dict: dict[str, Tensor] | None = None) -> None:
        """Write the encoder alone, for `AutoModel.from_pretrained(folder)`; the mean is the caller's."""
        state = self.state_dict() if state_dict is None else state_dict
        inner = {name.removeprefix("encoder."): value for name, value in state.items()}
        encoder: Any = self.encoder
        with torch.no_grad():
            encoder.save_pretrained(folder, state_dict=inner)
