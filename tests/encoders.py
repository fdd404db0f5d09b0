"""Tiny encoders of transformers, with random weights, and batches for them."""

from __future__ import annotations

import functools
import warnings

import torch
from torch import nn

WIDTH, HEADS, LAYERS, WORDS = 16, 2, 2, 40
SIZES = {
    "hidden_size": WIDTH, "num_attention_heads": HEADS, "num_hidden_layers": LAYERS, "intermediate_size": 24,
    "num_labels": 3, "hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1, "initializer_range": 0.3,
}  # fmt: skip


@functools.cache
def transformers():
    """The library, whose import warns about itself."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import transformers

        # the classes are loaded lazily, and so are their warnings
        for name in ("BertForSequenceClassification", "RobertaForSequenceClassification", "ViTForImageClassification"):
            getattr(transformers, name)
    return transformers


def encoder(kind: str = "bert", *, seed: int = 0, attention: str = "eager", **changes) -> nn.Module:
    """A classifier on a tiny encoder: bert, roberta or vit."""
    library = transformers()
    torch.manual_seed(seed)
    sizes = SIZES | changes
    if kind == "vit":
        config = library.ViTConfig(image_size=8, patch_size=4, num_channels=1, **sizes)
        name = "ViTForImageClassification"
    else:
        words = {"vocab_size": WORDS, "max_position_embeddings": 24, "pad_token_id": 0}
        config = {"bert": library.BertConfig, "roberta": library.RobertaConfig}[kind](**words, **sizes)
        name = {"bert": "BertForSequenceClassification", "roberta": "RobertaForSequenceClassification"}[kind]
    config._attn_implementation = attention
    return getattr(library, name)(config)


def inputs_of(kind: str = "bert", *, batch: int = 4, tokens: int = 7, padding: int = 0, seed: int = 1):
    """A batch; texts get shorter from row to row, and `padding` empty columns."""
    generator = torch.Generator().manual_seed(seed)
    if kind == "vit":
        return {"pixel_values": torch.randn(batch, 1, 8, 8, generator=generator)}
    lengths = torch.tensor([tokens - i % 3 for i in range(batch)])
    mask = (torch.arange(tokens + padding) < lengths[:, None]).long()
    ids = torch.randint(2, WORDS, (batch, tokens), generator=generator)
    ids = torch.nn.functional.pad(ids, (0, padding))
    return {"input_ids": ids * mask, "attention_mask": mask}
