"""Tiny tokenizers and checkpoints of transformers, made in a test and saved in a folder as people have them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from encoders import transformers

WORDS = [
    "the cat sat on the mat", "a dog ran after the ball", "stocks fell as banks sold bonds", "the market rose again",
    "rain and wind from the north", "a storm is near the coast", "le chat dort", "un chien court", "0 1 2 3 4 5 6 7 8 9",
]  # fmt: skip


def tokenizer(texts: list[str] = WORDS, *, size: int = 120, end: bool = False, template: str | None = None) -> Any:
    """A WordPiece tokenizer with [CLS] and [SEP], as BERT's; `end`: byte-level BPE with one end token, as GPT-2's."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

    if end:
        made = Tokenizer(models.BPE())
        made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        made.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=300, special_tokens=["<end>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
        )
        made.train_from_iterator(texts, trainer)
        found = transformers().PreTrainedTokenizerFast(tokenizer_object=made, eos_token="<end>")
        found.chat_template = template
        return found
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    made = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer()
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.train_from_iterator(texts, trainers.WordPieceTrainer(vocab_size=size, special_tokens=special))
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    made.decoder = decoders.WordPiece()
    return transformers().PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]",
        mask_token="[MASK]", model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )  # fmt: skip


def bert(
    folder: Path, *, classes: tuple[str, ...] = (), head: str = "BertForSequenceClassification", **tokens: Any
) -> Path:
    """A folder with a tiny BERT and its tokenizer."""
    library = transformers()
    torch.manual_seed(0)
    reader = tokenizer(**tokens)
    names = {"id2label": dict(enumerate(classes)), "label2id": {c: i for i, c in enumerate(classes)}} if classes else {}
    config = library.BertConfig(
        vocab_size=len(reader), hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48,
        max_position_embeddings=64, initializer_range=0.3, pad_token_id=reader.pad_token_id, **names,
    )  # fmt: skip
    getattr(library, head)(config).eval().save_pretrained(folder)
    reader.save_pretrained(folder)
    return folder


def llama(folder: Path, *, template: str | None = None) -> Path:
    """A folder with a tiny Llama and a tokenizer that has one end token and no padding."""
    library = transformers()
    torch.manual_seed(0)
    reader = tokenizer(end=True, template=template)
    config = library.LlamaConfig(
        vocab_size=len(reader), hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        intermediate_size=48, max_position_embeddings=64, initializer_range=0.3, bos_token_id=None,
        eos_token_id=reader.eos_token_id,
    )  # fmt: skip
    library.LlamaForCausalLM(config).eval().save_pretrained(folder)
    reader.save_pretrained(folder)
    return folder


def marian(folder: Path) -> Path:
    """A folder with a tiny Marian and a tokenizer for both languages."""
    library = transformers()
    torch.manual_seed(0)
    reader = tokenizer()
    config = library.MarianConfig(
        vocab_size=len(reader), d_model=32, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=48, decoder_ffn_dim=48, max_position_embeddings=64, init_std=0.3,
        pad_token_id=reader.pad_token_id, eos_token_id=reader.sep_token_id, decoder_start_token_id=reader.pad_token_id,
        forced_eos_token_id=None,
    )  # fmt: skip
    library.MarianMTModel(config).eval().save_pretrained(folder)
    reader.save_pretrained(folder)
    return folder
