"""Configs of transformers for smaller students: other numbers of layers, widths, heads and words; everything else as it was."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from fractionate.errors import ConfigError, MismatchError, reason

LAYERS = ("num_hidden_layers", "num_layers", "encoder_layers", "num_encoder_layers")
DECODER_LAYERS = ("decoder_layers", "num_decoder_layers")
HEADS = ("num_attention_heads", "encoder_attention_heads", "decoder_attention_heads", "num_heads")
INNER = ("intermediate_size", "hidden_dim", "encoder_ffn_dim", "decoder_ffn_dim", "d_ff", "ffn_dim", "n_inner")
HEAD_WIDTH = ("head_dim", "d_kv")
VOCABULARY = ("vocab_size", "decoder_vocab_size")
SPECIAL = ("pad_token_id", "bos_token_id", "eos_token_id")


def resized(
    config: Any,
    *,
    layers: int | Sequence[int] | None = None,
    width: int | None = None,
    heads: int | None = None,
    vocabulary: int | None = None,
) -> Any:
    """A copy of a config with other sizes.

    Args:
        layers: Layers; of an encoder-decoder both sides have so many, or (encoder, decoder).
        width: Hidden size; inner layers keep their ratio to it.
        heads: Attention heads; None: of about the width they had.
        vocabulary: Rows of the embeddings.

    Raises:
        ConfigError: for sizes that are no counts, and for heads that do not divide the width.
        MismatchError: for a size that this config does not have.
    """
    made = copy.deepcopy(config)
    for name, value in (("width", width), ("heads", heads), ("vocabulary", vocabulary)):
        _check_count(name, value)
    if layers is not None:
        _set_layers(made, layers)
    if width is not None or heads is not None:
        _set_widths(made, width, heads)
    if vocabulary is not None:
        for name in _there(made, VOCABULARY) or _missing(made, "vocabulary", VOCABULARY):
            setattr(made, name, vocabulary)
    return made


def with_tokens_of(config: Any, tokenizer: Any) -> Any:
    """A copy of a config that was made for no tokenizer in particular, with the vocabulary and special tokens of one.

    A decoder begins with the padding token, as in Marian and T5.
    """
    made = resized(config, vocabulary=len(tokenizer))
    for name in SPECIAL:
        setattr(made, name, getattr(tokenizer, name))
    if made.pad_token_id == made.eos_token_id:
        made.pad_token_id = None  # the embedding of a padding token is never trained, and the end of text has to be
    if made.is_encoder_decoder:
        made.decoder_start_token_id = tokenizer.pad_token_id
        made.forced_eos_token_id = tokenizer.eos_token_id
    return made


def positions_of(config: Any) -> int | None:
    """The most tokens that a model of this config reads; None where its positions have no end."""
    found = getattr(config, "max_position_embeddings", None)
    if not isinstance(found, int) or found < 1:
        return None
    begins_at_padding = config.model_type in (
        "roberta",
        "xlm-roberta",
        "camembert",
        "xlm-roberta-xl",
        "longformer",
        "mpnet",
    )
    return found - 2 if begins_at_padding else found


def _check_count(name: str, value: Any) -> None:
    if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
        raise ConfigError(f"invalid value for {name}", expected="a whole number from 1", got=repr(value))


def _there(config: Any, names: Sequence[str]) -> list[str]:
    """Which of some settings a config has, under the name it stores them by."""
    return [name for name in names if isinstance(getattr(config, name, None), int)]


def _missing(config: Any, what: str, names: Sequence[str]) -> list[str]:
    raise MismatchError(
        f"{config.model_type} has no setting for {what}=",
        expected=f"a config with {' or '.join(names[:3])}",
        got=type(config).__name__,
        fix="leave it out, or save a config.json with your sizes and name its folder: hf('FOLDER', fresh=True)",
    )


def _set_layers(config: Any, layers: int | Sequence[int]) -> None:
    both = (layers, layers) if isinstance(layers, int) else tuple(layers) if isinstance(layers, (list, tuple)) else ()
    if len(both) != 2:
        raise ConfigError("invalid value for layers", expected="a number, or (encoder, decoder)", got=repr(layers))
    for size in both:
        _check_count("layers", size)
    if both[0] != both[1] and not config.is_encoder_decoder:
        raise ConfigError(
            f"{config.model_type} has one stack of layers", expected="one number", got=repr(layers), fix="layers=2"
        )
    first = _there(config, LAYERS) or _missing(config, "layers", LAYERS)
    before = getattr(config, first[0])
    for names, size in ((first, both[0]), (_there(config, DECODER_LAYERS), both[1])):
        for name in names:
            setattr(config, name, size)
    for name, value in config.to_dict().items():  # such as layer_types: an entry a layer
        if isinstance(value, (list, tuple)) and len(value) == before and "layer" in name:
            setattr(config, name, type(value)(value[place % before] for place in range(both[0])))


def _set_widths(config: Any, width: int | None, heads: int | None) -> None:
    if not isinstance(getattr(config, "hidden_size", None), int) or not _there(config, HEADS):
        _missing(config, "width", ("hidden_size",))
    old_width, old_heads = config.hidden_size, getattr(config, _there(config, HEADS)[0])
    new_width = width or old_width
    new_heads = heads or _fitting_heads(new_width, new_width * old_heads / old_width)
    if new_width % new_heads:
        raise ConfigError(
            "the heads do not divide the width", expected=f"a divisor of {new_width}", got=f"heads={new_heads}"
        )
    keys = getattr(config, "num_key_value_heads", None)
    for name in _there(config, INNER):
        setattr(config, name, max(1, round(getattr(config, name) * new_width / old_width)))
    embedding = getattr(config, "embedding_size", None)  # ALBERT, ELECTRA: never wider than what it feeds
    if isinstance(embedding, int) and embedding > new_width:
        config.embedding_size = new_width
    config.hidden_size = new_width
    for name in _there(config, HEADS):
        setattr(config, name, new_heads)
    for name in _there(config, HEAD_WIDTH):
        setattr(config, name, new_width // new_heads)
    if isinstance(keys, int):
        config.num_key_value_heads = _fitting_heads(new_heads, keys * new_heads / old_heads)


def _fitting_heads(whole: int, wanted: float) -> int:
    """The divisor of a whole that is nearest to the number wanted."""
    return min((n for n in range(1, whole + 1) if whole % n == 0), key=lambda n: (abs(n - wanted), n))


def config_for(auto: Any, model_type: str) -> Any:
    """The config of an architecture by its name, with the library's own sizes. Raises `ConfigError` where it cannot be made."""
    try:
        return auto.for_model(model_type)
    except (ValueError, TypeError, KeyError) as error:
        raise ConfigError(f"transformers has no config for {model_type!r}", got=reason(error)) from error
