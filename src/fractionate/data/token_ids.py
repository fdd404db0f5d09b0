"""Texts as rows of token numbers, padded into tensors; what had to be cut is counted in a warning."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from fractionate.data.labels import IGNORED
from fractionate.data.raw import PLACE, Tokenizing
from fractionate.errors import ConfigError, MismatchError
from fractionate.system.memory import require_bytes

Row = Sequence[int]


def token_rows(
    by: Tokenizing, texts: Sequence[Any], second: Sequence[str] | None = None, *, name: str, **settings: Any
) -> dict[str, list[list[int]]]:
    """The token numbers of each text, and what else the tokenizer gives for a model; texts that are too long are cut, and counted.

    A text without a token gets the padding token: a model reads one at least. Texts are cut before they are put into a prompt.
    """
    if by.prompt:
        return _prompted_rows(by, texts, second, name)
    given = (list(texts),) if second is None else (list(texts), list(second))
    made = by.tokenizer(*given, verbose=False, **settings)
    rows: dict[str, list[list[int]]] = {part: list(made[part]) for part in model_inputs(by) if part in made}
    long = [place for place, row in enumerate(rows["input_ids"]) if len(row) > by.length]
    if long:
        cut = by.tokenizer(
            *([column[place] for place in long] for column in given), truncation=True, max_length=by.length, **settings
        )
        for part, column in rows.items():
            for place, row in zip(long, cut[part], strict=True):
                column[place] = row
        warn_cut(name, len(long), len(given[0]), by.length)
    for place, row in enumerate(rows["input_ids"]):
        if not row:
            for part, column in rows.items():
                column[place] = [by.tokenizer.pad_token_id] if part == "input_ids" else [int(part == "attention_mask")]
    return rows


def _prompted_rows(
    by: Tokenizing, texts: Sequence[str], second: Sequence[str] | None, name: str
) -> dict[str, list[list[int]]]:
    """The token numbers of texts in a prompt."""
    require_fast(by, "where a token begins")
    if second is not None:
        raise ConfigError("a prompt takes one text", got="pairs of texts", fix="leave second= out, or the prompt")
    places = by.tokenizer(list(texts), return_offsets_mapping=True, add_special_tokens=False, verbose=False)[
        "offset_mapping"
    ]
    long = [place for place, row in enumerate(places) if len(row) > by.length]
    cut = list(texts)
    for place in long:
        cut[place] = cut[place][: places[place][by.length - 1][1]]
    if long:
        warn_cut(name, len(long), len(cut), by.length)
    made = by.tokenizer([by.prompt.replace(PLACE, text) for text in cut], verbose=False)
    return {part: list(made[part]) for part in model_inputs(by) if part in made}


def model_inputs(by: Tokenizing) -> tuple[str, ...]:
    """The inputs that a tokenizer makes for its model; the mask of padding is always among them."""
    return tuple(dict.fromkeys((*by.tokenizer.model_input_names, "attention_mask")))


def warn_cut(name: str, cut: int, count: int, length: int) -> None:
    """Warn of texts that were cut to a length."""
    warnings.warn(
        f"{name}: {cut:,} of {count:,} texts have more than {length:,} tokens and are cut (data.length sets how many)",
        stacklevel=3,
    )


def padded(rows: Sequence[Row], fill: int, width: int | None = None) -> Int[Tensor, "rows tokens"]:
    """Rows of one length, filled up on the right."""
    longest = max(map(len, rows)) if width is None else width
    require_bytes(8 * len(rows) * longest, f"{len(rows):,} rows of {longest:,} tokens", fix="set a smaller data.length")
    return torch.tensor([[*row, *[fill] * (longest - len(row))] for row in rows], dtype=torch.long)


def padded_inputs(rows: Mapping[str, Sequence[Row]], by: Tokenizing) -> dict[str, Tensor]:
    """Everything a model reads, padded; pads carry no attention."""
    fills = {"input_ids": by.tokenizer.pad_token_id, "token_type_ids": getattr(by.tokenizer, "pad_token_type_id", 0)}
    return {part: padded(column, fills.get(part, 0)) for part, column in rows.items()}


def padded_labels(rows: Sequence[Row], width: int | None = None) -> Int[Tensor, "rows tokens"]:
    """Labels of tokens; pads have none."""
    return padded(rows, IGNORED, width)


def require_tokenizer(by: Tokenizing | None, task: str) -> Tokenizing:
    """The way from texts to tokens. Raises `ConfigError` where the model has none."""
    if by is None:
        raise ConfigError(
            f"{task} needs a model that reads tokens",
            expected="a model with a tokenizer",
            got="a network without one",
            fix="hf('folder or name'), or hf('bert', layers=2, tokenizer='the teacher')",
        )
    return by


def require_fast(by: Tokenizing, why: str) -> None:
    """Raise `MismatchError` for a tokenizer that does not tell where its tokens come from."""
    if not by.tokenizer.is_fast:
        raise MismatchError(
            f"{type(by.tokenizer).__name__} does not tell {why}",
            expected="a tokenizer with tokenizer.json",
            fix="convert it: AutoTokenizer.from_pretrained(…, use_fast=True).save_pretrained(FOLDER)",
        )
