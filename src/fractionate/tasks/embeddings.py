"""Embeddings: texts (pictures, rows) as vectors, judged by retrieval and by gold similarities."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from fractionate.data.batch import Batch
from fractionate.errors import ConfigError, MismatchError
from fractionate.tasks.kind import NumberKind, kinds
from fractionate.tasks.predictions import Predictions


@kinds.register("embeddings")
@dataclass(frozen=True)
class Embeddings(NumberKind):
    """Embeddings [batch, texts, width]: a query, its positive and further negatives; [batch, width] where an example is one text.

    Args:
        texts: Texts of an example: 2 for pairs, 1 for texts alone.
        scale: Of the cosines of a query with all other texts of its batch, before the softmax of the loss on labels.
        gold: Labels are similarities of the first two texts, -1 to 1: the loss on labels is (cosine - label)². Else labels are
            only read of single texts, where equal ones are relevant to each other.

    Source: in-batch negatives, Henderson et al. 2017 (arXiv 1705.00652), with the scale 20 of sentence-transformers.
    """

    texts: int = 2
    scale: float = 20.0
    gold: bool = False
    metrics: ClassVar[tuple[str, ...]] = ("recall-at", "recall-at(10)", "retrieval-mrr", "spearman")
    teacher_terms: ClassVar[tuple[str, ...]] = ("candidates",)

    def __post_init__(self) -> None:
        if self.texts < 1 or not 0 < self.scale < float("inf") or (self.gold and self.texts != 2):
            raise ConfigError(
                "invalid value for embeddings",
                expected="texts of at least 1, a scale above 0, and gold similarities of pairs (texts=2)",
                got=f"texts={self.texts}, scale={self.scale}, gold={self.gold}",
            )

    @property
    def label_formula(self) -> str:
        """The loss on labels, for contracts."""
        if self.texts == 1:
            return "0"
        return "(label - cosine)²" if self.gold else f"H(own positive, softmax({self.scale:g} · cosine in the batch))"

    def unrelated(self, values: Tensor, shuffled: Tensor) -> Tensor:
        """Queries of other rows: whole rows in another order would be the same retrieval."""
        return torch.cat([shuffled[:, :1], values[:, 1:]], dim=1)

    @property
    def couples_batch(self) -> bool:
        """Whether the loss on labels of an example depends on the others of its batch."""
        return self.texts > 1 and not self.gold

    def outputs(self, values: Tensor, batch: Batch) -> Float[Tensor, "batch texts width"]:
        """Embeddings text by text. Raises `MismatchError` for another number of texts."""
        flat = values.ndim == 2 and values.shape[1] % self.texts == 0
        if len(values) != len(batch.labels) or not (flat or (values.ndim == 3 and values.shape[1] == self.texts)):
            raise MismatchError(
                "the model does not give an embedding for each text",
                expected=f"[{len(batch.labels)}, {self.texts}, width]",
                got=str(list(values.shape)),
                fix="Task('embeddings(texts=1)', ...) for examples of one text",
            )
        return values.reshape(len(values), self.texts, -1)

    def label_loss(self, predictions: Predictions) -> Float[Tensor, "rows"]:
        """Cross-entropy with the own positive in the batch; of gold similarities the squared error; 0 for single texts."""
        found = predictions.required_logits
        found = found.to(torch.promote_types(found.dtype, torch.float32))
        if self.texts == 1:
            return 0.0 * found.sum(dim=(1, 2))  # a text alone has nothing to be near to, but for a teacher
        if self.gold:
            return (
                functional.cosine_similarity(found[:, 0], found[:, 1]) - predictions.labels.to(found.dtype)
            ).square()
        scores = similarities(found, self.scale)
        return functional.cross_entropy(scores, own_positive(found), reduction="none")


def similarities(embeddings: Float[Tensor, "rows texts width"], scale: float) -> Float[Tensor, "rows candidates"]:
    """scale · cosine of each query with every other text of the batch, example by example: rows · (texts - 1) candidates."""
    unit = functional.normalize(embeddings, dim=2)
    return scale * unit[:, 0] @ unit[:, 1:].flatten(0, 1).T


def own_positive(embeddings: Float[Tensor, "rows texts width"]) -> Tensor:
    """The place of each query's positive among the candidates of `similarities`."""
    return torch.arange(len(embeddings), device=embeddings.device) * (embeddings.shape[1] - 1)
