"""What the tests of translation share: a few sentences, a tokenizer of their words, a tiny Marian, a plain transformer of torch."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import nn

from encoders import transformers
from fractionate.data import MemorySplit, RawSplit, Tokenizing
from fractionate.data.bundled import Divided
from fractionate.data.own_pairs import PairData

PAD, END = 0, 2  # the pad also starts a decoder, as in Marian
TEXTS = [
    ("library for sound", "libreria per suoni"),
    ("library for images", "libreria per immagini"),
    ("tool for images and sound", "strumento per immagini e suoni"),
    ("game with sound", "gioco con suoni"),
    ("small tool", "piccolo strumento"),
    ("small game", "piccolo gioco"),
    ("fonts for games", "caratteri per giochi"),
    ("documentation of the library", "documentazione della libreria"),
]


@cache
def tokenizer() -> Any:
    """Words as numbers, and the end of the sentence after them, as Marian's."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    words = dict.fromkeys(word for pair in TEXTS for text in pair for word in text.split())
    made = Tokenizer(models.WordLevel({w: n for n, w in enumerate(["<pad>", "<unk>", "</s>", *words])}, "<unk>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", END)])
    return transformers().PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="<pad>", unk_token="<unk>", eos_token="</s>",
        model_input_names=["input_ids", "attention_mask"],
    )  # fmt: skip


def sentences(texts: Sequence[tuple[str, str]] = TEXTS) -> MemorySplit:
    sources, targets = zip(*texts, strict=True)
    raw = RawSplit({"source": sources, "target": targets}, tuple(map(str, range(len(texts)))), "sentences")
    made = PairData(Divided(raw)).encode(raw, Tokenizing(tokenizer(), length=32, start=PAD, pad=PAD))
    assert isinstance(made, MemorySplit)
    return made


def marian(
    seed: int = 0, *, width: int = 16, dropout: float = 0.0, vocabulary: int = 60, spread: float = 0.5
) -> nn.Module:
    from transformers import MarianConfig, MarianMTModel

    torch.manual_seed(seed)
    config = MarianConfig(
        vocab_size=vocabulary, decoder_vocab_size=vocabulary, d_model=width, encoder_layers=1, decoder_layers=1,
        encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=32, decoder_ffn_dim=32,
        max_position_embeddings=64, pad_token_id=PAD, eos_token_id=END, bos_token_id=None, decoder_start_token_id=PAD,
        forced_eos_token_id=None, dropout=dropout, init_std=spread,
    )  # fmt: skip
    return MarianMTModel(config)


class Plain(nn.Module):
    """An encoder-decoder of torch alone, called with mappings as Hugging Face's are."""

    def __init__(self, seed: int = 0, width: int = 16, vocabulary: int = 60) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.embedding = nn.Embedding(vocabulary, width)
        self.transformer = nn.Transformer(width, 2, 1, 1, 32, dropout=0.0, batch_first=True)
        self.transformer.encoder.use_nested_tensor = False  # torch warns that it is a prototype
        self.head = nn.Linear(width, vocabulary)

    def forward(self, input_ids, attention_mask, decoder_input_ids):
        later = nn.Transformer.generate_square_subsequent_mask(decoder_input_ids.shape[1])
        pads = torch.zeros(attention_mask.shape).masked_fill(attention_mask == 0, -torch.inf)
        states = self.transformer(
            self.embedding(input_ids), self.embedding(decoder_input_ids), tgt_mask=later,
            src_key_padding_mask=pads, memory_key_padding_mask=pads,
        )  # fmt: skip
        return self.head(states)
