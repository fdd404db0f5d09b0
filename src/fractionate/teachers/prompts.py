"""Texts for a language model: which forms are read as prompt and completion, and a tokenizer's special tokens, added once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fractionate.data.rows import is_hugging_face
from fractionate.errors import ConfigError, MismatchError, printable

Text = str | tuple[str, str] | Mapping[str, str]
FORMS = "a text, a pair (prompt, completion), or a mapping of text, or of prompt and completion, alone"


def prompts_and_completions(texts: Iterable[Text], name: str) -> Iterator[tuple[str, str]]:
    """Each text as (prompt, completion); a text alone is the completion of an empty prompt.

    Raises:
        ConfigError: for one text, for columns (a mapping of lists, a frame), for what has no order.
        MismatchError: for a text of another form, naming its place.
    """
    if not (isinstance(texts, (Sequence, Iterator)) or is_hugging_face(texts)) or isinstance(
        texts, (str, bytes, Mapping)
    ):
        raise ConfigError(
            f"{name}: this is no list of texts",
            expected=f"a list, each item {FORMS}",
            got=type(texts).__name__,
            fix="[text] for one text; list(zip(prompts, completions)) for columns; frame.to_dict('records') for a frame",
        )
    for place, text in enumerate(texts):
        yield _pair(text, f"{name}: text {place}")


def _pair(text: Any, where: str) -> tuple[str, str]:
    if isinstance(text, str):
        return "", text
    if isinstance(text, Mapping):
        keys = set(text)
        values = [text["prompt"], text["completion"]] if keys == {"prompt", "completion"} else None
        values = ["", text["text"]] if keys == {"text"} else values
        got = f"a mapping of {', '.join(printable(str(key)) for key in list(text)[:10])}"
    else:
        values = list(text) if isinstance(text, (tuple, list)) and len(text) == 2 else None
        got = f"{type(text).__name__} of {len(text)}" if isinstance(text, (tuple, list)) else type(text).__name__
    if values is not None and all(isinstance(value, str) for value in values):
        return values[0], values[1]
    if values is not None:
        got = " and ".join(type(value).__name__ for value in values)
    raise MismatchError(
        f"{where} is of a form that is not read",
        expected=FORMS,
        got=got,
        fix="[(row['prompt'], row['completion']) for row in rows]; messages by tokenizer.apply_chat_template(…, tokenize=False)",
    )


@dataclass(frozen=True)
class SpecialTokens:
    """What a tokenizer puts before and after a text by itself."""

    before: tuple[int, ...] = ()
    after: tuple[int, ...] = ()

    @classmethod
    def of(cls, tokenizer: Any, text: str) -> SpecialTokens:
        """Read off a text, encoded with and without. Raises `ConfigError` where the one does not hold the other."""
        whole = list(tokenizer(text, add_special_tokens=True)["input_ids"])
        plain = list(tokenizer(text, add_special_tokens=False)["input_ids"])
        for begin in range(len(whole) - len(plain) + 1):
            if whole[begin : begin + len(plain)] == plain:
                return cls(tuple(whole[:begin]), tuple(whole[begin + len(plain) :]))
        raise ConfigError(
            "the special tokens of this tokenizer cannot be told from the text",
            expected="the same tokens with add_special_tokens=True as without, and others before and after",
            got=f"{whole[:8]} with, {plain[:8]} without",
        )

    def opening(self, tokens: Sequence[int]) -> list[int]:
        """What goes before tokens: nothing where the text itself begins with it."""
        return [] if tuple(tokens[: len(self.before)]) == self.before else list(self.before)

    def closing(self, tokens: Sequence[int], end: int | None) -> list[int]:
        """What goes after tokens, with the end of a text last unless it is among them already."""
        after = (*self.after, *(() if end is None or end in self.after else (end,)))
        return [] if tuple(tokens[len(tokens) - len(after) :]) == after else list(after)
