"""Translation: one row for each labelled token of the target; text is written for BLEU and chrF."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from torch import Tensor, nn

from fractionate.data.batch import Batch
from fractionate.errors import MismatchError
from fractionate.tasks.kind import Kind, inputs_by_name, kinds


@kinds.register("translation")
@dataclass(frozen=True)
class Translation(Kind):
    """Encoder-decoders: inputs with `input_ids` and `decoder_input_ids`, logits [batch, tokens, vocabulary].

    Args:
        beams: Beams of the text that metrics read; 1 is greedy.
    """

    beams: int = 1
    metrics: ClassVar[tuple[str, ...]] = ("token-nll", "accuracy", "perplexity", "ta-rate")
    tokens: ClassVar[Literal["", "aligned", "next"]] = "aligned"

    def generate(self, model: nn.Module, batch: Batch, tokens: int) -> Sequence[Sequence[int]]:
        """Token ids that the model writes for each source, without its first token."""
        if not hasattr(model, "generate"):
            raise MismatchError(
                f"{type(model).__name__} has no generate()", expected="an encoder-decoder of transformers"
            )
        inputs = {name: part for name, part in inputs_by_name(batch.inputs).items() if not name.startswith("decoder_")}
        writer: Any = model
        found: Tensor = writer.generate(**inputs, max_new_tokens=tokens, do_sample=False, num_beams=self.beams)
        return [row[1:] for row in found.tolist()]
